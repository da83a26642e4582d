"""Tasks: what is to be predicted of a row (one class, several labels, or a number), and how outputs become predictions.

Outputs are those of a network before softmax or sigmoid; predictions are probabilities, or numbers in the label's unit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from embedkit import metrics, rebalancing
from embedkit.artifacts import Metric
from embedkit.labels import ordered
from embedkit.settings import UserError

MAIN = {"class": "accuracy", "classes": "micro_f1", "number": "rmse"}
"""The measure that a verdict is about."""


@dataclass
class Task:
    """What is to be predicted: targets of all rows, and how outputs become predictions.

    `targets` is (rows,) int for class, (rows, labels) float for classes, (rows, 1) float for number, standardised; of counts,
    whose outputs are logarithms (`link`), they are multiples of the mean. `numbers` are the labels themselves, (rows,) float64.
    `decision` holds the weights of the classes, or the thresholds of the labels, by which is decided; (outputs,).
    """

    kind: str
    classes: list[str]
    targets: np.ndarray
    location: float = 0.0
    scale: float = 1.0
    numbers: np.ndarray | None = None
    decision: np.ndarray | None = None
    link: Literal["identity", "log"] = "identity"

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return len(self.classes) or 1

    def loss(self, smoothing: float = 0.0) -> Callable[[Any, Any], Any]:
        """One number per row, from targets and outputs; a class may also come as shares of the classes, (rows, classes).

        Args:
            smoothing: share of each target that is spread over all classes, or over yes and no of each of several labels
                (Szegedy et al. 2016, arXiv:1512.00567).
        """
        from keras import ops

        def of_class(truth: Any, outputs: Any) -> Any:
            if len(truth.shape) == 1 and not smoothing:
                return ops.sparse_categorical_crossentropy(truth, outputs, from_logits=True)
            shares: Any = truth if len(truth.shape) == 2 else ops.one_hot(truth, self.outputs)
            shares = shares * (1 - smoothing) + smoothing / self.outputs
            return ops.categorical_crossentropy(shares, outputs, from_logits=True)

        def of_classes(truth: Any, outputs: Any) -> Any:
            truth = truth * (1 - smoothing) + smoothing / 2
            return ops.sum(ops.binary_crossentropy(truth, outputs, from_logits=True), axis=-1)

        def of_count(truth: Any, outputs: Any) -> Any:  # half the Poisson deviance: 0 where the count was foretold
            least = truth - truth * ops.log(ops.maximum(truth, 1e-9))
            return ops.mean(ops.exp(outputs) - truth * outputs - least, axis=-1)

        if self.kind == "class":
            return of_class
        if self.kind == "classes":
            return of_classes
        if self.link == "log":
            return of_count
        # Halved: with inputs of total variance 1 its curvature is then at most 1, and Nesterov's steps of 1 stay stable
        # (they do below 1.36 at a momentum of 0.9; Sutskever et al. 2013).
        return lambda targets, outputs: ops.mean(ops.multiply(ops.square(targets - outputs), 0.5), axis=-1)

    def prior(self, rows: np.ndarray) -> np.ndarray:
        """What guessing from these rows' labels gives: class probabilities, label probabilities, or the mean; (outputs,)."""
        if self.kind == "class":
            return np.bincount(self.targets[rows], minlength=self.outputs) / len(rows)
        return self.targets[rows].mean(axis=0)

    def bias(self, prior: np.ndarray, rows: int) -> np.ndarray:
        """Output bias with which an untrained head already predicts the prior of so many rows.

        The logarithm of each class's share, log(p / (1 - p)) for each of several labels, the mean for a number; a class or
        label that none or all of the rows have counts as half a row away.
        """
        if self.kind == "class":
            return np.log(np.maximum(prior, 0.5 / rows))
        if self.kind == "classes":
            held = np.clip(prior, 0.5 / rows, 1 - 0.5 / rows)
            return np.log(held / (1 - held))
        return np.log(prior) if self.link == "log" else prior

    def entropy(self, rows: np.ndarray, prior: np.ndarray) -> float:
        """Mean loss on these rows of a head that predicts the prior."""
        if self.kind == "number" and self.link == "log":
            return float(np.mean(self.loss()(self.targets[rows], np.broadcast_to(np.log(prior), self.targets[rows].shape))))
        if self.kind == "number":
            return 0.5 * float(np.square(self.targets[rows] - prior).mean())
        bias = self.bias(prior, len(rows))
        shares = self.prior(rows)
        if self.kind == "class":
            return float(np.log(np.exp(bias).sum()) - shares @ bias)
        return float((np.logaddexp(0, bias) - shares * bias).sum())

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs before softmax or sigmoid as probabilities, or numbers in the label's unit."""
        outputs = outputs.astype(np.float64)
        if self.kind == "class":
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        if self.kind == "classes":
            return 1 / (1 + np.exp(-outputs))
        if self.link == "log":
            return np.exp(outputs[:, 0]) * self.scale
        return outputs[:, 0] * self.scale + self.location

    def guess(self, prior: np.ndarray, rows: int) -> np.ndarray:
        """The prior as the prediction of so many rows."""
        guess = np.repeat(prior[None], rows, axis=0)
        return guess[:, 0] * self.scale + self.location if self.kind == "number" else guess

    def truth(self, rows: np.ndarray) -> np.ndarray:
        """What is true of these rows: (rows,) int, (rows, labels) bool, or (rows,) numbers in the label's unit."""
        if self.kind == "number":
            return self.targets[rows, 0] * self.scale + self.location if self.numbers is None else self.numbers[rows]
        return self.targets[rows] if self.kind == "class" else self.targets[rows] > 0.5

    def decided(self, predicted: np.ndarray) -> np.ndarray:
        """What is decided on probabilities: (rows,) int for class, (rows, labels) bool for classes."""
        if self.kind == "class":
            return rebalancing.decide(predicted, np.ones(self.outputs) if self.decision is None else self.decision)
        return predicted >= (0.5 if self.decision is None else self.decision)

    def agreement(self, one: np.ndarray, other: np.ndarray) -> metrics.Metric:
        """Share of rows of which the same is decided on two predictions, all labels of a row together."""
        same = self.decided(one) == self.decided(other)
        return metrics.mean((same if same.ndim == 1 else same.all(axis=1)).astype(float))

    def measure(self, rows: np.ndarray, predicted: np.ndarray) -> dict[str, Metric]:
        """All measures of predictions for these rows."""
        truth = self.truth(rows)
        if self.kind == "class":
            return metrics.of_class(truth, predicted, self.decided(predicted))
        if self.kind == "classes":
            return metrics.of_classes(truth, predicted, 0.5 if self.decision is None else self.decision)
        return metrics.of_number(truth, predicted)

    def scores(self, rows: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
        """The measures that may decide when to stop, from the outputs of these rows."""
        truth = self.truth(rows)

        def of(outputs: np.ndarray) -> dict[str, float]:
            predicted = self.predict(outputs)
            if self.kind == "number":
                error = np.abs(predicted - truth)
                rmse = float(np.sqrt(np.square(error).mean()))
                return {"mae": float(error.mean()), "rmse": rmse, "worst_error": float(error.max())}
            if self.kind == "classes":
                found = metrics.f1(truth.reshape(-1, 1), (predicted >= 0.5).reshape(-1, 1))
                return {"micro_f1": float(found[0]), "macro_f1": float(metrics.f1(truth, predicted >= 0.5).mean())}
            likeliest = predicted.argmax(axis=1)
            return {
                "accuracy": float((truth == likeliest).mean()),
                "balanced_accuracy": metrics.balanced_accuracy(truth, likeliest),
                "macro_f1": metrics.macro_f1(truth, likeliest),
                "brier": float(metrics.brier(truth, predicted).mean()),
            }

        return of

    def table(self, rows: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Columns that say what was predicted of each row: `label`, `predicted`, and `probabilities` where there are some."""
        truth = self.truth(rows)
        if self.kind == "number":
            return {"label": truth, "predicted": predicted}
        names, decided = np.array(self.classes), self.decided(predicted)
        probabilities = list(predicted.astype(np.float32))
        if self.kind == "class":
            return {"label": list(names[truth]), "predicted": list(names[decided]), "probabilities": probabilities}
        found = ([list(names[row]) for row in rows_] for rows_ in (truth, decided))
        return dict(zip(("label", "predicted"), found, strict=True)) | {"probabilities": probabilities}


def as_counts(task: Task, dataset: str, train: np.ndarray) -> Task:
    """The same task for numbers that are counts, of which the logarithm of the mean is predicted (Poisson).

    Args:
        task: of numbers.
        dataset: its name, for messages.
        train: places of the training rows.

    Raises:
        UserError: when the labels are no counts.
    """
    if task.kind != "number" or task.numbers is None:
        raise UserError(f"counts are numbers, but the labels of {dataset} are {task.kind}; load it with label_type number")
    if (lowest := float(task.numbers[train].min())) < 0:
        raise UserError(f"a training label of {dataset} is {lowest:g}, and counts are 0 or more; leave target out")
    mean = float(task.numbers[train].mean())
    targets = (task.numbers / mean).astype(np.float32)[:, None]
    return replace(task, targets=targets, location=0.0, scale=mean, link="log")


def task_of(dataset: str, labels: pa.Array, train: np.ndarray) -> Task:
    """The task that a dataset's labels pose.

    Args:
        dataset: its name, for messages.
        labels: as `labels.Labels.array`.
        train: (rows,) bool, the labelled training rows, whose spread scales numbers.

    Raises:
        UserError: when there is nothing to predict.
    """
    values = labels.to_pylist()
    if pa.types.is_floating(labels.type):
        numbers = np.array([0.0 if value is None else value for value in values])
        known = numbers[train]
        scale = float(known.std()) if len(known) else 0.0
        if scale == 0.0:
            raise UserError(f"the training labels of {dataset} don't differ; there is nothing to predict")
        targets = ((numbers - known.mean()) / scale).astype(np.float32)[:, None]
        return Task("number", [], targets, float(known.mean()), scale, numbers)
    several = pa.types.is_list(labels.type)
    names = ordered({name for value in values if value is not None for name in (value if several else [value])})
    if not names:
        raise UserError(f"no row of {dataset} has a label; load it again with another label_column or label_separator")
    index = {name: number for number, name in enumerate(names)}
    if several:
        targets = np.zeros((len(values), len(names)), np.float32)
        for row, value in enumerate(values):
            targets[row, [index[name] for name in value or []]] = 1
        return Task("classes", names, targets)
    return Task("class", names, np.array([index.get(value, 0) for value in values], np.int32))
