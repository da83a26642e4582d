"""Frameworks: TensorFlow and Keras start quietly, and in a state that is a function of the seed."""

import contextlib
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

OWN_POOLS = "TF_OVERRIDE_GLOBAL_THREADPOOL"
"""Environment variable, read when TensorFlow starts, that gives each session threads of its own; without it all operations of a
process share one pool, whose size is training's."""


def share_no_threads() -> None:
    """Ask TensorFlow, before it starts, to let sessions have threads of their own."""
    os.environ.setdefault(OWN_POOLS, "1")


@contextlib.contextmanager
def hushed(more: bytes = b"") -> Iterator[None]:
    """Keep what TensorFlow's libraries announce off stderr, whatever its log level; other lines are passed on.

    Args:
        more: a pattern of how other lines begin that are kept off too.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            greeting = re.compile(b"|".join([rb"[IWE]0000 |WARNING: All log messages before absl", *([more] if more else [])]))
            os.write(2, b"".join(line for line in caught if not greeting.match(line)))


def load_frameworks() -> None:
    """Import TensorFlow, Keras and keras-hub, whose layers register themselves then; quietly, and before faiss."""
    if "keras_hub" not in sys.modules:
        share_no_threads()
        with hushed():
            import keras_hub  # noqa: F401  imports the others


def start_keras(seed: int) -> None:
    """Make what Keras does from here on a function of the seed: names, initial weights, dropout, order of summation.

    Number type and channel order become Keras's own defaults, whatever the user's configuration says.
    """
    load_frameworks()
    import keras
    import tensorflow as tf

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    # Layer names count up through a process otherwise, and names are part of saved files. Freeing memory here would take a
    # fifth of a second each time, and Python does it anyway.
    keras.backend.clear_session(free_memory=False)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed % 2**32)
    # Keras draws first weights from Python's own generator, from which any other thread, such as Prefect's, may draw meanwhile.
    start_drawing(seed)


def _seed_generator() -> Any:
    from keras.src.random import seed_generator  # has no public name

    return seed_generator


def random_states() -> list[Any]:
    """What Keras draws from behind layers that have no seed: the states of its generators."""
    from keras.src.backend.common import global_state

    behind = global_state.get_global_attribute("global_seed_generator")
    return [_seed_generator().python_random.getstate(), None if behind is None else behind.state.numpy().tolist()]


def start_drawing(seed: int) -> None:
    """Let layers made from here on draw first weights that are a function of the seed."""
    _seed_generator().python_random = random.Random(seed % 2**32)


@contextlib.contextmanager
def same_first_weights() -> Iterator[None]:
    """Let layers made after the block draw the first weights that they would have drawn without it."""
    generator = _seed_generator().python_random
    kept = generator.getstate()
    try:
        yield
    finally:
        generator.setstate(kept)


@contextlib.contextmanager
def own_keras() -> Iterator[None]:
    """Give the user's Keras configuration back after the block, which `start_keras` sets aside."""
    load_frameworks()
    import keras

    kept = keras.config.floatx(), keras.config.dtype_policy(), keras.config.image_data_format()
    generator = _seed_generator().python_random
    try:
        yield
    finally:
        _seed_generator().python_random = generator
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])
        keras.config.set_image_data_format(kept[2])
