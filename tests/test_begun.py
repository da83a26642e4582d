"""Parts that were begun: what a killed process embedded of a part is used by the next one, and the part has the same bytes."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import WORDS

from embedkit import LoadTexts, begun, embed, embedding, import_encoder, load_texts, pipelines
from embedkit.begun import Begun
from embedkit.crossfit import Known
from embedkit.encoders import Encoder
from embedkit.feeding import Part
from embedkit.pipelines import ImageFeed
from embedkit.settings import UserError

ROWS, TOKENS = 120, 64


def counted(monkeypatch=None, seconds=0.0):
    """The rows of each batch that is embedded from here on, each slowly; batches are small, and kept at once."""
    sizes, embedded = [], Encoder.embedded

    def run(encoder, batch, folds):
        sizes.append(len(folds))
        time.sleep(seconds)
        found = embedded(encoder, batch, folds)
        print(f"batch {len(sizes)}", flush=True)
        return found

    for whose, name, value in ((pipelines, "TOKENS_PER_BATCH", TOKENS), (begun, "SECONDS", 0.0), (Encoder, "embedded", run)):
        monkeypatch.setattr(whose, name, value) if monkeypatch else setattr(whose, name, value)
    return sizes


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_bert):
    """A root with texts and an encoder."""
    place = tmp_path_factory.mktemp("begun")
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, random.integers(1, 30)))} {number}" for number in range(ROWS)]
    (place / "lines.txt").write_text("\n".join(lines) + "\n")
    load_texts(place / "lines.txt", LoadTexts(), root=place / "root")
    import_encoder(tiny_bert, root=place / "root")
    return place / "root"


@pytest.fixture
def killed(made, tmp_path):
    """A root in which a process that embedded was killed in the middle of the only part; how many batches it had embedded."""
    root = shutil.copytree(made, tmp_path / "root")
    process = subprocess.Popen([sys.executable, __file__, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for number in range(1, 13):
        assert process.stdout.readline() == f"batch {number}\n", process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list((root / "vectors").glob("*")) == [] if (root / "vectors").exists() else True
    return root


@pytest.fixture
def undisturbed(made, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        sizes = counted(patch)
        artifact = embed("texts/lines", "encoder/tiny-bert", root=root)
    return artifact, sizes


def test_a_killed_job_goes_on_within_a_part_and_the_part_has_the_same_bytes(killed, undisturbed, monkeypatch):
    expected, all_batches = undisturbed
    sizes = counted(monkeypatch)
    artifact = embed("texts/lines", "encoder/tiny-bert", root=killed)
    assert artifact.manifest.files == expected.manifest.files and artifact.manifest.rows == ROWS
    assert len(all_batches) - 12 <= len(sizes) <= len(all_batches) - 11  # at most the batch that was under way is lost
    assert not (killed / ".drafts" / artifact.manifest.fingerprint[:32]).exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "no record", "another way"])
def test_what_is_kept_of_a_part_counts_only_as_it_was_kept(killed, undisturbed, monkeypatch, damage):
    for path in (killed / ".drafts").glob("*/work/begun/*.npz"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        if damage in ("flipped", "cut"):
            path.write_bytes(raw if damage == "flipped" else raw[:100])
        elif damage == "no record":
            path.with_name(f"{path.name}.kept.json").unlink()
    if damage == "another way":
        monkeypatch.setattr(embedding, "Begun", lambda folder, way: Begun(folder, f"not {way}"))
    expected, all_batches = undisturbed
    sizes = counted(monkeypatch)
    artifact = embed("texts/lines", "encoder/tiny-bert", root=killed)
    assert len(sizes) == len(all_batches) and artifact.manifest.files == expected.manifest.files


def test_an_interrupted_job_keeps_what_it_had_whenever_that_was_last_kept(made, undisturbed, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "root")
    with monkeypatch.context() as patch:
        sizes = counted(patch)
        patch.setattr(begun, "SECONDS", 3600.0)
        embedded = Encoder.embedded

        def stopping(encoder, batch, folds):
            if len(sizes) == 5:
                raise UserError("stopped")
            return embedded(encoder, batch, folds)

        patch.setattr(Encoder, "embedded", stopping)
        with pytest.raises(UserError, match="stopped"):
            embed("texts/lines", "encoder/tiny-bert", root=root)
    sizes = counted(monkeypatch)
    expected, all_batches = undisturbed
    assert embed("texts/lines", "encoder/tiny-bert", root=root).manifest.files == expected.manifest.files
    assert len(sizes) == len(all_batches) - 5


def part(rows=6):
    return Part(3, Known(np.arange(rows), np.arange(rows)), np.arange(rows), np.full((rows, 2), np.nan, np.float32),
                np.zeros(rows, int), np.empty((0, 2), np.float32))  # fmt: skip


def test_vectors_and_reasons_of_a_part_are_kept_until_it_is_finished(tmp_path):
    first, ours = part(), Begun(tmp_path / "begun", "keras float32")
    first.vectors[[1, 4]], first.bad[2] = [[1, 2], [3, 4]], "it is torn"
    ours.note(first, np.array([4, 1]))
    ours.save()
    again = part()
    assert Begun(tmp_path / "begun", "keras float32").restore(again).tolist() == [False, True, False, False, True, False]
    assert again.vectors[[1, 4]].tolist() == [[1, 2], [3, 4]] and again.bad == {2: "it is torn"}
    assert not Begun(tmp_path / "begun", "keras float32").restore(part(7)).any()  # of other rows
    ours.forget(3)
    assert [*(tmp_path / "begun").iterdir()] == [] and not ours.restore(part()).any()


def test_pictures_that_have_their_vectors_are_not_decoded_again(monkeypatch):
    monkeypatch.setattr(pipelines, "PIXELS_PER_BATCH", 2 * 16)
    feed, decoded = ImageFeed(4, 4), []
    pixels = feed.pixels
    monkeypatch.setattr(feed, "pixels", lambda row: decoded.append(int(row[0, 0, 0])) or pixels(row))
    rows = [np.full((4, 4, 3), number, np.uint8) for number in range(6)]
    assert [indices.tolist() for indices, _ in feed.batches(rows, {}, {0, 1, 4})] == [[2, 3], [4, 5]]
    assert sorted(decoded) == [2, 3, 4, 5]


if __name__ == "__main__":
    counted(seconds=0.05)
    embed("texts/lines", "encoder/tiny-bert", root=sys.argv[1])
