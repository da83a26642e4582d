"""Engines: one door to the forward pass, and frameworks that start quietly and in the same state."""

import os
import random
import threading

import numpy as np
import pytest

from embedkit import engines, frameworks

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import layers  # noqa: E402


@pytest.fixture
def dense():
    """A model of one dense layer that can be computed by hand, with dropout that must not act."""
    frameworks.start_keras(0)
    vectors = keras.Input((3,))
    model = keras.Model(vectors, layers.Dense(2)(layers.Dropout(0.9)(vectors)))
    model.layers[-1].set_weights([np.arange(6, dtype=np.float32).reshape(3, 2), np.array([10, 20], np.float32)])
    return model


def test_forward_is_the_inference_pass(dense):
    found = engines.forward(dense)(np.array([[1, 0, 0], [0, 0, 2]], np.float32))
    assert found.tolist() == [[10, 21], [18, 30]]
    assert found.dtype == np.float32


def test_forward_takes_other_number_types_and_any_number_of_rows(dense):
    run = engines.forward(dense)
    assert run(np.array([[1, 0, 0]], np.uint8)).tolist() == [[10, 21]]
    assert run(np.zeros((0, 3))).shape == (0, 2)
    assert run(np.zeros((7, 3), np.float64)).tolist() == [[10, 20]] * 7


def test_forward_takes_named_inputs_and_leaves_out_those_the_model_has_not():
    frameworks.start_keras(0)
    inputs = {"ids": keras.Input((None,), dtype="int32", name="ids"), "mask": keras.Input((None,), dtype="float32", name="mask")}
    total = keras.ops.sum(keras.ops.cast(inputs["ids"], "float32") * inputs["mask"], axis=1, keepdims=True)
    run = engines.forward(keras.Model(inputs, total))
    batch = {"ids": np.array([[1, 2, 3]]), "mask": np.array([[1, 1, 0]]), "other": np.zeros(5)}
    assert run(batch).tolist() == [[3.0]]


def test_predict_keeps_the_order_over_batches_and_their_rest(dense):
    rows = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    expected = rows @ np.arange(6, dtype=np.float32).reshape(3, 2) + [10, 20]
    assert engines.predict(dense, rows, at_once=10) == pytest.approx(expected, abs=1e-5)


def test_the_same_seed_gives_the_same_names_weights_and_dropout():
    def draw(seed):
        frameworks.start_keras(seed)
        vectors = keras.Input((4,))
        model = keras.Model(vectors, layers.Dropout(0.5)(layers.Dense(3)(vectors)))
        dropped = model(np.ones((6, 4), np.float32), training=True).numpy()
        return [layer.name for layer in model.layers], model.get_weights()[0].tolist(), dropped.tolist()

    first, second, other = draw(5), draw(5), draw(6)
    assert first == second
    assert first[1] != other[1]
    assert first[2] != other[2]


def test_any_seed_that_settings_allow_starts_keras():
    frameworks.start_keras(2**40 + 7)
    first = keras.random.normal((2,)).numpy()
    frameworks.start_keras(2**40 + 7)
    assert np.array_equal(keras.random.normal((2,)).numpy(), first)


def test_a_users_own_keras_configuration_does_not_change_what_is_computed_and_is_given_back():
    def configuration():
        return keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy().name

    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with frameworks.own_keras():
            frameworks.start_keras(0)
            inside = configuration()
        after = configuration()
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("float32")
    assert inside == ("float32", "channels_last", "float32")
    assert after == ("float16", "channels_first", "mixed_float16")


def test_greetings_are_hushed_and_everything_else_is_passed_on(capfd):
    with frameworks.hushed():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1 cpu_feature_guard.cc:227] This TensorFlow binary is optimized\n")
        os.write(2, b"W0000 00:00:1 something.cc:1] hm\nE0000 00:00:1 cuda_dnn.cc:1] no\n")
        os.write(2, b"a real message\nand 'I0000 ' in its middle\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a real message\nand 'I0000 ' in its middle\nafter\n"


def test_an_error_while_loading_is_not_hushed(capfd):
    with pytest.raises(ImportError, match="no such thing"), frameworks.hushed():
        os.write(2, b"I0000 greeting\nwhy it failed\n")
        raise ImportError("no such thing")
    assert capfd.readouterr().err == "why it failed\n"


def test_first_weights_are_a_function_of_the_seed_whatever_other_threads_draw_meanwhile():
    import keras

    def weights():
        frameworks.start_keras(3)
        layers = [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(8)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        return [variable.numpy().tolist() for variable in model.variables]

    expected, ended = weights(), threading.Event()

    def draw():
        while not ended.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert all(weights() == expected for _ in range(5))
    finally:
        ended.set()
        thread.join()


def test_the_generator_that_keras_had_is_given_back():
    from keras.src.random import seed_generator

    before = seed_generator.python_random
    with frameworks.own_keras():
        frameworks.start_keras(0)
        assert seed_generator.python_random is not before
    assert seed_generator.python_random is before
