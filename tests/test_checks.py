"""The checks before a run: each finds what it is for, and none changes anything."""

import json

import numpy as np
import pytest

from embedkit import Training, UserError, checks, frameworks
from embedkit.checks import learning_rate_range, overfit_one_batch, preflight, shuffled_labels, suggest, zeroed_inputs
from embedkit.trainer import Problem, Trainer
from embedkit.training import Rows

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(400, 12)).astype(np.float32)
CLASSES = (INPUTS[:, :3] + 0.3 * RANDOM.normal(size=(400, 3))).argmax(axis=1).astype(np.int32)
SETTINGS = Training(epochs=20, batch_size=32, optimizer="adamw", learning_rate=0.003)


def trainer(inputs=INPUTS, classes=CLASSES, settings=SETTINGS, bias="zeros", **more):
    """A network of one hidden layer, on three classes."""
    frameworks.start_keras(0)
    import keras

    vectors = keras.Input(inputs.shape[1:])
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(24, activation="relu")(vectors))
    model = keras.Model(vectors, keras.layers.Dense(3, bias_initializer=bias, kernel_initializer="zeros")(x))

    def loss(targets, outputs):
        return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    rows = Rows.of(inputs[:300], classes[:300], ids=np.arange(300) + 7000)
    held = Rows.of(inputs[300:], classes[300:])
    return Trainer(Problem(model, loss, rows, held, expected=float(np.log(3)), **more), settings)


def test_a_sound_run_passes_every_check_and_is_as_it_was_before():
    given = trainer(settings=SETTINGS.model_copy(update={"thorough": True}))
    before = given.digest()
    found = preflight(given, 0)
    assert given.digest() == before == found["untouched"]["sha256"]
    names = ["initial_loss", "overfit_one_batch", "zeroed_inputs", "learning_rate", "shuffled_labels", "sizes", "untouched"]
    assert list(found) == names
    assert found["initial_loss"]["as_expected"] and found["zeroed_inputs"]["inputs_matter"]
    assert found["shuffled_labels"]["as_chance"]
    assert found["overfit_one_batch"]["loss"] <= found["overfit_one_batch"]["bound"] < found["overfit_one_batch"]["loss_before"]
    assert all(check["line"] for check in found.values())
    assert json.loads(json.dumps(found)) == found
    again = preflight(trainer(settings=given.settings), 0)  # the same call gives the same numbers, but where time is measured
    assert {name: check for name, check in again.items() if name != "sizes"} == {
        name: check for name, check in found.items() if name != "sizes"
    }


def test_the_first_loss_is_held_against_the_entropy_of_the_labels():
    import keras

    wrong = trainer(bias=keras.initializers.Constant([5.0, 0.0, 0.0]))
    found = checks.initial_loss(wrong, 0)
    assert not found["as_expected"]
    assert found["line"].endswith("much higher: the untrained outputs are too large, or their bias is wrong")
    assert checks.initial_loss(trainer(), 0)["loss"] == pytest.approx(np.log(3), rel=1e-5)


def test_a_batch_that_cannot_be_overfitted_stops_with_its_rows_and_the_usual_causes():
    blind = np.zeros_like(INPUTS)
    blind[:, 0] = np.arange(400) * 1e-12  # different rows that no network can tell apart
    words = (
        r"one batch of 16 rows can't be overfitted: its loss fell from 1.099 to .* only, not to 0.1099, at 5 learning rates around "
        r"0.003; usual causes are labels that don't belong .*; look at the rows 70\d\d, .*, or set preflight to false"
    )
    with pytest.raises(UserError, match=words):
        overfit_one_batch(trainer(inputs=blind), 0)


def test_equal_inputs_with_different_labels_do_not_fail_the_overfit():
    twice = np.repeat(INPUTS[:40], 10, axis=0)
    assert overfit_one_batch(trainer(inputs=twice), 0)["rows"] == 16


def test_no_more_rows_are_overfitted_than_the_model_can_tell_apart():
    found = overfit_one_batch(trainer(separable=5), 0)
    assert found["rows"] == 5
    chosen = np.array(found["ids"]) - 7000
    assert set(CLASSES[chosen]) == {0, 1, 2}  # as many different labels as there are


def test_inputs_that_say_nothing_are_found():
    noise = np.random.default_rng(1).normal(size=INPUTS.shape).astype(np.float32)
    found = zeroed_inputs(trainer(inputs=noise), 0)
    assert not found["inputs_matter"] and found["line"].endswith("so far the inputs bring nothing")
    seen = zeroed_inputs(trainer(), 0)
    assert seen["inputs_matter"] and seen["loss"] < seen["loss_of_zeros"] - 0.05


def test_validation_rows_among_the_training_rows_are_no_leak_but_labels_in_the_measure_are():
    given = trainer()
    given.problem.validation = given.problem.train
    assert shuffled_labels(given, 0)["as_chance"]
    leaking = trainer()
    import keras

    def step(model, inputs, targets, training):
        """A measure that looks at the labels it should predict, but less at rows it can't see."""
        outputs = model(inputs, training=training)
        told = 3.0 * keras.ops.one_hot(targets, 3) * keras.ops.cast(keras.ops.any(inputs != 0, axis=1), "float32")[:, None]
        return keras.ops.sparse_categorical_crossentropy(targets, outputs + told, from_logits=True)

    leaking.problem.step = step
    found = shuffled_labels(leaking, 0)
    assert not found["as_chance"] and "labels leak into the inputs" in found["line"]


def test_the_range_test_finds_the_rate_at_which_a_parabola_is_learned_fastest():
    # Gradient descent on (3 - w)² with momentum: rates of about 0.1 to 0.5 learn it in a few steps, beyond 0.7 it blows up.
    frameworks.start_keras(0)
    import keras

    vectors = keras.Input((1,))
    model = keras.Model(vectors, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(vectors))
    ones = np.ones((64, 1), np.float32)
    settings = Training(epochs=100, batch_size=4, optimizer="sgd", learning_rate="auto")
    rows = Rows.of(ones, 3 * ones)
    given = Problem(model, lambda t, o: keras.ops.mean(keras.ops.square(t - o), axis=-1), rows, rows)
    found = learning_rate_range(Trainer(given, settings), 0)
    assert 0.003 < found["suggestion"] < 0.5
    assert found["rates"][-1] < 10  # it stopped where the loss blew up
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])


@pytest.mark.parametrize("first", [-6e-8, 0.0, 1e-9])
def test_a_first_batch_that_is_learned_already_does_not_end_the_range_test(first):
    # A static student gives a text of one token its teacher's own vector, and rounding takes 1 - cosine below 0.
    given = trainer(settings=Training(epochs=100, batch_size=8, optimizer="sgd", learning_rate="auto"))
    real, seen = given.step, []

    def step(batch, rate):
        value, each = real(batch, rate)
        seen.append(rate)
        return (first if len(seen) == 1 else value), each

    given.step = step
    found = learning_rate_range(given, 0)
    assert len(found["losses"]) > 20 and found["losses"][0] == first
    assert 0.001 < found["suggestion"] < 10


def test_labels_that_cannot_be_learned_have_no_usable_slope():
    noise = np.random.default_rng(1).integers(0, 3, 400).astype(np.int32)
    auto = Training(epochs=1, batch_size=6, optimizer="adamw", learning_rate="auto")  # no row comes twice, to be learned by heart
    found = learning_rate_range(trainer(classes=noise, settings=auto), 0)
    assert found["suggestion"] is None and found["line"].endswith("no usable slope")


def test_a_suggestion_is_where_the_smoothed_loss_falls_fastest():
    rates = np.geomspace(1e-5, 1, 80)
    losses = 1 / (1 + np.exp(3 * (np.log10(rates) + 2)))  # falls fastest at 0.01
    assert suggest(rates, losses)[1] == pytest.approx(0.01, rel=0.3)
    assert suggest(rates, losses[::-1])[1] is None  # it only rises
    assert suggest(rates[:5], losses[:5])[1] is None
    noisy = 1 + 0.1 * np.random.default_rng(0).normal(size=80)
    assert suggest(rates, noisy)[1] is None


def test_rows_that_are_not_finite_are_named_before_anything_is_learned():
    broken, wrong = INPUTS.copy(), trainer()
    broken[5] = np.nan
    wrong.problem.train = Rows.of(broken[:300], CLASSES[:300], ids=np.arange(300) + 7000)
    with pytest.raises(UserError, match="the inputs of row 7005 are not finite; leave such rows out"):
        overfit_one_batch(wrong, 0)  # the activation hides it from the first loss
    wrong.problem.step = lambda model, inputs, targets, training: wrong.problem.loss(targets, model(inputs) + inputs[:, :3])
    with pytest.raises(UserError, match=r"the first loss became nan at a check before the run, on 1 of .* rows \(7005\)"):
        preflight(wrong, 0)


def test_a_range_test_whose_first_loss_is_not_finite_names_the_rows():
    wrong = trainer()
    wrong.problem.step = lambda model, inputs, targets, training: wrong.problem.loss(targets, model(inputs)) / 0.0
    words = r"the first loss became inf at the range test of learning rates, on 32 of .* rows \(70\d\d"
    with pytest.raises(UserError, match=words):
        learning_rate_range(wrong, 0)
