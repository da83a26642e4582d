"""Lessons: what a head learns from. Which rows train, stop and test it, how rare classes are made to count, and the network.

A surrogate learns from all labelled rows and is measured on none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from embedkit import augmentation, rebalancing, splits
from embedkit.leaks import Copies
from embedkit.settings import Seeded, UserError
from embedkit.tasks import Task, task_of
from embedkit.training import Problem, Rows, Training

SURROGATE_HIDDEN = (256, 256)
HELD_OUT_SHARE = 0.1


class LearnLabels(Seeded):
    """What a classifier learns from labelled rows, whatever it is made of."""

    labels_per_class: PositiveInt | None = None
    """Use only so many training rows of each class, and as many for validation, drawn by hash; all by default."""
    rebalance: rebalancing.Chain = ()
    """What is done about rare classes: `weights`, `oversample`, `undersample`, `interpolate` (new vectors between neighbours, for
    heads only), or several of them; probabilities are corrected for it afterwards."""
    decide_by: Literal["auto", "accuracy", "balanced_accuracy", "macro_f1"] = "auto"
    """Which measure of the validation rows sets the weights by which a class is decided for; `auto` takes balanced accuracy
    after rebalancing and else the most probable class. Each of several labels gets the threshold of its best F1, or 0.5
    with `accuracy`."""
    neutral: Literal["leave_out", "learn"] = "leave_out"
    """Leave neutral rows out of training, or learn from them as from others; either way a review page proposes their labels."""
    mixup: NonNegativeFloat = 0.0
    """Mix training rows (vectors, or pictures) and their labels, shares drawn from Beta(mixup, mixup), 0.2 for instance; 0 mixes
    none."""
    training: Training = Training()
    """How long and how fast it learns."""


class TrainHead(LearnLabels):
    """How vectors become a classifier."""

    purpose: Literal["predict", "surrogate"] = "predict"
    """Predict rows that were never seen, or stand in for a simulation: a surrogate learns all rows to a target error."""
    target_error: PositiveFloat | None = None
    """Mean absolute error, in the label's unit, at which a surrogate is done; by default 2 % of the labels' standard deviation."""
    hidden: tuple[PositiveInt, ...] | None = None
    """Widths of hidden layers; by default none, which makes the head linear, and two of 256 for a surrogate."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units left out in a training step (Srivastava et al. 2014)."""
    swap_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a training vector's numbers that are replaced by other rows' in a step; for vectors of table columns."""
    seeds: PositiveInt = 1
    """How often the head is trained, from as many seeds; measures are then means with their spread, the first head is kept."""


@dataclass
class Lesson:
    """A classifier in the making: which rows train, stop and test it, and what it is to predict.

    `inputs` are the vectors of all rows, (rows, dimension); `hidden` the widths of a head's hidden layers; `copies` the test rows
    that equal rows which train or stop, or nearly.
    """

    settings: Any
    task: Task
    ids: np.ndarray
    inputs: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: list[str]
    hidden: tuple[int, ...] = ()
    copies: Copies = Copies()


def assign(dataset: str, rows: pa.Table, ids: np.ndarray, inputs: np.ndarray, settings: LearnLabels) -> Lesson:
    """What to predict, and which rows train, stop and test: (rows,) index arrays in row order."""
    labels, notes = rows["label"].combine_chunks(), []
    labelled = ~np.array(labels.is_null())
    split = np.array([splits.SPLITS.index(name) for name in rows["split"].to_pylist()])
    neutral = np.zeros(len(rows), bool)
    if "neutral" in rows.column_names and settings.neutral == "leave_out":
        neutral = rows["neutral"].to_numpy() & (split != 2)
    parts: list[Any] = [np.flatnonzero(labelled & ~neutral & (split == index)) for index in range(3)]
    for part, name in ((parts[0], "train"), (parts[2], "test")):
        if not len(part):
            left = " left beside the neutral ones" if (labelled & neutral & (split == 0)).any() and name == "train" else ""
            raise UserError(f"{dataset} has no labelled {name} rows{left}; label some, or load it again with another split")
    task = task_of(dataset, labels, labelled & ~neutral & (split == 0))
    if not len(parts[1]) and len(parts[0]) < 2:
        raise UserError(f"{dataset} has one labelled train row and no validation row; label more")
    if not len(parts[1]):
        held = splits.draw(ids[parts[0]], HELD_OUT_SHARE, 0, settings.seed) == 1
        held[0] |= not held.any()
        parts[:2] = [parts[0][~held], parts[0][held]]
        notes.append("no validation rows: a tenth of the training rows decided when to stop")
    counted = {"labels_per_class counts rows of a class": settings.labels_per_class, "mixup mixes classes": settings.mixup}
    for words, given in (counted | {"rebalance is for one class a row": settings.rebalance}).items():
        if given and task.kind != "class":
            raise UserError(f"{words}, but the labels of {dataset} are {task.kind}; leave it out")
    if settings.mixup and "weights" in settings.rebalance:
        raise UserError("mixed rows have no weight of their own; take oversample instead of weights beside mixup, or leave one out")
    if settings.decide_by not in (("auto",) if task.kind == "number" else ("auto", "accuracy")) and task.kind != "class":
        raise UserError(f"decide_by {settings.decide_by} is for classes, but the labels of {dataset} are {task.kind}; leave it out")
    if settings.labels_per_class is not None:
        parts[:2] = [_few(part, task.targets, ids, settings) for part in parts[:2]]
    if task.kind == "class" and len(np.unique(task.targets[parts[0]])) < 2:
        only = task.classes[task.targets[parts[0][0]]]
        raise UserError(f"all training rows of {dataset} have the label {only!r}; a classifier needs two classes at least")
    if neutral.any():
        notes.append(f"{int((neutral & (split < 2)).sum()):,} neutral rows were left out of training")
    copies = Copies.of(rows, parts[2], np.concatenate(parts[:2]))
    return Lesson(settings, task, ids, inputs, parts[0], parts[1], parts[2], notes, getattr(settings, "hidden", None) or (), copies)


def _few(part: np.ndarray, targets: np.ndarray, ids: np.ndarray, settings: LearnLabels) -> np.ndarray:
    """The first so many rows of each class by the hash of their ids."""
    order = part[np.argsort(splits.mix(ids[part], settings.seed), kind="stable")]
    return np.sort(order[splits.occurrences(targets[order]) < (settings.labels_per_class or 0)])


def assign_all(dataset: str, rows: pa.Table, ids: np.ndarray, inputs: np.ndarray, settings: TrainHead) -> Lesson:
    """All labelled rows to learn from, none to measure on."""
    labels = rows["label"].combine_chunks()
    labelled = ~np.array(labels.is_null())
    if not labelled.any():
        raise UserError(f"{dataset} has no labelled rows; label some")
    if not pa.types.is_floating(labels.type):
        raise UserError(f"a surrogate predicts numbers, but the labels of {dataset} are classes; load it with label_type number")
    for name in ("labels_per_class", "rebalance", "dropout", "mixup", "swap_noise"):
        if getattr(settings, name):
            raise UserError(f"{name} is not for surrogates, which learn every row as it is; leave it out")
    for name in ("decide_by", "seeds"):
        if getattr(settings, name) != type(settings).model_fields[name].default:
            raise UserError(f"{name} is not for surrogates, of which nothing is measured on other rows; leave it out")
    every, none = np.flatnonzero(labelled), np.empty(0, int)
    hidden = SURROGATE_HIDDEN if settings.hidden is None else settings.hidden
    return Lesson(settings, task_of(dataset, labels, labelled), ids, inputs, every, every, none, [], hidden)


@dataclass
class Balance:
    """How rare classes are made to count: `order` and `weights` of training rows, `held` the weights of validation rows.

    `seen` is the prior that is then learned from, `true` the one of the rows; both (outputs,).
    """

    seen: np.ndarray
    true: np.ndarray
    order: Callable[[int, int], np.ndarray] | None = None
    weights: np.ndarray | None = None
    held: np.ndarray | None = None

    def correct(self, outputs: Any) -> None:
        """Give the true prior back to the bias of an output layer."""
        if self.order is not None:
            outputs.bias.assign(rebalancing.corrected_bias(outputs.bias.numpy(), self.seen, self.true))


def balance(lesson: Lesson, targets: np.ndarray) -> Balance:
    """What the settings ask for rare classes; `targets` are those of the training rows, with new ones of `interpolate` behind."""
    task, chain, true = lesson.task, lesson.settings.rebalance, lesson.task.prior(lesson.train)
    if not chain:
        return Balance(true, true)
    counts = np.bincount(task.targets[lesson.train], minlength=task.outputs)
    goal, seen = rebalancing.targets(counts, chain), rebalancing.seen_prior(counts, chain)
    weights = rebalancing.weights(targets, goal) if "weights" in chain else None
    # Validation rows count as if their classes had the shares that are learned from, so that both losses mean the same.
    held = (np.where(true > 0, seen, 1) / np.where(true > 0, true, 1)).astype(np.float32)[task.targets[lesson.validation]]
    return Balance(seen, true, _drawn(targets, goal), weights, held)


def problem_of(lesson: Lesson, seed: int) -> tuple[Any, Any, Problem, Callable[[], None]]:
    """The head, the same up to its outputs before softmax or sigmoid, what it is to learn, and what mends its bias afterwards."""
    task, settings, train = lesson.task, lesson.settings, lesson.train
    inputs, targets, ids = lesson.inputs[train], task.targets[train], lesson.ids[train]
    if "interpolate" in settings.rebalance:
        counts = np.bincount(targets, minlength=task.outputs)
        more, labels = rebalancing.interpolate(inputs, targets, rebalancing.interpolated(counts, settings.rebalance), seed)
        inputs, targets = np.concatenate([inputs, more]), np.concatenate([targets, labels])
        ids = np.concatenate([ids, np.full(len(more), -1)])  # of rows that are none of the dataset's
    balanced = balance(lesson, targets)
    model, logits = build(task, lesson.inputs, train, lesson.hidden, settings.dropout, balanced.seen)
    validation = (array[lesson.validation] for array in (lesson.inputs, task.targets, lesson.ids))
    problem = Problem(
        logits,
        task.loss(),
        Rows.of(inputs, targets, ids, weights=balanced.weights, order=balanced.order),
        Rows.of(*validation, weights=balanced.held),
        scores=task.scores(lesson.validation),
        expected=task.entropy(train, balanced.seen) if not settings.rebalance else None,
        # Half of what a plane through the rows could fit exactly: rows of a table often share their values.
        separable=max(2, min(16, (1 + min([inputs.shape[1], *lesson.hidden])) // 2)),
    )
    _augment(problem, task, settings, seed)
    return model, logits, problem, lambda: balanced.correct(logits.get_layer("outputs"))


def _drawn(labels: np.ndarray, goal: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda seed, epoch: rebalancing.draw(labels, goal, seed, epoch)


def _augment(problem: Problem, task: Task, settings: TrainHead, seed: int) -> None:
    """Let the step mix or disturb training vectors, where that was asked for."""
    if not settings.mixup and not settings.swap_noise:
        return
    import keras

    generator = keras.random.SeedGenerator(seed)

    def augment(inputs: Any, targets: Any) -> tuple[Any, Any]:
        if settings.swap_noise:
            inputs = augmentation.swap_noise(inputs, settings.swap_noise, generator)
        if settings.mixup:
            return augmentation.mix_up(inputs, keras.ops.one_hot(targets, task.outputs), settings.mixup, generator)
        return inputs, targets

    problem.augment, problem.state = augment, [generator.state]


def build(
    task: Task, inputs: np.ndarray, train: np.ndarray, hidden: tuple[int, ...], dropout: float, prior: np.ndarray
) -> tuple[Any, Any]:
    """The head, and the same head up to the outputs before softmax or sigmoid; untrained, it predicts the prior."""
    import keras

    # One scale for all columns: their own would blow up directions that hardly vary, such as the last principal components.
    # A total variance of 1 also bounds the curvature of the loss, so that one learning rate suits every linear head.
    spread = float(np.sqrt(inputs[train].var(axis=0).sum())) or 1.0
    center = inputs[train].mean(axis=0)
    vectors = keras.Input((inputs.shape[1],), name="vectors")                                    # (rows, dimension)
    x = keras.layers.Rescaling(1 / spread, (-center / spread).tolist(), name="scaling")(vectors)  # mean 0, total variance 1
    for number, width in enumerate(hidden):
        x = keras.layers.Dense(width, activation="relu", name=f"hidden_{number}")(x)
        x = keras.layers.Dropout(dropout, name=f"dropout_{number}")(x)
    bias: Any = keras.initializers.Constant(task.bias(prior, len(train)).astype(np.float32).tolist())
    start = "glorot_uniform" if hidden else "zeros"  # the linear problem is convex: start at the prior
    outputs = keras.layers.Dense(task.outputs, kernel_initializer=start, bias_initializer=bias, name="outputs")(x)
    logits = keras.Model(vectors, outputs, name="logits")                                        # (rows, classes)
    if task.kind == "number":
        last: Callable[[Any], Any] = keras.layers.Rescaling(task.scale, task.location, name="in_units")
    else:
        last = keras.layers.Activation("softmax" if task.kind == "class" else "sigmoid", name="probabilities")
    return keras.Model(vectors, last(outputs), name="head"), logits
