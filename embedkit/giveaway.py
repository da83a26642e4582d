"""Give-aways: columns of a table that tell the label by themselves.

A column that was written down with the label, or after it, makes every measure look perfect and helps no prediction. Each column
is asked alone: what rows with each of its values have as a label, or what a small tree makes of its numbers, fitted on training
rows and measured on others. Strong columns that are no give-away stay below the bounds: petals of iris, the registered riders among
all of a bike rental, the shape of a yacht.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit import near
from embedkit.settings import short

BALANCED_ACCURACY, EXPLAINED = 0.99, 0.995
"""From which on a column gives a class away, or a number."""
ENOUGH = 75
"""Rows without which a column that is right by 95 in 100 could well be right in all."""
MOST = 20_000
"""Rows that are looked at on each side."""
LEAVES = 256
DETAIL = "gives_away"
"""Where a dataset's details say what was found."""


def find(
    column: Callable[[str], pa.ChunkedArray], names: Sequence[str], labels: pa.Array, kind: str, split: np.ndarray
) -> list[dict[str, Any]]:
    """The columns that give the label away.

    Args:
        column: reads a column of all rows.
        names: of the columns.
        labels: (rows,) the labels, null where there is none; of several labels a row nothing is found.
        kind: class, classes or number.
        split: (rows,) int8 indices into `splits.SPLITS`; test rows are not looked at.

    Returns:
        For each: `column`, `measure`, `value`, `rows` and `on`, the rows that it was measured on in words.
    """
    known = np.asarray(labels.is_valid())
    train, held = (np.flatnonzero(known & (split == side))[:MOST] for side in (0, 1))
    if kind == "classes" or len(train) + len(held) < ENOUGH or (kind == "class" and len(labels.take(train).unique()) < 2):
        return []
    if len(held) >= ENOUGH:
        pairs, on = [(train, held)], "validation rows"
    else:
        every = np.concatenate([train, held])
        pairs, on = [(every[::2], every[1::2]), (every[1::2], every[::2])], "rows, each by the other half of them"
    truth = np.asarray(labels.to_numpy(zero_copy_only=False), float) if kind == "number" else _codes(labels)
    measure = "explained variance" if kind == "number" else "balanced accuracy"
    found = []
    for name in names:
        value = _best(column(name), truth, pairs, kind)
        if value >= (EXPLAINED if kind == "number" else BALANCED_ACCURACY):
            rows = sum(len(right) for _, right in pairs)
            found.append({"column": name, "measure": measure, "value": round(value, 4), "rows": rows, "on": on})
    return found


def _codes(values: Any) -> np.ndarray:
    """Values as numbers, (rows,) int; -1 where one is missing."""
    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1), np.int64)


def _best(values: pa.ChunkedArray, truth: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], kind: str) -> float:
    """How well a column tells the label, by its values as they are or, of numbers, in their order."""
    from sklearn.metrics import balanced_accuracy_score, r2_score

    number, codes = pa.types.is_integer(values.type) or pa.types.is_floating(values.type), _codes(values)
    ways: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [lambda fit, ask: _by_value(codes, truth, fit, ask, kind)]
    if number:
        numbers = near.numbers(values)
        if np.isfinite(numbers).sum() > 1:
            ways.append(lambda fit, ask: _by_order(numbers, truth, fit, ask, kind))
    score: Any = r2_score if kind == "number" else balanced_accuracy_score
    asked = np.concatenate([ask for _, ask in pairs])
    return max(score(truth[asked], np.concatenate([way(fit, ask) for fit, ask in pairs])) for way in ways)


def _by_value(codes: np.ndarray, truth: np.ndarray, fit: np.ndarray, ask: np.ndarray, kind: str) -> np.ndarray:
    """What rows of the same value have; rows of a value that is new get what is usual."""
    count = int(codes.max()) + 2
    if kind == "number":
        sums, rows = np.zeros(count), np.bincount(codes[fit] + 1, minlength=count)
        np.add.at(sums, codes[fit] + 1, truth[fit])
        usual = truth[fit].mean()
        return np.where(rows > 0, sums / np.maximum(rows, 1), usual)[codes[ask] + 1]
    weights = 1 / np.bincount(truth[fit], minlength=int(truth.max()) + 1).clip(1)  # so that rare classes count as much
    pairs, place = np.unique(np.column_stack([codes[fit] + 1, truth[fit]]), axis=0, return_inverse=True)
    sums = np.bincount(place.reshape(-1), weights=weights[truth[fit]])
    order = np.lexsort((pairs[:, 1], -sums, pairs[:, 0]))
    first = np.unique(pairs[order, 0], return_index=True)[1]
    best = np.full(count, np.bincount(truth[fit]).argmax())
    best[pairs[order][first, 0]] = pairs[order][first, 1]
    return best[codes[ask] + 1]


def _by_order(numbers: np.ndarray, truth: np.ndarray, fit: np.ndarray, ask: np.ndarray, kind: str) -> np.ndarray:
    """What a small tree makes of the numbers."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    shape: dict[str, Any] = {"max_leaf_nodes": LEAVES, "min_samples_leaf": 2, "random_state": 0}
    tree: Any = DecisionTreeRegressor(**shape) if kind == "number" else DecisionTreeClassifier(**shape, class_weight="balanced")
    column = np.where(np.isfinite(numbers), numbers, np.nan).clip(-3e38, 3e38)[:, None]
    return tree.fit(column[fit], truth[fit]).predict(column[ask])


def notes(found: Sequence[dict[str, Any]]) -> list[str]:
    """What should be said of columns that `find` gave."""
    return [
        f"column {short(one['column'])!r} alone gives the label away ({one['measure']} {one['value']:.3f} on {one['rows']:,} "
        f"{one['on']}); leave it out, unless it is known when a prediction is made"
        for one in found
    ]
