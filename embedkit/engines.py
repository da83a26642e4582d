"""Engines: how a forward pass is executed on this machine. The one door between encoders and TensorFlow's execution.

The plain way is the Keras model as a traced TensorFlow function in float32, which serves a few rows at a time. Long jobs measure
others on their own rows (`choose`): the frozen graph in TensorFlow or OpenVINO, several batches at a time, in float32 or
bfloat16. A way counts only where it gives the vectors that the encoder's canaries, and the plain way, have.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedkit import canaries, environment
from embedkit.batches import pick
from embedkit.frozen import NO_OPENVINO, Frozen, Inputs, openvino, openvino_is_installed, traced
from embedkit.settings import UserError

EngineName = Literal["auto", "keras", "tensorflow", "openvino"]
"""What runs a network: Keras itself, its frozen graph in TensorFlow, or in OpenVINO."""
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""Number type of the sums of products in a forward pass."""
CORES = "EMBEDKIT_CORES"
"""Environment variable that bounds the cores a process uses, for several of them on one machine."""
LEAST_INT8 = 0.9
"""Least agreement of an int8 network, which never reaches that of the others and is asked for by name."""
ROUNDS = 3
SECONDS = 0.7
"""That each way is measured for in each of ROUNDS."""


def forward(model: Any) -> Callable[[Inputs], np.ndarray]:
    """The inference pass of a Keras model as a function of arrays: float32, one batch at a time.

    Args:
        model: a functional model; its input is one tensor or a dictionary of tensors, its output one tensor.

    Returns:
        A function of one batch; gives (rows, dimension) float32.
    """
    import tensorflow as tf

    function = traced(model)
    dtypes: Any = {n: t.dtype for n, t in model.input.items()} if isinstance(model.input, dict) else model.input.dtype

    def run(inputs: Inputs) -> np.ndarray:
        if isinstance(inputs, dict):
            return function({name: tf.constant(inputs[name], dtype) for name, dtype in dtypes.items()}).numpy()
        return function(tf.constant(inputs, dtypes)).numpy()

    return run


def predict(model: Any, inputs: np.ndarray, at_once: int = 512) -> np.ndarray:
    """The inference pass over many rows, batch by batch; (rows, ...) float32, in their order."""
    run = forward(model)
    return np.concatenate([run(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once)])


# Which way is fastest


@dataclass(frozen=True)
class Engine:
    """One way to run a network: `streams` callers at a time get most out of it."""

    name: str
    precision: str
    streams: int
    run: Callable[[Inputs], np.ndarray]


@dataclass(frozen=True)
class Way:
    """An engine's name and its number type."""

    engine: str
    precision: str


def ways(engine: EngineName = "auto", precision: Precision = "auto") -> list[Way]:
    """What there is to choose from on this machine, the plain way first.

    Raises:
        UserError: when what was asked for can't be had here.
    """
    types = {
        "keras": ["float32"],
        "tensorflow": ["float32", *(["float16", "bfloat16"] if gpus() else ["bfloat16"] if has_bfloat16() else [])],
        "openvino": ["float32", *(["bfloat16"] if has_bfloat16() else []), "int8"],
    }
    if engine == "openvino" and not openvino_is_installed():
        raise UserError(NO_OPENVINO)
    if engine == "auto" and (gpus() or not openvino_is_installed()):  # OpenVINO is asked for the processor only
        del types["openvino"]
    found = [Way(name, kind) for name, kinds in types.items() for kind in kinds if engine in ("auto", name)]
    found = [way for way in found if (way.precision == precision if precision != "auto" else way.precision != "int8")]
    if not found:
        known = sorted({f"{name} {kind}" for name, kinds in types.items() for kind in kinds if engine in ("auto", name)})
        raise UserError(f"{engine} in {precision} can't be had here; there is {', '.join(known)}")
    return found


def build(model: Any, way: Way, frozen: Frozen | None = None, sample: Sequence[Inputs] = (), folder: Path | None = None) -> Engine:
    """Make a network ready to be run in one way.

    Args:
        model: a functional model; its input is one tensor or a dictionary of tensors, its output one tensor.
        way: how.
        frozen: the network's graph, where it was made before.
        sample: batches that int8 is fitted to.
        folder: where int8 is kept, so that it is fitted once.
    """
    if way.engine == "keras":
        return Engine(way.engine, way.precision, 1, forward(model))
    frozen = frozen or Frozen(model)
    if way.engine == "openvino":
        return Engine(way.engine, way.precision, cores(), openvino(frozen, way.precision, cores(), sample, folder))
    one_size = None not in [size for tensor in model.inputs for size in tensor.shape[1:]]
    run = frozen.session(way.precision, compiled=bool(gpus()) and one_size)  # XLA would compile each length of a text anew
    return Engine(way.engine, way.precision, 1 if gpus() else cores(), run)


def choose(
    model: Any, options: Sequence[Way], sample: Sequence[Inputs], check: Callable[[Engine], float], folder: Path | None = None
) -> tuple[dict[str, Any], Engine]:
    """Measure ways to run a network on batches of its own rows, and take the fastest that gives the right vectors.

    Args:
        model: the network.
        options: what to choose from.
        sample: batches to measure with, and that vectors are compared on.
        check: the lowest agreement of an engine with the network's canaries.
        folder: where int8 is kept.

    Returns:
        `engine` and `precision` of the way, and what was `measured` of each: its lowest agreement, rows a second (the median of
        alternating rounds), or why it was left out. Beside it the engine itself.

    Raises:
        UserError: when none can be made, or gives the right vectors.
    """
    plainly = forward(model)
    plain = [within_memory(plainly, batch) for batch in sample]
    measured: list[dict[str, Any]] = [{"engine": way.engine, "precision": way.precision} for way in options]
    engines: list[tuple[dict[str, Any], Engine]] = []
    frozen = None
    for way, line in zip(options, measured, strict=True):
        try:
            frozen = frozen or (Frozen(model) if way.engine != "keras" else None)
            engine = build(model, way, frozen, sample, folder)
            own = [_lowest(within_memory(engine.run, batch), vectors) for batch, vectors in zip(sample, plain, strict=True)]
            lowest = float(np.min([check(engine), *own]))  # NaN where one is, which Python's own `min` may pass over
        except Exception as error:  # of a library that can't take this network, in words of its own
            line["left_out"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        if np.isnan(lowest):
            line["left_out"] = "vectors that are not finite"
            continue
        line["agreement"] = round(lowest, 7)
        if lowest >= least_agreement(way.precision):
            engines.append((line, engine))
        else:
            line["left_out"] = f"other vectors: an agreement of {least_agreement(way.precision)} is needed at least"
    if not engines:
        reasons = "; ".join(f"{line['engine']} {line['precision']}: {line['left_out']}" for line in measured)
        raise UserError(f"nothing that was asked for gives the right vectors here ({reasons}); set engine and precision to auto")
    rates = [[rate(engine, sample) for _, engine in engines] for _ in range(ROUNDS)] if len(engines) > 1 else []
    for (line, _), seen in zip(engines, zip(*rates, strict=True), strict=False):
        line["rows_per_second"] = round(statistics.median(seen), 1)
    _, best = max(engines, key=lambda each: each[0].get("rows_per_second", 0))
    return {"engine": best.name, "precision": best.precision, "measured": measured}, best


def _lowest(vectors: np.ndarray, reference: np.ndarray) -> float:
    """The lowest agreement of a batch; NaN where a vector isn't finite. Rows whose reference isn't finite say nothing."""
    finite = np.isfinite(reference).all(axis=1)
    return float(canaries.agreement(vectors[finite], reference[finite]).min(initial=1.0))


def least_agreement(precision: str) -> float:
    """How well vectors computed in a number type must agree with what they are meant to be."""
    return LEAST_INT8 if precision == "int8" else canaries.LEAST_AGREEMENT


def rate(engine: Engine, sample: Sequence[Inputs]) -> float:
    """Rows a second of an engine with all its streams busy, after a warm-up."""
    run = functools.partial(within_memory, engine.run)
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(run, sample[: engine.streams]))
        start, done = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < SECONDS:
            list(pool.map(run, sample))
            done += sum(map(count, sample))
    return done / seconds


def count(inputs: Inputs) -> int:
    """Rows of a batch."""
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)


def within_memory(run: Callable[[Inputs], np.ndarray], inputs: Inputs) -> np.ndarray:
    """What a network makes of a batch, in halves where memory doesn't hold the whole.

    Raises:
        UserError: when it doesn't hold a single row.
    """
    import tensorflow as tf

    try:
        return run(inputs)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        rows = count(inputs)
        if rows == 1:
            raise UserError("memory doesn't hold one row; take a smaller encoder, or fewer pixels or tokens of a row") from error
        halves = np.array_split(np.arange(rows), 2)
        return np.concatenate([within_memory(run, pick(inputs, half)) for half in halves])


def cores() -> int:
    """Cores that this process may use: as CORES says, or all that the system gives it."""
    if given := os.environ.get(CORES):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[Any]:
    """Graphics cards that TensorFlow sees."""
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & environment.flags())
