"""Rows by their place: the same rows whatever files they lie in, a file of them in memory at a time."""

import shutil
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedkit import Artifact, LoadTexts, load_texts, rows
from embedkit.datasets import read_contents, read_rows
from embedkit.rows import RowReader


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """50 texts in eight files, the lines of `rows.parquet` in groups of nine."""
    place = tmp_path_factory.mktemp("rows")
    (place / "lines.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    made = load_texts(place / "lines.txt", LoadTexts(rows_per_part=7), root=place / "made")
    shutil.copytree(place / "made", place / "grouped")
    found = Artifact.open(str(made), place / "grouped")
    pq.write_table(pq.read_table(found / "rows.parquet"), found / "rows.parquet", row_group_size=9)
    return found


PLACES = {
    "all": np.arange(50),
    "none": np.arange(0),
    "one": np.array([49]),
    "around the ends of files": np.array([0, 6, 7, 13, 14, 48, 49]),
    "a few of many files": np.array([3, 17, 18, 30, 46]),
    "within one file": np.array([22, 24]),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_rows_are_those_of_the_dataset_at_these_places(texts, places):
    reader = RowReader(texts)
    assert len(reader) == 50
    assert reader.contents(places).to_pylist() == [read_contents(texts, 0, 50).to_pylist()[place] for place in places]
    lines, known = read_rows(texts), reader.known(places)
    assert known.ids.tolist() == lines["id"].to_numpy()[places].tolist()
    assert known.content.tolist() == lines["content"].to_numpy()[places].tolist()
    assert known.ids.dtype == known.content.dtype == np.int64


def test_no_rows_have_the_columns_of_the_dataset(texts):
    none = RowReader(texts).contents(np.arange(0))
    assert (len(none), none.column_names) == (0, ["text"])


def test_each_file_is_read_once_while_places_go_up_and_only_the_last_is_kept(texts, monkeypatch):
    read, read_table = [], pq.read_table
    monkeypatch.setattr(rows.pq, "read_table", lambda path: read.append(int(path.stem[-5:])) or read_table(path))
    reader = RowReader(texts)
    for start in range(0, 50, 5):
        reader.contents(np.arange(start, start + 5))
    assert read == [0, 1, 2, 3, 4, 5, 6, 7]
    reader.contents(np.array([45]))
    reader.contents(np.array([30, 45]))
    assert read[8:] == [6, 4, 6]


def test_threads_that_share_a_reader_read_one_after_the_other(texts, monkeypatch):
    """What one thread has just read, another would put aside before it is used."""
    reader, expected, found, others, reading, most = RowReader(texts), read_contents(texts, 0, 50).to_pylist(), {}, [], [], []

    def read(place):
        found[place] = reader.contents(np.array([place])).to_pylist()

    def read_table(path, real=pq.read_table):
        reading.append(path)
        most.append(len(reading))
        if not others:
            others.append(threading.Thread(target=read, args=(30,)))
            others[0].start()
            time.sleep(0.1)  # in which the other one would come here
        table = real(path)
        reading.remove(path)
        return table

    monkeypatch.setattr(rows.pq, "read_table", read_table)
    read(3)
    others[0].join()
    assert found == {3: [expected[3]], 30: [expected[30]]}
    assert most == [1, 1]
