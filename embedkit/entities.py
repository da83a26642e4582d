"""Entities: a network that learns a vector for each value of a table's categories (Guo and Berkhahn 2016, arXiv:1604.06737).

Its encoder half puts the vectors of a row's values beside its other columns; a few dense layers above predict the target.
Values that training rows hardly had, and in training a share of all, are shown as "unknown", which so learns a vector too.

A network has seen its training rows' targets, so that their vectors tell more of them than those of new rows can. Training rows
are therefore split into folds by their ids, and each fold's vectors come from a network that saw the others only
(cross-fitting). As two networks' vectors may be turned against each other, those of a fold's network are turned, shifted and
scaled, all alike, onto those of the whole one's (Procrustes; Schönemann 1966). Arrays in, arrays out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from embedkit import checkpoints, engines, frameworks, metrics, splits
from embedkit.artifacts import Metric
from embedkit.batches import Rows, pick
from embedkit.crossfit import NONE
from embedkit.features import UNKNOWN, Columns
from embedkit.schedules import Share, Training, resolve
from embedkit.settings import Settings, UserError
from embedkit.training import Problem, Trainer, fit

Loss = Callable[[Any, Any], Any]
EPOCHS = 100
LOOKED_AT = 20_000
"""Training rows whose losses in fold are measured at most."""
STEPS, SIZES = 50, (32, 1024)
"""Steps in an epoch, where that leaves a batch of so many rows."""


class Network(Settings):
    """Shape of the network that learns the vectors."""

    hidden: tuple[PositiveInt, ...] = (256, 128)
    """Widths of the dense layers between the vectors and the prediction."""
    dropout: Share = 0.1
    """Share of the vectors' numbers, and of the first dense layer's, that are left out in training (Srivastava et al. 2014)."""
    unknown: Share = 0.05
    """Share of the values that are shown as unknown in training, so that the vector of unknown values learns what is usual."""


class TableTraining(Training):
    """How long and how fast a network of a table learns."""

    epochs: PositiveInt | None = None
    """Passes over the training rows at most, by default 100; early stopping usually ends the run sooner."""
    batch_size: PositiveInt | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Rows in one step; by default a fiftieth of the training rows, within 32 to 1,024."""
    learning_rate: PositiveFloat | Literal["auto"] | None = 0.003
    """Step size; `auto` takes what the range test suggests."""
    patience: PositiveInt | None = 5
    """Epochs without a gain before the run stops and the best weights are restored; none never stops early."""


def resolved(settings: TableTraining, rows: int) -> Training:
    """The settings with what their defaults come to for so many training rows."""
    size = settings.batch_size or int(np.clip(rows // STEPS, *SIZES))
    return resolve(Training.model_validate(settings.model_dump() | {"batch_size": size}), linear=False, epochs=EPOCHS)


@dataclass
class Case:
    """What a network learns: inputs and targets of all rows, and its loss.

    `inputs` are as `TableFeed` gives them, `targets` (rows, ...); `outputs` is the width of the last layer, `bias` what it starts
    from. `augment` changes training batches before values are shown as unknown, `expected` is the entropy of the labels.
    """

    inputs: Any
    targets: np.ndarray
    ids: np.ndarray
    outputs: int
    bias: np.ndarray
    loss: Loss
    expected: float | None = None
    augment: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None


class Entities:
    """A network with a vector for each value, that can be trained on different rows in turn.

    `encoder` maps what `TableFeed` gives to (rows, dimension), `model` to outputs. `tables` are the layers of the vocabularies.
    """

    def __init__(self, columns: Columns, case: Case, shape: Network, seed: int):
        import keras

        self.columns, self.case, self.seed = columns, case, seed
        frameworks.start_drawing(seed)
        self.encoder, self.tables = build(columns)
        x: Any = keras.layers.Dropout(shape.dropout, seed=seed, name="dropout")(self.encoder.output)
        for number, width in enumerate(shape.hidden):
            x = keras.layers.Dense(width, activation="relu", name=f"hidden_{number}")(x)
            x = x if number else keras.layers.Dropout(shape.dropout, seed=seed + 1, name=f"dropout_{number}")(x)
        bias: Any = keras.initializers.Constant(np.asarray(case.bias, np.float32).tolist())
        start: Any = keras.initializers.RandomUniform(-0.01, 0.01, seed=seed)  # so that it begins at the prior, nearly
        x = keras.layers.Dense(case.outputs, kernel_initializer=start, bias_initializer=bias, name="outputs")(x)
        self.model = keras.Model(self.encoder.input, x, name="entities")
        self.start = checkpoints.values(self.model.variables)
        self.generator = keras.random.SeedGenerator(seed)
        self.drawn = self.generator.state.numpy()
        self.augment = self._unknown(shape.unknown)

    def _unknown(self, share: float) -> Any:
        import keras
        from keras import ops

        def augment(inputs: Any, targets: Any) -> tuple[Any, Any]:
            if self.case.augment:
                inputs, targets = self.case.augment(inputs, targets, self.generator)
            if share:
                hidden = keras.random.uniform(ops.shape(inputs["values"]), seed=self.generator) < share
                inputs = {**inputs, "values": ops.where(hidden, UNKNOWN, inputs["values"])}
            return inputs, targets

        return augment if share or self.case.augment else None

    def problem(self, train: np.ndarray, validation: np.ndarray, inputs: Any = None) -> Problem:
        """What is to be learned.

        Args:
            train: places of rows to learn from.
            validation: places of rows that decide when to stop.
            inputs: of all rows, where they aren't the case's.
        """
        case, inputs = self.case, self.case.inputs if inputs is None else inputs

        def rows(places: np.ndarray) -> Rows:
            return Rows.of(pick(inputs, places), case.targets[places], case.ids[places])

        return Problem(
            self.model,
            case.loss,
            rows(train),
            rows(validation),
            augment=self.augment,
            state=[self.generator.state],
            expected=case.expected,
        )

    def weights(self) -> list[np.ndarray]:
        """The vectors of each vocabulary, (values, dimension) float32."""
        return [layer.get_weights()[0] for layer in self.tables]

    def losses(self, inputs: Any, targets: np.ndarray, at_once: int = 8192) -> np.ndarray:
        """The loss of each row at inference; (rows,) float64."""
        forward, found = self.forward(), []
        for start in range(0, len(targets), at_once):
            chosen = np.arange(start, min(start + at_once, len(targets)))
            found.append(np.asarray(self.case.loss(targets[chosen], forward(pick(inputs, chosen)))))
        return np.concatenate(found).astype(np.float64)

    def without_each(self, inputs: Any, targets: np.ndarray) -> np.ndarray:
        """The same with one embedded column after the other unknown; (embedded columns, rows)."""
        found = []
        for number in range(inputs["values"].shape[1]):
            values = inputs["values"].copy()
            values[:, number] = UNKNOWN
            found.append(self.losses(inputs | {"values": values}, targets))
        return np.stack(found)

    def forward(self) -> Callable[[Any], np.ndarray]:
        """From inputs to outputs, with whatever weights there are when it is called."""
        if not hasattr(self, "_forward"):
            self._forward = engines.forward(self.model)
        return self._forward


def build(columns: Columns) -> tuple[Any, list[Any]]:
    """The encoder half, untrained, and its vocabularies' layers."""
    import keras

    width = sum(len(column.outputs) for column in columns.plain)
    inputs: dict[str, Any] = {"numbers": keras.Input((width,), name="numbers")} if width else {}
    parts: list[Any] = list(inputs.values())                                                # (rows, width), near [-1, 1]
    values: Any = keras.Input((len(columns.embedded),), dtype="int32", name="values")       # (rows, embedded columns)
    inputs["values"] = values
    tables = [
        keras.layers.Embedding(known.size, known.dimension, name=f"vocabulary_{number}")
        for number, known in enumerate(columns.vocabularies)
    ]
    for number, column in enumerate(columns.embedded):
        parts.append(tables[column.vocabulary](values[:, number]))                          # (rows, its dimension)
    vector = keras.layers.Concatenate(name="columns")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(inputs, vector, name="encoder"), tables


def folds_of(ids: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row; (rows,) int64 to (rows,) int8.

    Not by content: in a table of few columns all rows of a value may be equal, and out of fold it would be unknown.

    Raises:
        UserError: when a fold is empty.
    """
    found = np.floor(splits.mix(ids, seed + 0x5EED) * folds).astype(np.int8)
    if len(np.unique(found)) < folds:
        raise UserError(f"{len(ids):,} training rows are too few for {folds} folds; give fewer folds, or more rows")
    return found


def thinned(columns: Columns, values: np.ndarray, train: np.ndarray, least_count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Places of values, those that these training rows have too seldom as unknown.

    Args:
        columns: which columns share a vocabulary.
        values: (rows, embedded columns) int32.
        train: places of the rows that count.
        least_count: how many of them a value needs.

    Returns:
        (rows, embedded columns) int32, and how often each place of each vocabulary came.
    """
    found, counts = values.copy(), []
    for number, known in enumerate(columns.vocabularies):
        mine = [at for at, column in enumerate(columns.embedded) if column.vocabulary == number]
        count = np.bincount(values[train][:, mine].ravel(), minlength=known.size)
        kept = np.where(count >= least_count, np.arange(known.size), UNKNOWN).astype(np.int32)
        found[:, mine] = kept[values[:, mine]]
        counts.append(count)
    return found, counts


@dataclass
class Fold:
    """What a network that didn't see a fold says of it.

    `tables` are its vectors in the whole network's space, one array a vocabulary, unknown values included; `losses` those of
    the fold's rows, `without` those with one column after the other unknown, (embedded columns, rows).
    """

    tables: list[np.ndarray]
    losses: np.ndarray
    without: np.ndarray


def learn_fold(
    network: Entities,
    trainer: Trainer,
    train: np.ndarray,
    held: np.ndarray,
    validation: np.ndarray,
    whole: list[np.ndarray],
    least_count: int,
    folder: Path | None,
) -> Fold:
    """Train the network anew without a fold's rows.

    Args:
        network: whose weights are then those of this run.
        trainer: of the network, with as many epochs as the whole network's best.
        train: places of the other folds' rows.
        held: places of the fold's.
        validation: places of the rows that decide when to stop.
        whole: the whole network's vectors, onto which the fold's are turned.
        least_count: training rows that a value needs for a vector of its own.
        folder: for checkpoints; None for a run that begins anew where it was interrupted.
    """
    case = network.case
    values, counts = thinned(network.columns, case.inputs["values"], train, least_count)
    inputs = case.inputs | {"values": values}
    trainer.restart(network.problem(train, validation, inputs), network.start)
    network.generator.state.assign(network.drawn)
    fit(trainer, network.seed, folder)
    tables = [turned(*each, least_count) for each in zip(network.weights(), whole, counts, strict=True)]
    theirs, targets = pick(inputs, held), case.targets[held]
    return Fold(tables, network.losses(theirs, targets), network.without_each(theirs, targets))


def turned(theirs: np.ndarray, whole: np.ndarray, counts: np.ndarray, least_count: int) -> np.ndarray:
    """A network's vectors in another's space: turned, scaled and shifted, all alike, as suits the values that both know.

    Args:
        theirs: (values, dimension), of the network whose vectors are turned.
        whole: (values, dimension), in whose space they are wanted.
        counts: (values,), rows from which theirs learned each.
        least_count: rows that a value needs; others get the vector of unknown ones.

    Returns:
        (values, dimension) float32.
    """
    known = np.flatnonzero((counts >= least_count) & (np.arange(len(counts)) != UNKNOWN))
    found = theirs.astype(np.float64)
    if len(known) > 1:
        weights = counts[known][:, None] / counts[known].sum()
        ours, others = found[known], whole[known].astype(np.float64)
        center, goal = (weights * ours).sum(axis=0), (weights * others).sum(axis=0)
        left, spread, right = np.linalg.svd((weights * (ours - center)).T @ (others - goal))
        size = float((weights * np.square(ours - center)).sum())
        scale = spread.sum() / size if size > 0 else 1.0
        found = scale * (found - center) @ left @ right + goal
    seldom = np.ones(len(counts), bool)
    seldom[known] = False
    seldom[UNKNOWN] = False
    found[seldom] = found[UNKNOWN]
    return found.astype(np.float32)


def again(settings: Training, best_epoch: int) -> Training:
    """The settings of a fold's network: as many epochs as the whole one's best."""
    return settings.model_copy(update={"epochs": max(1, best_epoch), "patience": None, "epochs_factor": 1})



def vectors_of(columns: Columns, inputs: Any, tables: list[np.ndarray]) -> np.ndarray:
    """What the encoder half gives for inputs, with these vectors; (rows, dimension) float32."""
    parts = [inputs["numbers"]] if "numbers" in inputs else []
    parts += [tables[column.vocabulary][inputs["values"][:, number]] for number, column in enumerate(columns.embedded)]
    return np.concatenate(parts, axis=1)


@dataclass
class CrossFitted:
    """A network that was trained in memory, and its folds.

    `fold` is that of each row, NONE beside the training rows; `whole` are the vectors of each vocabulary, by all of these.
    """

    network: Entities
    whole: list[np.ndarray]
    folds: list[Fold]
    fold: np.ndarray

    def vectors(self, inputs: Any, fold: np.ndarray | None = None) -> np.ndarray:
        """Vectors of rows, each by the network that didn't see it where its fold is given; (rows, dimension) float32."""
        found = vectors_of(self.network.columns, inputs, self.whole)
        for number, each in enumerate(self.folds if fold is not None else []):
            mine = np.flatnonzero(fold == number)
            found[mine] = vectors_of(self.network.columns, pick(inputs, mine), each.tables)
        return found

    def worth(self, train: np.ndarray) -> list[dict[str, Metric]]:
        """What the vectors of each embedded column save of the loss; see `worth`."""
        case = self.network.case
        some = looked_at(train)
        seen = pick(case.inputs, some), case.targets[some]
        order = np.concatenate([np.flatnonzero(self.fold[train] == number) for number in range(len(self.folds))])
        out_of_fold = np.concatenate([fold.losses for fold in self.folds]), np.concatenate([f.without for f in self.folds], axis=1)
        assert len(order) == len(out_of_fold[0])
        return worth(self.network.losses(*seen), self.network.without_each(*seen), *out_of_fold)


def cross_fitted(
    network: Entities,
    settings: Training,
    train: np.ndarray,
    validation: np.ndarray,
    folds: int,
    least_count: int,
) -> CrossFitted:
    """Train the whole network, then one for each fold, in memory.

    Args:
        network: untrained; it has the weights of the whole one afterwards.
        settings: resolved.
        train: places of the rows to learn from.
        validation: places of the rows that decide when to stop.
        folds: how many; 0 for none.
        least_count: training rows that a value needs for a vector of its own.
    """
    trainer = Trainer(network.problem(train, validation), settings)
    run = fit(trainer, network.seed, None)
    kept, whole = checkpoints.values(network.model.variables), network.weights()
    ids = network.case.ids
    fold = np.full(len(ids), NONE, np.int8)
    fold[train] = folds_of(ids[train], folds, network.seed) if folds else NONE
    trainer.settings = again(settings, run.best_epoch)
    made = []
    for number in range(folds):
        others, held = train[fold[train] != number], train[fold[train] == number]
        made.append(learn_fold(network, trainer, others, held, validation, whole, least_count, None))
    checkpoints.assign(network.model.variables, kept)
    return CrossFitted(network, whole, made, fold)


def looked_at(train: np.ndarray) -> np.ndarray:
    """The training rows whose losses in fold are measured: at even distances, since rows may be sorted by what is predicted."""
    return train[:: -(-len(train) // LOOKED_AT)]


def worth(
    seen: np.ndarray, seen_without: np.ndarray, unseen: np.ndarray, unseen_without: np.ndarray
) -> list[dict[str, Metric]]:
    """What the vectors of each embedded column save of the loss, of rows that they were learned from and of others.

    Args:
        seen: (rows,) losses of training rows.
        seen_without: (embedded columns, rows), the same with each column's values unknown.
        unseen: (others,) losses out of fold.
        unseen_without: (embedded columns, others).

    Returns:
        For each column `in_fold` and `out_of_fold`, paired by row.
    """
    pairs = zip(seen_without, unseen_without, strict=True)
    return [{"in_fold": metrics.mean(one - seen), "out_of_fold": metrics.mean(other - unseen)} for one, other in pairs]


def misleads(gains: dict[str, Metric]) -> bool:
    """Whether a column's vectors tell of the rows that they were learned from, but nothing of others."""
    sure = {name: gain.value > 2 * (gain.standard_error or 0) for name, gain in gains.items()}
    return sure["in_fold"] and not sure["out_of_fold"]
