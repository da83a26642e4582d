"""Restoration: columns are hidden, and only what was hidden counts."""

import numpy as np
import pytest

from embedkit import restoration
from embedkit.features import UNKNOWN, Columns, Embedded, Numbers, Vocabulary
from embedkit.restoration import HIDDEN, Restoration

COLUMNS = Columns(
    columns=[
        Embedded(name="city", vocabulary=0),
        Numbers(name="size", low=0, high=1, gaps=True),
        Numbers(name="age", low=0, high=1, gaps=False),
    ],
    vocabularies=[Vocabulary(name="city", values=["a", "b"], missing=True, dimension=2)],
)
ROWS = 4000


def given():
    """Places of cities a (2) and b (3), one a to three b, and three plain outputs."""
    values = np.where(np.arange(ROWS) % 4, 3, 2)[:, None].astype(np.int32)
    return {"values": values, "numbers": np.tile(np.array([[0.5, 1.0, -0.25]], np.float32), (ROWS, 1))}


@pytest.fixture(scope="module")
def case():
    return Restoration(COLUMNS).case(given(), np.arange(ROWS), np.arange(ROWS // 2), 0)


def test_some_columns_of_each_row_are_hidden_with_all_their_outputs(case):
    hidden = case.targets[:, 4:]
    assert hidden.shape == (ROWS, 4) and set(np.unique(hidden)) == {0, 1}
    assert np.array_equal(hidden[:, 1], hidden[:, 2])  # a number and its gap are one column
    assert hidden[:, [0, 1, 3]].mean(axis=0) == pytest.approx([HIDDEN] * 3, abs=0.02)
    assert np.array_equal(case.inputs["values"][:, 0] == UNKNOWN, hidden[:, 0] == 1)
    assert np.array_equal(case.inputs["numbers"], np.where(hidden[:, 1:], 0, given()["numbers"]))


def test_targets_say_what_was_there(case):
    assert np.array_equal(case.targets[:, :1], given()["values"])
    assert np.array_equal(case.targets[:, 1:4], given()["numbers"])
    assert case.outputs == 4 + 3  # unknown, missing, a and b; size, its gap, and age


def test_the_bias_guesses_by_shares_and_means(case):
    shares = np.exp(case.bias[:4])
    assert shares[2:].tolist() == pytest.approx([0.25, 0.75])
    assert shares[:2].max() < 0.001
    assert case.bias[4:].tolist() == [0.5, 1.0, -0.25]


def test_the_same_seed_hides_the_same_and_another_others(case):
    again, other = (Restoration(COLUMNS).case(given(), np.arange(ROWS), np.arange(ROWS), seed) for seed in (0, 1))
    assert np.array_equal(again.targets, case.targets) and not np.array_equal(other.targets, case.targets)


def test_only_what_was_hidden_counts():
    outputs = np.array([[0, 0, np.log(3), 0, 9, 1, 2]] * 4, np.float32)  # half the chance for a, a sixth for each other
    known = [2, 0.5, 1.0, 1.0]
    hidden = [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
    targets = np.array([known + line for line in hidden], np.float32)
    found = np.asarray(Restoration(COLUMNS).loss(targets, outputs))
    assert found == pytest.approx([np.log(2), 0.5, (np.log(2) + 0.5) / 2, 0], abs=1e-6)


def test_more_columns_are_hidden_in_training_and_none_is_shown_again(case):
    import keras

    generator = keras.random.SeedGenerator(0)
    shown, targets = Restoration(COLUMNS).augment(case.inputs, case.targets, generator)
    shown, targets = {name: np.asarray(array) for name, array in shown.items()}, np.asarray(targets)
    before, after = case.targets[:, 4:], targets[:, 4:]
    assert (after >= before).all() and after[:, 0].mean() == pytest.approx(1 - (1 - HIDDEN) ** 2, abs=0.02)
    assert np.array_equal(after[:, 1], after[:, 2])
    assert np.array_equal(targets[:, :4], case.targets[:, :4])
    assert np.array_equal(shown["values"][:, 0] == UNKNOWN, after[:, 0] == 1)
    assert np.array_equal(shown["numbers"], np.where(after[:, 1:] == 1, 0, given()["numbers"]))


def test_a_table_of_embedded_columns_alone_is_restored_too():
    import keras

    alone = Columns(columns=[COLUMNS.columns[0]], vocabularies=COLUMNS.vocabularies)
    whole = Restoration(alone)
    case = whole.case({"values": given()["values"]}, np.arange(ROWS), np.arange(ROWS), 0)
    assert list(case.inputs) == ["values"] and case.outputs == 4
    shown, targets = whole.augment(case.inputs, case.targets, keras.random.SeedGenerator(0))
    assert np.asarray(whole.loss(targets, np.zeros((ROWS, 4), np.float32))).max() == pytest.approx(np.log(4))
    assert list(shown) == ["values"]


def test_rare_values_of_a_large_vocabulary_are_told_apart_from_frequent_ones_only(monkeypatch):
    monkeypatch.setattr(restoration, "MOST_CLASSES", 4)
    many = Columns(
        columns=[Embedded(name="x", vocabulary=0)],
        vocabularies=[Vocabulary(name="x", values=list("abcdef"), missing=False, dimension=2)],
    )
    whole = Restoration(many)
    values = np.array([[2], [3], [4], [7]], np.int32)
    assert whole.case({"values": values}, np.arange(4), np.arange(4), 0).targets[:, 0].tolist() == [2, 3, 3, 3]
    assert whole.outputs == 4
