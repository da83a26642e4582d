"""Vectors: how an artifact holds them, and those of rows that were embedded before."""

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit.artifacts import Artifact
from embedkit.crossfit import Known
from embedkit.datasets import read_rows
from embedkit.encoders import Encoder
from embedkit.settings import UserError


def file_of(part: int) -> str:
    """Where a part lies in the artifact."""
    return f"vectors-{part:05d}.parquet"


class Earlier:
    """Vectors of an earlier state of a dataset, by the content of their rows.

    Contents are known by 64 bits of their hash: among ten million rows two different ones share one by a chance of 1 in 400,000.
    """

    def __init__(self, vectors: Artifact, encoder: Encoder):
        if vectors.detail("encoder", str) != encoder.facts.identity:
            raise UserError(f"{vectors} are vectors of another encoder than {encoder.name}; give earlier ones of the same, or none")
        self.vectors, self.by_id = vectors, encoder.folds is not None
        files = [pq.ParquetFile(vectors / file_of(number)) for number in range(vectors.detail("parts", int))]
        self.starts = np.concatenate([[0], np.cumsum([file.metadata.num_rows for file in files], dtype=np.int64)])
        self.ids = np.concatenate([file.read(["id"])["id"].to_numpy() for file in files])
        known = Known.of(read_rows(vectors.inputs["dataset"].check(), ["id", "content"]))
        order = np.argsort(known.ids)
        self.content = known.content[order[np.searchsorted(known.ids, self.ids, sorter=order)]]
        self.order = np.argsort(self.content, kind="stable")
        self._part = functools.lru_cache(maxsize=2)(lambda number: _read_part(vectors, number)[1])

    def of(self, known: Known) -> tuple[np.ndarray, np.ndarray]:
        """Which of these rows have a vector here, (rows,) bool, and those vectors in their order."""
        if not len(self.order):
            return np.zeros(len(known.ids), bool), np.empty((0, self.vectors.detail("dimension", int)), np.float32)
        at = self.order[np.minimum(np.searchsorted(self.content, known.content, sorter=self.order), len(self.order) - 1)]
        there = self.content[at] == known.content
        if self.by_id:  # the vector of a row that was learned from depends on which row it is
            there &= self.ids[at] == known.ids
        chosen = at[there]
        found = np.empty((len(chosen), self.vectors.detail("dimension", int)), np.float32)
        of = np.searchsorted(self.starts, chosen, side="right") - 1
        for number in np.unique(of).tolist():
            found[of == number] = self._part(number)[chosen[of == number] - self.starts[number]]
        return there, found


def write_vectors(path: Any, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Write one part.

    Args:
        path: where to.
        ids: (rows,) int64.
        vectors: (rows, dimension) float32.
    """
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    # Vectors don't compress, and dictionaries of floats only cost time.
    pq.write_table(pa.table({"id": ids, "vector": column}), path, compression="none", use_dictionary=False)


def identity_of(vectors: Artifact) -> str:
    """Identity of the encoder that made vectors, the same in their manifest and in that encoder's.

    Raises:
        UserError: when the two differ: then the vectors, or what is made of them, would be taken for those of another encoder.
    """
    said, encoder = vectors.detail("encoder", str), vectors.inputs["encoder"]
    own = encoder.detail("identity", str)
    if said != own:
        raise UserError(
            f"{vectors} say they were made by an encoder whose identity is {said:.12}, but that of {encoder}, which they name, is "
            f"{own:.12}; embed the dataset again"
        )
    return said


def _read_part(vectors: Artifact, number: int) -> tuple[np.ndarray, np.ndarray]:
    dimension = vectors.detail("dimension", int)
    try:
        table = pq.read_table(vectors / file_of(number))
        if not _holds(table, dimension):
            raise ValueError(f"it doesn't hold an id and {dimension} numbers for each row")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"{file_of(number)} of {vectors} can't be read as vectors ({error}); embed the dataset again") from error
    return table["id"].to_numpy(), table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), dimension)


def _holds(table: pa.Table, dimension: int) -> bool:
    """Whether a table has an id and a vector of so many numbers for each row."""
    if not {"id", "vector"} <= set(table.column_names) or table["id"].type != pa.int64():
        return False
    kind: Any = table["vector"].type
    fits = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32() and kind.list_size == dimension
    return fits and not table["id"].null_count and not table["vector"].null_count


def read_vectors(vectors: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """All vectors of an artifact.

    Returns:
        (rows,) int64 ids and (rows, dimension) float32, in the dataset's row order, without rows that were set aside or not
        asked for.
    """
    parts = vectors.detail("parts", int)
    if parts < 1:
        raise UserError(f"the manifest of {vectors} says they have {parts} parts, so they hold nothing; embed the dataset again")
    ids, found = zip(*(_read_part(vectors, number) for number in range(parts)), strict=True)
    return np.concatenate(ids), np.concatenate(found)
