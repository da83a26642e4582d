"""train_head: vectors become a classifier (or a regressor), the encoder stays as it is.

The kind of label decides the head: softmax for one class, a sigmoid per label for several, a line for numbers. Everything
fitted (scaling of the vectors, weights, when to stop, how to decide) comes from training and validation rows; every measure
comes from test rows, beside what guessing from the training labels gives. A surrogate of a simulation is the exception: it
learns from all rows, and what it says of them is called fitted, not measured.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit import engines, metrics, rebalancing
from embedkit.artifacts import Artifact, Metric, Vectors
from embedkit.datasets import fetch, read_rows
from embedkit.embedding import read_vectors
from embedkit.encoders import save_model
from embedkit.leaks import record_fitted, refuse_leaks
from embedkit.learning import Learned, learn
from embedkit.lessons import Lesson, TrainHead, assign, problem_of
from embedkit.review import write_review
from embedkit.settings import UserError
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.tasks import MAIN
from embedkit.training import Trainer, fit, resolve

EPOCHS = 1000
SURROGATE_EPOCHS = 2000
SURROGATE_ERROR = 0.02
"""Of the labels' standard deviation: the error a surrogate is trained to where none was asked for."""


@stage("classifier", revision=2, keras=True, name="{vectors}")
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
    assert np.array_equal(ids, rows["id"].to_numpy())
    lesson = assign(str(dataset), rows, ids, inputs, settings)
    if settings.purpose == "surrogate":
        return _surrogate(out, vectors, dataset, lesson)
    refuse_leaks(vectors, rows.take(lesson.test))
    task, test = lesson.task, lesson.test

    training = resolve(settings.training, linear=not lesson.hidden, epochs=EPOCHS)
    model, logits, problem, correct = problem_of(lesson, settings.seed)
    learned = learn(out, problem, training, settings.seed)
    correct()
    predict = engines.forward(logits)
    task.decision = _decision(lesson, task.predict(_run(predict, inputs[lesson.validation])))
    predicted = task.predict(_run(predict, inputs[test]))
    control = task.measure(test, task.guess(task.prior(lesson.train), len(test)))
    runs = [task.measure(test, predicted)]
    facts = _save(out, vectors, lesson, model, learned, test, predicted)
    runs += [_again(out, lesson, learned, settings.seed + number) for number in range(1, settings.seeds)]
    found = {name: _over_seeds([run[name] for run in runs]) for name in runs[0]}
    found |= {f"guessing_{name}": value for name, value in control.items()}
    found |= _neutral(out, dataset, lesson, rows, predict, predicted)
    fitted = record_fitted(out, rows.take(np.sort(np.concatenate([lesson.train, lesson.validation]))))
    measure = MAIN[task.kind] if settings.decide_by == "auto" and not settings.rebalance else _decided_by(lesson)
    return Facts(
        rows=len(test),
        metrics=found,
        verdict=_verdict(measure, found[measure], control[measure]),
        notes=lesson.notes + learned.notes,
        details=facts | {"fitted": fitted},
        timings=learned.timings,
    )


def _run(predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, at_once: int = 4096) -> np.ndarray:
    return np.concatenate([predict(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once)])


def _decided_by(lesson: Lesson) -> Any:
    asked = lesson.settings.decide_by
    if lesson.task.kind == "class":
        return "balanced_accuracy" if asked == "auto" else asked
    return MAIN[lesson.task.kind]


def _decision(lesson: Lesson, predicted: np.ndarray) -> np.ndarray | None:
    """Weights of the classes, or thresholds of the labels, that suit the validation rows; None for the likeliest class."""
    task, settings = lesson.task, lesson.settings
    truth = task.truth(lesson.validation)
    if task.kind == "classes":
        return None if settings.decide_by == "accuracy" else rebalancing.choose_thresholds(truth, predicted)
    if task.kind == "number" or (settings.decide_by == "auto" and not settings.rebalance):
        return None
    return rebalancing.choose_decision(truth, predicted, _decided_by(lesson))


def _save(
    out: Draft, vectors: Artifact, lesson: Lesson, model: Any, learned: Learned, measured: np.ndarray, predicted: np.ndarray
) -> dict[str, Any]:
    """Write the model, what it needs and what it said of rows; returns what the manifest says of it."""
    task = lesson.task
    save_model(model, out / "model.keras")
    table = {"id": lesson.ids[measured]} | task.table(measured, predicted)
    pq.write_table(pa.table(table), out / "predictions.parquet", compression="zstd")
    encoder = vectors.manifest.details["encoder"]
    facts: dict[str, Any] = {"type": task.kind, "classes": task.classes, "encoder": encoder, "dimension": lesson.inputs.shape[1]}
    if task.decision is not None:
        facts["decision"] = task.decision.tolist()
    write_json(out / "classifier.json", facts)
    counts = {"train": len(lesson.train), "validation": len(lesson.validation), "test": len(lesson.test)}
    return facts | {"used": counts} | learned.details


def _again(out: Draft, lesson: Lesson, learned: Learned, seed: int) -> dict[str, Metric]:
    """The measures of the same head trained from another seed."""
    engines.start_keras(seed)
    _, logits, problem, correct = problem_of(lesson, seed)
    fit(Trainer(problem, learned.training), seed, out.work / f"checkpoints-{seed}")
    correct()
    predict, kept = engines.forward(logits), lesson.task.decision
    try:
        lesson.task.decision = _decision(lesson, lesson.task.predict(_run(predict, lesson.inputs[lesson.validation])))
        return lesson.task.measure(lesson.test, lesson.task.predict(_run(predict, lesson.inputs[lesson.test])))
    finally:
        lesson.task.decision = kept


def _over_seeds(found: list[Metric]) -> Metric:
    """The mean of a measure over seeds; its standard error over rows stays beside its spread over seeds."""
    if len(found) == 1:
        return found[0]
    values, errors = [one.value for one in found], [one.standard_error or 0.0 for one in found]
    spread = {"spread": float(np.std(values, ddof=1)), "seeds": len(found)}
    return Metric(value=float(np.mean(values)), n=found[0].n, standard_error=float(np.mean(errors)), **spread)


def _neutral(
    out: Draft, dataset: Artifact, lesson: Lesson, rows: pa.Table, predict: Callable[..., np.ndarray], predicted: np.ndarray
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
        write_review(out, dataset, places, task.classes, task.predict(_run(predict, lesson.inputs[places])))
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


def _surrogate(out: Draft, vectors: Artifact, dataset: Artifact, lesson: Lesson) -> Facts:
    """Learn every row to a target error; what is said of the rows is fitted, not measured."""
    task, settings, rows = lesson.task, lesson.settings, lesson.train
    target = settings.target_error or SURROGATE_ERROR * task.scale
    asked = settings.training
    asked = asked.model_copy(
        update={"monitor": "mae", "patience": None, "schedule": "cosine" if asked.schedule == "auto" else asked.schedule}
    )
    training = resolve(asked, linear=not lesson.hidden, epochs=SURROGATE_EPOCHS)
    model, logits, problem, _ = problem_of(lesson, settings.seed)
    problem.target, problem.measured_on = target, "fitted"
    learned = learn(out, problem, training, settings.seed)
    predicted = task.predict(_run(engines.forward(logits), lesson.inputs[rows]))
    facts = _save(out, vectors, lesson, model, learned, rows, predicted)
    error = np.abs(predicted - task.truth(rows))
    mean, worst = metrics.mean(error), int(error.argmax())
    place = int(lesson.ids[rows[worst]])
    content = (fetch(dataset, [place])[0] or {}) if dataset.manifest.kind == "table" else {}
    truth = task.truth(rows)
    where = {"id": place, "error": float(error[worst]), "label": float(truth[worst]), "predicted": float(predicted[worst])}
    reached = mean.value <= target
    words = "reached" if reached else f"missed by {mean.value - target:.3g}"
    guess = metrics.mean(np.abs(task.guess(task.prior(rows), len(rows)) - task.truth(rows)))
    return Facts(
        rows=len(rows),
        metrics={
            "fitted_mae": mean,
            "fitted_worst_error": Metric(value=float(error.max()), n=len(rows)),
            "guessing_fitted_mae": guess,
        },
        verdict=f"the target error {target:.3g} on the rows it learned was {words}: mean {mean.value:.3g}, worst "
        f"{error.max():.3g} at row {place}; of rows it has not learned this says nothing",
        notes=lesson.notes + learned.notes,
        details=facts
        | {"target_error": target, "target_reached": reached, "worst": where | {"columns": content}}
        | {"fitted": record_fitted(out, read_rows(dataset).take(rows))},
        timings=learned.timings,
    )
