"""Sizes that suit the hardware: what is off is found, and what it would gain is measured."""

import time

import numpy as np

from embedkit import Training, frameworks
from embedkit.sizes import alternate, sizes
from embedkit.trainer import Trainer
from embedkit.training import Problem, Rows


def advised(build, shape, batch):
    """What `sizes` says of a network with these layers."""
    frameworks.start_keras(0)
    import keras

    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(3, name="outputs")(build(keras.layers, inputs)))
    rows = Rows.of(np.zeros((20, *shape), np.float32), np.zeros(20, np.int32))

    def loss(targets, outputs):
        return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    settings = Training(epochs=1, optimizer="adamw", learning_rate=0.1, batch_size=batch)
    trainer = Trainer(Problem(model, loss, rows, rows), settings)
    before = trainer.digest()
    with trainer.untouched():
        found = sizes(trainer)
    assert trainer.digest() == before
    return found


def test_sizes_that_are_off_are_found_with_the_nearest_good_ones_and_their_gain_here():
    def build(layers, pixels):
        x = layers.Conv2D(70, 3, strides=2, name="wide")(layers.Conv2D(12, 3, strides=2, name="first")(pixels))
        x = layers.GRU(6, name="steps")(layers.Reshape((-1, 70))(x))
        return layers.Dense(100, name="hidden")(x)

    found = advised(build, (16, 16, 3), 10)
    expected = {
        "batch_size": (10, 16),
        "channels of first": (12, 16),
        "input channels of first": (3, 4),
        "channels of wide": (70, 128),
        "units of steps": (6, 8),
        "width of hidden": (100, 128),
    }
    assert {one["name"]: (one["now"], one["better"]) for one in found["findings"]} == expected
    for one in found["findings"]:
        assert -1 < one["quartiles"][0] <= one["gain"] <= one["quartiles"][1]
        assert one["gains"] == (one["gain"] > 0.05 and one["quartiles"][0] > 0)
        assert ("more a second" in one["words"]) == one["gains"] and one["words"] in found["line"]


def test_layers_inside_layers_are_looked_at_and_equal_ones_measured_once():
    def build(layers, vectors):
        import keras

        inside = keras.Input((32,))
        inner = keras.Model(inside, layers.Dense(33, name="deep")(inside), name="inner")
        return inner(vectors)

    assert [one["name"] for one in advised(build, (32,), 8)["findings"]] == ["width of deep"]


def test_sizes_that_suit_are_left_alone():
    assert advised(lambda layers, vectors: layers.Dense(64)(vectors), (32,), 8) == {
        "findings": [],
        "line": "sizes: all suit the hardware",
    }


def test_the_one_that_takes_longer_has_the_higher_ratio():
    assert np.median(alternate(lambda: time.sleep(0.02), lambda: time.sleep(0.001))) > 2
