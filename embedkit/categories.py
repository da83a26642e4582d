"""learn_categories: the values of a table's categories become vectors, beside its scaled numbers.

An encoder of a table holds, beside what every encoder holds, `values/00-COLUMN.parquet` and on (each value of an embedded column
with its count in the training rows and its vector), `maps.png`, and the vectors of each fold of the training rows (`crossfit`).
Whether the vectors pay is what `compare_categories` measures; here stands how much more they tell of the rows they were learned
from than of others, column by column.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, PositiveInt

from embedkit import checkpoints, codes, entities, maps, metrics
from embedkit.artifacts import Artifact, Metric, Table
from embedkit.crossfit import NONE, file_of
from embedkit.datasets import given_away, read_contents, read_rows, with_near
from embedkit.encoders import facts_of_table, save_encoder, seal_folds
from embedkit.entities import Entities, Network, TableTraining, resolved
from embedkit.features import MISSING, Columns, as_texts
from embedkit.index import unit_length
from embedkit.leaks import Copies, record_fitted
from embedkit.learning import Learned, learn
from embedkit.lessons import TrainHead, assign
from embedkit.pipelines import TableFeed
from embedkit.preparation import stacked
from embedkit.restoration import case_of
from embedkit.roles import ONE_HOT, Found, RoleText, find, left_out
from embedkit.settings import Seeded, Settings, UserError, not_among
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.tasks import MAIN, Task, as_counts
from embedkit.training import Trainer


class Categories(Seeded):
    """How vectors of categories are learned."""

    target: Literal["auto", "count", "none"] = "auto"
    """What is learned: the labels as they are, or hidden values of the rows themselves where there are none (`auto`); labels that
    are counts, by the logarithm of their mean (`count`); or hidden values although there are labels (`none`)."""
    roles: tuple[RoleText, ...] = ()
    """What is made of a column, as NAME=ROLE with `embedding`, `embedding:SIZE`, `one-hot`, `number`, `date`, `date:FORMAT` or
    `leave-out`; NAME may be a pattern such as `*_id`. Found from the training rows by default."""
    shared: tuple[str, ...] = ()
    """Columns that have one vocabulary and its vectors together, joined by commas, such as `home,away`."""
    least_count: PositiveInt = 3
    """Training rows that a value needs for a vector of its own; rarer ones share that of unknown values."""
    one_hot: PositiveInt = ONE_HOT
    """Values of a column of words up to which it is one-hot instead of embedded."""
    folds: Annotated[int, Field(ge=0, le=20)] = 5
    """Parts of the training rows whose vectors come from networks that didn't see them; with 0 there are none, and later models
    are fooled."""
    network: Network = Network()
    """Shape of the network."""
    training: TableTraining = TableTraining()
    """How long and how fast it learns."""


class LearnCategories(Categories):
    """How vectors of categories are learned from a dataset."""


@stage("encoder", revision=1, name="{dataset}-categories", keras=True)
def learn_categories(out: Draft, dataset: Table, settings: LearnCategories = LearnCategories()) -> Facts:
    """Learn a vector for each value of a table's categories; the encoder puts them beside its scaled numbers.

    Args:
        dataset: a table, labelled or not.
    """
    if settings.folds == 1:
        raise UserError("one fold leaves no other rows to learn from; give folds two at least, or 0 for none")
    rows = with_near(dataset, read_rows(dataset))
    lesson = _lesson(dataset, rows, settings)
    contents = read_contents(dataset, 0, len(rows))
    columns, found = fitted_columns(str(dataset), contents.take(lesson.train), settings, lesson.task, lesson.train)
    inputs = stacked([batch for _, batch in TableFeed(columns).batches(contents)])
    case = case_of(lesson.task, columns, inputs, lesson.ids, lesson.train, settings.seed)
    network = Entities(columns, case, settings.network, settings.seed)
    training = resolved(settings.training, len(lesson.train))
    learned = learn(out, network.problem(lesson.train, lesson.validation), training, settings.seed)
    facts = facts_of_table(columns, "categories")
    details = save_encoder(out, network.encoder, facts, columns.model_dump_json(indent=1) + "\n")
    measured, verdict = _measured(dataset, rows, lesson, network)
    counts = _write_values(out, columns, contents.take(lesson.train), network.weights())
    maps.draw(columns, network.weights(), counts, out / "maps.png")
    said = [one.model_dump(exclude_none=True) for one in found]
    notes = lesson.notes + learned.notes + given_away(dataset, [one.name for one in found if one.role == "left out"])
    notes += [f"left out: {reasons}"] if (reasons := left_out(found)) else []
    fold = np.full(len(rows), NONE, np.int8)
    if settings.folds and lesson.task is not None:
        fold[lesson.train] = entities.folds_of(lesson.ids[lesson.train], settings.folds, settings.seed)
        gap, gains = _cross_fit(out, network, learned, lesson, fold, settings)
        measured |= gap
        for column, gain in zip(columns.embedded, gains, strict=True):
            one = next(each for each in said if each["name"] == column.name)
            one |= {name: {"value": each.value, "standard_error": each.standard_error} for name, each in gain.items()}
            if entities.misleads(gain):
                notes.append(misleading(column.name, gain))
    fitted = np.sort(np.concatenate([lesson.train, lesson.validation]))
    details |= {"fitted": record_fitted(out, rows.take(fitted), fold[fitted] if (fold != NONE).any() else None)}
    if (fold != NONE).any():
        details |= seal_folds(out)
    write_json(out / "columns_found.json", said)
    return Facts(
        rows=len(fitted),
        metrics=measured,
        verdict=verdict,
        notes=notes,
        details=details | learned.details | {"target": lesson.kind, "columns": said},
        timings=learned.timings,
    )


@dataclass
class Given:
    """Which rows of a table learn, stop and test, and what is learned; no task where hidden values are restored."""

    task: Task | None
    kind: str
    ids: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: list[str]


def _lesson(dataset: Artifact, rows: pa.Table, settings: Categories) -> Given:
    ids = rows["id"].to_numpy()
    if settings.target != "none" and "label" in rows.column_names:
        given = assign(str(dataset), rows, ids, np.empty((len(rows), 0)), TrainHead(seed=settings.seed))
        task = as_counts(given.task, str(dataset), given.train) if settings.target == "count" else given.task
        kind = "count" if settings.target == "count" else given.task.kind
        return Given(task, kind, ids, given.train, given.validation, given.test, given.notes)
    if settings.target == "count":
        raise UserError(f"{dataset} has no labels that could be counts; load it with a label_column, or leave target out")
    split = np.array(rows["split"].to_pylist())
    train, validation, test = (np.flatnonzero(split == name) for name in ("train", "validation", "test"))
    if len(train) < 2 or not len(validation):
        raise UserError(f"{dataset} has {len(train)} training and {len(validation)} validation rows; load it with some of both")
    return Given(None, "none", ids, train, validation, test, [])


def fitted_columns(
    dataset: str, table: pa.Table, settings: Categories, task: Task | None, train: np.ndarray
) -> tuple[Columns, list[Found]]:
    """The columns by their training rows.

    Args:
        dataset: what it is called.
        table: the training rows.
        settings: what is said of columns.
        task: what is to be predicted, if anything.
        train: (training rows,) their places in the dataset.

    Raises:
        UserError: when none is embedded.
    """
    targets = task and codes.as_columns(task.targets[train], len(task.classes))
    columns, found = find(table, settings.roles, settings.shared, settings.least_count, settings.one_hot, targets)
    if not columns.embedded:
        reasons = ", ".join(f"{one.name!r} is {one.role} ({one.reason})" for one in found)
        raise UserError(
            f"no column of {dataset} has many values that recur, so there is nothing to learn vectors of: {reasons}; name one with "
            "roles, such as --roles NAME=embedding, or take make-control"
        )
    return columns, found


def _measured(dataset: Artifact, rows: pa.Table, lesson: Given, network: Entities) -> tuple[dict[str, Metric], str | None]:
    """Measures on the test rows beside guessing, and what they say."""
    test, case, task = lesson.test, network.case, lesson.task
    if not len(test):
        return {}, None
    copies = Copies.of(rows, test, np.concatenate([lesson.train, lesson.validation])).beside(rows.take(test), dataset)
    test = test[copies.leading]
    inputs = entities.pick(case.inputs, test)
    if task is None:
        ours = network.losses(inputs, case.targets[test])
        guess = np.asarray(case.loss(case.targets[test], np.broadcast_to(case.bias.astype(np.float32), (len(test), case.outputs))))
        gain = metrics.mean(guess - ours)
        found = {"restoring_loss": metrics.mean(ours), "guessing_restoring_loss": metrics.mean(guess)}
        words = "better than" if gain.value > 2 * (gain.standard_error or 0) else "no better than"
        words = f"restores hidden values {words} guessing by their shares"
        words = f"{words}: loss {found['restoring_loss']} against {found['guessing_restoring_loss']}"
        return found, copies.verdict(words)
    predicted = task.predict(network.forward()(inputs))
    found = task.measure(test, predicted)
    control = task.measure(test, task.guess(task.prior(lesson.train), len(test)))
    measure = MAIN[task.kind]
    return found | {f"guessing_{name}": value for name, value in control.items()}, copies.verdict(
        f"the network that learned the vectors has {measure} {found[measure]} on test rows, guessing {control[measure]}; whether "
        f"the vectors pay is what `embedkit compare-categories {dataset}` measures"
    )


def _cross_fit(
    out: Draft, network: Entities, learned: Learned, lesson: Given, fold: np.ndarray, settings: Categories
) -> tuple[dict[str, Metric], list[dict[str, Metric]]]:
    """Write the vectors of each fold; returns the gap between rows in fold and out of fold, and each column's worth.

    The network has the weights of the last fold afterwards.
    """
    case, train, whole = network.case, lesson.train, network.weights()
    some = entities.looked_at(train)
    seen = entities.pick(case.inputs, some), case.targets[some]
    in_fold = network.losses(*seen), network.without_each(*seen)
    trainer: Trainer | None = None
    losses, without = [], []
    for number in range(settings.folds):
        others, held = train[fold[train] != number], train[fold[train] == number]
        path, name = out.work / f"fold-{number}.npz", file_of(number)
        if out.finished(name, path) is None:
            if trainer is None:
                again = entities.again(learned.training, learned.run.best_epoch)
                trainer = Trainer(network.problem(others, lesson.validation), again)
            more = (settings.least_count, out.work / f"fold-{number}")
            made = entities.learn_fold(network, trainer, others, held, lesson.validation, whole, *more)
            checkpoints.save_arrays(path, losses=made.losses, without=made.without)
            tables = {layer.name: table for layer, table in zip(network.tables, made.tables, strict=True)}
            out.part(name, lambda path, tables=tables: checkpoints.save_arrays(path, **tables), path)
        with np.load(path, allow_pickle=False) as stored:
            losses.append(stored["losses"])
            without.append(stored["without"])
    unseen = np.concatenate(losses)
    gap = float(unseen.mean() - in_fold[0].mean())
    errors = [metrics.mean(each).standard_error or 0.0 for each in (unseen, in_fold[0])]
    found = {
        "in_fold_loss": metrics.mean(in_fold[0]),
        "out_of_fold_loss": metrics.mean(unseen),
        "gap": Metric(value=gap, n=len(unseen), standard_error=float(np.hypot(errors[0], errors[1]))),
    }
    return found, entities.worth(*in_fold, unseen, np.concatenate(without, axis=1))


def misleading(column: str, gain: dict[str, Metric]) -> str:
    """What to say of a column whose vectors tell of their own rows only."""
    seen, unseen = (f"{gain[name].value:.3g} ± {gain[name].standard_error or 0:.2g}" for name in ("in_fold", "out_of_fold"))
    return (
        f"the vectors of {column!r} lower the loss of rows that they were learned from by {seen}, but out of fold by {unseen}: "
        f"they fit their own rows and tell next to nothing of new ones; try without it: --roles {column}=leave-out"
    )


def _write_values(out: Draft, columns: Columns, train: pa.Table, tables: list[np.ndarray]) -> list[np.ndarray]:
    """Write each embedded column's values with their counts and vectors; returns the counts by place in the vocabulary."""
    found = []
    for number, column in enumerate(columns.embedded):
        known, table = columns.vocabulary(column), tables[column.vocabulary]
        counts = np.bincount(known.places(as_texts(train[column.name])), minlength=known.size)
        kinds = ["unknown", "missing"] + ["value"] * len(known.values)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), known.dimension)
        lines = pa.table({"value": [None, None, *known.values], "kind": kinds, "count": counts, "vector": vectors})
        lines = lines if known.missing else lines.filter(np.arange(known.size) != MISSING)
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", column.name)[:60]
        pq.write_table(lines, out / f"values/{number:02d}-{safe}.parquet", compression="zstd")
        found.append(counts)
    return found


class Near(BaseModel):
    """A value that lies near: how often training rows had it, and its cosine."""

    value: str
    score: float
    count: int


class Neighbours(Settings):
    """How an encoder's values are asked."""

    k: PositiveInt = 10
    """How many neighbours to give."""


def neighbours(
    encoder: Artifact | str, column: str, value: Any, settings: Neighbours = Neighbours(), root: Path | str | None = None
) -> list[Near]:
    """The values of a column whose vectors are nearest to that of one, by cosine after their mean was taken off.

    Args:
        encoder: an encoder that `learn_categories` made.
        column: an embedded column of it.
        value: one of its values.
        settings: how many.
        root: where artifacts lie, for references.

    Raises:
        UserError: when there is no such column or value.
    """
    artifact = Artifact.open(encoder, root).check()
    if not (artifact / "columns.json").is_file():
        raise UserError(f"{artifact} is no encoder of a table; give one that `embedkit learn-categories` made")
    columns = Columns.model_validate_json((artifact / "columns.json").read_text(encoding="utf-8"))
    numbers = {one.name: f"{number:02d}-*.parquet" for number, one in enumerate(columns.embedded)}
    paths = {name: path for name, pattern in numbers.items() for path in (artifact / "values").glob(pattern)}
    if column not in paths:  # one that the encoder was cut before has no vectors there
        raise not_among("embedded column", column, paths)
    path = paths[column]
    table = pq.read_table(path)
    values, counts = table["value"].to_pylist(), table["count"].to_numpy()
    text = as_texts(pa.chunked_array([pa.array([value])]))[0].as_py()
    known = np.array([kind == "value" for kind in table["kind"].to_pylist()])
    if text not in values:
        frequent = sorted((one for one, is_value in zip(values, known, strict=True) if is_value), key=str)
        raise not_among(f"value of {column!r}", str(text), frequent, hint="rarer ones have no vector of their own")
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    place = values.index(text)
    unit = unit_length(vectors - np.average(vectors[known], axis=0, weights=np.maximum(counts[known], 1)))
    scores = np.where(known & (np.arange(len(values)) != place), unit @ unit[place], -np.inf)
    order = np.argsort(-scores, kind="stable")[: min(settings.k, int(known.sum()) - 1)]
    return [Near(value=values[at], score=float(scores[at]), count=int(counts[at])) for at in order]


def __getattr__(name: str) -> Any:
    if name == "EntityEmbedding":  # not before it is asked for, since scikit-learn takes a second to load
        from embedkit.estimator import EntityEmbedding

        return EntityEmbedding
    raise AttributeError(f"module 'embedkit.categories' has no attribute {name!r}")
