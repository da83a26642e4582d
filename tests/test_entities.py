"""Entities: networks with a vector for each value, their folds, and how one network's vectors are turned onto another's."""

import numpy as np
import pytest

from embedkit import UserError
from embedkit.crossfit import NONE
from embedkit.entities import (
    Case,
    Entities,
    Network,
    TableTraining,
    again,
    cross_fitted,
    folds_of,
    learn_fold,
    looked_at,
    misleads,
    resolved,
    thinned,
    turned,
    vectors_of,
    worth,
)
from embedkit.features import MISSING, UNKNOWN, Columns, Embedded, Numbers, Vocabulary
from embedkit.frameworks import start_keras
from embedkit.metrics import mean
from embedkit.schedules import Training, resolve
from embedkit.tasks import Task
from embedkit.training import Trainer

# Turned


def drawn(values=9, dimension=4, seed=0):
    random = np.random.default_rng(seed)
    way = np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    return random.normal(size=(values, dimension)), way, random.normal(size=dimension)


@pytest.mark.parametrize("seed", range(4))  # of which some mirror
def test_a_rotation_a_scale_and_a_shift_are_undone_exactly(seed):
    whole, way, shift = drawn(seed=seed)
    counts = np.array([0, 5, 1, 2, 3, 4, 5, 6, 7])
    found = turned(0.37 * whole @ way + shift, whole, counts, 1)
    assert found == pytest.approx(whole, abs=1e-6) and found.dtype == np.float32


def test_all_values_are_turned_alike_so_that_what_a_fold_learned_stays():
    whole, way, shift = drawn()
    theirs = (whole @ way + shift) * 2
    theirs[5] += [3, 0, 0, 0]  # one value is elsewhere in this fold
    found = turned(theirs, whole, np.full(9, 4), 1)
    before = np.linalg.norm(theirs[:, None] - theirs[None], axis=2)
    after = np.linalg.norm(found[:, None].astype(float) - found[None], axis=2)
    scale = after[0, 1] / before[0, 1]
    assert after == pytest.approx(scale * before, abs=1e-5)
    assert np.abs(found[5] - whole[5]).max() > 0.3


def test_values_that_a_fold_hardly_saw_get_the_vector_of_unknown_ones():
    whole, way, shift = drawn()
    found = turned(whole @ way + shift, whole, np.array([0, 0, 2, 1, 9, 9, 9, 9, 9]), 2)
    assert found[[MISSING, 3]] == pytest.approx(np.stack([whole[UNKNOWN]] * 2), abs=1e-6)
    assert found[2] == pytest.approx(whole[2], abs=1e-6)


def test_where_one_value_or_none_is_known_nothing_is_turned():
    whole, way, shift = drawn(4)
    theirs = (whole @ way + shift).astype(np.float32)
    assert np.array_equal(turned(theirs, whole, np.array([50, 0, 3, 0]), 2), theirs[[0, 0, 2, 0]])
    assert np.array_equal(turned(theirs, whole, np.zeros(4, int), 2), theirs[[0, 0, 0, 0]])


def test_vectors_that_are_all_the_same_stay_finite():
    found = turned(np.ones((4, 2)), np.arange(8.0).reshape(4, 2), np.full(4, 3), 1)
    assert np.isfinite(found).all()


# Folds


def test_the_fold_of_a_row_is_that_of_its_id_and_folds_are_about_even():
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 5000)
    found = folds_of(ids, 5, 0)
    assert np.array_equal(found, folds_of(ids[::-1], 5, 0)[::-1])
    assert np.bincount(found).tolist() == pytest.approx([1000] * 5, abs=150)
    assert (found != folds_of(ids, 5, 1)).mean() > 0.7


def test_too_few_rows_for_the_folds_are_refused():
    with pytest.raises(UserError, match="3 training rows are too few for 5 folds; give fewer folds, or more rows"):
        folds_of(np.arange(3), 5, 0)


COLUMNS = Columns(
    columns=[
        Embedded(name="home", vocabulary=0),
        Numbers(name="size", low=0, high=1, gaps=False),
        Embedded(name="kind", vocabulary=1),
        Embedded(name="away", vocabulary=0),
    ],
    vocabularies=[
        Vocabulary(name="home, away", values=["a", "b", "c"], missing=False, dimension=2),
        Vocabulary(name="kind", values=["x", "y"], missing=True, dimension=3),
    ],
)


def test_values_that_these_rows_have_too_seldom_are_unknown():
    values = np.array([[2, 2, 3], [3, 2, 3], [4, 3, 2], [4, 1, 4], [4, 3, 4]], np.int32)
    found, (ours, kinds) = thinned(COLUMNS, values, np.array([0, 1, 2]), 2)
    assert ours.tolist() == [0, 0, 2, 3, 1]  # home and away together
    assert kinds.tolist() == [0, 0, 2, 1]
    assert found.tolist() == [[2, 2, 3], [3, 2, 3], [UNKNOWN, UNKNOWN, 2], [UNKNOWN] * 3, [UNKNOWN] * 3]
    assert values[3].tolist() == [4, 1, 4]  # the given ones stay


# What vectors are worth


def test_what_a_column_saves_is_paired_by_row():
    found = worth(np.array([1.0, 2.0]), np.array([[2.0, 3.0], [1.0, 2.0]]), np.array([4.0]), np.array([[4.5], [3.0]]))
    assert [(each["in_fold"].value, each["out_of_fold"].value) for each in found] == [(1, 0.5), (0, -1)]
    assert found[0]["in_fold"].standard_error == 0


@pytest.mark.parametrize(
    ("seen", "unseen", "expected"),
    [
        ([0.9, 1.1], [0.1, -0.1], True),
        ([0.9, 1.1], [-1.0, -1.0], True),
        ([0.9, 1.1], [0.9, 1.1], False),
        ([-1.0, 1.1], [0.0, 0.0], False),
        ([0.0, 0.0], [0.0, 0.0], False),
    ],
)
def test_a_column_misleads_when_its_vectors_tell_of_their_own_rows_alone(seen, unseen, expected):
    assert misleads({"in_fold": mean(np.array(seen)), "out_of_fold": mean(np.array(unseen))}) is expected


# Networks


def table(rows=240):
    """Inputs and labels of which `home` decides; `kind` and `size` are noise."""
    random = np.random.default_rng(0)
    values = np.stack([2 + np.arange(rows) % 3, random.integers(1, 4, rows), random.integers(2, 5, rows)], axis=1)
    numbers = random.uniform(-1, 1, (rows, 1)).astype(np.float32)
    return {"numbers": numbers, "values": values.astype(np.int32)}, (values[:, 0] == 3).astype(np.int32)


def network(**shape):
    inputs, labels = table()
    task = Task("class", ["no", "yes"], labels)
    train = np.arange(180)
    prior = task.prior(train)
    case = Case(inputs, labels, np.arange(240), 2, task.bias(prior, 180), task.loss(), task.entropy(train, prior))
    start_keras(0)
    return Entities(COLUMNS, case, Network(hidden=(6,), **shape), 0)


@pytest.fixture(scope="module")
def untrained():
    return network()


def test_an_untrained_network_begins_at_the_prior(untrained):
    inputs, labels = table()
    assert untrained.losses(inputs, labels).mean() == pytest.approx(untrained.case.expected, abs=0.02)


def test_the_encoder_half_puts_vectors_behind_the_numbers(untrained):
    inputs, _ = table()
    few = {name: array[:4] for name, array in inputs.items()}
    found = vectors_of(COLUMNS, few, untrained.weights())
    assert (found.shape, untrained.encoder.output.shape[1], len(COLUMNS.outputs)) == ((4, 8), 8, 8)
    assert np.array_equal(found, np.asarray(untrained.encoder(few)))
    ours, _ = untrained.weights()
    assert np.array_equal(found[:, 6:], ours[few["values"][:, 2]])


def test_columns_of_one_vocabulary_share_its_vectors(untrained):
    assert [table.shape for table in untrained.weights()] == [(5, 2), (4, 3)]


def test_batches_do_not_change_what_rows_lose(untrained):
    inputs, labels = table()
    assert untrained.losses(inputs, labels, at_once=100) == pytest.approx(untrained.losses(inputs, labels), abs=1e-6)


def test_without_a_column_its_values_are_unknown_and_others_are_not(untrained):
    inputs, labels = table()
    found = untrained.without_each(inputs, labels)
    values = inputs["values"].copy()
    values[:, 1] = UNKNOWN
    assert found.shape == (3, 240)
    assert np.array_equal(found[1], untrained.losses(inputs | {"values": values}, labels))
    assert inputs["values"].min() > UNKNOWN  # the given ones stay


def test_a_share_of_the_values_is_shown_as_unknown_in_training(untrained):
    import keras

    inputs = {"numbers": np.ones((2000, 1), np.float32), "values": np.full((2000, 3), 2, np.int32)}
    untrained.generator = keras.random.SeedGenerator(1)
    shown, targets = untrained.augment(inputs, np.ones(2000))
    hidden = np.asarray(shown["values"]) == UNKNOWN
    assert hidden.mean() == pytest.approx(0.05, abs=0.01)
    assert (np.asarray(shown["numbers"]) == 1).all() and (targets == 1).all()
    assert network(unknown=0.0).augment is None


def test_a_fold_learns_as_long_as_the_whole_network_did():
    settings = again(Training(epochs=50, patience=4, epochs_factor=3, batch_size=8), 7)
    assert (settings.epochs, settings.patience, settings.epochs_factor, settings.batch_size) == (7, None, 1, 8)
    assert again(Training(), 0).epochs == 1


def test_a_fold_is_the_same_whatever_was_learned_before_it():
    whole = network(unknown=0.3, dropout=0.2)
    settings = resolve(Training(epochs=1, batch_size=32, learning_rate=0.1, preflight=False), linear=False, epochs=1)
    one, other, validation = np.arange(90), np.arange(90, 180), np.arange(180, 210)
    trainer, vectors = Trainer(whole.problem(one, validation), settings), whole.weights()

    def learned(train, held):
        return learn_fold(whole, trainer, train, held, validation, vectors, 3, None)

    first, second, again = learned(one, other), learned(other, one), learned(one, other)
    assert np.array_equal(first.losses, again.losses) and np.array_equal(first.tables[0], again.tables[0])
    assert not np.array_equal(first.losses, second.losses)


@pytest.mark.parametrize(("rows", "size"), [(100, 32), (10_000, 200), (10**6, 1024)])
def test_a_batch_is_a_fiftieth_of_the_rows_within_bounds_unless_it_is_given(rows, size):
    found = resolved(TableTraining(), rows)
    assert type(found) is Training and (found.batch_size, found.epochs) == (size, 100)
    assert (found.learning_rate, found.optimizer) == (0.003, "adamw")
    given = resolved(TableTraining(batch_size=7, epochs=3), rows)
    assert (given.batch_size, given.epochs) == (7, 3)


@pytest.fixture(scope="module")
def fitted():
    """A network trained in memory with two folds."""
    training = Training(optimizer="adamw", learning_rate=0.1, epochs=6, batch_size=32, patience=None, preflight=False)
    return cross_fitted(network(), training, np.arange(180), np.arange(180, 210), 2, 3)


def test_each_training_row_gets_the_vector_of_a_network_that_did_not_see_it(fitted):
    found, (inputs, _) = fitted, table()
    assert np.array_equal(found.fold[:180], folds_of(np.arange(180), 2, 0)) and (found.fold[180:] == NONE).all()
    plain, ours = found.vectors(inputs), found.vectors(inputs, found.fold)
    assert np.array_equal(plain, vectors_of(COLUMNS, inputs, found.network.weights()))  # those of the whole are back in place
    assert np.array_equal(plain[180:], ours[180:]) and (plain[:180, 1:] != ours[:180, 1:]).any(axis=1).all()
    for fold in (0, 1):
        mine = np.flatnonzero(found.fold == fold)
        given = {name: array[mine] for name, array in inputs.items()}
        assert np.array_equal(ours[mine], vectors_of(COLUMNS, given, found.folds[fold].tables))


def test_what_decides_pays_out_of_fold_and_what_does_not_does_not_pay(fitted):
    home, kind, _ = fitted.worth(np.arange(180))
    assert home["out_of_fold"].value > 0.2 and not misleads(home)
    assert kind["out_of_fold"].value < 0.05
    assert home["out_of_fold"].n == home["in_fold"].n == 180


def test_the_vectors_of_a_fold_lie_near_those_of_the_whole_network(fitted):
    whole = fitted.whole[0][2:]
    for fold in fitted.folds:
        distance = np.linalg.norm(fold.tables[0][2:] - whole, axis=1).max()
        assert distance < np.linalg.norm(whole - whole.mean(axis=0), axis=1).max()


@pytest.mark.parametrize("rows", [1, 180, 20_000, 20_001, 70_226])
def test_losses_in_fold_are_of_rows_from_all_over_a_dataset_that_may_be_sorted(rows):
    train = np.arange(rows) * 2
    found = looked_at(train)
    assert min(rows, 10_000) <= len(found) <= 20_000
    assert found[0] == 0 and found[-1] > train[-1] - 2 * (rows // len(found) + 1)
    assert len(set(np.diff(found))) <= 1
