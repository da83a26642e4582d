"""Engines: how a forward pass is executed on this machine. The one door between encoders and TensorFlow's execution.

Today there is one engine: the Keras model as a traced TensorFlow function in float32.
"""

import contextlib
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

Precision = Literal["auto", "float32"]
"""Number type of a forward pass; float32 is the only one so far, and what `auto` comes to."""
Inputs = np.ndarray | dict[str, np.ndarray]


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


def forward(model: Any) -> Callable[[Inputs], np.ndarray]:
    """The inference pass of a Keras model as a function of arrays.

    Args:
        model: a functional model; its input is one tensor or a dictionary of tensors, its output one tensor.

    Returns:
        A function of one batch; gives (rows, dimension) float32.
    """
    import tensorflow as tf

    def spec(tensor: Any) -> tf.TensorSpec:
        return tf.TensorSpec(tensor.shape, tensor.dtype)

    signature = {n: spec(t) for n, t in model.input.items()} if isinstance(model.input, dict) else spec(model.input)
    function = tf.function(lambda inputs: model(inputs, training=False), input_signature=[signature], autograph=False)
    traced = function.get_concrete_function()
    dtypes: Any = {n: t.dtype for n, t in model.input.items()} if isinstance(model.input, dict) else model.input.dtype

    def run(inputs: Inputs) -> np.ndarray:
        if isinstance(inputs, dict):
            return traced({name: tf.constant(inputs[name], dtype) for name, dtype in dtypes.items()}).numpy()
        return traced(tf.constant(inputs, dtypes)).numpy()

    return run


def predict(model: Any, inputs: np.ndarray, at_once: int = 512) -> np.ndarray:
    """The inference pass over many rows, batch by batch; (rows, ...) float32, in their order."""
    run = forward(model)
    return np.concatenate([run(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once)])
