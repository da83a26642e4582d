"""Maps: the values of a table's columns where their vectors lie, in two dimensions."""

from pathlib import Path

import numpy as np

from embedkit import reports
from embedkit.features import FIRST, Columns
from embedkit.wording import cut

COLUMNS = 3
"""Columns that are drawn at most: those of most values."""
NAMED = 60
"""Values that are named, the most frequent ones, where their names don't lie on one another; others are dots."""
LONGEST = 22
LETTER, LINE = 0.0056, 0.022
"""Width and height of a letter, as shares of a panel's."""


def principal_plane(vectors: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where vectors lie in the plane in which they differ most, each counted as often as it comes.

    Args:
        vectors: (values, dimension).
        counts: (values,).

    Returns:
        (values, 2) float64 places, 0 beyond the dimension, and (2,) shares of the variance.
    """
    weights = np.maximum(counts, 1)[:, None] / np.maximum(counts, 1).sum()
    centered = vectors.astype(np.float64) - (weights * vectors).sum(axis=0)
    _, spread, directions = np.linalg.svd(np.sqrt(weights) * centered, full_matrices=False)
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])[:, None]
    places, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    found = centered @ directions[:2].T
    places[:, : found.shape[1]] = found
    shares[: len(spread[:2])] = np.square(spread[:2]) / max(float(np.square(spread).sum()), 1e-12)
    return places, shares


def apart(names: dict[int, str], places: np.ndarray) -> dict[int, str]:
    """The names that can be written without lying on one before them.

    Args:
        names: by place, in the order of their importance; each stands to the right of its place.
        places: (values, 2).
    """
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    taken, kept = np.empty((0, 3)), {}
    for at, name in names.items():
        x, y = (places[at] - low) / span
        width = LETTER * len(name)
        beside = (taken[:, 0] < x + width) & (x < taken[:, 0] + taken[:, 2])
        if not (beside & (np.abs(taken[:, 1] - y) < LINE)).any():
            kept[at] = name
            taken = np.concatenate([taken, [[x, y, width]]])
    return kept


def draw(columns: Columns, tables: list[np.ndarray], counts: list[np.ndarray], path: Path) -> None:
    """Draw the values of the columns that have most of them; the larger a dot, the more training rows have its value.

    Args:
        columns: of an encoder of tables.
        tables: the vectors of each vocabulary, (values, dimension).
        counts: of each embedded column, by place in its vocabulary.
        path: of the PNG.
    """
    chosen = sorted(range(len(counts)), key=lambda number: -columns.vocabulary(columns.embedded[number]).size)[:COLUMNS]
    figure, panels = reports.blank_figure((9, 5.5 * len(chosen)), len(chosen))
    for axes, number in zip(panels, chosen, strict=True):
        column = columns.embedded[number]
        known, count = columns.vocabulary(column), counts[number][FIRST:]
        axes.set_xticks([])
        axes.set_yticks([])
        if not len(count):
            axes.set_title(f"{column.name}: no value has a vector of its own", fontsize=9, loc="left", parse_math=False)
            continue
        places, shares = principal_plane(tables[column.vocabulary][FIRST:], count)
        sizes = 6 + 120 * count / max(1, count.max())
        axes.scatter(places[:, 0], places[:, 1], s=sizes, color="#1f6fb4", alpha=0.45, linewidths=0)
        order = np.argsort(-count, kind="stable")[:NAMED].tolist()
        names = {at: cut(known.values[at], LONGEST) for at in order}
        for at, name in apart(names, places).items():
            axes.annotate(name, places[at], fontsize=7, xytext=(3, 2), textcoords="offset points", parse_math=False)
        title = f"{column.name}: {len(count):,} values; the plane holds {shares.sum():.0%} of how they differ"
        axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    reports.save_figure(figure, path)
