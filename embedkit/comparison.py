"""Comparison: is one classifier better than others on the same test rows?

Rows are paired, so that what is hard for all of them cancels out of the error of the difference.
"""

import numpy as np
import pyarrow.parquet as pq

from embedkit import metrics
from embedkit.artifacts import Artifact, Metric
from embedkit.settings import UserError

CLEAR = 2.0
"""A difference of less than so many standard errors is none."""


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
    return (
        f"{ours.manifest.name} is {words} its best control, {best.manifest.name}: accuracy {100 * difference.value:+.1f} "
        f"± {100 * (difference.standard_error or 0):.1f} points on the same {difference.n:,} test rows"
    )


def gain(ours: Artifact, control: Artifact) -> Metric:
    """Accuracy of one classifier minus that of another, paired by row."""
    left, right = (pq.read_table(one.check() / "predictions.parquet") for one in (ours, control))
    if left["id"] != right["id"]:
        raise UserError(f"{ours} and {control} were measured on different rows; train both on vectors of one dataset")
    hits = [table["label"].to_numpy() == table["predicted"].to_numpy() for table in (left, right)]
    return metrics.mean(hits[0].astype(float) - hits[1].astype(float))
