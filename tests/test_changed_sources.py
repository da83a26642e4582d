"""A writer changes a source after it was hashed and changes it back before the end: nothing of that is published as the old one.

The writer acts when Python opens the file for the so-and-so-manieth time, and again when a finished part gets its name, which
the interpreter tells by its audit events; so the order of what happens is the same in every run.
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit import artifacts, load_images, load_table, load_texts
from embedkit.datasets import LoadTexts, read_contents
from embedkit.readers import ReadFiles
from embedkit.settings import Settings, UserError
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage

CHANGED = "changed while it was read; make the same call again when nobody writes to it"
_listeners = []
sys.addaudithook(lambda event, given: [listener(event, given) for listener in list(_listeners)] if _listeners else None)


class Writer:
    """Exchanges a file's bytes when it is opened for the `at`th time, and brings the old ones back at the next renaming."""

    def __init__(self, path, other, at):
        self.path, self.own, self.other, self.at, self.opened, self.wrote = path, path.read_bytes(), other, at, 0, 0

    def __call__(self, event, given):
        if event == "open" and str(given[0]) == str(self.path) and given[1] == "r":
            self.opened += 1
            if self.opened == self.at:
                self.write(self.other)
        elif event == "os.rename" and self.wrote == 1:
            self.write(self.own)

    def write(self, data):
        self.wrote += 1
        _listeners.remove(self)
        self.path.write_bytes(data)
        _listeners.append(self)


@pytest.fixture
def writer():
    """Let a writer act on a path: `writer(path, other bytes, at)`."""

    def begin(path, other, at):
        _listeners.append(Writer(path, other, at))
        return _listeners[-1]

    yield begin
    _listeners.clear()


def parquet(path, texts):
    pq.write_table(pa.table({"text": texts}), path)
    return path.read_bytes()


def lines(word, count=20_000):
    return "".join(f"{word} {number}\n" for number in range(count)).encode()


def receipts(root):
    return [*root.glob(f"{artifacts.DRAFTS}/*/work/receipts/*")]


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
def test_a_text_file_that_was_changed_and_changed_back_is_not_published(tmp_path, root, writer, at, suffix):
    path, other = tmp_path / f"rows{suffix}", tmp_path / f"other{suffix}"
    made = {each: lines(name) if suffix == ".txt" else parquet(each, [name] * 5) for each, name in ((path, "own"), (other, "not"))}
    path.write_bytes(made[path])
    acted = writer(path, made[other], at)
    with pytest.raises(UserError, match=CHANGED):
        load_texts(path, LoadTexts(rows_per_part=1000))
    assert acted.wrote >= 1 and receipts(root) == []
    _listeners.clear()
    path.write_bytes(made[path])
    texts = read_contents(load_texts(path, LoadTexts(rows_per_part=1000)), 0, 5)["text"].to_pylist()
    assert {text.split()[0] for text in texts} == {"own"}


def test_the_first_lines_of_a_file_may_not_have_been_others_either(tmp_path, root, writer):
    path = tmp_path / "rows.txt"
    path.write_bytes(lines("own"))
    writer(path, lines("not"), 4)
    with pytest.raises(UserError, match=CHANGED):
        load_texts(path, LoadTexts(files=ReadFiles(limit=3)))
    assert receipts(root) == []


def test_the_columns_of_a_table_are_not_decided_by_what_was_there_for_a_moment(tmp_path, root, writer):
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + "1,2\n" * 50)
    writer(path, b"x,z\n" + b"one,2\n" * 50, 2)
    with pytest.raises(UserError, match=CHANGED):
        load_table(path)
    assert [*root.glob(f"{artifacts.DRAFTS}/*/work/decisions.json")] == []


def test_a_picture_that_was_another_when_it_was_read_is_not_published(photos, root, writer):
    path = photos / "left" / "001.png"
    writer(path, (photos / "right" / "000.png").read_bytes(), 2)
    with pytest.raises(UserError, match=f"{photos} {CHANGED}"):
        load_images(photos)
    assert receipts(root) == []


def test_a_file_that_a_library_reads_by_its_path_is_not_published_either(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"own")

    @stage("brew", revision=1)
    def brewed(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Copy a source that is another for a moment."""
        path.write_bytes(b"not")
        (out / "copy").write_bytes(source.path.read_bytes())
        path.write_bytes(b"own")
        return Facts()

    with pytest.raises(UserError, match=f"{path} {CHANGED}"):
        brewed(path)
    assert not [*tmp_path.glob("artifacts/brew/*/*")]
