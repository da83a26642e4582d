"""Rebalancing: training rows of rare classes count more, and decisions are put right afterwards.

For one class a row; labels are (rows,) int, counts and goals (classes,) int, and a class of no rows stays at none. What is
learned from rebalanced rows is learned under another prior than the truth's, so its probabilities are off until
`corrected_bias` gives the true prior back; which class to decide for, when the rare ones matter as much as the frequent
ones, is then a choice made on validation rows, not one baked into the probabilities.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from embedkit import metrics

Method = Literal["weights", "oversample", "undersample", "interpolate"]
"""`weights` lets rows of rare classes count more, `oversample` repeats them, `interpolate` makes new ones between neighbours
(vectors only; SMOTE, Chawla et al. 2002, arXiv:1106.1813), `undersample` leaves out rows of frequent classes."""
Chain = tuple[Method, ...]
"""Methods that work together; their order doesn't matter: new rows are made first, then rows are drawn, then weighed."""
Measure = Literal["accuracy", "balanced_accuracy", "macro_f1"]
NEIGHBOURS = 5
"""As Chawla et al. 2002, who also made at most so many new rows of a real one."""
FEWEST = 5
"""Positives, and negatives, that a threshold of its own takes."""
STEPS = 200
"""Exponents that are tried on either side of 0."""
_SCORES: dict[Measure, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda labels, predicted: float((labels == predicted).mean()),
    "balanced_accuracy": metrics.balanced_accuracy,
    "macro_f1": metrics.macro_f1,
}


def targets(counts: np.ndarray, chain: Chain) -> np.ndarray:
    """Rows of each class in an epoch, (classes,) int.

    Undersampling alone brings every class down to the smallest, oversampling or interpolation alone up to the largest;
    together they meet at the geometric mean of the two.
    """
    smallest, largest = counts[counts > 0].min(), counts.max()
    up = "oversample" in chain or "interpolate" in chain
    if up and "undersample" in chain:
        goal = round(np.sqrt(float(smallest) * float(largest)))
    elif up or "undersample" in chain:
        goal = largest if up else smallest
    else:
        return counts
    return np.where(counts > 0, goal, 0)


def interpolated(counts: np.ndarray, chain: Chain) -> np.ndarray:
    """Rows of each class, (classes,) int, when the new ones of `interpolate` are among them.

    Up to the target; where oversampling follows, one new row at most for each real one and neighbour.
    """
    if "interpolate" not in chain:
        return counts
    most = counts * (1 + NEIGHBOURS) if "oversample" in chain else np.inf
    return np.maximum(counts, np.minimum(targets(counts, chain), most)).astype(int)


def seen_prior(counts: np.ndarray, chain: Chain) -> np.ndarray:
    """Share of each class in what the loss adds up, weights included; (classes,) float64."""
    seen = counts > 0 if "weights" in chain else targets(counts, chain)
    return seen / seen.sum()


def draw(labels: np.ndarray, goal: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, shuffled.

    Every row comes as often as the goal holds its class whole; the rest of the goal is a random part of the class, another one
    in each epoch: no row is in two of them before there is no further part without it. With the labels' own counts as the
    goal this is the order that `Rows` has by default.

    Args:
        labels: (rows,) int.
        goal: (classes,) int, such as `targets` gives.
        seed: of everything random.
        epoch: its number.

    Returns:
        (sum of the goal,) int64 indices; a function of the arguments.
    """
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        repeats, rest = divmod(int(goal[label]), len(rows))
        chosen.append(np.repeat(rows, repeats))
        if rest:
            turn, place = divmod(epoch, len(rows) // rest)
            # Ends in a 1, since a generator is the same for [a, b] and [a, b, 0].
            order = np.random.default_rng([seed, turn, label, 1]).permutation(rows)
            chosen.append(order[place * rest : (place + 1) * rest])
    return np.random.default_rng([seed, epoch]).permutation(np.sort(np.concatenate(chosen)))


def weights(labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """What a row counts so that all classes count the same; the mean over rows drawn for the goal is 1.

    Args:
        labels: (rows,) int.
        goal: (classes,) int, rows of each class that are drawn.

    Returns:
        (rows,) float32.
    """
    return (goal.sum() / (np.count_nonzero(goal) * np.maximum(goal, 1)))[labels].astype(np.float32)


def interpolate(
    vectors: np.ndarray, labels: np.ndarray, goal: np.ndarray, seed: int, neighbours: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """New rows between a row and one of its nearest neighbours of the same class (SMOTE; Chawla et al. 2002, arXiv:1106.1813).

    Every row of a class is the start of equally many new ones, give or take one. A class of one row is repeated.

    Args:
        vectors: (rows, dimension) float32.
        labels: (rows,) int.
        goal: (classes,) int, rows of each class with the new ones, such as `interpolated` gives; less than there are adds none.
        seed: of everything random.
        neighbours: of each row to choose from.

    Returns:
        The new rows only: (new, dimension), dtype of `vectors`, and their labels, (new,), dtype of `labels`; by class.
    """
    from sklearn.neighbors import NearestNeighbors

    made, named = [vectors[:0]], [labels[:0]]
    for label in np.unique(labels):
        rows = vectors[labels == label]
        new = max(0, int(goal[label]) - len(rows))
        if not new:
            continue
        random = np.random.default_rng([seed, label])
        repeats, rest = divmod(new, len(rows))
        start = np.r_[np.repeat(np.arange(len(rows)), repeats), random.permutation(len(rows))[:rest]]
        end = start
        if len(rows) > 1:
            near = NearestNeighbors(n_neighbors=min(neighbours, len(rows) - 1)).fit(rows).kneighbors(return_distance=False)
            end = near[start, random.integers(0, near.shape[1], new)]
        share = random.random((new, 1)).astype(vectors.dtype)
        made.append(rows[start] + share * (rows[end] - rows[start]))
        named.append(np.full(new, label, labels.dtype))
    return np.concatenate(made), np.concatenate(named)


def corrected_bias(bias: np.ndarray, learned: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The output bias under which probabilities learned from one prior hold under another.

    By Bayes' rule, where only the shares of the classes differ: logits + log true - log learned (Elkan 2001; Saerens et al. 2002).

    Args:
        bias: (classes,), or any logits (..., classes).
        learned: (classes,) prior that was learned from, such as `seen_prior` gives.
        true: (classes,) prior that shall hold; 0 where `learned` is 0, whose bias stays.

    Returns:
        The shape of `bias`, float64.
    """
    known = learned > 0
    return bias + np.where(known, np.log(np.where(known, true, 1)) - np.log(np.where(known, learned, 1)), 0)


def choose_decision(labels: np.ndarray, probabilities: np.ndarray, measure: Measure) -> np.ndarray:
    """Weights of the classes under which the most probable class, after weighing, scores best.

    They are the labels' prior to a power of -t, of which only t is fitted: 0 decides for the most probable class, 1 for the
    balanced Bayes decision. t goes to 2 on either side, and further where the classes are so even that two of them would
    not get thresholds from 0.05 to 0.95.

    Args:
        labels: (rows,) int, of validation rows.
        probabilities: (rows, classes).
        measure: what to score by; of equal ones t nearest to 0 is taken.

    Returns:
        (classes,) float64, 1 for the most frequent one.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    rarity = -np.log(np.maximum(counts, 0.5) / counts.max())  # half a row for a class that isn't there
    span = max(2.0, np.log(19) / rarity.max()) if rarity.max() else 0.0
    steps = span * np.arange(1, STEPS + 1) / STEPS
    exponents = np.r_[0.0, np.stack([steps, -steps], axis=1).ravel()]  # nearest to 0 first
    scores = [_SCORES[measure](labels, decide(probabilities, np.exp(t * rarity))) for t in exponents]
    return np.exp(exponents[np.argmax(scores)] * rarity)


def decide(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The most probable class of each row after weighing; (rows,) int.

    Args:
        probabilities: (rows, classes).
        weights: (classes,), such as `choose_decision` gives.
    """
    return (probabilities * weights).argmax(axis=1)


def choose_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability from which on to predict each of several labels, so that its F1 is best.

    Args:
        truth: (rows, labels) bool, of validation rows.
        probabilities: (rows, labels), each by itself.

    Returns:
        (labels,) float64: 0.5 or midway between two probabilities, of equally good ones the nearest to 0.5; 0.5 where a
        label has fewer than FEWEST positives or negatives.
    """
    chosen = np.full(truth.shape[1], 0.5)
    positives = truth.sum(axis=0)
    for label in np.flatnonzero(np.minimum(positives, len(truth) - positives) >= FEWEST):
        scores = np.sort(probabilities[:, label].astype(np.float64))
        true = np.sort(probabilities[truth[:, label], label].astype(np.float64))
        distinct = np.unique(np.r_[0.0, scores])
        tried = np.r_[0.5, (distinct[1:] + distinct[:-1]) / 2]
        tried = tried[np.argsort(np.abs(tried - 0.5), kind="stable")]
        found = len(scores) - np.searchsorted(scores, tried)
        hits = len(true) - np.searchsorted(true, tried)
        chosen[label] = tried[np.argmax(2 * hits / (found + len(true)))]
    return chosen
