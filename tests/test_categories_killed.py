"""learn_categories, killed: a real process that is killed while the network learns, and between and within its folds.

It ends with the bytes of an undisturbed one.
"""

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_categories import FAST, PLAIN, sales, table_of

from embedkit import learn_categories
from embedkit.artifacts import list_artifacts

pytestmark = pytest.mark.slow

KILLS, BATCH, EPOCHS, FOLDS = 6, 16, 6, 3
LONG = FAST.model_copy(
    update={"batch_size": BATCH, "epochs": EPOCHS, "learning_rate": 0.01, "checkpoint_every": 1, "checkpoint_share": 1}
)
SETTINGS = PLAIN.model_copy(update={"folds": FOLDS, "training": LONG})
SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_categories_killed
test_categories_killed.learned(sys.argv[1])
"""


def learned(root):
    """What the killed process runs."""
    return learn_categories("table/sales", SETTINGS, root=root)


def done(root):
    """Steps of the newest checkpoint of the network, and of those of each fold."""
    newest = {}
    for path in (root / ".drafts").glob("*/work/*/step-*.checkpoint"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.stem.split("-")[1]))
    return sum(newest.values())


def steps_of(artifact):
    """All steps that an undisturbed run took, those of its folds included."""
    fold = pq.read_table(artifact / "fitted.parquet")["fold"].to_numpy()
    rows = (fold >= 0).sum()
    folds = [math.ceil((rows - (fold == number).sum()) / BATCH) for number in range(FOLDS)]
    return math.ceil(rows / BATCH) * EPOCHS + sum(folds) * artifact.manifest.details["best_epoch"]


def killed_at(root, progress, delay):
    """Run in a process that is killed some time after so many steps are done; False where it ended by itself."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    with (root.parent / "messages.txt").open("ab") as messages:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], cwd=root.parent, env=environment, stderr=messages)
    try:
        deadline = time.monotonic() + 300
        while done(root) < progress and process.poll() is None:
            assert time.monotonic() < deadline, (root.parent / "messages.txt").read_text()
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode in (0, -signal.SIGKILL), (root.parent / "messages.txt").read_text()
    return process.returncode != 0


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two roots with the same table."""
    place = tmp_path_factory.mktemp("killed")
    undisturbed, disturbed = (place / name / "artifacts" for name in ("undisturbed", "disturbed"))
    undisturbed.mkdir(parents=True)
    table_of(undisturbed / "sales.jsonl", sales())
    shutil.copytree(undisturbed, disturbed)
    return disturbed, undisturbed


@pytest.fixture(scope="module")
def undisturbed(roots):
    return learned(roots[1])


@pytest.fixture(scope="module")
def disturbed(roots, undisturbed):
    """What came of it after the kills, and a last call left to end; how far it was at each, and the messages of all of them."""
    root, random = roots[0], np.random.default_rng()
    whole, moments, reached = steps_of(undisturbed), [], []
    for left in range(KILLS, 0, -1):
        at, share = done(root), int((whole - done(root)) / left)  # so that none of them comes to the end
        moments.append((at + 1 + int(random.integers(0, max(1, share))), float(random.uniform(0, 0.1))))
        if at >= whole or not killed_at(root, *moments[-1]):
            break
        reached.append(done(root))
    print("killed at", moments, "of", whole, "having done", reached)  # what a failure is repeated with
    logger, messages = logging.getLogger("embedkit"), logging.FileHandler(root.parent / "messages.txt")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        found = learned(root)
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)
        messages.close()
    return found, reached, (root.parent / "messages.txt").read_text()


def files(artifact):
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in paths}


def test_a_process_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(disturbed, undisturbed):
    found, expected = disturbed[0], undisturbed
    assert {"model.keras", *(f"folds/fold-{number}.npz" for number in range(FOLDS))} <= set(files(found))
    assert [path for path, data in files(found).items() if files(expected)[path] != data] == []
    assert set(files(found)) == set(files(expected))
    ours, theirs = found.manifest, expected.manifest
    assert (ours.metrics, ours.notes, ours.details) == (theirs.metrics, theirs.notes, theirs.details)


def test_it_went_on_instead_of_beginning_anew(disturbed):
    _, reached, messages = disturbed
    assert len(reached) >= 2 and reached == sorted(reached)
    later = [int(line.rsplit(" ", 1)[1]) for line in messages.splitlines() if "goes on after step" in line]
    assert later and min(later) > 0


def test_all_that_lies_there_is_what_an_undisturbed_run_leaves(roots, disturbed, undisturbed):
    ours, theirs = (sorted((one.manifest.kind, one.manifest.name) for one in list_artifacts(root)) for root in roots)
    assert ours == theirs
    assert all(one.problems() == [] for one in list_artifacts(roots[0]))
