"""Batches: rows by their index, read ahead by tf.data while the network computes.

Which rows a batch holds is a function of its number alone, so that a stream can begin anywhere and an interrupted run goes
on with the batch it would have taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CACHE_BYTES = 2**30
"""Arrays up to so much are given to TensorFlow whole; batches that are read each epoch, as those of validation rows, are kept."""


def pick(inputs: Any, chosen: np.ndarray) -> Any:
    """Some rows of an array, or of each array of a dictionary."""
    return {name: array[chosen] for name, array in inputs.items()} if isinstance(inputs, dict) else inputs[chosen]


@dataclass
class Rows:
    """Rows to learn from or to measure on: how many, and a function from indices to (inputs, targets).

    `batch` gives arrays, or dictionaries of arrays, whose first axis is the rows asked for, in their order. `ids` name rows
    in messages, `weights` are (count,) float32 of mean 1, 1 each by default. `order` gives the indices of an epoch from (seed,
    epoch), always as many; by default a permutation. `signature` gives the shapes and types of (inputs, targets) as
    `tf.TensorSpec`s where an axis beside the first varies. `arrays` are all inputs and all targets, where memory holds them.
    """

    count: int
    batch: Callable[[np.ndarray], tuple[Any, Any]]
    ids: np.ndarray | None = None
    weights: np.ndarray | None = None
    order: Callable[[int, int], np.ndarray] | None = None
    signature: tuple[Any, Any] | None = None
    arrays: tuple[Any, Any] | None = None

    @classmethod
    def of(cls, inputs: Any, targets: np.ndarray, ids: np.ndarray | None = None, **more: Any) -> "Rows":
        """Rows that lie in memory."""
        return cls(len(targets), lambda chosen: (pick(inputs, chosen), targets[chosen]), ids, arrays=(inputs, targets), **more)

    def changed(self, change: Callable[[np.ndarray, Any, Any], tuple[Any, Any]]) -> "Rows":
        """The same rows with other contents: from (indices, inputs, targets) to (inputs, targets)."""
        return replace(self, batch=lambda chosen: change(chosen, *self.batch(chosen)), arrays=None)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of one epoch; a function of seed and epoch."""
        if self.order is not None:
            return self.order(seed, epoch)
        return np.random.default_rng([seed, epoch]).permutation(self.count)

    def named(self, chosen: np.ndarray) -> str:
        """Rows as a message names them: the first five ids."""
        names = [str(self.ids[row] if self.ids is not None else row) for row in chosen[:5]]
        return ", ".join(names) + (f" and {len(chosen) - 5:,} more" if len(chosen) > 5 else "")

    def specs(self) -> tuple[Any, Any]:
        """Shapes and types of a batch as `tf.TensorSpec`s, the number of rows open."""
        import tensorflow as tf

        def spec(array: Any) -> tf.TensorSpec:
            return tf.TensorSpec([None, *np.shape(array)[1:]], np.asarray(array).dtype)

        return self.signature or tf.nest.map_structure(spec, self.batch(np.arange(1)))


@dataclass
class Batch:
    """One batch as tensors: which rows, what goes in, what should come out, and how much each row counts."""

    chosen: Any
    inputs: Any
    targets: Any
    weights: Any


def stream(rows: Rows, specs: tuple[Any, Any], indices: Any) -> Iterator[Batch]:
    """Batches of the rows that a dataset of indices names, prepared in the background.

    Args:
        rows: what they are made of.
        specs: as `rows.specs()` gives them.
        indices: a `tf.data.Dataset` of (rows,) int64.

    Raises:
        Whatever `rows.batch` raises.
    """
    import tensorflow as tf

    failures: list[BaseException] = []
    flat = tf.nest.flatten(specs)
    whole = rows.arrays and sum(np.asarray(array).nbytes for array in tf.nest.flatten(rows.arrays)) <= CACHE_BYTES
    loaded = zip(tf.nest.flatten(rows.arrays) if whole else [], flat, strict=bool(whole))
    arrays = [tf.constant(array, spec.dtype) for array, spec in loaded]

    def read(chosen: np.ndarray) -> list[np.ndarray]:
        try:
            found = tf.nest.flatten(rows.batch(chosen))
            return [np.asarray(array, spec.dtype.as_numpy_dtype) for array, spec in zip(found, flat, strict=True)]
        except BaseException as error:  # tf.data would only keep its text
            failures.append(error)
            raise

    @tf.autograph.experimental.do_not_convert
    def prepared(chosen: Any) -> Any:
        if whole:
            return (chosen, *(tf.gather(array, chosen) for array in arrays), tf.gather(weights, chosen))
        # Were it called stateful, determinism would allow one at a time.
        tensors: Any = tf.numpy_function(read, [chosen], [spec.dtype for spec in flat], stateful=False)
        for tensor, spec in zip(tensors, flat, strict=True):
            tensor.set_shape(spec.shape)
        return (chosen, *tensors, tf.gather(weights, chosen))

    weights = tf.ones(rows.count) if rows.weights is None else tf.constant(rows.weights, tf.float32)
    iterator = iter(indices.map(prepared, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))
    while True:
        try:
            chosen, *tensors, counted = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError:
            if failures:
                raise failures[0] from None
            raise
        inputs, targets = tf.nest.pack_sequence_as(specs, tensors)
        yield Batch(chosen, inputs, targets, counted)


def training_stream(rows: Rows, specs: tuple[Any, Any], size: int, seed: int, start: int, stop: int) -> Iterator[Batch]:
    """Batches `start` to `stop` of a run, counted from its first epoch on.

    Args:
        rows: what they are made of.
        specs: as `rows.specs()` gives them.
        size: rows in a batch; the last one of an epoch may be smaller.
        seed: of the order of rows.
        start: number of the first batch.
        stop: number of the first batch that isn't wanted any more.
    """
    import tensorflow as tf

    per_epoch = -(-len(rows.epoch(seed, 0)) // size)

    def ordered(epoch: np.ndarray) -> np.ndarray:
        order = rows.epoch(seed, int(epoch)).astype(np.int64)
        # Sorted within each batch: files are read in their order.
        return np.concatenate([np.sort(order[at : at + size]) for at in range(0, len(order), size)])

    @tf.autograph.experimental.do_not_convert
    def cut(epoch: Any) -> Any:
        order: Any = tf.numpy_function(ordered, [epoch], tf.int64, stateful=False)
        order.set_shape([None])
        return _parts(order, per_epoch, size)

    epochs = tf.data.Dataset.range(start // per_epoch, -(-stop // per_epoch))
    indices = epochs.flat_map(cut).skip(start % per_epoch).take(stop - start)
    return stream(rows, specs, indices)


def parts_of(chosen: np.ndarray, size: int) -> Any:
    """A dataset of these indices, `size` at a time, in their order."""
    import tensorflow as tf

    return _parts(tf.constant(chosen, tf.int64), -(-len(chosen) // size), size)


def _parts(order: Any, count: int, size: int) -> Any:
    import tensorflow as tf

    part = tf.autograph.experimental.do_not_convert(lambda number: order[number * size : (number + 1) * size])
    return tf.data.Dataset.range(count).map(part)


class Repeated:
    """All rows in their order, batch by batch, as often as one likes; kept in memory when they fit."""

    def __init__(self, rows: Rows, specs: tuple[Any, Any], size: int):
        self.rows, self.specs, self.size = rows, specs, size
        self.kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[Batch] = []
        size, number = 0, -(-self.rows.count // self.size)
        for batch in stream(self.rows, self.specs, parts_of(np.arange(self.rows.count), self.size)):
            size += _bytes(batch)
            if size <= CACHE_BYTES:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if len(kept) == number:
            self.kept = kept


def _bytes(batch: Batch) -> int:
    import tensorflow as tf

    tensors = tf.nest.flatten([batch.inputs, batch.targets])
    return sum(int(tensor.shape.num_elements() or 0) * tensor.dtype.size for tensor in tensors)


def batch_of(rows: Rows, chosen: np.ndarray, specs: tuple[Any, Any]) -> Batch:
    """One batch of these rows, each counting 1."""
    import tensorflow as tf

    inputs, targets = tf.nest.map_structure(lambda array, spec: tf.constant(array, spec.dtype), rows.batch(chosen), specs)
    return Batch(tf.constant(chosen), inputs, targets, tf.ones(len(chosen)))
