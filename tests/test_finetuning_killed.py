"""fine_tune, killed: real processes that are killed in the middle, and end with the bytes of runs that nothing disturbed."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import WORDS, write_pictures

from embedkit import FineTune, ImportEncoder, LoadImages, LoadTexts, Training, fine_tune, import_encoder, load_images, load_texts
from embedkit.encoders import HALF

pytestmark = pytest.mark.slow

LONG = Training(batch_size=16, patience=None, checkpoint_every=1, checkpoint_share=1, preflight=False)
SETTINGS = {
    "pictures": FineTune(recipe="full", augment=("flip", "contrast"), training=LONG.model_copy(update={"epochs": 60})),
    "reviews": FineTune(word_dropout=0.1, training=LONG.model_copy(update={"epochs": 30, "learning_rate": 1e-3})),
}
ENCODERS = {"pictures": "encoder/normed", "reviews": "encoder/bert"}
KINDS = {"pictures": "images/pictures", "reviews": "texts/reviews"}
SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_finetuning_killed
test_finetuning_killed.tune(sys.argv[1])
"""


def tune(root):
    """What the killed process runs: texts first, then pictures."""
    return {name: fine_tune(KINDS[name], ENCODERS[name], SETTINGS[name], root=root) for name in ("reviews", "pictures")}


def steps(root, first):
    """Steps of the newest checkpoint of the drafts of texts (which have a probe) or pictures (which have none)."""
    drafts = [draft for draft in (root / ".drafts").iterdir() if draft.is_dir() and (draft / "work/probe").exists() == first]
    paths = [path for draft in drafts for path in draft.glob("work/checkpoints/step-*.checkpoint")]
    return max((int(path.stem.split("-")[1]) for path in paths), default=0)


def kill_at(root, moment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    with (root.parent / "messages.txt").open("ab") as messages:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], cwd=root.parent, env=environment, stderr=messages)
    try:
        deadline = time.monotonic() + 300
        while not moment():
            assert process.poll() is None, (root.parent / "messages.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def roots(tiny_bert, normed_network, tmp_path_factory):
    """Two roots with the same inputs: pictures, texts, and an encoder for each."""
    place, lines = tmp_path_factory.mktemp("killed"), ["text,label,split"]
    for number in range(100):
        words = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 2 + number % 7))
        split = ("train", "train", "train", "validation", "test")[number % 5]
        lines.append(f"{words} film{number},{'pos' if number % 2 else 'neg'},{split}")
    (place / "reviews.csv").write_text("\n".join(lines) + "\n")
    undisturbed, disturbed = (place / name / "artifacts" for name in ("undisturbed", "disturbed"))
    load_texts(place / "reviews.csv", LoadTexts(split_column="split"), root=undisturbed)
    pictures = write_pictures(place / "pictures.parquet")
    load_images(pictures, LoadImages(split_column="split", label_column="red"), root=undisturbed)
    import_encoder(tiny_bert, ImportEncoder(layer="transformer_layer_0"), root=undisturbed, name="bert")
    import_encoder(normed_network, root=undisturbed)
    shutil.copytree(undisturbed, disturbed)
    return disturbed, undisturbed


@pytest.fixture(scope="module")
def disturbed(roots):
    """What two kills, one in each stage, and a last call left to end came to; and the messages of all of them."""
    root = roots[0]
    kill_at(root, lambda: steps(root, True) >= 10)
    kill_at(root, lambda: steps(root, False) >= 15)
    logger, messages = logging.getLogger("embedkit"), logging.FileHandler(root.parent / "messages.txt")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        found = tune(root)
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)
        messages.close()
    return found, (root.parent / "messages.txt").read_text()


@pytest.fixture(scope="module")
def undisturbed(roots):
    return tune(roots[1])


def files(artifact):
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", KINDS)
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one_in_another_root(disturbed, undisturbed, name):
    found, expected = disturbed[0][name], undisturbed[name]
    ours, theirs = files(found), files(expected)
    assert sorted(ours) == sorted(theirs) and f"{HALF}/model.keras" in ours
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert found.manifest.metrics == expected.manifest.metrics
    assert found.manifest.details == expected.manifest.details


def test_killed_runs_went_on_where_they_were(disturbed):
    later = [int(line.rsplit(" ", 1)[1]) for line in disturbed[1].splitlines() if "goes on after step" in line]
    assert any(10 <= step < 120 for step in later), later
    assert disturbed[1].count("fine_tune: goes on in") == 2
