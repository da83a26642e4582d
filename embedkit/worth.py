"""compare_categories: whether entity embeddings pay on a table, measured against what does without them.

Each seed draws anew which of the rows beside the test rows train and which stop, for all arms alike, and every arm predicts the
same test rows: those of the dataset's own split, and of a split by time or a shuffled one beside it. Whatever has learned vectors
gets those of its training rows out of fold. That they don't pay is a possible answer.
"""

import time
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from embedkit import categories, entities, rivals, splits
from embedkit.arms import Trial
from embedkit.artifacts import Artifact, Metric, Table
from embedkit.categories import Categories, fitted_columns
from embedkit.categories_page import write_report
from embedkit.classifiers import labelled_rows
from embedkit.comparison import predictions_of
from embedkit.datasets import given_away, read_contents
from embedkit.entities import CrossFitted, Entities, cross_fitted, resolved
from embedkit.leaks import Copies
from embedkit.lessons import TrainHead, assign
from embedkit.pipelines import TableFeed
from embedkit.preparation import stacked
from embedkit.restoration import case_of
from embedkit.rivals import Cells
from embedkit.roles import ASKED
from embedkit.settings import UserError, not_among
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.tasks import MAIN, Task, as_counts, task_of
from embedkit.trainer import decided
from embedkit.verdicts import Judge, beats, points, shown

NAMES = {"time": "by time", "group": "by group", "source": "given"}
"""What the dataset's own split is called, by how it was made; others are drawn by hash."""
HELD = 0.1
"""Share of the rows beside the test rows that stop a network, or choose a linear model's strength."""


class Way(NamedTuple):
    """A way of predicting from a table; `embeds` says whether it takes learned vectors."""

    title: str
    what: str
    embeds: bool


WAYS = {
    "guess": Way("guessing", "the shares of the labels, or their mean, for every row", False),
    "linear": Way("one-hot + linear", "every category a column of its own, or hashed, under a linear model", False),
    "target_linear": Way("target encoding + linear", "each category as its mean target, cross-fitted, under a linear model", False),
    "boosting": Way("gradient boosting", "scikit-learn's, its categories split as such", False),
    "target_boosting": Way("target encoding + boosting", "each category as its mean target, cross-fitted, in boosting", False),
    "network": Way("entity embeddings, network", "the network that learns the vectors", True),
    "embedded_linear": Way("entity embeddings + linear", "its vectors, out of fold, under a linear model", True),
    "embedded_boosting": Way("entity embeddings + boosting", "its vectors, out of fold, as columns of the same boosting", True),
}


class CompareCategories(Categories):
    """What is compared, and how vectors are learned for it."""

    seeds: PositiveInt = 5
    """How often each arm learns: each seed draws anew which rows train and which stop; test rows stay."""
    time_column: str | None = None
    """Column by whose latest values a split by time is made beside the dataset's own, which may be one by time itself."""
    rounds: PositiveInt = 300
    """Trees of gradient boosting at most; it stops earlier by a tenth of its rows."""
    folds: Annotated[int, Field(ge=2, le=20)] = 3
    """Parts of the training rows whose vectors come from networks that didn't see them."""


@stage("report", revision=1, name="{dataset}-categories", keras=True)
def compare_categories(out: Draft, dataset: Table, settings: CompareCategories = CompareCategories()) -> Facts:
    """Measure whether entity embeddings pay on a table, in a network, in gradient boosting and in a linear model.

    Args:
        dataset: a table with labels, of which no other artifact learned.
    """
    if settings.target == "none":
        raise UserError("target none predicts nothing that could be compared; leave it out")
    rows = labelled_rows(dataset.check(), "compare on that")
    bench = _Bench(dataset, rows, settings.model_copy(update={"training": decided(out, settings.training)}))
    found = []
    for name, (pool, test) in bench.splits.items():
        copies = Copies.of(rows, test, pool).beside(rows.take(test), dataset)
        found.append(_measured(out, bench, name, pool, test, copies, settings))
    columns = out.decide("columns", lambda: _worth(bench, settings))
    notes = bench.notes + _said_of(columns) + given_away(dataset, [one["name"] for one in columns if one["role"] == "left out"])
    results = {
        "title": dataset.manifest.name,
        "dataset": str(dataset),
        "measure": MAIN[bench.kind],
        "task": bench.kind,
        "seeds": settings.seeds,
        "splits": found,
        "columns": columns,
        "verdict": verdict(found, bench.task),
        "notes": notes,
        "settings": settings.model_dump(mode="json"),
        "decisions": {},
        "lineage": [[str(dataset), "dataset"]],
    }
    write_json(out / "results.json", results)
    write_report(out, results)
    return _facts(results)


class _Bench:
    """What all arms share: rows, labels and splits."""

    def __init__(self, dataset: Artifact, rows: pa.Table, settings: CompareCategories):
        self.dataset, self.settings = dataset, settings
        self.ids, self.content = rows["id"].to_numpy(), rows["content"].to_numpy()
        self.labels = rows["label"].combine_chunks()
        own = assign(str(dataset), rows, self.ids, np.empty((len(rows), 0)), TrainHead(seed=settings.seed))
        self.contents = read_contents(dataset, 0, len(rows))
        self.kind, self.notes = own.task.kind, list(own.notes)
        self.used = np.sort(np.concatenate([own.train, own.validation, own.test]))
        self.splits = self._splits(own)
        self.task = self.task_of(np.concatenate([own.train, own.validation]))
        self.kept: tuple[Any, CrossFitted, Cells] | None = None

    def task_of(self, train: np.ndarray) -> Task:
        """What is predicted, with the scale of these rows."""
        known = np.zeros(len(self.ids), bool)
        known[train] = True
        task = task_of(str(self.dataset), self.labels, known)
        return as_counts(task, str(self.dataset), train) if self.settings.target == "count" else task

    def _splits(self, own: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The rows beside the test rows and the test rows, by the split's name."""
        pool, column = np.sort(np.concatenate([own.train, own.validation])), self.settings.time_column
        made = str(self.dataset.manifest.settings.get("split"))
        share = len(own.test) / len(self.used)
        found = {NAMES.get(made, "shuffled"): (pool, own.test)}
        if made == "time" and column is not None:
            raise UserError(f"{self.dataset} is split by time already; leave time_column {column} out, which would count nothing")
        if made == "time":
            drawn = splits.draw(self.content[self.used], 0.0, share, self.settings.seed)
            found = {"shuffled": self._cut(drawn)} | found
        elif column is not None:
            if column not in self.contents.column_names:
                raise not_among("time column", column, self.contents.column_names)
            values = self.contents[column].take(self.used)
            if values.null_count or not (pa.types.is_timestamp(values.type) or pa.types.is_primitive(values.type)):
                came = f"column {column!r} holds {values.type} and {values.null_count:,} gaps"
                raise UserError(f"{came}; a split by time needs a number or a moment in every row")
            drawn = splits.draw_by_time(values.to_numpy(), 0.0, share)
            found["by time"] = self._cut(splits.straddling(self.content[self.used], drawn)[1])
        return found

    def _cut(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.used[drawn == 0], self.used[drawn == 2]

    def learned(self, task: Task, key: Any, pool: np.ndarray, seed: int) -> tuple[CrossFitted, Any, Cells]:
        """The network of a split and seed, with its folds; kept until another is asked for."""
        settings = self.settings
        if self.kept is None or self.kept[0] != key:
            self.kept = None
            train, held = self.drawn(pool, seed)
            columns, _ = fitted_columns(str(self.dataset), self.contents.take(train), settings, task, train)
            inputs = stacked([batch for _, batch in TableFeed(columns).batches(self.contents)])
            case = case_of(task, columns, inputs, self.ids, train, seed)
            network = Entities(columns, case, settings.network, seed)
            training = resolved(settings.training, len(train))
            made = cross_fitted(network, training, train, held, settings.folds, settings.least_count)
            self.kept = key, made, Cells.of(columns, self.contents)
        return self.kept[1], self.kept[1].network.case.inputs, self.kept[2]

    def drawn(self, pool: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows train and which stop; equal rows on one side."""
        held = splits.mix(self.content[pool], seed + 1) < HELD
        return pool[~held], pool[held]


def _measured(
    out: Draft, bench: _Bench, split: str, pool: np.ndarray, test: np.ndarray, copies: Copies, settings: CompareCategories
) -> dict[str, Any]:
    """The scores of all arms on one split, each beside the best that doesn't embed."""
    task, trials = bench.task_of(pool), {name: [] for name in WAYS if not (bench.kind == "classes" and name.startswith("target"))}
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in trials:

            def write(path: Any, name: str = name, seed: int = seed) -> dict[str, Any]:
                start = time.monotonic()
                predicted = _predicted(bench, task, split, name, pool, test, seed, settings)
                took = time.monotonic() - start
                pq.write_table(pa.table({"id": bench.ids[test]} | task.table(test, predicted)), path, compression="zstd")
                return {"seconds": took}

            part = f"predictions/{split.replace(' ', '_')}-{seed}-{name}.parquet"
            seconds[name].append(out.part(part, write)["seconds"])
            trials[name].append(Trial(predictions_of(task, pq.read_table(out / part)), 0.0, 0.0, 0))
    judge = Judge(task, test[copies.leading])
    whole = Judge(task, test) if copies.count else judge
    parts = {name: whole.parts(found)[:, copies.leading] for name, found in trials.items()}
    sign = judge.sign
    best = {
        embeds: max((name for name in parts if WAYS[name].embeds == embeds), key=lambda name: sign * judge.each(parts[name]).mean())
        for embeds in (True, False)
    }
    arms = []
    for name, way in WAYS.items():
        if name in parts:
            arm = {"name": name, "title": way.title, "what": way.what, "embeds": way.embeds} | judge.score(parts[name])
            arm |= {"seconds": float(np.mean(seconds[name]))}
            against = best[not way.embeds] if way.embeds else best[True]
            arms.append(arm | {"difference": judge.difference(parts[name], parts[against]), "against": against})
    gain = judge.difference(parts[best[True]], parts[best[False]])
    pairs = sum(way.embeds for name, way in WAYS.items() if name in parts)
    return {
        "name": split,
        "rows": {"train and validation": len(pool), "test": len(judge.test)},
        "arms": arms,
        "best": best[True],
        "best_control": best[False],
        "gain": gain,
        "pays": not copies.say_nothing and beats(gain, pairs),
        "harms": not copies.say_nothing and beats({"value": -gain["value"], "error": gain["error"]}, pairs),
        **({"copies": 0} | copies.details),
        "of": len(test),
    }


def _predicted(
    bench: _Bench, task: Task, split: str, name: str, pool: np.ndarray, test: np.ndarray, seed: int, settings: CompareCategories
) -> np.ndarray:
    """What one arm says of the test rows."""
    train, held = bench.drawn(pool, seed)
    if name == "guess":
        return task.guess(task.prior(pool), len(test))
    if WAYS[name].embeds:
        made, inputs, cells = bench.learned(task, (split, seed), pool, seed)
        if name == "network":
            return task.predict(made.network.forward()(entities.pick(inputs, test)))
        vectors = made.vectors(inputs, made.fold)
        if name == "embedded_linear":
            return rivals.linear(task, vectors, train, held, test, seed)
        columns = made.network.columns
        learned = vectors[:, sum(len(column.outputs) for column in columns.plain) :]
        return rivals.boosted(task, cells.without(columns), pool, test, seed, settings.rounds, learned)
    columns, _ = fitted_columns(str(bench.dataset), bench.contents.take(train), settings, task, train)
    cells = Cells.of(columns, bench.contents)
    if name == "boosting":
        return rivals.boosted(task, cells, pool, test, seed, settings.rounds)
    if name == "target_boosting":
        return rivals.target_boosted(task, cells, pool, test, seed, settings.rounds)
    if name == "linear":
        return rivals.linear(task, rivals.one_hot(cells, train), train, held, test, seed)
    encoded = rivals.target_encoded(task, cells, train, seed)
    return rivals.linear(task, np.concatenate([cells.scaled, encoded], axis=1), train, held, test, seed)


def _worth(bench: _Bench, settings: CompareCategories) -> list[dict[str, Any]]:
    """What was made of each column, and what its vectors save of the loss in fold and out of fold; of the first split and seed."""
    split, (pool, _) = next(iter(bench.splits.items()))
    train, _ = bench.drawn(pool, settings.seed)
    _, found = fitted_columns(str(bench.dataset), bench.contents.take(train), settings, bench.task_of(pool), train)
    made, _, _ = bench.learned(bench.task_of(pool), (split, settings.seed), pool, settings.seed)
    said = [one.model_dump(exclude_none=True) for one in found]
    for column, gain in zip(made.network.columns.embedded, made.worth(train), strict=True):
        one = next(each for each in said if each["name"] == column.name)
        one |= {name: {"value": each.value, "error": each.standard_error or 0.0} for name, each in gain.items()}
    return said


def _said_of(columns: list[dict[str, Any]]) -> list[str]:
    """What should be said of columns that tell nothing of new rows."""
    notes = []
    for one in columns:
        if one["role"] == "left out" and one["reason"] != ASKED:
            notes.append(f"{one['name']!r} is left out: {one['reason']}")
        elif "out_of_fold" in one:
            names = ("in_fold", "out_of_fold")
            gain = {name: Metric(value=one[name]["value"], n=1, standard_error=one[name]["error"]) for name in names}
            if entities.misleads(gain):
                notes.append(categories.misleading(one["name"], gain))
            elif one["out_of_fold"]["value"] <= 2 * one["out_of_fold"]["error"]:
                never = f"; none of its {one['values']:,} values recurs often enough for a vector of its own"
                seldom = "" if one["kept"] else never
                saved = f"its vectors lower the loss by {_shown(one['out_of_fold'])}"
                notes.append(f"{one['name']!r} brings no gain out of fold: {saved}{seldom}")
    return notes


def _shown(found: dict[str, float]) -> str:
    return f"{found['value']:.3g} ± {found['error']:.2g}"


def verdict(found: list[dict[str, Any]], task: Task) -> str:
    """Whether entity embeddings pay, in words, with the reason for each split."""
    pays = [one["pays"] for one in found]
    if all(_copies(one).say_nothing for one in found):
        opening = "Nothing can be said of entity embeddings here."
    elif all(pays):
        opening = "Use entity embeddings here."
    elif any(pays):
        opening = f"Entity embeddings pay on the {', '.join(one['name'] for one in found if one['pays'])} split only."
    else:
        opening = "Do not use entity embeddings here."
    return " ".join([opening, *(_reason(one, task) for one in found)])


def _copies(one: dict[str, Any]) -> Copies:
    places = np.arange(one.get("of", 0))
    return Copies(places < one.get("copies", 0), places < one.get("near_copies", 0))


def _reason(one: dict[str, Any], task: Task) -> str:
    arms = {arm["name"]: arm for arm in one["arms"]}
    ours, control, gain = arms[one["best"]], arms[one["best_control"]], one["gain"]
    measure = MAIN[task.kind].replace("_", " ")
    size = points(task, abs(gain["value"]), gain["error"])
    words = f"{size} better than" if one["pays"] else f"{size} worse than" if one["harms"] else f"no better than (apart by {size})"
    copies = _copies(one)
    if copies.say_nothing:
        said = copies.verdict(".")
        return f"On the {one['name']} split {said[0].lower()}{said[1:]}"
    return copies.verdict(
        f"On the {one['name']} split the best with them, {ours['title']}, has {measure} {shown(task, ours['value'])}, {words} the "
        f"best without, {control['title']} ({shown(task, control['value'])})."
    )


def _facts(results: dict[str, Any]) -> Facts:
    measured, timings = {}, {}
    for one in results["splits"]:
        prefix = one["name"].replace(" ", "_")
        for arm in one["arms"]:
            spread = float(np.std(arm["each"], ddof=1)) if len(arm["each"]) > 1 else 0.0
            measured[f"{prefix}_{arm['name']}_{results['measure']}"] = Metric(
                value=arm["value"], n=one["rows"]["test"], standard_error=arm["rows_error"], spread=spread, seeds=len(arm["each"])
            )
            timings[f"{prefix}_{arm['name']}_seconds"] = round(arm["seconds"], 3)
    kept = ("best", "best_control", "gain", "pays", "harms")
    details = {one["name"]: {key: one[key] for key in kept} for one in results["splits"]}
    return Facts(
        rows=results["splits"][0]["rows"]["test"],
        metrics=measured,
        verdict=results["verdict"],
        notes=results["notes"],
        details={"splits": details, "columns": results["columns"]},
        timings=timings,
    )
