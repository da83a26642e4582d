"""Frameworks: they start quietly, in the same state for the same seed, and give the user's own configuration back."""

import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedkit import frameworks
from embedkit.settings import Seeded
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import layers  # noqa: E402


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


def test_threads_that_hush_at_once_leave_stderr_as_it_was(capfd):
    first, second = frameworks.hushed(), frameworks.hushed(b"INFO: ")
    first.__enter__()
    second.__enter__()
    os.write(2, b"I0000 greeting\nINFO: talk\nof the first\n")
    first.__exit__(None, None, None)
    os.write(2, b"of the second\nE0000 greeting\n")
    second.__exit__(None, None, None)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "of the first\nof the second\nafter\n"


class Grow(Seeded):
    """How something grows."""


@stage("plant", revision=1, keras=True)
def grow(out: Draft, source: Source, settings: Grow = Grow()) -> Facts:
    """Make a network layer by layer, slowly, and write down its names, weights and what else was drawn.

    Args:
        source: what it grows on.
    """
    tensor = vectors = keras.Input((4,))
    for _ in range(6):
        tensor = layers.Dropout(0.5)(layers.Dense(4)(tensor))
        time.sleep(0.02)  # for others to come in between
    model = keras.Model(vectors, tensor)
    grown = [random.random(), float(np.random.random()), model(np.ones((2, 4)), training=True).numpy().tolist()]
    grown += [[layer.name for layer in model.layers], [weight.tolist() for weight in model.get_weights()]]
    (out / "grown.json").write_text(json.dumps([*grown, keras.config.floatx()]))
    return Facts()


def test_stages_in_several_threads_give_what_each_gives_alone(tmp_path):
    (tmp_path / "soil.txt").write_text("soil")
    alone = [grow(tmp_path / "soil.txt", Grow(seed=seed), root=tmp_path / "alone") for seed in range(4)]
    expected = [(made / "grown.json").read_bytes() for made in alone]
    ended = threading.Event()

    def open_networks():
        while not ended.is_set():
            layers.Dense(3).build((None, 4))

    opening = threading.Thread(target=open_networks)
    opening.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda seed: grow(tmp_path / "soil.txt", Grow(seed=seed), root=tmp_path / "together"), range(4)))
    finally:
        ended.set()
        opening.join()
    assert [(one / "grown.json").read_bytes() for one in made] == expected


def test_first_weights_are_a_function_of_the_seed_whatever_other_threads_draw_meanwhile():
    def weights():
        frameworks.start_keras(3)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dropout(0.5), layers.Dense(8)])
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


def test_sessions_may_have_threads_of_their_own_unless_the_user_says_otherwise(monkeypatch):
    assert os.environ[frameworks.OWN_POOLS] == "1"  # set before TensorFlow started
    monkeypatch.setenv(frameworks.OWN_POOLS, "0")
    frameworks.share_no_threads()
    assert os.environ[frameworks.OWN_POOLS] == "0"
    monkeypatch.delenv(frameworks.OWN_POOLS)
    frameworks.share_no_threads()
    assert os.environ[frameworks.OWN_POOLS] == "1"
