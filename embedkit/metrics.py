"""Measures of predictions: numpy in, numbers out, each with its standard error.

Where a measure is a mean over rows, its standard error is that of a mean; elsewhere it is the spread over a seeded
bootstrap of the rows (Efron 1979). Probabilities are (rows, classes) float, rows summing to 1 unless several labels.
"""

from collections.abc import Callable

import numpy as np

from embedkit.artifacts import Metric

LEAST_PROBABILITY = 1e-7
RESAMPLES = 200
BINS = 15
"""Of equal width, that probabilities are sorted into to see whether they hold; as in Guo et al. 2017, arXiv:1706.04599."""
AT_ONCE = 2**22
"""Numbers that ranking the resamples holds in memory at once, for each of a few arrays."""


def mean(values: np.ndarray) -> Metric:
    """The mean of one number per row, with its standard error."""
    values = np.asarray(values, np.float64)
    spread = 0.0 if values.max() == values.min() else values.std(ddof=1)  # equal values would leave a rounding error
    error = float(spread / np.sqrt(len(values))) if len(values) > 1 else None
    return Metric(value=float(values.mean()), n=len(values), standard_error=error)


def bootstrapped(measure: Callable[..., float], *arrays: np.ndarray) -> Metric:
    """A measure of whole arrays, with the spread over resampled rows as its standard error."""
    rows, random = len(arrays[0]), np.random.default_rng(0)
    drawn = (random.integers(0, rows, rows) for _ in range(RESAMPLES))
    spread = np.std([measure(*(array[choice] for array in arrays)) for choice in drawn], ddof=1)
    return Metric(value=float(measure(*arrays)), n=rows, standard_error=float(spread))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-log of the probability given to the true class, in nats; (rows,), labels as (rows,) int."""
    return -np.log(np.clip(probabilities[np.arange(len(labels)), labels].astype(np.float64), LEAST_PROBABILITY, 1))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared distance of the probabilities from the truth, summed over classes, 0 to 2 (Brier 1950); (rows,)."""
    return np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1)


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes that occur of the share that was recognised."""
    counts = np.bincount(labels)
    hits = np.bincount(labels[labels == predicted], minlength=len(counts))
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur or are predicted."""
    classes = max(labels.max(), predicted.max()) + 1
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    counts = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float(np.mean(2 * hits[counts > 0] / counts[counts > 0]))


def f1(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label, (labels,); 0 where a label neither occurs nor is predicted.

    Args:
        truth: (rows, labels) bool.
        predicted: (rows, labels) bool.
    """
    hits = (truth & predicted).sum(axis=0)
    return 2 * hits / np.maximum(truth.sum(axis=0) + predicted.sum(axis=0), 1)


def calibration_gaps(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How far the truth lies above what was promised, by bins of the promise.

    The absolute values of the mean over the rows add up to the expected calibration error (Guo et al. 2017).

    Args:
        truth: (rows, labels) bool.
        probabilities: (rows, labels), a bin holds its upper bound.

    Returns:
        (rows, BINS) float64, summed over the labels of a row and divided by their number.
    """
    rows, labels = truth.shape
    probabilities = probabilities.astype(np.float64)
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1) + np.arange(rows)[:, None] * BINS
    return np.bincount(bins.ravel(), (truth - probabilities).ravel() / labels, rows * BINS).reshape(rows, BINS)


def calibration_error(gaps: np.ndarray) -> float:
    """The expected calibration error, 0 to 1, of what `calibration_gaps` gives."""
    return float(np.abs(gaps.mean(axis=0)).sum())


def areas(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve and under the precision-recall curve, for many weightings of the same rows.

    The first is the chance that a positive scores higher than a negative, equal scores counting half (Hanley and McNeil 1982);
    the second the mean over the positives of the precision at their score, as scikit-learn's average_precision_score.

    Args:
        truth: (rows,) bool.
        scores: (rows,), higher for what is rather true.
        weights: (rows, weightings), whole numbers: how often a row counts.

    Returns:
        AUROC and AUPRC, (weightings,) each, not a number where positives or negatives are missing.
    """
    order = np.argsort(-scores, kind="stable")
    truth, scores = truth[order], scores[order]
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    held = np.logical_or.reduceat(truth, first)
    # Runs of scores that no positive has are one step of both curves, so that rare classes cost little.
    first = first[held | np.r_[True, held[:-1]]]
    parts = [_areas(truth, weights[:, part][order], first) for part in _parts(*weights.shape)]
    return np.concatenate([roc for roc, _ in parts]), np.concatenate([recall for _, recall in parts])


def _parts(rows: int, weightings: int) -> list[slice]:
    size = max(1, AT_ONCE // rows)
    return [slice(start, start + size) for start in range(0, weightings, size)]


def _areas(truth: np.ndarray, weights: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The areas where rows are sorted and each step of the curves begins at a row of `first`."""
    every = np.add.reduceat(weights, first, axis=0, dtype=np.float64)
    positives = np.add.reduceat(weights * truth[:, None], first, axis=0, dtype=np.float64)
    negatives = every - positives
    hits, alarms = positives.cumsum(axis=0), negatives.cumsum(axis=0)
    below = (positives * (alarms[-1] - alarms + negatives / 2)).sum(axis=0)
    precision = (positives * hits / np.maximum(hits + alarms, 1)).sum(axis=0)
    pairs = hits[-1] * alarms[-1]
    undefined = np.full(len(pairs), np.nan)
    return (
        np.divide(below, pairs, out=undefined.copy(), where=pairs > 0),
        np.divide(precision, hits[-1], out=undefined.copy(), where=pairs > 0),
    )


def ranking(truth: np.ndarray, scores: np.ndarray) -> dict[str, Metric]:
    """AUROC and AUPRC, the mean over the labels that have positives and negatives; nothing where none has.

    Args:
        truth: (rows, labels) bool.
        scores: (rows, labels).
    """
    rows = len(truth)
    ranked = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(ranked):
        return {}
    random = np.random.default_rng(0)  # the resamples of `bootstrapped`
    weights = np.ones((rows, 1 + RESAMPLES), np.uint8)  # that a row is drawn more than 255 times has a chance of 1/256!
    for resample in range(RESAMPLES):
        weights[:, 1 + resample] = np.bincount(random.integers(0, rows, rows), minlength=rows)
    found = np.array([areas(truth[:, label], scores[:, label], weights) for label in ranked])  # (labels, 2, 1 + resamples)
    known = (~np.isnan(found[:, 0])).sum(axis=0)
    means = np.nansum(found, axis=0)[:, known > 0] / known[known > 0]
    errors = means[:, 1:].std(axis=1, ddof=1) if means.shape[1] > 2 else [None, None]
    measures = zip(("auroc", "auprc"), means[:, 0], errors, strict=True)
    return {name: Metric(value=value, n=rows, standard_error=error) for name, value, error in measures}


def of_class(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray | None = None) -> dict[str, Metric]:
    """Measures for one class a row.

    AUROC and AUPRC are those of the second class of two, of several the mean over the classes, each against the rest; they
    are left out where the rows have one class only.

    Args:
        labels: (rows,) int.
        probabilities: (rows, classes).
        predicted: (rows,) int, what was decided; by default the most probable class.
    """
    likeliest = probabilities.argmax(axis=1)
    decided = likeliest if predicted is None else predicted
    several = np.arange(probabilities.shape[1]) if probabilities.shape[1] > 2 else np.array([1])
    gaps = calibration_gaps((labels == likeliest)[:, None], probabilities.max(axis=1, keepdims=True))
    return {
        "accuracy": mean(labels == decided),
        "balanced_accuracy": bootstrapped(balanced_accuracy, labels, decided),
        "macro_f1": bootstrapped(macro_f1, labels, decided),
        **ranking(labels[:, None] == several, probabilities[:, several]),
        "log_loss": mean(log_loss(labels, probabilities)),
        "brier": mean(brier(labels, probabilities)),
        "ece": bootstrapped(calibration_error, gaps),
    }


def of_classes(truth: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5) -> dict[str, Metric]:
    """Measures for several labels a row.

    Log-loss, Brier score and calibration error are means over the labels, each of its own probability.

    Args:
        truth: (rows, labels) bool.
        probabilities: (rows, labels), each by itself.
        threshold: from which probability on a label is predicted; one for all, or (labels,).
    """
    predicted = probabilities >= threshold
    clipped = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return {
        "micro_f1": bootstrapped(lambda t, p: float(f1(t.reshape(-1, 1), p.reshape(-1, 1))[0]), truth, predicted),
        "macro_f1": bootstrapped(lambda t, p: float(f1(t, p).mean()), truth, predicted),
        "exact_match": mean((truth == predicted).all(axis=1)),
        **ranking(truth, probabilities),
        "log_loss": mean(-np.where(truth, np.log(clipped), np.log(1 - clipped)).mean(axis=1)),
        "brier": mean(np.square(probabilities - truth).mean(axis=1)),
        "ece": bootstrapped(calibration_error, calibration_gaps(truth, probabilities)),
    }


def of_number(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Metric]:
    """Measures for numbers, in the label's unit: (rows,) each."""
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    error = predicted - truth
    return {
        "rmse": bootstrapped(lambda e: float(np.sqrt(np.square(e).mean())), error),
        "mae": mean(np.abs(error)),
        "r2": explained(truth, predicted),
    }


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance that is explained; 0 for predicting the mean."""
    return 1 - float(np.square(predicted - truth).mean()) / max(float(truth.var()), 1e-12)


def explained(truth: np.ndarray, predicted: np.ndarray) -> Metric:
    """R squared with the standard error of its mean squared error, the variance taken as known."""
    squared, variance = mean(np.square(predicted - truth)), max(float(truth.var()), 1e-12)
    error = None if squared.standard_error is None else squared.standard_error / variance
    return Metric(value=r2(truth, predicted), n=squared.n, standard_error=error)
