"""Leaks: which rows an artifact has learned from, and the refusal to measure on them.

Each stage that learns writes `fitted.parquet`: id and content hash of every row that could have shaped what it made, those
used for early stopping included. Rows are compared by content, since ids are keys that two datasets may use differently.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit.artifacts import Artifact
from embedkit.settings import UserError
from embedkit.stages import Draft


def record_fitted(out: Draft, rows: pa.Table, folds: np.ndarray | None = None) -> int:
    """Write which rows an artifact learned from, and how many they are.

    Args:
        out: the draft.
        rows: lines of a dataset's `rows.parquet`.
        folds: (rows,) int8, where each row's vector comes from a network that didn't see it (`crossfit`).
    """
    ledger = rows.select(["id", "content"])
    ledger = ledger if folds is None else ledger.append_column("fold", pa.array(folds))
    pq.write_table(ledger, out / "fitted.parquet", compression="zstd")
    return len(rows)


def refuse_leaks(artifact: Artifact, measured: pa.Table) -> None:
    """Stop when rows that are to be measured on were learned from by this artifact or anything it was made from.

    Args:
        artifact: what the measured predictions come from.
        measured: lines of a dataset's `rows.parquet`.

    Raises:
        UserError: naming the ancestor and how many rows.
    """
    content = measured["content"].to_numpy()
    for ancestor in (artifact, *artifact.ancestors()):
        ledger = ancestor / "fitted.parquet"
        if ledger.exists():
            seen = int(np.isin(content, pq.read_table(ledger, columns=["content"])["content"].to_numpy()).sum())
            if seen:
                raise UserError(
                    f"{seen:,} of the {len(content):,} rows to measure on were learned from by {ancestor}; measure on rows it "
                    "never saw, or train it again on a dataset with the same split"
                )
