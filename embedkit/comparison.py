"""compare: which way of using an encoder is worth its cost, measured on the same rows, splits and seeds.

Test rows are the dataset's own. Which of the other labelled rows train and which stop is drawn anew for each seed, stratified
by class, alike for all arms; a smaller label budget is a part of a larger one. `against` is the same question for
classifiers that are there already: rows are paired, so that what is hard for all of them cancels out of the difference.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveFloat, PositiveInt

from embedkit import adaptation, layers, metrics, progress, splits, verdicts
from embedkit.arms import RECIPES, Bench, Name, Trial, described, score, try_out, windows
from embedkit.artifacts import Artifact, Dataset, EncoderArtifact, Metric
from embedkit.batches import training_stream
from embedkit.classifiers import WITHOUT_COPIES, labelled_rows
from embedkit.datasets import given_away
from embedkit.embedding import called
from embedkit.encoders import Encoder, encoder_folder
from embedkit.findings import judged
from embedkit.leaks import with_lineage
from embedkit.lessons import HELD_OUT_SHARE, Balance, Lesson, TrainHead, assign
from embedkit.pages import write_report
from embedkit.preparation import Prepared
from embedkit.settings import Seeded, UserError
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.tasks import MAIN, Task
from embedkit.trainer import decided
from embedkit.tuning import FineTune, Tuner
from embedkit.verdicts import ALL

log = logging.getLogger(__name__)
CLEAR = 2.0
"""A difference of less than so many standard errors is none."""
MOST_OF_ALL = 0.8
"""Share of the labels above which a budget says nothing that all labels don't."""
HELD = (0.1, 0.3)
"""Bounds of the share of labelled rows that stop training."""
SHARED = ("seed", "labels_per_class", "rebalance", "decide_by")
DECIDED = {
    "head": (*SHARED, "purpose", "target_error", "hidden", "seeds"),
    "fine_tune": (*SHARED, "neutral", "recipe", "frozen"),
}
"""Settings of the groups that a comparison has no use for."""
TIMED_SECONDS, TIMED_STEPS = 6.0, 12


class Compare(Seeded):
    """What is compared, and how much time it may take."""

    arms: tuple[Name, ...] = ()
    """Which ways of getting a classifier: `guess`, `raw` (TF-IDF, principal components of pixels, or columns, under a linear
    model), `random` (a random encoder), `knn`, `linear` and `mlp` on frozen vectors, `scratch`, `adapter`, `full` and `lp_ft`;
    all by default. Guessing is always among them."""
    budgets: tuple[Annotated[int, Field(ge=2)], ...] = (10, 30, 100, 300)
    """Labels per class of the curve, at least one of them for validation, beside all labels; for several labels or numbers, ten
    times so many rows. Budgets of more than four fifths of the labels are left out."""
    seeds: PositiveInt = 3
    """How often each arm learns: each seed draws anew which rows train and which stop, for all arms alike; test rows stay."""
    minutes: PositiveFloat = 4.0
    """Time that the arms that move the network may take in all, about; how many rows a run is shown for that is measured once
    and recorded."""
    rows_a_run: PositiveInt | None = None
    """Rows that a run of a moving network is shown, each as often as it comes, instead of what fits `minutes`."""
    predictions: PositiveInt = 10_000
    """Rows to predict that count to the cost of an arm, beside its training."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Cosine of the encoder's vectors from which on the page counts a test text or picture as one that looks like a training row.
    That decides nothing: copies and near copies, which the verdict leaves out, are found in the rows themselves."""
    layers: tuple[str, ...] = ()
    """Layers of the encoder to look at as well, by name, or `auto` for all at which it can be cut; each with each pooling."""
    head: TrainHead = TrainHead()
    """How heads on frozen vectors learn, but for what the arms, seeds and budgets decide."""
    fine_tune: FineTune = FineTune()
    """How arms that move the network learn, but for what the arms, seeds and budgets decide."""


@stage("report", revision=1, name=called, keras=True)
def compare(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Compare = Compare()) -> Facts:
    """Measure which way of using an encoder is worth its cost: frozen, fine-tuned, from scratch, or not at all.

    Args:
        dataset: images, texts or a table, with labels.
        encoder: an encoder for that kind of rows.
    """
    encoder_folder(encoder)
    modality, kind = encoder.detail("modality", str), dataset.manifest.kind
    if modality != kind:
        raise UserError(f"{encoder} takes {modality}, but {dataset} holds {kind}; give it an encoder for {kind}")
    _refuse_decided(settings)
    rows = labelled_rows(dataset.check(), "compare on that")
    whole = assign(str(dataset), rows, rows["id"].to_numpy(), np.empty((len(rows), 0)), settings.head)
    whole.copies = whole.copies.beside(rows.take(whole.test), encoder, dataset)
    whole.notes += given_away(dataset)
    bench = _bench(out, dataset, encoder, whole, settings)
    lessons = _lessons(whole, rows["content"].to_numpy(), settings)
    arms = _wanted(bench, settings)
    out.decide("plan", lambda: _plan(bench, lessons, arms, settings))
    bench.rows_a_run = out.decisions["plan"]["rows_a_run"]
    trials = _trials(out, bench, lessons, arms, settings)
    found = judged(bench, whole, lessons, trials, arms, settings)
    if settings.layers:
        pool = np.concatenate([whole.train, whole.validation])
        more = (bench.vectors, settings.layers, settings.seed, out.work, str(encoder))
        found["layers"] = layers.sweep(bench.prepared, bench.loaded, bench.task, pool, *more)
    found |= {
        "title": f"{dataset.manifest.name} with {encoder.manifest.name}",
        "dataset": str(dataset),
        "encoder": str(encoder),
        "settings": settings.model_dump(mode="json"),
        "decisions": out.decisions["plan"],
        "lineage": [[str(each), role] for role, each in (("dataset", dataset), ("encoder", encoder))],
    }
    write_json(out / "results.json", found)
    write_report(out, found)
    return _facts(found, whole)


def _refuse_decided(settings: Compare) -> None:
    """Stop when a group of settings asks for what the comparison decides itself."""
    for group, names in DECIDED.items():
        given = getattr(settings, group)
        for name in names:
            if getattr(given, name) != type(given).model_fields[name].default:
                raise UserError(f"{group}.{name} is decided by the arms, seeds and budgets of a comparison; leave it out")


def _bench(out: Draft, dataset: Artifact, encoder: Artifact, whole: Lesson, settings: Compare) -> Bench:
    loaded = Encoder.open(encoder)
    places = np.sort(np.concatenate([whole.train, whole.validation, whole.test]))
    prepared = Prepared(dataset, loaded.feed, places, out.work)
    tune = settings.fine_tune.model_copy(update={"seed": settings.seed, "training": decided(out, settings.fine_tune.training)})
    head = settings.head.model_copy(update={"training": decided(out, settings.head.training)})
    task = replace(whole.task, decision=None)
    return Bench(out.work, dataset, encoder, loaded, prepared, task, head, tune, places)


def _lessons(whole: Lesson, content: np.ndarray, settings: Compare) -> dict[tuple[str, int], Lesson]:
    """Which rows train and stop at each budget and seed; the smallest budget first, all labels last."""
    pool = np.sort(np.concatenate([whole.train, whole.validation]))
    task, share = whole.task, len(whole.validation) / len(pool) or HELD_OUT_SHARE
    share = float(np.clip(share, *HELD))
    strata = task.targets[pool] if task.kind == "class" else np.zeros(len(pool), int)
    unit = 1 if task.kind == "class" else 10
    found: dict[tuple[str, int], Lesson] = {}
    for budget in (*sorted(set(settings.budgets)), None):
        for seed in range(settings.seed, settings.seed + settings.seeds):
            order = np.argsort(splits.mix(content[pool], seed), kind="stable")
            rank = splits.occurrences(strata[order])
            sizes = np.bincount(strata)[strata[order]]
            chosen = np.ones(len(pool), bool) if budget is None else rank < budget * unit
            if budget is not None and chosen.sum() > MOST_OF_ALL * len(pool):
                break
            held = np.minimum(sizes, len(pool) if budget is None else budget * unit)
            stops = rank < np.where(held > 1, np.maximum(1, np.round(share * held)), 0)
            rows = pool[order]
            lesson = replace(whole, train=np.sort(rows[chosen & ~stops]), validation=rows[chosen & stops])
            found[ALL if budget is None else str(budget), seed] = lesson
    return found


def _wanted(bench: Bench, settings: Compare) -> dict[str, str | None]:
    """The arms, and of those that can't be why.

    Raises:
        UserError: when the settings ask for what this encoder doesn't have.
    """
    names = [name for name in described(bench.dataset.manifest.kind) if name in ("guess", *settings.arms) or not settings.arms]
    found: dict[str, str | None] = dict.fromkeys(names)
    if reason := adaptation.unmovable(bench.loaded.model):
        return {name: reason if name in RECIPES or name == "random" else None for name in names}
    if "adapter" in found and not adaptation.adaptable(bench.loaded.model):
        found["adapter"] = "no layer of this encoder takes an adapter"
    if (first := _first(found)) is not None:
        bench.tuner(first)  # refuses settings that don't fit now, not after minutes
    return found


def _first(arms: dict[str, str | None]) -> str | None:
    """The arm that moves the network and stands for the others."""
    return next((name for name in ("lp_ft", "full", "adapter", "scratch") if arms.get(name, "") is None), None)


def _runs(lessons: dict[tuple[str, int], Lesson], arms: dict[str, str | None]) -> Iterator[tuple[str, str, int]]:
    """Arm, budget and seed of each trial; of the arms that move the network only LP-FT has a curve, since each takes minutes."""
    for arm, reason in arms.items():
        for budget, seed in lessons:
            if reason is None and (budget == ALL or arm not in RECIPES or arm == "lp_ft"):
                yield arm, budget, seed


def _plan(bench: Bench, lessons: dict[tuple[str, int], Lesson], arms: dict[str, str | None], settings: Compare) -> dict[str, Any]:
    """How many rows a run of a moving network is shown, so that all of them take the minutes that were asked for."""
    moving = [(arm, budget, seed) for arm, budget, seed in _runs(lessons, arms) if arm in RECIPES]
    if settings.rows_a_run or not moving:
        return {"rows_a_run": settings.rows_a_run or 0, "runs": len(moving)}
    arm = _first(arms)
    assert arm is not None
    lesson = lessons[ALL, settings.seed]
    vectors = bench.vectors
    bench.tuners.pop(arm, None)
    start = time.monotonic()
    per_row, steps = _seconds_per_row(bench, bench.tuner(arm), replace(lesson, inputs=vectors), settings)
    fixed = time.monotonic() - start - steps  # building and tracing, which each of the arms does once
    wanted = []
    for arm, budget, seed in moving:
        tune = bench.tune.model_copy(update={"recipe": RECIPES[arm]})
        rows = len(lessons[budget, seed].train)
        training, size = windows(tune, rows, 2**62)
        wanted.append((training.epochs or 1) * size)
    seconds = settings.minutes * 60 - fixed * len({arm for arm, _, _ in moving})
    left = seconds / per_row - len(moving) * len(lesson.test) / 3  # predicting takes a third of a step
    low, high = 1, max(wanted)
    while low < high:  # the most rows a run whose sum still fits; a third more for the looks at validation rows
        middle = (low + high + 1) // 2
        low, high = (middle, high) if 1.33 * sum(min(one, middle) for one in wanted) <= left else (low, middle - 1)
    least = 5 * bench.tune.training.batch_size
    return {"rows_a_run": max(low, least), "runs": len(moving), "wanted": max(wanted), "seconds_a_row": round(per_row, 6)}


def _seconds_per_row(bench: Bench, tuner: Tuner, lesson: Lesson, settings: Compare) -> tuple[float, float]:
    """What a step of a moving network takes, by row, and what the steps took that were timed for it."""
    prior = bench.task.prior(lesson.train)
    balanced = Balance(prior, prior)
    tuner.begin(lesson, balanced, settings.seed)
    training, size = windows(tuner.settings, len(lesson.train), 2**62)
    order = bench.prepared.order(lesson.train, size, training.batch_size)
    problem = tuner.problem(lesson, bench.prepared, balanced, order)
    trainer = tuner.ready(problem, training)
    seconds, rows = 0.0, 0
    with trainer.untouched():
        batches = training_stream(problem.train, trainer.specs, training.batch_size, settings.seed, 0, TIMED_STEPS + 1)
        for number, batch in enumerate(batches):
            start = time.monotonic()
            trainer.step(batch, 0.0)[0].numpy()
            if number:  # the first is traced
                seconds, rows = seconds + time.monotonic() - start, rows + len(batch.chosen)
            if seconds > TIMED_SECONDS:
                break
    return seconds / rows, seconds


def _trials(
    out: Draft, bench: Bench, lessons: dict[tuple[str, int], Lesson], arms: dict[str, str | None], settings: Compare
) -> dict[tuple[str, str], list[Trial]]:
    """All trials by arm and budget, a seed after the other; those that were finished before are read."""
    found: dict[tuple[str, str], list[Trial]] = {}
    runs = list(_runs(lessons, arms))
    with progress.bar(len(runs), "trials") as advance:
        for place, (arm, budget, seed) in enumerate(runs):
            lesson, name = lessons[budget, seed], f"predictions/{arm}-{budget}-{seed}.parquet"

            def write(path: Any, arm: str = arm, lesson: Lesson = lesson, seed: int = seed) -> dict[str, Any]:
                trial = try_out(bench, arm, lesson, seed)
                table = {"id": lesson.ids[lesson.test]} | bench.task.table(lesson.test, trial.predicted)
                pq.write_table(pa.table(table), path, compression="zstd")
                return {
                    "seconds": trial.seconds,
                    "per_row": trial.per_row,
                    "bytes": trial.bytes,
                    "peak": trial.peak,
                    "rows_seen": trial.rows_seen,
                }

            facts = out.part(name, write)
            predicted = predictions_of(bench.task, pq.read_table(out / name))
            found.setdefault((arm, budget), []).append(Trial(predicted, **facts))
            advance(1)
            if place + 1 == len(runs) or runs[place + 1][0] != arm:
                bench.tuners.pop(arm, None)  # its weights and optimizer would stay in memory
                scores = [abs(score(bench.task, lesson.test, trial.predicted)) for trial in found[arm, budget]]
                log.info("%s: %s %s", arm, MAIN[bench.task.kind], verdicts.shown(bench.task, float(np.mean(scores))))
    return found


def predictions_of(task: Task, table: pa.Table) -> np.ndarray:
    """Predictions as they are in a file; so that a resumed call sees the same numbers."""
    if task.kind == "number":
        return table["predicted"].to_numpy()
    return np.stack(table["probabilities"].to_numpy(zero_copy_only=False)).astype(np.float64)


def _facts(found: dict[str, Any], whole: Lesson) -> Facts:
    """What the manifest says: each arm's score with all labels, the rest in `results.json`."""
    measured, timings = {}, {}
    for arm in found["arms"]:
        if arm["skipped"] is None:
            last = arm["scores"][ALL]
            spread = float(np.std(last["each"], ddof=1)) if len(last["each"]) > 1 else 0.0
            measured[f"{arm['name']}_{found['measure']}"] = Metric(
                value=last["value"], n=len(whole.test), standard_error=last["rows_error"], spread=spread, seeds=len(last["each"])
            )
            if "without_copies" in arm:
                clean, rows = arm["without_copies"], len(whole.test) - whole.copies.count
                name = f"{arm['name']}_{found['measure']}{WITHOUT_COPIES}"
                measured[name] = Metric(value=clean["value"], n=rows, standard_error=clean["rows_error"])
            timings |= {f"{arm['name']}_seconds_to_train": round(arm["seconds_to_train"], 3)}
            timings |= {f"{arm['name']}_seconds_per_1000": round(arm["seconds_per_1000"], 4)}
    details = {key: found[key] for key in ("recommended", "best", "command", "duplicates")}
    details["curve"] = {
        arm["name"]: {budget: score["value"] for budget, score in arm["scores"].items()}
        for arm in found["arms"]
        if arm["skipped"] is None
    }
    if found["layers"]:
        details["layers"] = {key: found["layers"][key] for key in ("winner", "nested", "command")}
    return Facts(
        rows=len(whole.test), metrics=measured, verdict=found["verdict"], notes=found["notes"], details=details, timings=timings
    )


def against(ours: Artifact, controls: list[Artifact]) -> str:
    """A verdict on a classifier beside its controls, as one sentence.

    Args:
        ours: a classifier of one class a row.
        controls: classifiers measured on the same test rows.

    Raises:
        UserError: when they were measured on different rows.
    """
    gains = {control: gain(ours, control) for control in controls}
    best = min(gains, key=lambda control: gains[control].value)
    difference = gains[best]
    size = difference.value / (difference.standard_error or np.inf)
    words = "better than" if size > CLEAR else "worse than" if size < -CLEAR else "no better and no worse than"
    return with_lineage(
        f"{ours.manifest.name} is {words} its best control, {best.manifest.name}: accuracy {100 * difference.value:+.1f} "
        f"± {100 * (difference.standard_error or 0):.1f} points on the same {difference.n:,} test rows",
        ours,
        *controls,
    )


def gain(ours: Artifact, control: Artifact) -> Metric:
    """Accuracy of one classifier minus that of another, paired by row."""
    left, right = (pq.read_table(one.check() / "predictions.parquet") for one in (ours, control))
    if left["id"] != right["id"]:
        raise UserError(f"{ours} and {control} were measured on different rows; train both on vectors of one dataset")
    hits = [table["label"].to_numpy() == table["predicted"].to_numpy() for table in (left, right)]
    return metrics.mean(hits[0].astype(float) - hits[1].astype(float))
