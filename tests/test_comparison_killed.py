"""A comparison that is killed with a real signal, and called again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS

from embedkit import Compare, FineTune, TrainHead, Training, compare, import_encoder, load_texts

pytestmark = pytest.mark.slow
SETTINGS = Compare(
    arms=("raw", "lp_ft"),
    seeds=2,
    budgets=(),
    rows_a_run=100,
    head=TrainHead(training=Training(preflight=False)),
    fine_tune=FineTune(training=Training(batch_size=16, preflight=False)),
)
SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_comparison_killed
test_comparison_killed.run(sys.argv[1])
"""


def run(root):
    return compare("texts/films", "encoder/tiny-bert", SETTINGS, root=root)


def kill_at(root, moment):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with (root.parent / "messages.txt").open("ab") as messages:
        command = [sys.executable, "-c", SCRIPT, str(root)]
        process = subprocess.Popen(command, cwd=root.parent, env=environment, stderr=messages)
    try:
        deadline = time.monotonic() + 300
        while not moment():
            assert process.poll() is None and time.monotonic() < deadline, (root.parent / "messages.txt").read_text()
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tiny_bert, tmp_path_factory):
    """What an undisturbed comparison published, what one that was killed did, and when its trials were written."""
    place, random = tmp_path_factory.mktemp("killed"), np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, 5))} {number},{'pos' if number % 2 else 'neg'}" for number in range(100)]
    (place / "films.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    for name in ("undisturbed", "disturbed"):
        root = place / name / "artifacts"
        load_texts(place / "films.csv", root=root)
        import_encoder(tiny_bert, root=root)
    kill_at(root, lambda: list(root.glob(".drafts/*/work/receipts/predictions/lp_ft-all-0.parquet.json")))
    parts = list(root.glob(".drafts/*/files/predictions/*.parquet"))
    times = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts}
    return run(place / "undisturbed" / "artifacts"), run(root), times


COSTS = ("seconds_to_train", "seconds_per_1000", "cost_seconds", "peak_memory_bytes")


def without_costs(report):
    """What was found, but for measured costs, the moments in references, and what follows from costs."""
    found = json.loads((report / "results.json").read_text())
    for arm in found["arms"]:
        for name in COSTS:
            arm.pop(name)
    for name in ("verdict", "recommended", "command", "confusion", "mistakes"):
        found.pop(name)
    return json.loads(json.dumps(found).replace(str(report.inputs["dataset"]), "").replace(str(report.inputs["encoder"]), ""))


def test_a_killed_comparison_ends_with_the_predictions_of_an_undisturbed_one(killed):
    undisturbed, disturbed, _ = killed
    names = sorted(path.name for path in (undisturbed / "predictions").iterdir())
    assert len(names) == 6 and names == sorted(path.name for path in (disturbed / "predictions").iterdir())
    ours, theirs = ([(one / "predictions" / name).read_bytes() for name in names] for one in (disturbed, undisturbed))
    assert [name for name, left, right in zip(names, ours, theirs, strict=True) if left != right] == []
    assert without_costs(disturbed) == without_costs(undisturbed)
    assert disturbed.manifest.metrics == undisturbed.manifest.metrics


def test_finished_trials_are_not_run_again(killed):
    _, disturbed, times = killed
    assert {"guess-all-0.parquet", "raw-all-0.parquet", "raw-all-1.parquet", "lp_ft-all-0.parquet"} <= set(times)
    assert len(times) == 5
    published = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (disturbed / "predictions").iterdir()}
    assert {name: published[name] for name in times} == times
