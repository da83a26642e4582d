"""train_head: vectors become a classifier (or a regressor), the encoder stays as it is.

The kind of label decides the head: softmax for one class, a sigmoid per label for several, a line for numbers. Everything
fitted (scaling of the vectors, weights, when to stop) comes from training and validation rows; every measure comes from
test rows, beside what guessing from the training labels gives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from embedkit import engines, metrics, splits
from embedkit.artifacts import Metric, Vectors
from embedkit.datasets import read_rows
from embedkit.embedding import read_vectors
from embedkit.encoders import save_model
from embedkit.leaks import record_fitted, refuse_leaks
from embedkit.learning import learn
from embedkit.settings import Seeded, UserError
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.training import Problem, Rows, Training, resolve

EPOCHS = 1000
HELD_OUT_SHARE = 0.1


class TrainHead(Seeded):
    """How vectors become a classifier."""

    hidden: tuple[PositiveInt, ...] = ()
    """Widths of hidden layers; none makes the head linear."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units left out in a training step (Srivastava et al. 2014)."""
    labels_per_class: PositiveInt | None = None
    """Use only so many training rows of each class, and as many for validation, drawn by hash; all by default."""
    training: Training = Training()
    """How long and how fast the head learns."""


@dataclass
class Task:
    """What is to be predicted: targets of all rows, and how outputs become predictions.

    `targets` is (rows,) int for class, (rows, labels) float for classes, (rows, 1) float for number, standardised.
    """

    kind: str
    classes: list[str]
    targets: np.ndarray
    labelled: np.ndarray
    location: float = 0.0
    scale: float = 1.0

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return len(self.classes) or 1

    def loss(self) -> Any:
        """One number per row, from the outputs before softmax or sigmoid."""
        from keras import ops

        if self.kind == "class":
            return lambda truth, outputs: ops.sparse_categorical_crossentropy(truth, outputs, from_logits=True)
        if self.kind == "classes":
            return lambda truth, outputs: ops.sum(ops.binary_crossentropy(truth, outputs, from_logits=True), axis=-1)
        # Halved: with inputs of total variance 1 its curvature is then at most 1, and Nesterov's steps of 1 stay stable
        # (they do below 1.36 at a momentum of 0.9; Sutskever et al. 2013).
        return lambda targets, outputs: ops.mean(ops.multiply(ops.square(targets - outputs), 0.5), axis=-1)

    def prior(self, rows: np.ndarray) -> np.ndarray:
        """What guessing from these rows' labels gives: class probabilities, label probabilities, or the mean; (outputs,)."""
        if self.kind == "class":
            return np.bincount(self.targets[rows], minlength=self.outputs) / len(rows)
        return self.targets[rows].mean(axis=0)

    def entropy(self, rows: np.ndarray) -> float:
        """Mean loss of guessing the prior on these rows: what a head with the right bias starts at."""
        prior = self.prior(rows)
        if self.kind == "number":
            return 0.5 * float(self.targets[rows].var())
        certain = np.where(prior > 0, -prior * np.log(np.maximum(prior, 1e-300)), 0).sum()
        if self.kind == "class":
            return float(certain)
        return float(certain + np.where(prior < 1, -(1 - prior) * np.log(np.maximum(1 - prior, 1e-300)), 0).sum())

    def bias(self, rows: np.ndarray) -> np.ndarray:
        """Output bias with which an untrained head already predicts the prior."""
        prior = self.prior(rows)
        if self.kind == "class":
            return np.log(np.maximum(prior, 0.5 / len(rows)))
        if self.kind == "classes":
            held = np.clip(prior, 0.5 / len(rows), 1 - 0.5 / len(rows))
            return np.log(held / (1 - held))
        return prior

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs before softmax or sigmoid as probabilities, or numbers in the label's unit."""
        outputs = outputs.astype(np.float64)
        if self.kind == "class":
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        if self.kind == "classes":
            return 1 / (1 + np.exp(-outputs))
        return outputs[:, 0] * self.scale + self.location

    def measure(self, rows: np.ndarray, predicted: np.ndarray) -> dict[str, Metric]:
        """All measures of predictions for these rows."""
        if self.kind == "class":
            return metrics.of_class(self.targets[rows], predicted)
        if self.kind == "classes":
            return metrics.of_classes(self.targets[rows] > 0.5, predicted)
        return metrics.of_number(self.targets[rows, 0] * self.scale + self.location, predicted)


MAIN = {"class": "accuracy", "classes": "micro_f1", "number": "rmse"}


@stage("classifier", revision=2, name="{vectors}", keras=True)
def train_head(out: Draft, vectors: Vectors, settings: TrainHead = TrainHead()) -> Facts:
    """Train a classifier, or a regressor, on the vectors of a labelled dataset.

    Args:
        vectors: the vectors of a dataset with labels.
    """
    dataset = vectors.inputs["dataset"].check()
    rows = read_rows(dataset)
    if "label" not in rows.column_names:
        raise UserError(f"{dataset} has no labels; load it again with a label_column, then embed it and train on that")
    ids, inputs = read_vectors(vectors)
    split = np.array([splits.SPLITS.index(name) for name in rows["split"].to_pylist()])
    task, train, validation, test, notes = _assign(str(dataset), rows, split, settings)
    refuse_leaks(vectors, rows.take(test))
    model, logits = _build(task, inputs, train, settings)
    assert np.array_equal(ids, rows["id"].to_numpy())

    def data(part: np.ndarray) -> Rows:
        return Rows.of(inputs[part], task.targets[part], ids[part])

    training = resolve(settings.training, linear=not settings.hidden, epochs=EPOCHS)
    separable = min(16, 1 + inputs.shape[1])
    problem = Problem(logits, task.loss(), data(train), data(validation), expected=task.entropy(train), separable=separable)
    learned = learn(out, problem, training, settings.seed)
    predicted = task.predict(engines.predict(logits, inputs[test]))
    guess = np.repeat(task.prior(train)[None], len(test), axis=0)
    found = task.measure(test, predicted)
    control = task.measure(test, guess if task.kind != "number" else guess[:, 0] * task.scale + task.location)
    save_model(model, out / "model.keras")
    _write_predictions(out, task, ids[test], test, predicted)
    encoder = vectors.manifest.details["encoder"]
    facts = {"type": task.kind, "classes": task.classes, "encoder": encoder, "dimension": inputs.shape[1]}
    write_json(out / "classifier.json", facts)
    fitted = record_fitted(out, rows.take(np.sort(np.concatenate([train, validation]))))
    counts = {"train": len(train), "validation": len(validation), "test": len(test)}
    return Facts(
        rows=len(test),
        metrics=found | {f"guessing_{name}": value for name, value in control.items()},
        verdict=_verdict(MAIN[task.kind], found, control),
        notes=notes + learned.notes,
        details=facts | {"used": counts, "fitted": fitted} | learned.details,
        timings=learned.timings,
    )


def _assign(dataset: str, rows: pa.Table, split: np.ndarray, settings: TrainHead) -> tuple[Task, Any, Any, Any, list[str]]:
    """What to predict, and which rows train, stop and test: (rows,) index arrays in row order."""
    labels, notes = rows["label"].combine_chunks(), []
    labelled = ~np.array(labels.is_null())
    parts: list[Any] = [np.flatnonzero(labelled & (split == index)) for index in range(3)]
    for part, name in ((parts[0], "train"), (parts[2], "test")):
        if not len(part):
            raise UserError(f"{dataset} has no labelled {name} rows; label some, or load it again with another split")
    task = _task(dataset, labels, labelled, labelled & (split == 0))
    ids = rows["id"].to_numpy()
    if not len(parts[1]) and len(parts[0]) < 2:
        raise UserError(f"{dataset} has one labelled train row and no validation row; label more")
    if not len(parts[1]):
        held = splits.draw(ids[parts[0]], HELD_OUT_SHARE, 0, settings.seed) == 1
        held[0] |= not held.any()
        parts[:2] = [parts[0][~held], parts[0][held]]
        notes.append("no validation rows: a tenth of the training rows decided when to stop")
    if settings.labels_per_class is not None:
        if task.kind != "class":
            raise UserError(f"labels_per_class counts rows of a class, but the labels of {dataset} are {task.kind}; leave it out")
        parts[:2] = [_few(part, task.targets, ids, settings) for part in parts[:2]]
    if task.kind == "class" and len(np.unique(task.targets[parts[0]])) < 2:
        only = task.classes[task.targets[parts[0][0]]]
        raise UserError(f"all training rows of {dataset} have the label {only!r}; a classifier needs two classes at least")
    return task, parts[0], parts[1], parts[2], notes


def _few(part: np.ndarray, targets: np.ndarray, ids: np.ndarray, settings: TrainHead) -> np.ndarray:
    """The first so many rows of each class by the hash of their ids."""
    order = part[np.argsort(splits.mix(ids[part], settings.seed), kind="stable")]
    return np.sort(order[splits.occurrences(targets[order]) < (settings.labels_per_class or 0)])


def _task(dataset: str, labels: pa.Array, labelled: np.ndarray, train: np.ndarray) -> Task:
    from embedkit.labels import ordered

    values = labels.to_pylist()
    if pa.types.is_floating(labels.type):
        numbers = np.array([0.0 if value is None else value for value in values])
        known = numbers[train]
        scale = float(known.std()) if len(known) else 0.0
        if scale == 0.0:
            raise UserError(f"the training labels of {dataset} don't differ; there is nothing to predict")
        targets = ((numbers - known.mean()) / scale).astype(np.float32)[:, None]
        return Task("number", [], targets, labelled, float(known.mean()), scale)
    several = pa.types.is_list(labels.type)
    names = ordered({name for value in values if value is not None for name in (value if several else [value])})
    if not names:
        raise UserError(f"no row of {dataset} has a label; load it again with another label_column or label_separator")
    index = {name: number for number, name in enumerate(names)}
    if several:
        targets = np.zeros((len(values), len(names)), np.float32)
        for row, value in enumerate(values):
            targets[row, [index[name] for name in value or []]] = 1
        return Task("classes", names, targets, labelled)
    return Task("class", names, np.array([index.get(value, 0) for value in values], np.int32), labelled)


def _build(task: Task, inputs: np.ndarray, train: np.ndarray, settings: TrainHead) -> tuple[Any, Any]:
    """The head, and the same head up to the outputs before softmax or sigmoid."""
    import keras

    # One scale for all columns: their own would blow up directions that hardly vary, such as the last principal components.
    # A total variance of 1 also bounds the curvature of the loss, so that one learning rate suits every linear head.
    spread = float(np.sqrt(inputs[train].var(axis=0).sum())) or 1.0
    center = inputs[train].mean(axis=0)
    vectors = keras.Input((inputs.shape[1],), name="vectors")                                    # (rows, dimension)
    x = keras.layers.Rescaling(1 / spread, (-center / spread).tolist(), name="scaling")(vectors)  # mean 0, total variance 1
    for number, width in enumerate(settings.hidden):
        x = keras.layers.Dense(width, activation="relu", name=f"hidden_{number}")(x)
        x = keras.layers.Dropout(settings.dropout, name=f"dropout_{number}")(x)
    bias: Any = keras.initializers.Constant(task.bias(train).astype(np.float32).tolist())
    start = "glorot_uniform" if settings.hidden else "zeros"  # the linear problem is convex: start at the prior
    outputs = keras.layers.Dense(task.outputs, kernel_initializer=start, bias_initializer=bias, name="outputs")(x)
    logits = keras.Model(vectors, outputs, name="logits")                                        # (rows, classes)
    if task.kind == "number":
        last: Callable[[Any], Any] = keras.layers.Rescaling(task.scale, task.location, name="in_units")
    else:
        last = keras.layers.Activation("softmax" if task.kind == "class" else "sigmoid", name="probabilities")
    return keras.Model(vectors, last(outputs), name="head"), logits


def _write_predictions(out: Draft, task: Task, ids: np.ndarray, rows: np.ndarray, predicted: np.ndarray) -> None:
    """What the head said of each test row, so that any other measure can be taken later."""
    if task.kind == "number":
        table = {"id": ids, "label": task.targets[rows, 0] * task.scale + task.location, "predicted": predicted}
    else:
        names = np.array(task.classes)
        truth = names[task.targets[rows]] if task.kind == "class" else [list(names[row > 0.5]) for row in task.targets[rows]]
        chosen = names[predicted.argmax(axis=1)] if task.kind == "class" else [list(names[row >= 0.5]) for row in predicted]
        table = {"id": ids, "label": list(truth), "predicted": list(chosen), "probabilities": list(predicted.astype(np.float32))}
    pq.write_table(pa.table(table), out / "predictions.parquet", compression="zstd")


def _verdict(measure: str, found: dict[str, Metric], control: dict[str, Metric]) -> str:
    ours, guess = found[measure], control[measure]
    gain = (guess.value - ours.value) if measure == "rmse" else (ours.value - guess.value)
    error = np.hypot(ours.standard_error or 0, guess.standard_error or 0)
    words = "better than" if gain > 2 * error else "worse than" if gain < -2 * error else "no better than"
    return f"{words} guessing from the training labels: {measure} {ours} against {guess}"
