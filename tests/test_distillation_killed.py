"""distil, killed: a real process that is killed at random moments again and again, and ends with the bytes of an undisturbed one.

A student of an encoder, narrow, with changed copies to learn from, and a static one of a classifier, with unlabelled texts; each
with its twin, which is a stage inside a stage.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS

from embedkit import Distil, LoadTexts, TrainHead, Training, distil, embed, import_encoder, load_texts, train_head
from embedkit.artifacts import Artifact, list_artifacts

pytestmark = pytest.mark.slow

STEPS, KILLS = 60, 6
LONG = Training(batch_size=16, patience=None, checkpoint_every=1, checkpoint_share=1, preflight=False)
NARROW = Distil(student="narrow", layers=1, steps=STEPS, copies=1, hidden=0.5, attention=0.5, training=LONG)
STATIC = Distil(student="static", steps=STEPS, labels=0.5, training=LONG)
SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_distillation_killed
test_distillation_killed.teach(sys.argv[1])
"""


def teach(root):
    """What the killed process runs."""
    narrow = distil("encoder/bert", "texts/reviews", NARROW, root=root)
    return [narrow, distil("classifier/head", "texts/reviews", STATIC, unlabelled="texts/more", root=root)]


def done(root):
    """How far everything is: artifacts that are finished, each as many steps, and steps of the newest checkpoints of drafts."""
    newest = {}
    for path in (root / ".drafts").glob("*/work/checkpoints/step-*.checkpoint"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.stem.split("-")[1]))
    return STEPS * len(list_artifacts(root)) + sum(newest.values())


def killed_at(root, progress, delay):
    """Run in a process that is killed some time after so much is done; False where it was faster and ended by itself."""
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
def roots(tiny_bert, tmp_path_factory):
    """Two roots with the same inputs: texts with labels and without, an encoder, and a classifier on it."""
    place, random = tmp_path_factory.mktemp("killed"), np.random.default_rng(0)
    lines = ["text,label,split"]
    for number in range(100):
        words = " ".join([*random.choice(WORDS[9:17], random.integers(1, 7)), "good" if number % 2 else "bad"])
        split = ("train", "train", "train", "validation", "test")[number % 5]
        lines.append(f"{words} film{number},{'pos' if number % 2 else 'neg'},{split}")
    (place / "reviews.csv").write_text("\n".join(lines) + "\n")
    (place / "more.csv").write_text("text\n" + "".join(f"{' '.join(random.choice(WORDS, 5))} {row}\n" for row in range(50)))
    undisturbed, disturbed = (place / name / "artifacts" for name in ("undisturbed", "disturbed"))
    reviews = load_texts(place / "reviews.csv", LoadTexts(split_column="split"), root=undisturbed)
    load_texts(place / "more.csv", root=undisturbed)
    bert = import_encoder(tiny_bert, root=undisturbed, name="bert")
    train_head(embed(reviews, bert), TrainHead(training=Training(epochs=30, preflight=False)), name="head")
    shutil.copytree(undisturbed, disturbed)
    return disturbed, undisturbed


@pytest.fixture(scope="module")
def undisturbed(roots):
    return teach(roots[1])


@pytest.fixture(scope="module")
def disturbed(roots, undisturbed):
    """What came of it after the kills, and a last call left to end; and the messages of all of them."""
    root, random = roots[0], np.random.default_rng()
    whole, moments = done(roots[1]), []
    for left in range(KILLS, 0, -1):
        at, share = done(root), int((whole - done(root)) / left)  # so that none of them comes to the end
        moments.append((at + 1 + int(random.integers(0, max(1, share))), float(random.uniform(0, 0.3))))
        if at >= whole or not killed_at(root, *moments[-1]):
            break
    print("killed at", moments)  # what a failure is repeated with
    logger, messages = logging.getLogger("embedkit"), logging.FileHandler(root.parent / "messages.txt")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        found = teach(root)
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)
        messages.close()
    return found, (root.parent / "messages.txt").read_text()


def files(artifact):
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in paths}


def same(ours, theirs):
    """Whether two artifacts have the same files, measures and details, but for the moment in references."""
    details = [one.manifest.details | {"twin": None, "compared_to": None} for one in (ours, theirs)]
    return files(ours) == files(theirs) and ours.manifest.metrics == theirs.manifest.metrics and details[0] == details[1]


@pytest.mark.parametrize("number", [0, 1], ids=["narrow", "static"])
def test_a_process_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(disturbed, undisturbed, number):
    found, expected = disturbed[0][number], undisturbed[number]
    assert "model.keras" in files(found) and found.manifest.details["steps"] == STEPS
    assert [path for path, data in files(found).items() if files(expected)[path] != data] == []
    assert same(found, expected)
    twins = [Artifact.open(one.manifest.details["twin"], one.root) for one in (found, expected)]
    assert same(*twins) and twins[0].manifest.details["steps"] == STEPS


def test_all_that_lies_there_is_what_an_undisturbed_run_leaves(roots, disturbed, undisturbed):
    ours, theirs = (sorted((one.manifest.kind, one.manifest.name) for one in list_artifacts(root)) for root in roots)
    assert ours == theirs
    assert all(one.problems() == [] for one in list_artifacts(roots[0]))


def test_killed_runs_went_on_where_they_were(disturbed):
    later = [int(line.rsplit(" ", 1)[1]) for line in disturbed[1].splitlines() if "goes on after step" in line]
    assert later and all(0 < step <= STEPS for step in later)
    assert disturbed[1].count("distil: goes on in") >= 2
