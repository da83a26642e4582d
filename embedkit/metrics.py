"""Measures of predictions: numpy in, numbers out, each with its standard error.

Where a measure is a mean over rows, its standard error is that of a mean; elsewhere it is the spread over a seeded
bootstrap of the rows (Efron 1979). Probabilities are (rows, classes) float, rows summing to 1 unless several labels.
"""

from collections.abc import Callable

import numpy as np

from embedkit.artifacts import Metric

LEAST_PROBABILITY = 1e-7
RESAMPLES = 200


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
    hits = labels == predicted
    return float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))


def f1(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label, (labels,); 0 where a label neither occurs nor is predicted.

    Args:
        truth: (rows, labels) bool.
        predicted: (rows, labels) bool.
    """
    hits = (truth & predicted).sum(axis=0)
    return 2 * hits / np.maximum(truth.sum(axis=0) + predicted.sum(axis=0), 1)


def of_class(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
    """Measures for one class a row: labels (rows,) int, probabilities (rows, classes)."""
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": mean(labels == predicted),
        "balanced_accuracy": bootstrapped(balanced_accuracy, labels, predicted),
        "log_loss": mean(log_loss(labels, probabilities)),
        "brier": mean(brier(labels, probabilities)),
    }


def of_classes(truth: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, Metric]:
    """Measures for several labels a row: truth (rows, labels) bool, probabilities (rows, labels), each by itself."""
    predicted = probabilities >= threshold
    clipped = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return {
        "micro_f1": bootstrapped(lambda t, p: float(f1(t.reshape(-1, 1), p.reshape(-1, 1))[0]), truth, predicted),
        "macro_f1": bootstrapped(lambda t, p: float(f1(t, p).mean()), truth, predicted),
        "exact_match": mean((truth == predicted).all(axis=1)),
        "log_loss": mean(-np.where(truth, np.log(clipped), np.log(1 - clipped)).mean(axis=1)),
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
