"""Interruptions: real processes, killed again and again, end with the bytes of a run that nothing disturbed.

One process runs `embed`, `train_head` and `pretrain_autoencoder` in a row. It is killed at five moments, which are told by
the files that appear in its drafts, and the same call is made again each time; the last one is left to end.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedkit import (
    Artifact,
    Embed,
    PretrainAutoencoder,
    TrainHead,
    Training,
    embed,
    import_encoder,
    load_images,
    load_texts,
    pretrain_autoencoder,
    train_head,
)
from embedkit.autoencoder import ConvNet

pytestmark = pytest.mark.slow  # each makes a whole chain of stages, kills it and makes it again

WORDS = "the a cat dog sat ran on mat moon red blue green".split()
PARTS = 12
LONG = Training(batch_size=16, patience=None, checkpoint_share=1, average=0.9, schedule="cosine")
HEAD = TrainHead(
    hidden=(8,),
    dropout=0.3,
    mixup=0.3,
    swap_noise=0.1,
    rebalance=("oversample",),
    training=LONG.model_copy(update={"epochs": 40, "checkpoint_every": 2}),
)
PAINTER = PretrainAutoencoder(
    network=ConvNet(side=8, dimension=6, channels=4),
    augment=("strong",),
    training=LONG.model_copy(update={"epochs": 25, "checkpoint_every": 1}),
)
LAST = {"vectors": "reviews-tiny-bert", "classifier": "reviews-tiny-bert", "encoder": "photos-autoencoder"}


def chain(root):
    """What the killed process runs: three stages, each on the result of the one before or on what lies there."""
    vectors = embed("texts/reviews", "encoder/tiny-bert", Embed(rows_per_part=10), root=root)
    train_head(vectors, HEAD)
    pretrain_autoencoder("images/photos", PAINTER, root=root)


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_interruption
test_interruption.chain(sys.argv[1])
"""


def drafts(root, pattern):
    return sorted((root / ".drafts").glob(f"*/{pattern}"))


def parts(root):
    return [path.name for path in drafts(root, "work/receipts/*.json")]


def steps(root):
    """Number of steps that the newest checkpoint of each draft holds."""
    return [int(path.stem.split("-")[1]) for path in drafts(root, "work/checkpoints/step-*.checkpoint")]


MOMENTS = {
    "embed, after its first part": lambda root: len(parts(root)) >= 1,
    "embed, after half of its parts": lambda root: len(parts(root)) >= PARTS // 2,
    "train_head, after its first checkpoint": lambda root: max(steps(root), default=0) >= 2,
    "train_head, after many": lambda root: max(steps(root), default=0) >= 60,
    "pretrain_autoencoder, in its training": lambda root: drafts(root, "work/pixels.npy") and max(steps(root), default=0) >= 5,
}


def start(root):
    """The chain in a process of its own, its messages in a file beside the root."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    with (root.parent / "messages.txt").open("ab") as messages:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], cwd=root.parent, env=environment, stderr=messages)


def kill_at(root, moment):
    """Start the chain, and kill it as soon as the moment has come."""
    process = start(root)
    try:
        deadline = time.monotonic() + 300
        while not moment(root):
            assert process.poll() is None, (root.parent / "messages.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def finished_parts(root):
    """Inode and time of writing of each part that has its receipt."""
    found = {}
    for receipt in drafts(root, "work/receipts/*.json"):
        part = receipt.parents[2] / "files" / receipt.name.removesuffix(".json")
        found[part.name] = (part.stat().st_ino, part.stat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def roots(tiny_bert, tmp_path_factory):
    """Two roots with the same inputs: 120 labelled texts, 60 pictures, and an encoder."""
    place, random = tmp_path_factory.mktemp("interruption"), np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, 5))} {number},{'pos' if number % 2 else 'neg'}" for number in range(120)]
    (place / "reviews.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    for number in range(60):
        path = place / "photos" / ("train", "train", "val", "test")[number % 4] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
    found = []
    for name in ("disturbed", "undisturbed"):
        root = place / name / "artifacts"
        load_texts(place / "reviews.csv", root=root)
        load_images(place / "photos", root=root)
        import_encoder(tiny_bert, root=root)
        found.append(root)
    return found


@pytest.fixture(scope="module")
def history(roots):
    """The parts that were finished after each kill, by moment; the last call was left to end."""
    disturbed, undisturbed = roots
    chain(undisturbed)
    seen = {}
    for words, moment in MOMENTS.items():
        kill_at(disturbed, moment)
        seen[words] = finished_parts(disturbed)
        published = [kind for kind, name in LAST.items() if (disturbed / kind / name).exists()]
        stage = words.partition(",")[0]
        assert published == list(LAST)[: ["embed", "train_head", "pretrain_autoencoder"].index(stage)], words
    logger, messages = logging.getLogger("embedkit"), logging.FileHandler(disturbed.parent / "messages.txt")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        chain(disturbed)
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)
        messages.close()
    return seen


def files(artifact):
    return {path.name: path.read_bytes() for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"}


@pytest.mark.parametrize("kind", LAST)
def test_a_killed_stage_ends_with_the_bytes_of_an_undisturbed_one(roots, history, kind):
    ours, theirs = (Artifact.open(f"{kind}/{LAST[kind]}", root).check() for root in roots)
    found, expected = files(ours), files(theirs)
    assert list(found) and sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert ours.manifest.metrics == theirs.manifest.metrics
    assert ours.manifest.details == theirs.manifest.details


def test_finished_parts_are_not_made_again(roots, history):
    first, half = list(history.values())[:2]
    assert 1 <= len(first) < len(half) < PARTS
    assert {name: half[name] for name in first} == first
    vectors = Artifact.open("vectors/reviews-tiny-bert", roots[0])
    published = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in vectors.path.glob("*.parquet")}
    assert len(published) == PARTS
    assert {name: published[name] for name in half} == half


def test_each_call_goes_on_and_says_so(roots, history):
    messages = (roots[0].parent / "messages.txt").read_text()
    for stage in ("embed", "train_head", "pretrain_autoencoder"):
        assert f"{stage}: goes on in" in messages
    later = [int(line.rsplit(" ", 1)[1]) for line in messages.splitlines() if "goes on after step" in line]
    assert len(later) == 3
    assert later[0] >= 2
    assert later[1] >= 60
    assert later[2] >= 5


def test_what_was_published_is_reused_by_every_later_call(roots, history):
    messages = (roots[0].parent / "messages.txt").read_text()
    assert messages.count("reused, made") >= 4  # each later call reuses what the earlier ones published
    for kind, name in LAST.items():
        assert len(list((roots[0] / kind / name).iterdir())) == 1


def test_no_draft_is_left(roots, history):
    assert [path for path in (roots[0] / ".drafts").iterdir() if path.is_dir()] == []


# Ten kills ------------------------------------------------------------------------------------------------------------

ONE = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import test_interruption as here
here.run_long(sys.argv[1], sys.argv[2])
"""


def run_long(stage, root):
    """One training stage, long enough to be killed ten times."""
    if stage == "train_head":
        longer = HEAD.training.model_copy(update={"epochs": 400, "checkpoint_every": 7})
        return train_head("vectors/reviews-tiny-bert", HEAD.model_copy(update={"training": longer}), root=root)
    longer = PAINTER.training.model_copy(update={"epochs": 150})
    return pretrain_autoencoder("images/photos", PAINTER.model_copy(update={"training": longer}), root=root)


@pytest.mark.parametrize("stage", ["train_head", "pretrain_autoencoder"])
def test_a_training_stage_killed_at_ten_random_moments_ends_with_the_bytes_of_an_undisturbed_one(roots, stage):
    disturbed, undisturbed = roots
    for root in roots:
        embed("texts/reviews", "encoder/tiny-bert", Embed(rows_per_part=10), root=root)
    expected = run_long(stage, undisturbed)
    random, environment = np.random.default_rng(0), os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    seen = [0]
    for _ in range(10):
        command = [sys.executable, "-c", ONE, stage, str(disturbed)]
        with (disturbed.parent / "messages.txt").open("ab") as messages:
            process = subprocess.Popen(command, cwd=disturbed.parent, env=environment, stderr=messages)
        moment = seen[-1] + random.integers(1, 20)
        while process.poll() is None and max(steps(disturbed), default=0) < moment:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, (disturbed.parent / "messages.txt").read_text()
        seen.append(max(steps(disturbed), default=0))
    assert seen == sorted(seen) and len(set(seen)) >= 9  # they fell in different places
    found = run_long(stage, disturbed)
    assert files(found) == files(expected)
    assert found.manifest.metrics == expected.manifest.metrics and found.manifest.details == expected.manifest.details
