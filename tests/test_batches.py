"""Batches: the rows that were asked for, read ahead, and whatever goes wrong in reading said as it is."""

import time

import numpy as np
import pytest

from embedkit import UserError, batches, frameworks
from embedkit.batches import Repeated, Rows, batch_of, parts_of, pick, stream, training_stream

frameworks.load_frameworks()

INPUTS, TARGETS = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10, dtype=np.int32)


def read(rows):
    """Rows whose contents come through a function, as those of a file do."""
    return Rows(10, lambda chosen: ({"a": INPUTS[chosen], "b": INPUTS[chosen] * 2}, TARGETS[chosen]), weights=rows)


@pytest.mark.parametrize("rows", [Rows.of(INPUTS, TARGETS), Rows(10, lambda chosen: (INPUTS[chosen], TARGETS[chosen]))])
def test_rows_in_memory_and_rows_that_are_read_come_alike(rows):
    found = list(stream(rows, rows.specs(), parts_of(np.array([7, 1, 4, 4, 9]), 2)))
    assert [batch.chosen.numpy().tolist() for batch in found] == [[7, 1], [4, 4], [9]]
    for batch in found:
        chosen = batch.chosen.numpy()
        assert np.array_equal(batch.inputs.numpy(), INPUTS[chosen]) and np.array_equal(batch.targets.numpy(), TARGETS[chosen])
        assert batch.weights.numpy().tolist() == [1.0] * len(chosen)


def test_a_batch_may_be_of_several_arrays_and_rows_may_count_differently():
    rows = read(np.linspace(0, 1, 10))
    batch = next(training_stream(rows, rows.specs(), 4, 0, 0, 1))
    chosen = batch.chosen.numpy()
    assert np.array_equal(batch.inputs["b"].numpy(), 2 * INPUTS[chosen])
    assert batch.weights.numpy() == pytest.approx(np.linspace(0, 1, 10)[chosen])


def test_a_stream_that_begins_anywhere_goes_on_as_the_whole_one():
    rows = Rows.of(INPUTS, TARGETS)
    whole = [batch.chosen.numpy().tolist() for batch in training_stream(rows, rows.specs(), 3, 5, 0, 12)]
    assert [len(chosen) for chosen in whole] == [3, 3, 3, 1] * 3
    for start in (1, 4, 7, 11):
        rest = [batch.chosen.numpy().tolist() for batch in training_stream(rows, rows.specs(), 3, 5, start, 12)]
        assert rest == whole[start:]


def test_what_goes_wrong_in_reading_is_raised_as_it_is():
    rows = read(None)
    specs = rows.specs()

    def broken(chosen):
        raise UserError("row 3 of part 7 is damaged")

    rows.batch = broken
    with pytest.raises(UserError, match="^row 3 of part 7 is damaged$"):
        list(stream(rows, specs, parts_of(np.arange(10), 4)))


def test_rows_are_read_ahead_while_the_last_ones_are_used():
    taken = []

    def batch(chosen):
        taken.append(len(chosen))
        return INPUTS[chosen % 10], TARGETS[chosen % 10]

    rows = Rows(1000, batch)
    found = training_stream(rows, rows.specs(), 4, 0, 0, 250)
    taken.clear()
    next(found)
    deadline = time.monotonic() + 30
    while len(taken) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 2 <= len(taken) < 250  # the next one lies ready, and not all of them fill the memory


def test_rows_that_are_measured_again_and_again_are_read_once_where_they_fit(monkeypatch):
    taken = []

    def batch(chosen):
        taken.append(chosen)
        return INPUTS[chosen], TARGETS[chosen]

    rows = Rows(10, batch)
    specs = rows.specs()
    for room, reads in ((batches.CACHE_BYTES, 3), (60, 6)):
        monkeypatch.setattr(batches, "CACHE_BYTES", room)
        taken.clear()
        repeated = Repeated(rows, specs, 4)
        for _ in range(2):
            assert np.concatenate([one.chosen.numpy() for one in repeated]).tolist() == list(range(10))
        assert len(taken) == reads


def test_rows_are_named_by_their_ids_five_at_most():
    rows = Rows.of(INPUTS, TARGETS, np.arange(10) + 100)
    assert rows.named(np.array([1, 3])) == "101, 103"
    assert rows.named(np.arange(9)) == "100, 101, 102, 103, 104 and 4 more"
    assert Rows.of(INPUTS, TARGETS).named(np.array([2])) == "2"


def test_changed_rows_have_other_contents_and_the_same_names():
    rows = Rows.of(INPUTS, TARGETS, np.arange(10) + 100)
    other = rows.changed(lambda chosen, inputs, targets: (inputs * 0, targets + len(chosen)))
    batch = batch_of(other, np.array([2, 5]), rows.specs())
    assert batch.inputs.numpy().tolist() == [[0, 0], [0, 0]] and batch.targets.numpy().tolist() == [4, 7]
    assert other.named(np.array([2])) == "102"


def test_rows_are_picked_from_an_array_or_from_each_of_a_dictionary():
    assert pick(TARGETS, np.array([3, 1])).tolist() == [3, 1]
    found = pick({"a": INPUTS, "b": TARGETS}, TARGETS > 7)
    assert found["a"].tolist() == [[16, 17], [18, 19]] and found["b"].tolist() == [8, 9]


def test_rows_in_memory_may_be_dictionaries_too():
    rows = Rows.of({"a": INPUTS, "b": TARGETS}, TARGETS)
    batch = batch_of(rows, np.array([2, 5]), rows.specs())
    assert batch.inputs["a"].numpy().tolist() == [[4, 5], [10, 11]] and batch.inputs["b"].numpy().tolist() == [2, 5]
