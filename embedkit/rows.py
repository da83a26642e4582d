"""Rows of a dataset by their place, a file of them in memory at a time, however many there are."""

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit.artifacts import Artifact
from embedkit.crossfit import Known


class RowReader:
    """Reads rows of a dataset, for any thread; places that lie near each other are read together best.

    Args:
        dataset: images, texts or a table.
    """

    def __init__(self, dataset: Artifact):
        self.dataset = dataset
        self.starts = np.concatenate([[0], np.cumsum(dataset.detail("parts", list), dtype=np.int64)])
        self.lines = pq.ParquetFile(dataset / "rows.parquet")
        groups = [self.lines.metadata.row_group(number).num_rows for number in range(self.lines.num_row_groups)]
        self.groups = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._contents: tuple[int, pa.Table] | None = None
        self._known: tuple[int, Known] | None = None
        self._reading = threading.Lock()  # workers that are threads of one process share a reader

    def __len__(self) -> int:
        return int(self.starts[-1])

    def contents(self, places: np.ndarray) -> pa.Table:
        """The contents of rows.

        Args:
            places: (n,) int, ascending.

        Returns:
            (n,) rows, in their order.
        """
        empty = pq.read_schema(self.dataset / "part-00000.parquet").empty_table()
        return pa.concat_tables([empty, *(self._part(part).take(inside) for part, inside in _within(self.starts, places))])

    def known(self, places: np.ndarray) -> Known:
        """Ids and content hashes of rows, (n,) int64 each; `places` as for `contents`."""
        found = [self._group(group).take(inside) for group, inside in _within(self.groups, places)]
        none = np.empty(0, np.int64)
        return Known(*(np.concatenate([none, *(each[field] for each in found)]) for field in range(2)))

    def _part(self, number: int) -> pa.Table:
        with self._reading:
            if self._contents is None or self._contents[0] != number:
                self._contents = None  # before the next one is read, so that one alone is in memory
                self._contents = number, pq.read_table(self.dataset / f"part-{number:05d}.parquet")
            return self._contents[1]

    def _group(self, number: int) -> Known:
        with self._reading:
            if self._known is None or self._known[0] != number:
                self._known = None
                self._known = number, Known.of(self.lines.read_row_group(number, columns=["id", "content"]))
            return self._known[1]


def _within(starts: np.ndarray, places: np.ndarray) -> list[tuple[int, Any]]:
    """Which files hold these places, and where in each; files are numbered, `starts` are the places of their first rows."""
    of = np.searchsorted(starts, places, side="right") - 1
    return [(int(number), places[of == number] - starts[number]) for number in np.unique(of)]
