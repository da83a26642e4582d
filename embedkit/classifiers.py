"""Classifiers: what every classifier artifact holds and says, however it learned. Decided, measured, written down.

`model.keras` maps vectors to probabilities or numbers, `classifier.json` says what else decides a prediction. Everything
fitted, the rule by which is decided included, comes from training and validation rows; every measure from test rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit import rebalancing
from embedkit.artifacts import Artifact, Metric
from embedkit.datasets import read_rows, with_near
from embedkit.encoders import save_model
from embedkit.leaks import record_fitted, with_lineage
from embedkit.learning import Learned
from embedkit.lessons import Lesson
from embedkit.review import write_review
from embedkit.settings import UserError
from embedkit.stages import Draft, Facts, write_json
from embedkit.tasks import MAIN

Predict = Callable[[np.ndarray], np.ndarray]
"""From places of rows in the dataset to predictions, as `Task.predict` gives them."""
WITHOUT_COPIES = "_without_copies"
"""How a measure is called that leaves out test rows which equal rows that were learned from."""


def labelled_rows(dataset: Artifact, advice: str) -> pa.Table:
    """The rows of a dataset with labels, and what is known of near copies.

    Raises:
        UserError: when it has none.
    """
    rows = read_rows(dataset)
    if "label" not in rows.column_names:
        raise UserError(f"{dataset} has no labels; load it again with a label_column, then {advice}")
    return with_near(dataset, rows)


def decided_by(lesson: Lesson) -> Any:
    """The measure by which is decided."""
    asked = lesson.settings.decide_by
    if lesson.task.kind == "class":
        return "balanced_accuracy" if asked == "auto" else asked
    return MAIN[lesson.task.kind]


def decision(lesson: Lesson, predicted: np.ndarray) -> np.ndarray | None:
    """Weights of the classes, or thresholds of the labels, that suit the validation rows; None for the likeliest class."""
    task, settings = lesson.task, lesson.settings
    truth = task.truth(lesson.validation)
    if task.kind == "classes":
        return None if settings.decide_by == "accuracy" else rebalancing.choose_thresholds(truth, predicted)
    if task.kind == "number" or (settings.decide_by == "auto" and not settings.rebalance):
        return None
    return rebalancing.choose_decision(truth, predicted, decided_by(lesson))


def measured_by(lesson: Lesson) -> Any:
    """The measure that a verdict is about."""
    settings = lesson.settings
    return MAIN[lesson.task.kind] if settings.decide_by == "auto" and not settings.rebalance else decided_by(lesson)


def measures(lesson: Lesson, predicted: np.ndarray) -> dict[str, Metric]:
    """The measures of what was predicted of the test rows, and where some are copies, the main ones without these."""
    task, test, copies = lesson.task, lesson.test, lesson.copies
    found = task.measure(test, predicted)
    if copies.count and copies.clean.any():
        clean = task.measure(test[copies.clean], predicted[copies.clean])
        names = dict.fromkeys((MAIN[task.kind], measured_by(lesson)))
        found |= {f"{name}{WITHOUT_COPIES}": clean[name] for name in names}
    return found


def save_classifier(
    out: Draft, lesson: Lesson, model: Any, encoder: str, learned: Learned, measured: np.ndarray, predicted: np.ndarray
) -> dict[str, Any]:
    """Write the model, what it needs and what it said of rows.

    Args:
        out: the draft.
        lesson: what was learned.
        model: from vectors to probabilities or numbers.
        encoder: identity of the encoder that makes the vectors.
        learned: the run.
        measured: (n,) places of the rows that were measured on.
        predicted: (n, ...) what was predicted of them.

    Returns:
        What the manifest says of it.
    """
    task = lesson.task
    save_model(model, out / "model.keras")
    table = {"id": lesson.ids[measured]} | task.table(measured, predicted)
    pq.write_table(pa.table(table), out / "predictions.parquet", compression="zstd")
    facts: dict[str, Any] = {"type": task.kind, "classes": task.classes, "encoder": encoder, "dimension": model.input.shape[1]}
    if task.decision is not None:
        facts["decision"] = task.decision.tolist()
    write_json(out / "classifier.json", facts)
    counts = {"train": len(lesson.train), "validation": len(lesson.validation), "test": len(lesson.test)}
    return facts | {"used": counts} | learned.details


def facts_of(
    out: Draft,
    dataset: Artifact,
    lesson: Lesson,
    rows: pa.Table,
    predict: Predict,
    predicted: np.ndarray,
    found: dict[str, Metric],
    learned: Learned,
    details: dict[str, Any],
    made_from: Sequence[Artifact],
) -> Facts:
    """What a stage says of a classifier: measures beside guessing, neutral rows, the rows it was fitted on, a verdict.

    Args:
        out: the draft.
        dataset: the dataset of the rows.
        lesson: what was learned.
        rows: all rows of the dataset.
        predict: the classifier.
        predicted: what it says of the test rows.
        found: its `measures` on them.
        learned: the run.
        details: what `save_classifier` returned.
        made_from: what else may have learned from rows.
    """
    task, test, copies = lesson.task, lesson.test, lesson.copies
    control = measures(lesson, task.guess(task.prior(lesson.train), len(test)))
    found = found | {f"guessing_{name}": value for name, value in control.items()}
    found |= _neutral(out, dataset, lesson, rows, predict, predicted)
    fitted = record_fitted(out, rows.take(np.sort(np.concatenate([lesson.train, lesson.validation]))))
    measure = measured_by(lesson)
    led = measure if copies.say_nothing or not copies.count else f"{measure}{WITHOUT_COPIES}"
    verdict = copies.verdict(_verdict(measure, found[led], control[led]), f"{measure} {found[measure]}")
    return Facts(
        rows=len(test),
        metrics=found,
        verdict=with_lineage(verdict, *made_from),
        notes=lesson.notes + learned.notes,
        details=details | {"fitted": fitted} | copies.details,
        timings=learned.timings,
    )


def _neutral(
    out: Draft, dataset: Artifact, lesson: Lesson, rows: pa.Table, predict: Predict, predicted: np.ndarray
) -> dict[str, Metric]:
    """Propose labels for neutral rows, and measure the test rows that are not neutral by themselves.

    Test rows get no proposal: labels that were decided with a proposal in sight would flatter whatever made it.
    """
    if "neutral" not in rows.column_names:
        return {}
    task, neutral = lesson.task, rows["neutral"].to_numpy()
    places = np.flatnonzero(neutral & (np.array(rows["split"].to_pylist()) != "test"))
    if len(places) and task.kind != "class":
        lesson.notes.append(f"labels were proposed for none of the {len(places):,} neutral rows: that takes one class a row")
    elif len(places):
        write_review(out, dataset, places, task.classes, predict(places))
    clear = ~neutral[lesson.test]
    if clear.all() or not clear.any():
        return {}
    measures = task.measure(lesson.test[clear], predicted[clear])
    return {f"clear_{name}": measures[name] for name in (MAIN[task.kind], "log_loss") if name in measures}


def _verdict(measure: str, ours: Metric, guess: Metric) -> str:
    gain = (guess.value - ours.value) if measure == "rmse" else (ours.value - guess.value)
    error = np.hypot(ours.standard_error or 0, guess.standard_error or 0)
    words = "better than" if gain > 2 * error else "worse than" if gain < -2 * error else "no better than"
    return f"{words} guessing from the training labels: {measure} {ours} against {guess}"
