"""Restoration: what a table's network learns where there is no target, to restore values that were hidden from it.

Of each row some columns are hidden: an embedded value is shown as unknown, a plain column as zeros. The network gives a
distribution over each embedded column's values, the frequent ones by themselves and all others together, and numbers for the
plain ones. Only what was hidden counts (masked-value training, after Devlin et al. 2019, arXiv:1810.04805).
"""

from typing import Any

import numpy as np

from embedkit.entities import Case
from embedkit.features import UNKNOWN, Columns
from embedkit.tasks import Task

HIDDEN = 0.15
"""Share of the columns that are hidden for good, alike in every epoch; as many again are in training, anew in each step."""
MOST_CLASSES = 1000
"""Values of a column that are told apart when they are restored: its most frequent ones."""


class Restoration:
    """The columns of a table as something to be restored.

    Targets are, side by side: the place of each embedded column's value, at most MOST_CLASSES; each plain output; and for each of
    these whether it is hidden, 1 or 0. (rows, 2 x (embedded columns + plain outputs)) float32.
    """

    def __init__(self, columns: Columns):
        sizes = [columns.vocabulary(column).size for column in columns.embedded]
        self.classes = [min(size, MOST_CLASSES) for size in sizes]
        self.groups = [len(column.outputs) for column in columns.plain]
        self.embedded, self.plain = len(self.classes), sum(self.groups)
        self.width = self.embedded + self.plain
        self.outputs = sum(self.classes) + self.plain

    def case(self, inputs: Any, ids: np.ndarray, train: np.ndarray, seed: int) -> Case:
        """What is to be learned: all rows with some columns hidden."""
        values, numbers = inputs["values"], inputs.get("numbers")
        places = np.minimum(values, np.array(self.classes) - 1).astype(np.float32)
        known = places if numbers is None else np.concatenate([places, numbers], axis=1)
        drawn = np.random.default_rng(seed).random((len(values), self.embedded + len(self.groups))) < HIDDEN
        hidden = np.concatenate([drawn[:, : self.embedded], np.repeat(drawn[:, self.embedded :], self.groups, axis=1)], axis=1)
        shown: dict[str, np.ndarray] = {"values": np.where(hidden[:, : self.embedded], UNKNOWN, values).astype(np.int32)}
        if numbers is not None:
            shown["numbers"] = np.where(hidden[:, self.embedded :], 0, numbers).astype(np.float32)
        targets = np.concatenate([known, hidden], axis=1).astype(np.float32)
        return Case(shown, targets, ids, self.outputs, self._bias(known[train]), self.loss, augment=self.augment)

    def _bias(self, known: np.ndarray) -> np.ndarray:
        """What guessing gives: the logarithm of each value's share, and the mean of each plain output."""
        shares = []
        for number, classes in enumerate(self.classes):
            counts = np.bincount(known[:, number].astype(int), minlength=classes)
            shares.append(np.log(np.maximum(counts, 0.5) / len(known)))
        return np.concatenate([*shares, known[:, self.embedded :].mean(axis=0)])

    def augment(self, inputs: Any, targets: Any, generator: Any) -> tuple[Any, Any]:
        """Hide more columns, inside the traced step."""
        import keras
        from keras import ops

        shape: Any = ops.shape(inputs["values"])
        drawn: Any = keras.random.uniform((shape[0], self.embedded + len(self.groups)), seed=generator) < HIDDEN
        spread = np.concatenate([np.arange(self.embedded), self.embedded + np.repeat(np.arange(len(self.groups)), self.groups)])
        more: Any = ops.take(drawn, spread.astype(np.int32), axis=1)
        shown = {**inputs, "values": ops.where(more[:, : self.embedded], UNKNOWN, inputs["values"])}
        if "numbers" in inputs:
            shown["numbers"] = ops.where(more[:, self.embedded :], 0.0, inputs["numbers"])
        hidden = ops.maximum(targets[:, self.width :], ops.cast(more, "float32"))
        return shown, ops.concatenate([targets[:, : self.width], hidden], axis=1)

    def loss(self, targets: Any, outputs: Any) -> Any:
        """Mean over what is hidden in a row: cross-entropy of values, half the squared error of numbers; 0 where nothing is."""
        from keras import ops

        targets, outputs = ops.convert_to_tensor(targets), ops.convert_to_tensor(outputs)
        found: list[Any] = []
        hidden, start = targets[:, self.width :], 0
        for number, classes in enumerate(self.classes):
            place = ops.cast(targets[:, number], "int32")
            each: Any = ops.sparse_categorical_crossentropy(place, outputs[:, start : start + classes], from_logits=True)
            found.append(each[:, None])
            start += classes
        if self.plain:
            off: Any = ops.square(targets[:, self.embedded : self.width] - outputs[:, start:])
            found.append(0.5 * off)
        total: Any = ops.sum(ops.concatenate(found, axis=1) * hidden, axis=1)
        return total / ops.maximum(ops.sum(hidden, axis=1), 1.0)


def case_of(task: Task | None, columns: Columns, inputs: Any, ids: np.ndarray, train: np.ndarray, seed: int) -> Case:
    """What a table's network learns: a task, or, where there is none, to restore hidden values.

    Args:
        task: what is predicted.
        columns: of the table.
        inputs: of all rows, as `TableFeed` gives them.
        ids: (rows,) int64.
        train: places of the rows to learn from.
        seed: of what is hidden.
    """
    if task is None:
        return Restoration(columns).case(inputs, ids, train, seed)
    prior = task.prior(train)
    bias, expected = task.bias(prior, len(train)), task.entropy(train, prior)
    return Case(inputs, task.targets, ids, task.outputs, bias, task.loss(), expected)
