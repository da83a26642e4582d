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

from embedkit import Training, UserError, augmentation, frameworks
from embedkit.batches import training_stream
from embedkit.checkpoints import Checkpoints
from embedkit.training import Problem, Rows, Trainer, course, fit, learning_rate, resolve

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(100, 4)).astype(np.float32)
TARGETS = (INPUTS @ RANDOM.normal(size=(4, 2)) + 0.1 * RANDOM.normal(size=(100, 2))).astype(np.float32)
SHORT = Training(  # 7 steps an epoch, every checkpoint written
    epochs=4, batch_size=16, checkpoint_every=3, checkpoint_share=1, optimizer="adamw", learning_rate=0.01
)


class Stopped(Exception):
    """What interrupts a run."""


def squared(targets, outputs):
    return keras.ops.mean(keras.ops.square(targets - outputs), axis=-1)


def network(dropout=0.4):
    frameworks.start_keras(0)
    vectors = keras.Input((4,))
    x = keras.layers.Dropout(dropout)(keras.layers.Dense(8, activation="tanh")(vectors))
    return keras.Model(vectors, keras.layers.Dense(2)(x))


def line():
    """One weight, which training moves towards 3: outputs are weight * 1."""
    frameworks.start_keras(0)
    vectors = keras.Input((1,))
    return keras.Model(vectors, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(vectors))


def rows(inputs=INPUTS, targets=TARGETS, **more):
    return Rows.of(inputs, targets, **more)


class Dying(Trainer):
    """A trainer that is interrupted after so many steps, as by the power going out."""

    left = 0

    def step(self, *arguments, **named):
        if not self.left:
            raise Stopped
        self.left -= 1
        return super().step(*arguments, **named)


def learn(folder, model, train, validation, settings, loss=squared, seed=7, dies=None, **more):
    trainer = (Trainer if dies is None else Dying)(Problem(model, loss, train, validation, **more), settings)
    trainer.left = dies
    return fit(trainer, seed, folder)


def train(folder, settings=SHORT, train=None, validation=None, model=None, **more):
    model = model or network()
    run = learn(folder, model, train or rows(), validation or rows(INPUTS[:30], TARGETS[:30]), settings, **more)
    return [weight.tolist() for weight in model.get_weights()], run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and record of a run that nothing interrupted."""
    return train(tmp_path_factory.mktemp("undisturbed"))


# Interruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 7, 27])  # between two checkpoints, at the end of an epoch, at the last step
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, undisturbed, steps):
    with pytest.raises(Stopped):
        train(tmp_path, dies=steps)
    assert train(tmp_path) == undisturbed


def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_bits(tmp_path, undisturbed):
    interruptions = 0
    while True:
        try:
            assert train(tmp_path, dies=5) == undisturbed
            break
        except Stopped:
            interruptions += 1
    assert interruptions == 7  # going on from steps 0, 3, 7, 12, 15, 18, 21 and, to the end, 24


KILLED = """
import os, pathlib, signal, sys
import test_training as here

folder = pathlib.Path(sys.argv[1])
ones = here.rows(here.np.ones((4, 1), "float32"), here.np.ones((4, 1), "float32"))
for number in range(6):
    one_step = here.Training(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)
    here.learn(folder / str(number), here.line(), ones, ones, one_step)

class Killed(here.Dying):
    def step(self, *arguments, **named):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*arguments, **named)

here.Dying = Killed
here.train(folder, dies=12)
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
    with pytest.raises(Stopped):
        train(folder, dies=28 - 12 - 1)
    assert sorted(folder.glob("*.checkpoint"))[-1].name == "step-0000000027.checkpoint"
    assert train(folder, dies=1) == undisturbed


def test_many_runs_in_one_process_print_nothing(killed):
    _, ended = killed
    assert (ended.stdout, ended.stderr) == ("", "")


def test_a_finished_run_is_not_run_again(tmp_path, undisturbed):
    assert train(tmp_path) == undisturbed
    assert train(tmp_path, dies=0) == undisturbed


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
        train(tmp_path, dies=13)
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
    with pytest.raises(Stopped):
        train(tmp_path, dies=8)
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
        run = Checkpoints(tmp_path, 2, 1.0).restore(variables, [])
        assert [variable.numpy().tolist() for variable in variables] == expected[run["step"]], position


def test_where_every_checkpoint_is_damaged_the_run_starts_anew(tmp_path, caplog, undisturbed):
    with pytest.raises(Stopped):
        train(tmp_path, dies=13)
    for path in tmp_path.glob("*.checkpoint"):
        damage(path, "cut")
    with caplog.at_level(logging.WARNING, "embedkit"):
        assert train(tmp_path) == undisturbed
    assert caplog.text.count("is damaged") == 2


def test_a_half_written_checkpoint_is_not_looked_at(tmp_path, undisturbed):
    with pytest.raises(Stopped):
        train(tmp_path, dies=13)
    (tmp_path / "step-0000000013.unfinished").write_bytes(b"half")
    assert train(tmp_path) == undisturbed


# What decides a run -------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(tmp_path, undisturbed):
    assert train(tmp_path / "same") == undisturbed
    assert train(tmp_path / "other", seed=8)[0] != undisturbed[0]


def test_checkpoints_change_nothing(tmp_path, undisturbed):
    assert train(tmp_path, SHORT.model_copy(update={"checkpoint_every": 1000})) == undisturbed


def test_each_epoch_takes_every_row_once_in_another_order():
    stream = training_stream(rows(), rows().specs(), 16, 7, 0, 28)
    taken = [batch.chosen.numpy() for batch in stream]
    assert [len(chosen) for chosen in taken] == ([16] * 6 + [4]) * 4
    epochs = [np.concatenate(taken[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_losses_of_the_history_are_means_over_rows(tmp_path):
    # One step an epoch of plain gradient descent on (3 - w)²: the losses can be computed by hand.
    ones, threes = np.ones((5, 1), np.float32), np.full((5, 1), 3.0, np.float32)
    settings = Training(epochs=2, batch_size=5, optimizer="sgd", learning_rate=0.25)
    model = line()
    run = learn(tmp_path, model, rows(ones, threes), rows(ones[:2], threes[:2]), settings)
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
        run = learn(tmp_path / str(seed), line(), rows(inputs, targets), rows(inputs, targets), settings, seed=seed)
        assert run.history[0]["loss"] == pytest.approx(104 / 5)
        assert run.history[0]["validation_loss"] == pytest.approx(104 / 5)


# When it stops ------------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best_weights(tmp_path):
    # Training pulls the weight from 0 to 3, validation wants 1: the best epoch is where it passes 1.
    ones = np.ones((8, 1), np.float32)
    settings = Training(epochs=100, patience=5, batch_size=8, optimizer="adamw", learning_rate=0.1)
    seen = []
    model = line()
    trainer = Trainer(Problem(model, squared, rows(ones, 3 * ones), rows(ones, ones)), settings)
    run = fit(trainer, 0, tmp_path, lambda run: seen.append(model.get_weights()[0][0, 0]))
    assert run.best_epoch == 1 + int(np.argmin(np.abs(np.array(seen) - 1)))
    assert run.epoch == run.best_epoch + 5
    assert model.get_weights()[0][0, 0] == seen[run.best_epoch - 1]
    assert abs(seen[-1] - 1) > 0.3


def test_the_best_weights_outlive_an_interruption_after_their_epoch(tmp_path):
    ones = np.ones((8, 1), np.float32)
    settings = SHORT.model_copy(update={"epochs": 100, "patience": 5, "batch_size": 8, "learning_rate": 0.1})

    def run(folder, dies=None):
        model = line()
        found = learn(folder, model, rows(ones, 3 * ones), rows(ones, ones), settings, dies=dies)
        return found, model.get_weights()[0].tolist()

    undisturbed = run(tmp_path / "undisturbed")
    assert undisturbed[0].epoch == undisturbed[0].best_epoch + 5
    with pytest.raises(Stopped):
        run(tmp_path / "disturbed", undisturbed[0].best_epoch + 3)
    assert run(tmp_path / "disturbed") == undisturbed


def test_a_fall_of_less_than_a_thousandth_counts_as_none(tmp_path):
    ones = np.ones((4, 1), np.float32)
    settings = Training(epochs=100, patience=3, batch_size=4, optimizer="sgd", learning_rate=1e-6)
    run = learn(tmp_path, line(), rows(ones, ones), rows(ones, ones), settings)
    losses = [entry["validation_loss"] for entry in run.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert (run.best_epoch, run.epoch) == (1, 4)


def test_a_run_ends_after_its_epochs_when_it_keeps_improving(tmp_path, undisturbed):
    _, run = undisturbed
    assert (run.epoch, run.finished, len(run.history)) == (4, True, 4)
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path):
    broken = TARGETS.copy()
    broken[[40, 41]] = np.nan
    given = rows(targets=broken, ids=np.arange(100) + 1000)
    words = (
        r"the training loss became nan at step [1-7], on [12] of the batch's (16|4) rows \((1040|1041|1040, 1041)\); "
        r"lower the learning rate \(now 0.01\), or look for rows that are not finite"
    )
    with pytest.raises(UserError, match=words):
        train(tmp_path, train=given)


def test_too_large_a_learning_rate_stops_the_run_with_its_rate(tmp_path):
    ones, settings = np.ones((9, 1), np.float32), Training(epochs=50, batch_size=9, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(UserError, match=r"the \w+ loss became (inf|nan) .*lower the learning rate \(now 1e\+30\)"):
        learn(tmp_path, line(), rows(ones, ones), rows(ones, ones), settings)


def test_a_validation_loss_that_is_not_finite_stops_the_run_too(tmp_path):
    broken = TARGETS[:30].copy()
    broken[3] = np.nan
    with pytest.raises(UserError, match=r"the validation loss became nan at the end of epoch 1, on 1 of .* \(3\); .*look for rows"):
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
        (Training(epochs_factor=3), True, ("sgd", 1.0, 150)),
        (Training(learning_rate="auto"), True, ("sgd", "auto", 50)),
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


def test_weight_decay_leaves_biases_alone():
    model = network()
    (optimizer, _, _), = Trainer(Problem(model, squared, rows(), rows()), SHORT).groups
    decayed = [optimizer._use_weight_decay(variable) for variable in model.trainable_variables]
    assert decayed == [len(variable.shape) > 1 for variable in model.trainable_variables] == [True, False, True, False]


# The tips -----------------------------------------------------------------------------------------------------------


def test_a_batch_computed_in_pieces_makes_the_same_steps(tmp_path):
    model = network(dropout=0)
    whole, first = train(tmp_path / "whole", model=model)
    pieces, second = train(tmp_path / "pieces", SHORT.model_copy(update={"accumulate": 3}), model=network(dropout=0))
    assert np.allclose(np.concatenate([np.ravel(a) for a in whole]), np.concatenate([np.ravel(b) for b in pieces]), atol=1e-5)
    assert [entry["loss"] for entry in first.history] == pytest.approx([entry["loss"] for entry in second.history], rel=1e-5)


def test_a_gradient_is_cut_at_its_length(tmp_path):
    ones = np.ones((4, 1), np.float32)  # the gradient of (3 - w)² at 0 is -6; v = -0.1 g, w = 0.9 v - 0.1 g
    settings = Training(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)
    for clip, expected in ((None, 1.14), (2.0, 0.38), (100.0, 1.14)):
        model = line()
        learn(tmp_path / str(clip), model, rows(ones, 3 * ones), rows(ones, ones), settings.model_copy(update={"clip_norm": clip}))
        assert model.get_weights()[0][0, 0] == pytest.approx(expected)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tmp_path):
    ones = np.ones((4, 1), np.float32)
    settings = Training(epochs=3, batch_size=4, optimizer="sgd", learning_rate=0.01, average=0.5)
    model, plain = line(), []
    trainer = Trainer(Problem(model, squared, rows(ones, 3 * ones), rows(ones, 3 * ones)), settings)
    run = fit(trainer, 0, tmp_path, lambda run: plain.append(model.get_weights()[0][0, 0]))
    average = 0.5 * (0.5 * plain[0] + 0.5 * plain[1]) + 0.5 * plain[2]  # it starts at the first step's weights
    assert model.get_weights()[0][0, 0] == pytest.approx(average) != pytest.approx(plain[2])
    assert run.history[2]["validation_loss"] == pytest.approx((3 - average) ** 2)


def test_groups_of_layers_have_learning_rates_of_their_own(tmp_path):
    before = [weight.copy() for weight in network().get_weights()]
    settings = SHORT.model_copy(update={"layer_rates": ("dense_1=0", "dense=0.1"), "epochs": 1, "optimizer": "sgd"})
    moved, _ = train(tmp_path / "groups", settings)
    free, _ = train(tmp_path / "free", settings.model_copy(update={"layer_rates": ("dense_1=0",)}))
    assert np.array_equal(moved[2], before[2]) and np.array_equal(moved[3], before[3])
    shift, whole = (np.abs(np.array(one[0]) - before[0]).mean() for one in (moved, free))
    assert 0.05 * whole < shift < 0.2 * whole
    with pytest.raises(UserError, match="layer 'head' is not known.*dense_1.*in layer_rates"):
        Trainer(Problem(network(), squared, rows(), rows()), settings.model_copy(update={"layer_rates": ("head=0.1",)}))
    with pytest.raises(UserError, match="layer_rates freezes every layer; leave one"):
        Trainer(Problem(network(), squared, rows(), rows()), settings.model_copy(update={"layer_rates": ("dense*=0",)}))


def test_learning_rates_warm_up_and_fall():
    settings = Training(optimizer="adamw", learning_rate=0.2, epochs=10, warmup_steps=4, patience=4)
    rates = [learning_rate(settings, step, 104, []) for step in range(6)]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    cosine = settings.model_copy(update={"schedule": "cosine"})
    assert [learning_rate(cosine, step, 104, []) for step in (4, 54, 104)] == pytest.approx([0.2, 0.1, 0.0])
    plateau = settings.model_copy(update={"schedule": "plateau"})
    falls = [learning_rate(plateau, 50, 104, losses) for losses in ([3, 2, 1], [3, 2, 2, 2], [3, 2, 2, 2, 1, 1, 1, 1, 1])]
    assert falls == pytest.approx([0.2, 0.2 / 3, 0.2 / 27])


def test_the_rate_of_each_epoch_is_in_the_history_and_a_resumed_plateau_is_the_same(tmp_path):
    ones = np.ones((4, 1), np.float32)
    settings = Training(epochs=12, batch_size=4, optimizer="sgd", learning_rate=1e-6, schedule="plateau", checkpoint_share=1)
    whole = learn(tmp_path / "whole", line(), rows(ones, ones), rows(ones, ones), settings)
    assert [entry["learning_rate"] for entry in whole.history][:7] == pytest.approx([1e-6] * 6 + [1e-6 / 3])
    with pytest.raises(Stopped):
        learn(tmp_path / "disturbed", line(), rows(ones, ones), rows(ones, ones), settings, dies=7)
    assert learn(tmp_path / "disturbed", line(), rows(ones, ones), rows(ones, ones), settings) == whole


def test_weights_of_rows_count_in_the_loss_and_in_the_gradient(tmp_path):
    # Two rows want 0 and 4; the second counts three times as much, so the best weight is 3.
    ones, wanted = np.ones((2, 1), np.float32), np.array([[0.0], [4.0]], np.float32)
    settings = Training(epochs=200, batch_size=2, optimizer="sgd", learning_rate=0.02, patience=None)
    model = line()
    given = rows(ones, wanted, weights=np.array([0.5, 1.5], np.float32))
    run = learn(tmp_path, model, given, rows(ones, 3 * ones), settings)
    assert model.get_weights()[0][0, 0] == pytest.approx(3, abs=1e-3)
    assert run.history[-1]["loss"] == pytest.approx(0.25 * 9 + 0.75 * 1, abs=1e-2)


def test_rows_have_an_order_of_their_own_where_they_say_so(tmp_path):
    given = rows(order=lambda seed, epoch: np.full(32, 10 * epoch + seed))
    chosen = [batch.chosen.numpy().tolist() for batch in training_stream(given, given.specs(), 16, 7, 1, 4)]
    assert chosen == [[7] * 16, [17] * 16, [17] * 16]


def test_a_chosen_measure_decides_which_epoch_is_best(tmp_path):
    def scores(outputs):
        return {"accuracy": 1 - abs(float(outputs.mean()) - 1), "mae": abs(float(outputs.mean()) - 2)}

    ones, best = np.ones((8, 1), np.float32), {}
    for monitor in ("loss", "accuracy", "mae"):
        settings = Training(epochs=40, batch_size=8, optimizer="adamw", learning_rate=0.1, monitor=monitor, patience=None)
        model = line()
        run = learn(tmp_path / monitor, model, rows(ones, 3 * ones), rows(ones, 3 * ones), settings, scores=scores)
        best[monitor] = model.get_weights()[0][0, 0]
        assert f"validation_{monitor}" in run.history[-1]
    assert (best["accuracy"], best["mae"], best["loss"]) == pytest.approx((1, 2, 3), abs=0.11)
    wrong = Training(epochs=1, optimizer="adamw", learning_rate=0.1, monitor="acuracy")
    with pytest.raises(UserError, match="measure 'acuracy' is not known.*accuracy.*to monitor"):
        learn(tmp_path, line(), rows(ones, ones), rows(ones, ones), wrong, scores=scores)


def test_a_run_ends_when_its_target_is_reached(tmp_path):
    ones = np.ones((8, 1), np.float32)
    settings = Training(epochs=100, batch_size=8, optimizer="adamw", learning_rate=0.1, patience=None)
    run = learn(tmp_path, line(), rows(ones, 3 * ones), rows(ones, 3 * ones), settings, target=4.0)
    assert run.history[-1]["validation_loss"] <= 4.0 < run.history[-2]["validation_loss"]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4, 3, 2, 1.9999, 2, 2.01], {"gain_ended": 3}),
        ([4, 3, 2, 2.05, 1.9, 1.8], {"gain_ended": 6}),  # a rise of less than a twentieth is noise
        ([4, 2, 3, 3.5, 3, 2, 1.5, 1, 1.2], {"gain_ended": 8, "first_low": 2, "worst": 4, "second_low": 8}),
        ([4, 3.5, 3, 2.5], {"gain_ended": 4}),
        ([2, 3, 4, 5], {"gain_ended": 1}),
    ],
)
def test_the_course_of_a_long_run_says_where_its_gain_ended_and_whether_there_were_two_descents(losses, expected):
    assert course(losses) == expected


def test_checkpoints_that_come_too_soon_are_left_out(tmp_path):
    def count(share):
        folder = tmp_path / str(share)
        train(folder, SHORT.model_copy(update={"checkpoints": 100, "checkpoint_share": share, "checkpoint_every": 1}))
        return len(list(folder.glob("*.checkpoint")))

    assert count(1) == 28
    assert 1 <= count(0.01) < 28  # the last is always written


def test_bfloat16_computes_and_float32_stays_the_type_of_the_weights(tmp_path):
    model = network(dropout=0)
    exact, _ = train(tmp_path / "exact", model=network(dropout=0))
    half, _ = train(tmp_path / "half", SHORT.model_copy(update={"precision": "bfloat16"}), model=model)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert 1e-6 < np.abs(np.array(exact[0]) - half[0]).max() < 0.05


def test_augmented_training_rows_teach_what_was_never_among_them(tmp_path):
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    pictures = np.pad(pixels.reshape(-1, 8, 8, 1).repeat(3, axis=3) * 16, ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32)
    shifted = np.roll(pictures[1000:], 1, axis=2)

    def loss(targets, outputs):
        return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    right = {}
    for name in ("none", "translation"):
        frameworks.start_keras(0)
        shown = keras.Input((12, 12, 3))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(shown))
        model = keras.Model(shown, keras.layers.Dense(10)(keras.layers.Dense(64, activation="relu")(x)))
        layers = augmentation.layers((name,), seed=0)
        held = rows(pictures[800:1000], digits[800:1000].astype(np.int32))
        more = {"state": [variable for layer in layers for variable in layer.variables]}
        if layers:
            more["augment"] = lambda inputs, targets, layers=layers: (augmentation.apply(layers, inputs), targets)
        settings = Training(epochs=30, batch_size=64, optimizer="adamw", learning_rate=0.003, patience=None)
        learn(tmp_path / name, model, rows(pictures[:800], digits[:800].astype(np.int32)), held, settings, loss=loss, **more)
        right[name] = np.mean(model.predict(shifted, verbose=0).argmax(axis=1) == digits[1000:])
    assert right["translation"] > right["none"] + 0.1
