"""Layers: at which layer, and with which pooling, an encoder's vectors are worth most, and an encoder cut there.

Every candidate comes from one forward pass of a network with many outputs. A candidate is judged by a linear probe (ridge
regression, whose leave-one-out predictions are had in closed form; Golub, Heath and Wahba 1979). What choosing by that is
worth is measured by nested cross-validation: in each outer fold the choice is made without the rows it is measured on. Test
rows are never looked at.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from embedkit import checkpoints, crossfit, engines, networks
from embedkit.artifacts import EncoderArtifact
from embedkit.encoders import Encoder, encoder_folder, pool, save_encoder, seal_folds
from embedkit.leaks import LEDGER, LEDGER_NEAR
from embedkit.networks import Network
from embedkit.pipelines import TableFeed
from embedkit.preparation import Prepared
from embedkit.settings import Settings, UserError
from embedkit.stages import Draft, Facts, is_kept, keep, stage
from embedkit.tasks import Task

POOLINGS = {("texts", 3): ("mean", "cls", "max"), ("images", 4): ("avg", "max")}
"""Poolings of a layer's output, by modality and rank; a layer of rank 2 is taken as it is."""
PASSED_OVER = ("Dropout", "ZeroPadding2D", "Rescaling", "GetItem", "InputLayer", "Identity", "Flatten", "Reshape")
FOLLOWS = ("BatchNormalization", "Activation", "ReLU", "LeakyReLU", "PReLU", "Dropout", "LayerNormalization")
"""Layers that belong to the one before: of such a chain only the last is a candidate."""
MOST_LAYERS = 16
MOST_ROWS = 2000
FOLDS = 5
STRENGTHS = tuple(10.0**power for power in range(-4, 2))
"""Of the ridge, times the total variance of the vectors."""
ROUNDS = 5
TIMED_ROWS = 256
OWN = "as it is"


class CutEncoder(Settings):
    """Where an encoder is cut."""

    layer: str | None = None
    """Layer whose output becomes the vector, by name; `embedkit layers ENCODER` lists them."""
    pooling: Literal["auto", "mean", "max", "cls", "avg", "flatten", "none"] = "auto"
    """How the layer's output becomes one vector: mean, max or cls for texts, avg, max or flatten for images; by default mean or
    avg."""
    normalise: bool | None = None
    """Whether vectors get length 1; by default as the encoder's own do."""


def _called(names: dict[str, str], settings: CutEncoder) -> str:
    layer = (settings.layer or "").rsplit("/", 1)[-1]
    return f"{names['encoder']}-{layer}" + ("" if settings.pooling == "auto" else f"-{settings.pooling}")


@stage("encoder", revision=1, name=_called, keras=True)
def cut_encoder(out: Draft, encoder: EncoderArtifact, settings: CutEncoder = CutEncoder()) -> Facts:
    """Cut an encoder at an earlier layer, which makes it smaller and faster.

    What an encoder learned from goes with it, and so do the networks that didn't see some of these rows, and the values of its
    columns that still have vectors.

    Args:
        encoder: the encoder, or a fine-tuned classifier.
    """
    folder = encoder_folder(encoder)
    if settings.layer is None:
        raise UserError(f"where to cut is not said; give a layer (`embedkit layers {encoder}` lists them)")
    loaded = Encoder.open(encoder)
    pooling = settings.pooling
    tensor = networks.find_layer(_network(loaded), settings.layer)
    if pooling == "auto":
        pooling = "none" if len(tensor.shape) == 2 else {"texts": "mean", "images": "avg"}[loaded.facts.modality]
    normalise = loaded.facts.normalised if settings.normalise is None else settings.normalise
    model = cut(loaded, settings.layer, pooling, normalise)
    named = {"layer": settings.layer, "pooling": pooling, "normalised": normalise, "dimension": int(model.output.shape[-1])}
    facts = loaded.facts.model_copy(update=named)
    details = save_encoder(out, model, facts, loaded.preprocessing)
    for name in (LEDGER, LEDGER_NEAR):
        if (encoder / name).exists():
            (out / name).write_bytes((encoder / name).read_bytes())
    if (out / LEDGER).exists():
        details |= {"fitted": pq.read_metadata(out / LEDGER).num_rows}
    if loaded.folds:
        crossfit.keep(folder, model, out.__truediv__)
        details |= seal_folds(out)
    if isinstance(loaded.feed, TableFeed):
        kept = {layer.name for layer in model.layers}
        for number, column in enumerate(loaded.feed.all.embedded):
            for path in (folder / "values").glob(f"{number:02d}-*.parquet") if f"vocabulary_{column.vocabulary}" in kept else ():
                (out / f"values/{path.name}").write_bytes(path.read_bytes())
    return Facts(details=details)


def cut(loaded: Encoder, layer: str, pooling: str, normalise: bool) -> Any:
    """An encoder's model, cut at a layer.

    Raises:
        UserError: when there is no such layer, or the pooling doesn't fit it.
    """
    import keras

    network = _network(loaded)
    pooled = pool(networks.find_layer(network, layer), network, pooling)
    if normalise:
        pooled = keras.layers.UnitNormalization(name="cut_unit_length")(pooled)  # (rows, dimension), length 1
    return keras.Model(loaded.model.input, pooled, name="encoder")


def _network(loaded: Encoder) -> Network:
    return Network(loaded.facts.modality, loaded.model, loaded.model.output, loaded.facts.layer, loaded.facts.pooling)


def candidates(loaded: Encoder, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Layers and poolings to look at, the earliest first.

    Args:
        loaded: the encoder.
        wanted: names of layers, or `auto` for those through which everything passes, at most MOST_LAYERS evenly spaced.

    Raises:
        UserError: when there is no such layer, or none at which the network can be cut.
    """
    shapes = {path: shape for path, _, shape in networks.list_layers(loaded.model)}
    modality = loaded.facts.modality
    if tuple(wanted) == ("auto",):
        found = _chains([(path, kind) for path, kind in networks.bottlenecks(loaded.model) if kind not in PASSED_OVER])
        weighed = {path for path, layer, _ in networks.walk(loaded.model) if layer.weights}
        found = [path for path in found if (modality, len(shapes[path])) in POOLINGS or path in weighed and len(shapes[path]) == 2]
        if len(found) > MOST_LAYERS:
            found = [found[place] for place in np.linspace(0, len(found) - 1, MOST_LAYERS).round().astype(int)]
    else:
        found = [networks.path_of(loaded.model, layer) for layer in wanted]
    pairs = [(path, pooling) for path in found for pooling in POOLINGS.get((modality, len(shapes[path])), ("none",))]
    if not pairs:
        raise UserError(f"{loaded.name} has no layer at which it could be cut; leave layers out")
    return pairs


def _chains(found: list[tuple[str, str]]) -> list[str]:
    after = [kind for _, kind in [*found, ("", "")][1:]]
    return [path for (path, _), follows in zip(found, after, strict=True) if follows not in FOLLOWS]


def sweep(
    prepared: Prepared,
    loaded: Encoder,
    task: Task,
    pool_rows: np.ndarray,
    own: np.ndarray,
    wanted: Sequence[str],
    seed: int,
    folder: Path,
    encoder: str,
) -> dict[str, Any]:
    """Probe layers and poolings, and say which is worth most and what choosing it is worth.

    Args:
        prepared: the dataset's rows as inputs.
        loaded: the encoder.
        task: what is predicted.
        pool_rows: (n,) places of the rows to probe with, none of them a test row; at most MOST_ROWS are drawn.
        own: (rows, dimension) the encoder's own vectors.
        wanted: as for `candidates`.
        seed: of the draw and the folds.
        folder: where vectors are kept.
        encoder: its reference, for the command that cuts it.

    Returns:
        As `pages.write_report` takes it: the table of candidates, the winner, what nested cross-validation says, the speed-up.
    """
    pairs = candidates(loaded, wanted)
    rows = np.sort(np.random.default_rng(seed).permutation(pool_rows)[:MOST_ROWS])
    vectors = _vectors(prepared, loaded, pairs, rows, len(own), folder)
    names = [OWN, *pairs]
    probes = [Ridge(matrix, task, rows) for matrix in (own[rows], *vectors)]
    folds = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    chosen, kept = np.empty((len(rows), 2)), np.empty((len(rows), 2))
    for fold in range(FOLDS):
        train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = [probe.fit(train) for probe in probes]
        best = int(np.argmax([one.score for one in fitted]))
        chosen[held] = probes[best].parts(fitted[best], held)
        kept[held] = probes[0].parts(fitted[0], held)
    last = [probe.fit(np.arange(len(rows))) for probe in probes]
    best = 1 + int(np.argmax([one.score for one in last[1:]]))
    layer, pooling = pairs[best - 1]
    table = [
        {
            "layer": OWN if name == OWN else name[0],
            "pooling": loaded.facts.pooling if name == OWN else name[1],
            "dimension": probe.dimension,
            "value": one.value,
            "error": one.error,
            "own": name == OWN,
        }
        for name, probe, one in zip(names, probes, last, strict=True)
    ]
    return {
        "nested": _nested(task, chosen, kept),
        "winner": {"layer": layer, "pooling": pooling},
        "speedup": speedup(loaded, cut(loaded, layer, pooling, loaded.facts.normalised), prepared, rows),
        "table": table,
        "command": f"embedkit cut-encoder {encoder} --layer {layer.rsplit('/', 1)[-1]} --pooling {pooling}",
    }


def _nested(task: Task, chosen: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Score of choosing, score of the encoder as it is, and the difference with its error over rows; from `parts_of` of each."""
    from embedkit.arms import measure_of

    random, rows = np.random.default_rng(0), len(chosen)
    counts = np.stack([np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(200)]).astype(float)
    ours, theirs = (measure_of(task, counts @ parts) for parts in (chosen, kept))
    values = [float(measure_of(task, parts.sum(axis=0))) for parts in (chosen, kept)]
    sign = -1 if task.kind == "number" else 1
    return {
        "value": values[0],
        "error": float(ours.std(ddof=1)),
        "own": values[1],
        "gain": sign * (values[0] - values[1]),
        "gain_error": float((ours - theirs).std(ddof=1)),
        "rows": rows,
        "folds": FOLDS,
    }


class Fitted:
    """A ridge on some rows: its leave-one-out score there, more is better, and what predicts other rows."""

    def __init__(self, score: float, value: float, error: float, center: np.ndarray, weights: np.ndarray, bias: np.ndarray):
        self.score, self.value, self.error = score, value, error
        self.center, self.weights, self.bias = center, weights, bias


class Ridge:
    """A linear probe of one candidate's vectors."""

    def __init__(self, vectors: np.ndarray, task: Task, rows: np.ndarray):
        self.vectors = vectors.astype(np.float64)
        self.task, self.rows, self.dimension = task, rows, vectors.shape[1]
        targets = task.targets[rows]
        self.targets = np.eye(task.outputs)[targets] if task.kind == "class" else targets.astype(np.float64)

    def fit(self, train: np.ndarray) -> Fitted:
        """Fit these rows, as strongly regularised as suits leaving one out."""
        center, bias = self.vectors[train].mean(axis=0), self.targets[train].mean(axis=0)
        inputs, targets = self.vectors[train] - center, self.targets[train] - bias
        left, sizes, right = np.linalg.svd(inputs, full_matrices=False) if len(train) < self.dimension else _by_gram(inputs)
        squared, turned = sizes**2, left.T @ targets
        best: Any = None
        for strength in STRENGTHS:
            shrink = squared / (squared + strength * squared.sum())
            leverage = (left**2 @ shrink) + 1 / len(train)
            out = targets - (targets - left @ (shrink[:, None] * turned)) / np.maximum(1 - leverage, 1e-6)[:, None]
            parts = self._parts(train, out + bias)
            value = self._value(parts)
            if best is None or self._sign * value > best[0]:
                best = (self._sign * value, value, self._error(parts), strength)
        shrink = np.divide(sizes, squared + best[3] * squared.sum(), out=np.zeros_like(sizes), where=sizes > 0)
        return Fitted(best[0], best[1], best[2], center, right.T @ (shrink[:, None] * turned), bias)

    def parts(self, fitted: Fitted, held: np.ndarray) -> np.ndarray:
        """What the measure of other rows is made of, as `arms.parts_of`."""
        return self._parts(held, (self.vectors[held] - fitted.center) @ fitted.weights + fitted.bias)

    @property
    def _sign(self) -> int:
        return -1 if self.task.kind == "number" else 1

    def _parts(self, chosen: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        from embedkit.arms import parts_of

        task = self.task
        said = outputs[:, 0] * task.scale + task.location if task.kind == "number" else outputs
        return parts_of(task, self.rows[chosen], said)

    def _value(self, parts: np.ndarray) -> float:
        from embedkit.arms import measure_of

        return float(measure_of(self.task, parts.sum(axis=0)))

    def _error(self, parts: np.ndarray) -> float:
        """Standard error by the jackknife over twenty groups of rows (Tukey 1958)."""
        from embedkit.arms import measure_of

        groups = np.stack([parts[start::20].sum(axis=0) for start in range(20)])
        left = measure_of(self.task, parts.sum(axis=0) - groups)
        return float(np.sqrt(19 / 20 * np.square(left - left.mean()).sum()))


def _by_gram(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thin singular value decomposition of a tall matrix, by way of its Gram matrix, which is much faster."""
    values, vectors = np.linalg.eigh(inputs.T @ inputs)
    kept = values > values[-1] * 1e-10
    sizes = np.sqrt(values[kept])
    return inputs @ vectors[:, kept] / sizes, sizes, vectors[:, kept].T


def _vectors(
    prepared: Prepared, loaded: Encoder, pairs: list[tuple[str, str]], places: np.ndarray, rows: int, folder: Path
) -> list[np.ndarray]:
    """The vectors of every candidate, (places, dimension) each, from one forward pass over the rows."""
    import keras

    network = _network(loaded)
    paths = list(dict.fromkeys(path for path, _ in pairs))
    tensors = dict(zip(paths, networks.locate_all(loaded.model, [path.split("/") for path in paths]), strict=True))
    pooled = [pool(tensors[path], network, pooling, f"pooled_{n}") for n, (path, pooling) in enumerate(pairs)]
    widths = [int(one.shape[-1]) for one in pooled]
    path = folder / "layers.npy"
    if not is_kept(path):
        joined: Any = pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name="all_candidates")(pooled)
        forward = engines.forward(keras.Model(loaded.model.input, joined))
        checkpoints.save_array(path, prepared.encode(forward, places, rows)[places])
        keep(path)
    found = np.load(path, allow_pickle=False)
    found = np.split(found, np.cumsum(widths)[:-1], axis=1)
    if not loaded.facts.normalised:
        return found
    return [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in found]


def speedup(loaded: Encoder, model: Any, prepared: Prepared, places: np.ndarray) -> dict[str, Any]:
    """How many times as fast the forward pass of a cut encoder is as the whole one's, in alternating rounds."""
    chosen = places[:TIMED_ROWS]
    order = chosen if prepared.lengths is None else chosen[np.argsort(prepared.lengths[chosen], kind="stable")]
    batches = [prepared.batch(order[start : start + 32]) for start in range(0, len(order), 32)]
    whole, short, ratios = loaded.forward, engines.forward(model), []
    for number in range(ROUNDS + 1):
        seconds = []
        for forward in (whole, short):
            start = time.monotonic()
            for batch in batches:
                forward(batch)
            seconds.append(time.monotonic() - start)
        if number:  # the first round warms up
            ratios.append(seconds[0] / seconds[1])
    return {"median": float(np.median(ratios)), "lowest": min(ratios), "highest": max(ratios), "rounds": ROUNDS}
