"""Vectors: how an artifact holds them, and which of an earlier state's rows keep theirs."""

import numpy as np
import pytest

from embedkit import Embed, Encoder, LoadTable, embed, load_table, make_control, vectors
from embedkit.crossfit import Folds, Known
from embedkit.datasets import read_rows
from embedkit.vectors import Earlier, read_vectors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def table_of(place, name, sizes):
    """A table of one column, keyed by the row's number."""
    path = place / f"{name}.csv"
    path.write_text("key,size\n" + "".join(f"{key},{size}\n" for key, size in enumerate(sizes)))
    return load_table(path, LoadTable(key_column="key"), root=place)


@pytest.fixture(scope="module")
def goods(place):
    return table_of(place, "goods", [*range(30), 7, 7])


@pytest.fixture(scope="module")
def control(goods):
    return make_control(goods)


@pytest.fixture(scope="module")
def made(goods, control):
    return embed(goods, control, Embed(rows_per_part=8))


def known_of(dataset):
    return Known.of(read_rows(dataset, ["id", "content"]))


def test_vectors_are_read_in_the_datasets_order_over_all_parts(goods, control, made):
    ids, found = read_vectors(made)
    assert (ids.dtype, found.dtype, made.manifest.details["parts"]) == (np.int64, np.float32, 4)
    assert ids.tolist() == list(range(32)) == read_rows(goods)["id"].to_pylist()
    assert found.tolist() == Encoder.open(control).encode([{"size": size} for size in [*range(30), 7, 7]]).tolist()


def test_rows_that_are_equal_changed_new_and_gone_are_told_by_their_content(place, control, made):
    encoder = Encoder.open(control)
    later = table_of(place, "later", [3, 300, 4, 2, *range(900, 940), 29, 7])
    there, found = Earlier(made, encoder).of(known_of(later))
    assert np.flatnonzero(there).tolist() == [0, 2, 3, 44, 45]
    expected = read_vectors(made)[1][[3, 4, 2, 29, 7]]
    assert (found.dtype, found.tobytes()) == (np.float32, expected.tobytes())


def test_where_a_row_that_was_learned_from_has_a_vector_of_its_own_the_id_must_fit_too(place, control, made):
    encoder = Encoder.open(control)
    later = table_of(place, "shifted", [0, 1, 3, 2, 4])
    assert Earlier(made, encoder).of(known_of(later))[0].all()
    encoder.folds = Folds.__new__(Folds)  # it only has to be there
    there, found = Earlier(made, encoder).of(known_of(later))
    assert there.tolist() == [True, True, False, False, True]
    assert found.tolist() == read_vectors(made)[1][[0, 1, 4]].tolist()


def test_no_row_of_another_dataset_has_an_earlier_vector(place, control, made):
    there, found = Earlier(made, Encoder.open(control)).of(known_of(table_of(place, "others", [100, -100])))
    assert (there.tolist(), found.shape) == ([False, False], (0, 1))


def test_files_of_vectors_are_read_as_they_are_needed_and_again_only_after_others(control, made, monkeypatch):
    seen, read = [], vectors._read_part
    monkeypatch.setattr(vectors, "_read_part", lambda made, number: seen.append(number) or read(made, number))
    earlier, known = Earlier(made, Encoder.open(control)), known_of(made.inputs["dataset"])
    assert seen == []
    for start in range(0, 32, 4):
        there, found = earlier.of(known.take(slice(start, start + 4)))
        assert there.all() and len(found) == 4
    assert seen == [0, 1, 2, 3, 0]  # the last two rows are equal to one of the first file
