"""index.faiss is looked at, in numpy, before faiss reads it, since a wrong number in such a file ends the process.

Only the two layouts that `build_index` writes are read: an id map around all vectors, or around a graph of neighbours (HNSW)
over them. They are faiss's own (`faiss/impl/index_write.cpp`), little-endian and without gaps: four letters for each index,
then its header, its arrays, each after its length, and what lies inside it.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.settings import UserError

MOST_LINKS = 1024
MOST_EFFORT = 1_000_000
INNER_PRODUCT = 0
LONGEST = 1.001
"""Of a vector that was brought to length 1 in float32."""
AT_ONCE = 1 << 22
"""Numbers of vectors that are looked at in one go."""


class _Wrong(Exception):
    """What is wrong with a file, in words that go on from its name."""


class _Bytes:
    """A file, read from its front."""

    def __init__(self, data: Any):
        self.data, self.at = data, 0

    def array(self, dtype: str, count: int) -> np.ndarray:
        """The next numbers, as they lie in the file."""
        size = np.dtype(dtype).itemsize * count
        if count < 0 or size > len(self.data) - self.at:
            raise _Wrong("ends too early")
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += size
        return found

    def numbers(self, form: str) -> tuple[Any, ...]:
        """The next few numbers, as `struct` writes their types."""
        return struct.unpack(f"<{form}", self.array("u1", struct.calcsize(f"<{form}")).tobytes())

    def vector(self, dtype: str, count: int, what: str) -> np.ndarray:
        """The next array, which must have this length."""
        (length,) = self.numbers("Q")
        if length != count:
            raise _Wrong(f"holds {length:,} {what} instead of {count:,}")
        return self.array(dtype, count)

    def kind(self, *allowed: bytes) -> bytes:
        """The next four letters."""
        found = self.array("u1", 4).tobytes()
        if found not in allowed:
            raise _Wrong(f"holds an index of the kind {found!r}, which build_index doesn't write")
        return found

    def header(self, dimension: int, rows: int) -> None:
        """What every index begins with."""
        said, count, _, _, trained, metric = self.numbers("iqqqBi")
        if (said, count) != (dimension, rows) or dimension < 1:
            raise _Wrong(f"holds {count:,} vectors of {said:,} numbers instead of {rows:,} of {dimension:,}")
        if metric != INNER_PRODUCT or trained != 1:
            raise _Wrong("doesn't compare by inner product")


def check(path: Path, name: str, dimension: int, rows: int) -> np.ndarray:
    """Look at an index file, so that nothing in it leads faiss astray.

    Args:
        path: the file.
        name: of the artifact, for messages.
        dimension: of its vectors.
        rows: how many it has.

    Returns:
        (rows,) int64, the ids in it.

    Raises:
        UserError: when it isn't what `build_index` writes for so many vectors.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        return _index(_Bytes(data), dimension, rows)
    except OSError as error:
        raise UserError(f"{path.name} of {name} can't be read ({error.strerror}); build the index again") from error
    except _Wrong as wrong:
        raise UserError(f"{path.name} of {name} {wrong}, so it is damaged or was made by something else; build it again") from None


def _index(file: _Bytes, dimension: int, rows: int) -> np.ndarray:
    file.kind(b"IxM2")
    file.header(dimension, rows)
    if file.kind(b"IxFI", b"IHNf") == b"IHNf":
        file.header(dimension, rows)
        _graph(file, rows)
        file.kind(b"IxFI")
    file.header(dimension, rows)
    _vectors(file.vector("<f4", dimension * rows, "numbers in its vectors").reshape(rows, dimension))
    ids = file.vector("<i8", rows, "ids")
    if len(np.unique(ids)) != rows:
        raise _Wrong("has one id for several vectors")
    if file.at != len(file.data):
        raise _Wrong("goes on behind its end")
    return ids


def _graph(file: _Bytes, rows: int) -> None:
    """The levels of the rows, and the rows that each is linked with on each level, -1 for none."""
    (count,) = file.numbers("Q")
    chances = file.array("<f8", count)
    if not (count and np.isfinite(chances).all() and chances.min() >= 0 and chances.sum() < 2):
        raise _Wrong("has chances of levels that are none")
    sums = file.vector("<i4", count + 1, "numbers of links").astype(np.int64)
    links = int(sums[1]) // 2
    if not 2 <= links <= MOST_LINKS or not np.array_equal(sums, links * np.array([0, *range(2, count + 2)])):
        raise _Wrong("has numbers of links by level that don't belong together")
    levels = file.vector("<i4", rows, "levels").astype(np.int64)
    if rows and not 1 <= levels.min() <= levels.max() <= count:
        raise _Wrong("has rows on levels that there are not")
    offsets = file.vector("<u8", rows + 1, "places of links")
    if offsets[0] != 0 or not np.array_equal(np.diff(offsets.astype(np.int64)), sums[levels]):
        raise _Wrong("has links at places that don't belong together")
    near = file.vector("<i4", int(offsets[-1]), "links")
    if len(near) and not -1 <= near.min() <= near.max() < rows:
        raise _Wrong("links to rows that there are not")
    for row in np.flatnonzero(levels > 1).tolist():  # one in as many as there are links
        for level in range(1, int(levels[row])):
            start = int(offsets[row])
            far = near[start + int(sums[level]) : start + int(sums[level + 1])]
            if (levels[far[far >= 0]] <= level).any():
                raise _Wrong("links to rows on levels that they are not on")
    entry, highest, building, searching, beam = file.numbers("5i")
    if rows and not (0 <= entry < rows and highest + 1 == levels[entry] == levels.max()) or not rows and entry != -1:
        raise _Wrong("begins its search at a row that is not on its highest level")
    if not (1 <= building <= MOST_EFFORT and 1 <= searching <= MOST_EFFORT) or beam != 1:
        raise _Wrong(f"asks for an effort that is not from 1 to {MOST_EFFORT:,}")


def _vectors(vectors: np.ndarray) -> None:
    step = max(1, AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        piece = vectors[start : start + step]
        squares = np.einsum("ij,ij->i", piece, piece, dtype=np.float64)
        if not (squares <= LONGEST**2).all():  # nor is NaN
            raise _Wrong("has vectors that are longer than 1")
