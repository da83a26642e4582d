"""Codes: whole numbers that name things, told from numbers by what they say of the target.

The mean target of rows with a code says something of other rows with the same code, and nothing of rows whose code is the next in
order; of a number the neighbours say about as much as the value itself. Both are estimated out of fold, from training rows alone.
"""

import numpy as np

FOLDS = 5
MOST_ROWS = 50_000
"""Rows that are looked at; more make the answer no surer."""
MOST_CLASSES = 10
"""The most frequent classes, for which it is asked."""
SHRINK = 5.0
"""Rows of the mean target that are added to those of a value (Micci-Barreca 2001)."""
NEIGHBOURS = 20
"""Rows with other values, on either side in order, of which the neighbours' mean is taken."""
SHARE = 0.25
"""Of what a value says, what its neighbours say for the values still to be codes: both estimates have errors."""
MOST_OF_ONE = 0.5
"""Share of rows above which one value is looked past."""
SURE = 3.0
"""Standard errors by which a value must say something."""


def name_things(values: np.ndarray, targets: np.ndarray, seed: int = 0) -> bool:
    """Whether whole numbers are codes: their values say something of the target, and their order doesn't.

    Args:
        values: (rows,) int64 of training rows.
        targets: (rows, outputs) float, such as one column of 0 and 1 for each class, or standardised numbers.
        seed: of the draw of rows and folds.
    """
    different, counts = np.unique(values, return_counts=True)
    if counts.max() > MOST_OF_ONE * len(values):  # such as 0 for "none", beside which others are numbers
        kept = values != different[counts.argmax()]
        values, targets = values[kept], targets[kept]
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(values))[:MOST_ROWS]
    if len(chosen) < 10 * FOLDS:
        return False
    values, targets = values[chosen], targets[chosen].astype(np.float64)
    fold = np.arange(len(values)) % FOLDS
    own, order = np.zeros(len(values)), np.zeros(len(values))
    for number in range(FOLDS):
        test = fold == number
        prior = targets[~test].mean(axis=0)
        by_value, by_order = _estimates(values[~test], targets[~test] - prior, values[test])
        rest = targets[test] - prior
        own[test] = (rest**2 - (rest - by_value) ** 2).sum(axis=1)
        order[test] = (rest**2 - (rest - by_order) ** 2).sum(axis=1)
    says = own.mean() > SURE * own.std() / np.sqrt(len(own))
    return bool(says and order.mean() < SHARE * own.mean())


def _estimates(values: np.ndarray, targets: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean target of each wanted value, and that of the values next to it in order, drawn towards 0; (wanted, outputs) each."""
    known, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    sums = np.zeros((len(known), targets.shape[1]))
    np.add.at(sums, inverse, targets)
    place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    there = known[place] == wanted
    by_value = np.where(there[:, None], sums[place] / (counts[place] + SHRINK)[:, None], 0.0)
    rows = np.concatenate([[0], np.cumsum(counts)])  # rows before each value
    total = np.concatenate([np.zeros((1, targets.shape[1])), np.cumsum(sums, axis=0)])
    left = np.searchsorted(known, wanted, side="left")
    right = np.searchsorted(known, wanted, side="right")
    first = np.minimum(np.searchsorted(rows, rows[left] - NEIGHBOURS, side="right").clip(min=1) - 1, left)
    last = np.maximum(np.searchsorted(rows, rows[right] + NEIGHBOURS, side="left").clip(max=len(known)), right)
    around = total[left] - total[first] + total[last] - total[right]
    count = rows[left] - rows[first] + rows[last] - rows[right]
    return by_value, around / (count + SHRINK)[:, None]


def as_columns(targets: np.ndarray, classes: int = 0) -> np.ndarray:
    """Targets as columns of numbers: of the most frequent classes, or as they are.

    Args:
        targets: (rows,) int of classes, (rows,) or (rows, outputs) float.
        classes: how many there are; 0 for numbers.

    Returns:
        (rows, outputs) float64.
    """
    if targets.ndim == 1 and classes:
        frequent = np.argsort(-np.bincount(targets, minlength=classes), kind="stable")[:MOST_CLASSES]
        return (targets[:, None] == frequent).astype(np.float64)
    return targets.reshape(len(targets), -1).astype(np.float64)[:, :MOST_CLASSES]
