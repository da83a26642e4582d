"""Sizes: which sizes of a model and a batch this machine would like better, and how much it would gain.

The rules are NVIDIA's for matrix units (Deep Learning Performance Guide, 2023): batches and channels in multiples of 8, widths
and preferably channels in multiples of 64, pictures with 4 channels rather than 3, channels last. Whether they hold here is
measured: a layer is run forward and backward at the size it has and at the nearest good one, in alternating rounds.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from embedkit import frameworks
from embedkit.batches import batch_of
from embedkit.trainer import Trainer

ROUNDS = 9
SECONDS = 0.004
"""Least time of one measurement, so that the clock's steps don't count."""
GAIN = 0.05
"""Less is no gain: these machines are shared."""
MOST = 8
"""Findings that are measured; the largest layers first."""


def sizes(trainer: Trainer) -> dict[str, Any]:
    """Sizes of the model and the batch that are off, each with the gain of the nearest good one on this machine; plain JSON."""
    batch = trainer.settings.batch_size
    found = []
    if batch % 8:
        found.append(_finding("batch_size", batch, up(batch, 8), lambda size: _network(trainer, size)))
    layers = list({repr(advice[:-1]): advice for advice in _advice(trainer.model, trainer.model)}.values())
    with frameworks.same_first_weights():
        for name, now, better, layer in sorted(layers, key=lambda advice: -advice[1])[:MOST]:
            found.append(_finding(name, now, better, lambda size, layer=layer: _layer(layer, size, batch)))
    lines = [f"{one['name']} {one['now']:,} -> {one['better']:,}: {one['words']}" for one in found]
    return {"findings": found, "line": "sizes: " + ("; ".join(lines) or "all suit the hardware")}


def up(size: int, multiple: int) -> int:
    """The next multiple, from 8 to 16 for instance."""
    return -(-size // multiple) * multiple


Made = tuple[str, int, int, Callable[[int], tuple[tuple[int, ...], Any]]]


def _advice(model: Any, whole: Any) -> Iterator[Made]:
    """What, its size, a better one, and from a size to the (shape of a row, layer) to measure; nested models too."""
    import keras

    last = {id(tensor._keras_history.operation) for tensor in keras.tree.flatten(whole.outputs)}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _advice(layer, whole)
        if id(layer) in last or not hasattr(layer, "input"):
            continue  # outputs are as many as there are classes
        shape = tuple(size or 1 for size in getattr(layer.input, "shape", (1,))[1:])
        config, kind = layer.get_config(), type(layer)
        if isinstance(layer, keras.layers.Dense) and layer.units % 64 and layer.units > 8:
            yield f"width of {layer.name}", layer.units, up(layer.units, 64), _with(kind, config, shape, "units")
        elif isinstance(layer, keras.layers.LSTM | keras.layers.GRU | keras.layers.SimpleRNN) and layer.units % 8:
            yield f"units of {layer.name}", layer.units, up(layer.units, 8), _with(kind, config, shape, "units")
        elif isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D):
            multiple = 64 if layer.filters > 64 else 8
            if layer.filters % multiple:
                made = _with(kind, config, shape, "filters")
                yield f"channels of {layer.name}", layer.filters, up(layer.filters, multiple), made
            if shape[-1] == 3 and layer.data_format == "channels_last":
                yield f"input channels of {layer.name}", 3, 4, _with_channels(kind, config, shape)


def _with(kind: Any, config: dict[str, Any], shape: tuple[int, ...], field: str) -> Callable[[int], tuple[tuple[int, ...], Any]]:
    return lambda size: (shape, kind.from_config(config | {field: size}))


def _with_channels(kind: Any, config: dict[str, Any], shape: tuple[int, ...]) -> Callable[[int], tuple[tuple[int, ...], Any]]:
    return lambda size: ((*shape[:-1], size), kind.from_config(config))


def _finding(name: str, now: int, better: int, made: Callable[[int], Callable[[], Any]]) -> dict[str, Any]:
    """What the better size gains in time per unit; below 0 it loses."""
    ratios = alternate(made(now), made(better))
    # Input channels carry no more when there are four: their whole time counts.
    ratios = ratios * (1 if name.startswith("input channels") else better / now)
    low, middle, high = (float(value) for value in np.quantile(ratios - 1, [0.25, 0.5, 0.75]))
    gains = middle > GAIN and low > 0
    words = f"{middle:.0%} more a second (quartiles {low:.0%} to {high:.0%})" if gains else "no gain on this machine"
    return {"name": name, "now": now, "better": better, "gain": middle, "quartiles": [low, high], "gains": gains, "words": words}


def alternate(first: Callable[[], Any], second: Callable[[], Any]) -> np.ndarray:
    """Time of the first over that of the second, in alternating rounds; (ROUNDS,)."""
    repeats = [_repeats(one) for one in (first, second)]
    times = [[_seconds(one, count) for one, count in zip((first, second), repeats, strict=True)] for _ in range(ROUNDS)]
    return np.array([ours / theirs for ours, theirs in times])


def _repeats(call: Callable[[], Any]) -> int:
    call()
    return max(1, int(np.ceil(SECONDS / max(_seconds(call, 1), 1e-6))))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _layer(made: Callable[[int], tuple[tuple[int, ...], Any]], size: int, batch: int) -> Callable[[], Any]:
    """One forward and backward pass of a layer of that size."""
    import keras
    import tensorflow as tf

    shape, layer = made(size)
    inputs = tf.Variable(tf.fill((batch, *shape), 0.1))
    outputs = layer(keras.Input(shape))
    del outputs  # it is built now

    def run() -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.cast(layer(inputs), tf.float32))
        gradients: Any = tape.gradient(value, [inputs, *layer.trainable_variables])
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

    traced = tf.function(run, autograph=False).get_concrete_function()
    return lambda: traced().numpy()


def _network(trainer: Trainer, size: int) -> Callable[[], Any]:
    """One step of the whole network on a batch of that many rows."""
    rows = trainer.problem.train
    batch = batch_of(rows, np.sort(np.arange(size) % rows.count), trainer.specs)
    return lambda: float(trainer.step(batch, 0.0)[0])
