"""The training step: devices that share a batch, and state that is given back."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedkit import Training, checkpoints, frameworks
from embedkit.batches import Rows, batch_of
from embedkit.checks import preflight
from embedkit.trainer import Problem, Trainer
from embedkit.training import fit

DEVICES = """
import json, sys, tempfile
from pathlib import Path
from embedkit.frameworks import load_frameworks
load_frameworks()
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
import numpy as np
from embedkit import Training, frameworks
from embedkit.training import Problem, Rows, Trainer, fit
frameworks.start_keras(0)
import keras

generator = np.random.default_rng(0)
inputs = generator.normal(size=(100, 8)).astype("float32")
targets = (inputs[:, :3].argmax(axis=1)).astype("int32")
weights = generator.uniform(0.5, 1.5, 100).astype("float32")
vectors = keras.Input((8,))
model = keras.Model(vectors, keras.layers.Dense(3)(keras.layers.Dense(16, activation="tanh")(vectors)))

def loss(targets, outputs):
    return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

found = []
for more in ({}, {"clip_norm": 0.05, "accumulate": 2, "average": 0.5, "weight_decay": 0.1}):
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    settings = Training(epochs=3, batch_size=32, optimizer="adamw", learning_rate=0.01, devices="all", **more)
    rows = Rows.of(inputs, targets, weights=weights)
    trainer = Trainer(Problem(fresh, loss, rows, rows), settings)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(trainer, 0, Path(folder))
    losses = [[entry["loss"], entry["validation_loss"]] for entry in run.history]
    found.append({"losses": losses, "weights": np.concatenate([w.ravel() for w in fresh.get_weights()]).tolist()})
print(json.dumps({"replicas": trainer.replicas, "found": found}))
"""


@pytest.fixture(scope="module")
def on_devices():
    """What runs of the same global batch came to on one, two and four virtual devices."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen([sys.executable, "-c", DEVICES, str(count)], stdout=subprocess.PIPE, text=True, env=environment)
        for count in (1, 2, 4)
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


@pytest.mark.slow
def test_several_devices_make_the_steps_of_one(on_devices):
    one, *several = on_devices
    assert [run["replicas"] for run in on_devices] == [1, 2, 4]
    for more in several:
        for ours, theirs in zip(more["found"], one["found"], strict=True):
            assert np.allclose(ours["losses"], theirs["losses"], rtol=1e-5)
            assert np.allclose(ours["weights"], theirs["weights"], atol=1e-4)


def problem(dropout=0.5):
    """A network with a random layer, on rows of numbers."""
    frameworks.start_keras(0)
    import keras

    generator = np.random.default_rng(0)
    inputs, targets = generator.normal(size=(40, 4)).astype(np.float32), generator.normal(size=(40, 1)).astype(np.float32)
    vectors = keras.Input((4,))
    model = keras.Model(vectors, keras.layers.Dense(1)(keras.layers.Dropout(dropout)(keras.layers.Dense(8)(vectors))))
    rows = Rows.of(inputs, targets)
    return Problem(model, lambda targets, outputs: keras.ops.mean(keras.ops.square(targets - outputs), axis=-1), rows, rows)


SETTINGS = Training(epochs=2, batch_size=16, optimizer="adamw", learning_rate=0.01)


def test_what_a_step_changes_is_given_back_with_its_random_generators():
    trainer = Trainer(problem(), SETTINGS)
    batch = batch_of(trainer.problem.train, np.arange(16), trainer.specs)
    trainer.step(batch, 0.01)
    with trainer.untouched() as digest:
        first = float(trainer.step(batch, 0.1)[0])
        assert trainer.digest() != digest
        random.random()  # what other threads draw meanwhile is none of ours
        np.random.random()
    assert trainer.digest() == digest
    assert float(trainer.step(batch, 0.1)[0]) == first  # the dropout of that step too


def test_a_check_that_leaves_something_changed_is_found_out():
    import keras

    trainer = Trainer(problem(), SETTINGS)
    keras.random.normal((2,))  # from the generator behind unseeded layers
    with pytest.raises(RuntimeError, match="a check before the run changed the model, the optimizer or a random generator"):
        with trainer.untouched():
            keras.random.normal((2,))


def test_a_calm_step_is_without_dropout():
    trainer = Trainer(problem(), SETTINGS)
    batch = batch_of(trainer.problem.train, np.arange(16), trainer.specs)
    with trainer.untouched():
        calm = float(trainer.step(batch, 0.0, calm=True)[0])
    assert calm == pytest.approx(trainer.losses(batch).mean(), rel=1e-5)
    assert float(trainer.step(batch, 0.0)[0]) != pytest.approx(calm, rel=1e-3)


def test_the_losses_of_a_step_are_one_a_row_in_their_order():
    trainer = Trainer(problem(dropout=0), SETTINGS)
    batch = batch_of(trainer.problem.train, np.arange(16), trainer.specs)
    expected = trainer.losses(batch)
    for pieces in (1, 3):
        split = Trainer(problem(dropout=0), SETTINGS.model_copy(update={"accumulate": pieces}))
        value, losses = split.step(batch, 0.0)
        assert np.allclose(losses.numpy(), expected, rtol=1e-5)
        assert float(value) == pytest.approx(expected.mean(), rel=1e-5)


def test_penalties_of_layers_move_the_weights_and_are_no_part_of_the_loss():
    frameworks.start_keras(0)
    import keras

    vectors = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(1.0))
    ones = np.ones((4, 1), np.float32)
    rows = Rows.of(ones, ones)
    given = Problem(keras.Model(vectors, layer(vectors)), lambda t, o: keras.ops.mean(keras.ops.square(t - o), axis=-1), rows, rows)
    trainer = Trainer(given, SETTINGS.model_copy(update={"optimizer": "sgd", "accumulate": 2}))
    value, _ = trainer.step(batch_of(rows, np.arange(4), trainer.specs), 0.1)
    assert float(value) == 0.0  # the weight is 1, as it should be
    assert layer.kernel.numpy()[0, 0] == pytest.approx(1 - 0.1 * 2 * 1.9)  # Nesterov's first step is 1.9 gradients long


def test_inputs_may_be_several_arrays_whose_lengths_vary_and_the_step_may_be_a_stages_own(tmp_path):
    frameworks.start_keras(0)
    import keras
    import tensorflow as tf

    numbers, tokens = keras.Input((4,), name="numbers"), keras.Input((None,), dtype="int32", name="tokens")
    words = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(tokens))
    both = keras.layers.Concatenate()([numbers, words])
    model = keras.Model({"numbers": numbers, "tokens": tokens}, keras.layers.Dense(1)(both))
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)

    def batch(chosen):
        length = 3 + int(chosen[0]) % 4
        places = np.arange(length) + chosen[:, None]
        return {"tokens": (places % 10).astype(np.int32), "numbers": inputs[chosen]}, inputs[chosen, :1]

    def step(model, inputs, targets, training):
        """The loss of a stage of its own: the absolute error."""
        return tf.abs(model(inputs, training=training) - targets)[:, 0]

    flowing = {"numbers": tf.TensorSpec([None, 4]), "tokens": tf.TensorSpec([None, None], tf.int32)}
    rows = Rows(60, batch, signature=(flowing, tf.TensorSpec([None, 1])))
    given = Problem(model, lambda targets, outputs: 1 / 0, rows, rows, step=step, separable=4)
    settings = SETTINGS.model_copy(update={"epochs": 30, "accumulate": 2, "clip_norm": 1.0, "learning_rate": 0.02})
    trainer = Trainer(given, settings)
    assert preflight(trainer, 0)["overfit_one_batch"]["rows"] == 4
    history = fit(trainer, 0, tmp_path).history
    assert history[-1]["validation_loss"] < 0.2 * history[0]["validation_loss"]


def histories(trainer, folder, seed=0):
    run = fit(trainer, seed, folder)
    return run.history, [weight.numpy() for weight in trainer.problem.model.weights]


@pytest.mark.parametrize("more", [{}, {"average": 0.9, "clip_norm": 1.0}, {"precision": "bfloat16"}], ids=str)
def test_a_trainer_that_is_restarted_makes_the_run_of_a_new_one_with_the_steps_it_traced(tmp_path, more):
    settings = SETTINGS.model_copy(update=more)
    trainer = Trainer(problem(), settings)
    first = checkpoints.values(trainer.problem.model.variables)
    expected = histories(trainer, tmp_path / "first")
    traces = dict(trainer._traces)
    rows = Rows.of(*(array[:25] for array in trainer.problem.train.arrays))
    fewer = replace(trainer.problem, train=rows)
    trainer.restart(fewer, first)
    assert histories(trainer, tmp_path / "fewer", seed=1)[0] != expected[0]
    trainer.restart(replace(fewer, train=trainer.problem.validation), first)
    found = histories(trainer, tmp_path / "again")
    assert found[0] == expected[0]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found[1], expected[1], strict=True))
    assert trainer._traces == traces


def test_a_problems_factors_are_learning_rates_of_single_variables_beside_those_of_the_settings():
    given = problem(dropout=0)
    first, last = (layer for layer in given.model.layers if layer.weights)
    given.factor = lambda path: {first.kernel.path: 0.1, last.bias.path: 0.0}.get(path, 1.0)
    trainer = Trainer(given, SETTINGS.model_copy(update={"layer_rates": (f"{last.name}=0.5",)}))
    before = {weight.path: weight.numpy() for weight in given.model.weights}
    trainer.step(batch_of(given.train, np.arange(16), trainer.specs), 0.01)
    moved = {weight.path: float(np.abs(weight.numpy() - before[weight.path]).max()) for weight in given.model.weights}
    # The first step of Adam is as long as the rate, whatever the gradient.
    expected = {first.kernel.path: 0.001, first.bias.path: 0.01, last.kernel.path: 0.005, last.bias.path: 0.0}
    assert moved == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("rate", "kept"), [(1e-9, True), (0.01, False)])
def test_first_weights_are_kept_where_that_is_asked_for_unless_an_epoch_beats_them(tmp_path, rate, kept):
    given = problem(dropout=0)
    given.keep_start = True
    trainer = Trainer(given, SETTINGS.model_copy(update={"learning_rate": rate}))
    first = [weight.numpy() for weight in given.model.weights]
    start = float(trainer.losses(batch_of(given.validation, np.arange(40), trainer.specs)).mean())
    run = fit(trainer, 0, tmp_path)
    assert run.start == {"validation_loss": pytest.approx(start, rel=1e-5)}
    assert (run.best_epoch == 0) == kept and run.epoch == 2
    assert all(np.array_equal(weight, old) for weight, old in zip(given.model.weights, first, strict=True)) == kept


def test_without_asking_first_weights_are_neither_measured_nor_kept(tmp_path):
    run = fit(Trainer(problem(dropout=0), SETTINGS.model_copy(update={"learning_rate": 1e-9})), 0, tmp_path)
    assert run.start is None and run.best_epoch == 1


def test_variables_that_do_not_move_by_themselves_stay_in_a_copy_of_another_number_type_too():
    given = problem(dropout=0)
    first, last = (layer for layer in given.model.layers if layer.weights)
    first.kernel.trainable = False
    trainer = Trainer(given, SETTINGS.model_copy(update={"precision": "bfloat16"}))
    assert sorted(variable.path for _, _, chosen in trainer.groups for variable in chosen) == sorted(
        [first.bias.path, last.kernel.path, last.bias.path]
    )


def test_operations_in_a_network_are_copied_as_they_are_whatever_the_number_type():
    frameworks.start_keras(0)
    import keras

    # As texts are averaged: a cast, whose own argument is a number type, and arithmetic beside it.
    words, mask = keras.Input((None,), dtype="int32", name="words"), keras.Input((None,), dtype="int32", name="mask")
    kept: Any = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    mean = keras.ops.sum(keras.layers.Embedding(9, 4)(words) * kept, axis=1) / keras.ops.sum(kept, axis=1)
    model = keras.Model({"words": words, "mask": mask}, keras.layers.Dense(1, name="last")(mean))
    ids = np.ones((8, 3), np.int32)
    rows = Rows(8, lambda chosen: ({"words": ids[chosen], "mask": ids[chosen]}, np.ones((len(chosen), 1), np.float32)))
    given = Problem(model, lambda targets, outputs: keras.ops.mean(keras.ops.square(targets - outputs), axis=-1), rows, rows)
    trainer = Trainer(given, SETTINGS.model_copy(update={"precision": "bfloat16"}))
    batch = batch_of(rows, np.arange(8), trainer.specs)
    first = float(trainer.losses(batch).mean())
    trainer.step(batch, 0.01)
    assert trainer.model.get_layer("last").compute_dtype == "bfloat16"
    assert trainer.losses(batch).mean() < first
