"""Frameworks: TensorFlow and Keras start quietly, and in a state that is a function of the seed."""

import contextlib
import os
import random
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

OWN_POOLS = "TF_OVERRIDE_GLOBAL_THREADPOOL"
"""Environment variable, read when TensorFlow starts, that gives each session threads of its own; without it all operations of a
process share one pool, whose size is training's."""

GREETING = rb"[IWE]0000 |WARNING: All log messages before absl"
"""How lines begin that TensorFlow's libraries write to stderr whatever they were told."""


def share_no_threads() -> None:
    """Ask TensorFlow, before it starts, to let sessions have threads of their own."""
    os.environ.setdefault(OWN_POOLS, "1")


class _Hush:
    """Where stderr goes while some threads hush it: file descriptor 2 is the process's, so they share one place."""

    def __init__(self) -> None:
        self.lock, self.patterns = threading.Lock(), list[bytes]()
        self.inside = 0

    def begin(self, pattern: bytes) -> None:
        with self.lock:
            if not self.inside:
                sys.stderr.flush()
                self.caught, self.patterns = tempfile.TemporaryFile(), [GREETING]  # noqa: SIM115  closed by the last to leave
                self.kept = os.dup(2)
                os.dup2(self.caught.fileno(), 2)
            self.inside += 1
            self.patterns += [pattern] if pattern else []

    def end(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside:
                return
            os.dup2(self.kept, 2)
            os.close(self.kept)
            with self.caught:
                self.caught.seek(0)
                greeting = re.compile(b"|".join(self.patterns))
                os.write(2, b"".join(line for line in self.caught if not greeting.match(line)))


_hush = _Hush()


@contextlib.contextmanager
def hushed(more: bytes = b"") -> Iterator[None]:
    """Keep what TensorFlow's libraries announce off stderr, whatever its log level; other lines are passed on.

    Where several threads do so at once, they are passed on when the last is done.

    Args:
        more: a pattern of how other lines begin that are kept off too.
    """
    _hush.begin(more)
    try:
        yield
    finally:
        _hush.end()


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


class _OfThread:
    """A generator for the thread that made it; other threads draw from another, which nobody seeded.

    Keras has one for all of a process, by default Python's own, so that a thread that only opens a network would change another's
    first weights, and whatever else is drawn there.
    """

    def __init__(self, seed: int):
        self.thread, self.own, self.others = threading.get_ident(), random.Random(seed), random.Random()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own if threading.get_ident() == self.thread else self.others, name)


def start_drawing(seed: int) -> None:
    """Let layers that this thread makes from here on draw first weights that are a function of the seed."""
    _seed_generator().python_random = _OfThread(seed % 2**32)


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
