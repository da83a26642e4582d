"""The training loop: a run that was interrupted ends with the same bits, and none ends with weights that are not numbers."""

import io
import json
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from embedkit import Training, UserError, engines
from embedkit.training import Rows, fit, resolve

engines.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(100, 4)).astype(np.float32)
TARGETS = (INPUTS @ RANDOM.normal(size=(4, 2)) + 0.1 * RANDOM.normal(size=(100, 2))).astype(np.float32)
SHORT = Training(epochs=4, batch_size=16, checkpoint_every=3, optimizer="adamw", learning_rate=0.01)  # 7 steps an epoch


class Stopped(Exception):
    """What interrupts a run."""


def squared(targets, outputs):
    return keras.ops.mean(keras.ops.square(targets - outputs), axis=-1)


def network(dropout=0.4):
    engines.start_keras(0)
    vectors = keras.Input((4,))
    x = keras.layers.Dropout(dropout)(keras.layers.Dense(8, activation="tanh")(vectors))
    return keras.Model(vectors, keras.layers.Dense(2)(x))


def line():
    """One weight, which training moves towards 3: outputs are weight * 1."""
    engines.start_keras(0)
    vectors = keras.Input((1,))
    return keras.Model(vectors, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(vectors))


def rows(inputs=INPUTS, targets=TARGETS):
    return Rows(len(inputs), lambda chosen: (inputs[chosen], targets[chosen]))


def dying_after(steps):
    """Rows whose batch function is interrupted after so many batches, as by the power going out."""
    taken = []

    def batch(chosen):
        if len(taken) == steps:
            raise Stopped
        taken.append(chosen)
        return INPUTS[chosen], TARGETS[chosen]

    return Rows(100, batch)


def train(folder, settings=SHORT, train=None, validation=None, model=None, loss=squared, seed=7):
    model = model or network()
    run = fit(model, loss, train or rows(), validation or rows(INPUTS[:30], TARGETS[:30]), settings, seed, folder)
    return [weight.tolist() for weight in model.get_weights()], run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and record of a run that nothing interrupted."""
    return train(tmp_path_factory.mktemp("undisturbed"))


# Interruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 7, 27])  # between two checkpoints, at the end of an epoch, at the last step
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, undisturbed, steps):
    with pytest.raises(Stopped):
        train(tmp_path, train=dying_after(steps))
    assert train(tmp_path) == undisturbed


def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_bits(tmp_path, undisturbed):
    interruptions = 0
    while True:
        try:
            assert train(tmp_path, train=dying_after(5)) == undisturbed
            break
        except Stopped:
            interruptions += 1
    assert interruptions == 7  # going on from steps 0, 3, 7, 12, 15, 18, 21 and, to the end, 24


KILLED = """
import os, pathlib, signal, sys
import test_training as here

folder, taken = pathlib.Path(sys.argv[1]), []
ones = here.np.ones((4, 1), "float32")
for number in range(6):
    one_step = here.Training(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)
    here.fit(here.line(), here.squared, here.rows(ones, ones), here.rows(ones, ones), one_step, 0, folder / str(number))

def batch(chosen):
    if len(taken) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    taken.append(chosen)
    return here.INPUTS[chosen], here.TARGETS[chosen]

here.train(folder, train=here.Rows(100, batch))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A process that trained six times to the end, and was killed in its seventh run, before step 13."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])}
    return folder, subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, text=True)


def test_a_process_that_was_killed_loses_only_the_steps_since_its_checkpoint(killed, undisturbed):
    folder, ended = killed
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert sorted(path.name for path in folder.glob("*.checkpoint")) == ["step-0000000009.checkpoint", "step-0000000012.checkpoint"]
    taken = []

    def counted(chosen):
        taken.append(chosen)
        return INPUTS[chosen], TARGETS[chosen]

    assert train(folder, train=Rows(100, counted)) == undisturbed
    assert len(taken) == 28 - 12


def test_many_runs_in_one_process_print_nothing(killed):
    _, ended = killed
    assert (ended.stdout, ended.stderr) == ("", "")


def test_a_finished_run_is_not_run_again(tmp_path, undisturbed):
    assert train(tmp_path) == undisturbed
    assert train(tmp_path, train=dying_after(0)) == undisturbed


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000027.checkpoint", "step-0000000028.checkpoint"]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "array":
        data[data.index(b"\x93NUMPY") + 200] ^= 0xFF
    elif how == "encrypted":  # a flag in the zip's directory
        data[data.index(b"PK\x01\x02") + 8] ^= 1
    elif how == "compressed":  # by a method that nobody knows
        data[data.index(b"PK\x01\x02") + 10] ^= 0xFF
    elif how == "other":
        data = b"something else entirely"
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["cut", "empty", "array", "encrypted", "compressed", "other"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, undisturbed, how):
    with pytest.raises(Stopped):
        train(tmp_path, train=dying_after(13))
    newest = sorted(tmp_path.glob("*.checkpoint"))[-1]
    damage(newest, how)
    with caplog.at_level(logging.INFO, "embedkit"):
        assert train(tmp_path) == undisturbed
    assert f"checkpoint {newest.name} is damaged (" in caplog.text
    assert "going on from the one before" in caplog.text
    assert "goes on after step 9" in caplog.text


def stored_in(path):
    """The arrays of a checkpoint: an .npz file behind its 32 bytes of SHA-256."""
    return np.load(io.BytesIO(path.read_bytes()[32:]), allow_pickle=False)


def test_no_flipped_byte_of_a_checkpoint_goes_unnoticed(tmp_path):
    from embedkit.training import _restore

    with pytest.raises(Stopped):
        train(tmp_path, train=dying_after(8))
    before, newest = sorted(tmp_path.glob("*.checkpoint"))
    good = newest.read_bytes()
    with stored_in(before) as stored:
        count = sum(name.startswith("now") for name in stored.files)
    variables = [keras.Variable(stored_in(newest)[f"now{number}"]) for number in range(count)]
    expected = {}
    for path in (before, newest):
        with stored_in(path) as stored:
            expected[json.loads(str(stored["run"]))["step"]] = [stored[f"now{number}"].tolist() for number in range(count)]
    for position in range(0, len(good), 41):
        newest.write_bytes(good[:position] + bytes([good[position] ^ 0x11]) + good[position + 1 :])
        run = _restore(tmp_path, variables, [])
        assert [variable.numpy().tolist() for variable in variables] == expected[run.step], position


def test_where_every_checkpoint_is_damaged_the_run_starts_anew(tmp_path, caplog, undisturbed):
    with pytest.raises(Stopped):
        train(tmp_path, train=dying_after(13))
    for path in tmp_path.glob("*.checkpoint"):
        damage(path, "cut")
    with caplog.at_level(logging.WARNING, "embedkit"):
        assert train(tmp_path) == undisturbed
    assert caplog.text.count("is damaged") == 2


def test_a_half_written_checkpoint_is_not_looked_at(tmp_path, undisturbed):
    with pytest.raises(Stopped):
        train(tmp_path, train=dying_after(13))
    (tmp_path / "step-0000000013.unfinished").write_bytes(b"half")
    assert train(tmp_path) == undisturbed


# What decides a run -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(tmp_path, undisturbed):
    assert train(tmp_path / "same") == undisturbed
    assert train(tmp_path / "other", seed=8)[0] != undisturbed[0]


def test_checkpoints_change_nothing(tmp_path, undisturbed):
    assert train(tmp_path, SHORT.model_copy(update={"checkpoint_every": 1000})) == undisturbed


def test_each_epoch_takes_every_row_once_in_another_order(tmp_path):
    taken = []

    def batch(chosen):
        taken.append(chosen)
        return INPUTS[chosen], TARGETS[chosen]

    train(tmp_path, train=Rows(100, batch))
    assert [len(chosen) for chosen in taken[:7]] == [16] * 6 + [4]
    epochs = [np.concatenate(taken[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_losses_of_the_history_are_means_over_rows(tmp_path):
    # One step an epoch of plain gradient descent on (3 - w)²: the losses can be computed by hand.
    ones, threes = np.ones((5, 1), np.float32), np.full((5, 1), 3.0, np.float32)
    settings = Training(epochs=2, batch_size=5, optimizer="sgd", learning_rate=0.25)
    model = line()
    run = fit(model, squared, rows(ones, threes), rows(ones[:2], threes[:2]), settings, 0, tmp_path)
    # Nesterov with momentum 0.9: v = 0.9 v - 0.25 g, w += 0.9 v - 0.25 g. g = -6: v = 1.5, w = 2.85; g = -0.3: v = 1.425
    last = 2.85 + 0.9 * 1.425 + 0.25 * 0.3
    assert [entry["loss"] for entry in run.history] == pytest.approx([9.0, 0.15**2], rel=1e-5)
    assert [entry["validation_loss"] for entry in run.history] == pytest.approx([0.15**2, (last - 3) ** 2], rel=1e-5)
    assert (run.best_epoch, run.step, run.epoch) == (1, 2, 2)
    assert model.get_weights()[0][0, 0] == pytest.approx(2.85)


def test_the_loss_of_an_epoch_counts_the_rows_of_a_short_batch_by_their_number(tmp_path):
    # Four rows of loss 1 in one batch and one of loss 100 in another make (4 * 1 + 100) / 5, whichever comes first.
    inputs = np.zeros((5, 1), np.float32)
    targets = np.array([[1], [1], [1], [1], [10]], np.float32)
    for seed in range(2):
        settings = Training(epochs=1, batch_size=4, learning_rate=1e-9, optimizer="sgd")
        run = fit(line(), squared, rows(inputs, targets), rows(inputs, targets), settings, seed, tmp_path / str(seed))
        assert run.history[0]["loss"] == pytest.approx(104 / 5)
        assert run.history[0]["validation_loss"] == pytest.approx(104 / 5)


# When it stops ------------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best_weights(tmp_path):
    # Training pulls the weight from 0 to 3, validation wants 1: the best epoch is where it passes 1.
    ones = np.ones((8, 1), np.float32)
    settings = Training(epochs=100, patience=5, batch_size=8, optimizer="adamw", learning_rate=0.1)
    seen = []

    def validation(chosen):
        seen.append(model.get_weights()[0][0, 0])
        return ones[chosen], ones[chosen]

    model = line()
    run = fit(model, squared, rows(ones, 3 * ones), Rows(8, validation), settings, 0, tmp_path)
    assert run.best_epoch == 1 + int(np.argmin(np.abs(np.array(seen) - 1)))
    assert run.epoch == run.best_epoch + 5
    assert model.get_weights()[0][0, 0] == seen[run.best_epoch - 1]
    assert abs(seen[-1] - 1) > 0.3


def test_the_best_weights_outlive_an_interruption_after_their_epoch(tmp_path):
    ones = np.ones((8, 1), np.float32)
    settings = Training(epochs=100, patience=5, batch_size=8, optimizer="adamw", learning_rate=0.1)

    def run(folder, steps):
        left = list(range(steps))

        def batch(chosen):
            if not left:
                raise Stopped
            left.pop()
            return ones[chosen], 3 * ones[chosen]

        model = line()
        found = fit(model, squared, Rows(8, batch), rows(ones, ones), settings, 0, folder)
        return found, model.get_weights()[0].tolist()

    undisturbed = run(tmp_path / "undisturbed", 1000)
    assert undisturbed[0].epoch == undisturbed[0].best_epoch + 5
    with pytest.raises(Stopped):
        run(tmp_path / "disturbed", undisturbed[0].best_epoch + 3)
    assert run(tmp_path / "disturbed", 1000) == undisturbed


def test_a_fall_of_less_than_a_thousandth_counts_as_none(tmp_path):
    ones = np.ones((4, 1), np.float32)
    settings = Training(epochs=100, patience=3, batch_size=4, optimizer="sgd", learning_rate=1e-6)
    run = fit(line(), squared, rows(ones, ones), rows(ones, ones), settings, 0, tmp_path)
    losses = [entry["validation_loss"] for entry in run.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert (run.best_epoch, run.epoch) == (1, 4)


def test_a_run_ends_after_its_epochs_when_it_keeps_improving(tmp_path, undisturbed):
    _, run = undisturbed
    assert (run.epoch, run.finished, len(run.history)) == (4, True, 4)
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_rate(tmp_path):
    broken = TARGETS.copy()
    broken[40] = np.nan
    words = r"the training loss became nan at step [1-7]; lower the learning rate \(now 0.01\), or look for rows that are not"
    with pytest.raises(UserError, match=words):
        train(tmp_path, train=rows(targets=broken))


def test_too_large_a_learning_rate_stops_the_run_with_its_rate(tmp_path):
    ones, settings = np.ones((9, 1), np.float32), Training(epochs=50, batch_size=9, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(UserError, match=r"the \w+ loss became (inf|nan) .*lower the learning rate \(now 1e\+30\)"):
        fit(line(), squared, rows(ones, ones), rows(ones, ones), settings, 0, tmp_path)


def test_a_validation_loss_that_is_not_finite_stops_the_run_too(tmp_path):
    broken = TARGETS[:30].copy()
    broken[3] = np.nan
    with pytest.raises(UserError, match="the validation loss became nan .*look for rows that are not finite"):
        train(tmp_path, validation=rows(INPUTS[:30], broken))


def test_weights_that_overflow_in_the_last_step_are_not_returned(tmp_path):
    settings = Training(epochs=1, batch_size=100, optimizer="sgd", learning_rate=1e38)
    with pytest.raises(UserError, match=r"the validation loss became (inf|nan) .*lower the learning rate \(now 1e\+38\)"):
        train(tmp_path, settings)


def test_a_run_that_failed_fails_again_at_the_same_step(tmp_path):
    broken = TARGETS.copy()
    broken[40] = np.nan
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            train(tmp_path, train=rows(targets=broken))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "linear", "expected"),
    [
        (Training(), True, ("sgd", 1.0, 50)),
        (Training(), False, ("adamw", 0.001, 50)),
        (Training(learning_rate=0.3, epochs=7), True, ("sgd", 0.3, 7)),
        (Training(optimizer="adamw"), True, ("adamw", 0.001, 50)),
        (Training(optimizer="sgd"), False, ("sgd", 1.0, 50)),
    ],
)
def test_auto_comes_to_gradient_descent_for_linear_heads_and_adamw_for_the_rest(settings, linear, expected):
    found = resolve(settings, linear, epochs=50)
    assert (found.optimizer, found.learning_rate, found.epochs) == expected


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": -1}, {"patience": 0}, {"learning_rate": 0}, {"weight_decay": -1}, {"optimizer": "adam"}]
)
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_makes_weights_smaller(tmp_path, optimizer):
    settings = SHORT.model_copy(update={"optimizer": optimizer, "learning_rate": 0.01, "epochs": 3})
    sizes = []
    for decay in (0.0, 5.0):
        weights, _ = train(tmp_path / str(decay), settings.model_copy(update={"weight_decay": decay}))
        sizes.append(np.abs(weights[0]).sum())
    assert sizes[1] < 0.95 * sizes[0]
