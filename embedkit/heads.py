"""train_head: vectors become a classifier (or a regressor), the encoder stays as it is.

The kind of label decides the head: softmax for one class, a sigmoid per label for several, a line for numbers. Everything
fitted (scaling of the vectors, weights, when to stop, how to decide) comes from training and validation rows; every measure
comes from test rows, beside what guessing from the training labels gives. A surrogate of a simulation is the exception: it
learns from all rows, and what it says of them is called fitted, not measured.
"""

from collections.abc import Callable

import numpy as np

from embedkit import engines, frameworks, metrics
from embedkit.artifacts import Artifact, Metric, Vectors
from embedkit.classifiers import decision, facts_of, labelled_rows, measures, save_classifier
from embedkit.datasets import fetch, given_away, read_rows, with_near
from embedkit.leaks import record_fitted
from embedkit.learning import Learned, learn
from embedkit.lessons import Lesson, TrainHead, assign, assign_all, problem_of
from embedkit.settings import UserError
from embedkit.stages import Draft, Facts, stage
from embedkit.training import Trainer, fit, resolve
from embedkit.vectors import identity_of, read_vectors

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
    rows = labelled_rows(dataset, "embed it and train on that")
    ids, inputs = read_vectors(vectors)
    there = np.isin(rows["id"].to_numpy(), ids)  # others were not asked for, or couldn't be embedded
    if gone := sorted(set(rows["split"].to_pylist()) - set(rows["split"].filter(there).to_pylist())):
        raise UserError(f"{vectors} hold no {' and no '.join(gone)} rows of {dataset}; embed these too (`where` and `limit`)")
    rows = rows.filter(there)
    if not np.array_equal(ids, rows["id"].to_numpy()):
        raise UserError(f"{vectors} hold rows that {dataset} has not, or in another order; embed it again")
    if settings.purpose == "surrogate":
        return _surrogate(out, vectors, dataset, assign_all(str(dataset), rows, ids, inputs, settings))
    if settings.target_error is not None:
        raise UserError("target_error is for surrogates; set purpose to surrogate, or leave it out")
    lesson = assign(str(dataset), rows, ids, inputs, settings)
    lesson.copies = lesson.copies.beside(rows.take(lesson.test), vectors)
    lesson.notes += given_away(dataset)
    task, test = lesson.task, lesson.test

    training = resolve(settings.training, linear=not lesson.hidden, epochs=EPOCHS)
    model, logits, problem, correct = problem_of(lesson, settings.seed)
    learned = learn(out, problem, training, settings.seed)
    correct()
    forward = engines.forward(logits)

    def predict(places: np.ndarray) -> np.ndarray:
        return task.predict(run(forward, inputs[places]))

    task.decision = decision(lesson, predict(lesson.validation))
    predicted = predict(test)
    runs = [measures(lesson, predicted)]
    details = save_classifier(out, lesson, model, identity_of(vectors), learned, test, predicted)
    runs += [_again(out, lesson, learned, settings.seed + number) for number in range(1, settings.seeds)]
    found = {name: over_seeds([run[name] for run in runs]) for name in runs[0]}
    return facts_of(out, dataset, lesson, rows, predict, predicted, found, learned, details, [vectors])


def run(forward: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, at_once: int = 4096) -> np.ndarray:
    """What a network makes of many rows, piece by piece."""
    return np.concatenate([forward(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once)])


def _again(out: Draft, lesson: Lesson, learned: Learned, seed: int) -> dict[str, Metric]:
    """The measures of the same head trained from another seed."""
    frameworks.start_keras(seed)
    _, logits, problem, correct = problem_of(lesson, seed)
    fit(Trainer(problem, learned.training), seed, out.work / f"checkpoints-{seed}")
    correct()
    forward, kept = engines.forward(logits), lesson.task.decision
    try:
        lesson.task.decision = decision(lesson, lesson.task.predict(run(forward, lesson.inputs[lesson.validation])))
        return measures(lesson, lesson.task.predict(run(forward, lesson.inputs[lesson.test])))
    finally:
        lesson.task.decision = kept


def over_seeds(found: list[Metric]) -> Metric:
    """The mean of a measure over seeds; its standard error over rows stays beside its spread over seeds."""
    if len(found) == 1:
        return found[0]
    values, errors = [one.value for one in found], [one.standard_error or 0.0 for one in found]
    spread = {"spread": float(np.std(values, ddof=1)), "seeds": len(found)}
    return Metric(value=float(np.mean(values)), n=found[0].n, standard_error=float(np.mean(errors)), **spread)


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
    predicted = task.predict(run(engines.forward(logits), lesson.inputs[rows]))
    facts = save_classifier(out, lesson, model, identity_of(vectors), learned, rows, predicted)
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
        | {"fitted": record_fitted(out, with_near(dataset, read_rows(dataset)).take(rows))},
        timings=learned.timings,
    )
