"""Near copies: rows that say the same, though their bytes differ.

Texts are compared without case, spaces, punctuation and the many ways in which Unicode writes one letter; pictures by small grey
versions of themselves, which another encoding or another size hardly changes; rows of a table by the names of their columns,
their words as texts are, and their numbers up to a hundred-thousandth. What says too little to be told from another by that (a
flat picture, a row whose values meet by chance) has no near copies.

A dataset keeps what was found in `near.parquet`, a line for each row: `near`, the place of the first row that it is a copy of,
equal ones included, or its own; and `sketch`, by which it is found among rows of other datasets, null where it can't be.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedkit import images, normalising, splits

FILE = "near.parquet"
SIDE, COARSE = 16, 6
"""Height and width of the small pictures that are kept, and of those that are looked for first."""
ENLARGED = 64
"""Height and width that each picture comes to first, so that 8 x 8 pixels and the same drawn at 32 x 32 blur alike."""
COARSE_BOUND, FINE_BOUND = 0.06, 0.25
"""Largest distance of two copies, as a share of their contrast, at 6 x 6 and at 16 x 16. Digits of 8 x 8 pixels encoded again as
JPEG of quality 75 come to 0.052 at 6 x 6, the nearest two of 1,797 different ones to 0.067; photographs to 0.02 against 0.3."""
DETAIL, SMOOTH = 0.87, 0.05
"""Least correlation of what 16 x 16 shows beyond 6 x 6: 0.98 and more for such copies, 0.81 at most for pictures of one shape with
noise of their own. Share of the contrast below which there is nothing to correlate."""
FLAT, SHADE = 6.0, 8.0
"""Standard deviation of the grey levels (of 255) below which a picture is too flat to be told; how far mean colours may differ."""
TOLERANCE = 1e-5
"""How far two numbers may be apart: as a share of their size, or of the column's root mean square where that is larger."""
WINDOWS = (10, 100, 1000)
"""Tolerances within which rows are counted, to say how many meet a number by chance; the densest counts."""
CHANCE, CROWDED = 0.05, 5
"""Rows that may be expected to meet a row by chance; where more are, the row says too little. How many times denser numbers may lie
than the rows within the window say."""
DEPENDENT = 0.98
"""Correlation from which on a second column of numbers adds nothing to what a row says."""
NEIGHBOURS = 8
"""Nearest rows that are looked at."""
Column = Callable[[str], pa.ChunkedArray]
"""A column of all rows of a dataset, by its name."""
Pairs = tuple[np.ndarray, np.ndarray]


class Kind(NamedTuple):
    """How rows of a kind are compared.

    Attributes:
        sketch: from some rows' contents to what is kept of each.
        compare: from the sketches of different rows, their columns and names to pairs of copies and the sketches that tell a row.
    """

    sketch: Callable[..., pa.Array]
    compare: Callable[[pa.Array, Column, Sequence[str]], tuple[Pairs, pa.Array]]


def found(kind: str, content: np.ndarray, sketches: pa.Array, column: Column, names: Sequence[str]) -> pa.Table:
    """What `near.parquet` holds of a dataset.

    Args:
        kind: of its rows: images, texts or table.
        content: (rows,) int64 content hashes.
        sketches: (rows,) what `sketch` made of the contents.
        column: reads a column of the contents.
        names: of the columns.
    """
    _, first, inverse = np.unique(content, return_index=True, return_inverse=True)
    (left, right), kept = KINDS[kind].compare(sketches.take(first), lambda name: column(name).take(first), names)
    near = _components(len(first), left, right)[inverse]
    start = np.full(len(first), len(content))
    np.minimum.at(start, near, np.arange(len(content)))
    return pa.table({"near": start[near], "sketch": kept.take(inverse)})


def like(ours: pa.Array, theirs: pa.Array) -> np.ndarray:
    """Which rows are near copies of any of others, by the sketches of both; (rows,) bool."""
    compare = _same_pictures if pa.types.is_fixed_size_binary(ours.type) else _same_sketch
    return compare(ours, theirs)


def _components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each of so many rows the number of the group that pairs make of them, (count,) int."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(left), bool), (left, right)), (count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _chained(keys: np.ndarray, rows: np.ndarray) -> Pairs:
    """Pairs that join rows with equal keys."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    return rows[order[1:][same]], rows[order[:-1][same]]


# Texts: what is left of a text decides ----------------------------------------------------------------------------------


def _of_texts(contents: pa.Table, mapped: Callable[..., Iterable[Any]]) -> pa.Array:
    found = (normalising.normal(text) for text in contents["text"].to_pylist())
    return pa.array([splits.hash64(text.encode()) if text else None for text in found], pa.int64())


def _alike_by_sketch(sketches: pa.Array, column: Column, names: Sequence[str]) -> tuple[Pairs, pa.Array]:
    there = np.flatnonzero(np.asarray(sketches.is_valid()))
    return _chained(sketches.take(there).to_numpy(), there), sketches


def _same_sketch(ours: pa.Array, theirs: pa.Array) -> np.ndarray:
    return np.asarray(pc.is_in(ours, value_set=theirs.drop_null()))  # pyright: ignore[reportAttributeAccessIssue]


# Pictures: small ones that hardly differ --------------------------------------------------------------------------------


def _of_pictures(contents: pa.Table, mapped: Callable[..., Iterable[Any]]) -> pa.Array:
    return pa.array(list(mapped(_small, contents["image"].to_pylist())), pa.binary(SIDE * SIDE + 3))


def _small(data: bytes) -> bytes | None:
    try:
        return small(data)
    except ValueError:  # what can be opened may still break off; whoever needs all of it will say so
        return None


def small(data: bytes) -> bytes:
    """A picture as a near copy is found: (16, 16) grey levels, then its mean red, green and blue; a byte each."""
    from PIL import Image

    picture = Image.fromarray(images.decode(data, near=(4 * ENLARGED, 4 * ENLARGED), size=(ENLARGED, ENLARGED)))
    tiny = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    colour = np.asarray(tiny, np.float64).mean(axis=(0, 1)).round().astype(np.uint8)
    return tiny.convert("L").tobytes() + colour.tobytes()


class _Pictures:
    """Sketches of pictures as numbers: `there`, their places, without flat ones."""

    def __init__(self, sketches: pa.Array):
        valid = np.flatnonzero(np.asarray(sketches.is_valid()))
        raw = np.frombuffer(b"".join(sketches.take(valid).to_pylist()), np.uint8).reshape(len(valid), SIDE * SIDE + 3)
        grey = raw[:, :-3].astype(np.float32)
        lively = grey.std(axis=1) >= FLAT
        self.there, self.colour = valid[lively], raw[lively, -3:].astype(np.int16)
        self.fine = grey[lively] - grey[lively].mean(axis=1, keepdims=True)
        pooled = _pooled(self.fine)
        self.coarse = pooled - pooled.mean(axis=1, keepdims=True)
        self.unit = self.coarse / np.maximum(np.linalg.norm(self.coarse, axis=1, keepdims=True), 1e-6)
        self.detail = self.fine - _drawn_again(pooled)

    def copies(self, other: "_Pictures", left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which pairs are of copies."""
        close = np.abs(self.colour[left] - other.colour[right]).max(axis=1, initial=0) <= SHADE
        for one, two, bound in ((self.coarse, other.coarse, COARSE_BOUND), (self.fine, other.fine, FINE_BOUND)):
            apart = np.linalg.norm(one[left] - two[right], axis=1)
            close &= apart <= bound * np.minimum(np.linalg.norm(one[left], axis=1), np.linalg.norm(two[right], axis=1))
        ours, theirs = self.detail[left], other.detail[right]
        lengths = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
        smooth = np.maximum(*lengths) <= SMOOTH * np.linalg.norm(self.fine[left], axis=1)
        return close & (smooth | ((ours * theirs).sum(axis=1) >= DETAIL * lengths[0] * lengths[1]))


def _weights() -> np.ndarray:
    """How SIDE numbers become COARSE ones, (COARSE, SIDE): weighted means, as triangles."""
    width = SIDE / COARSE
    centres, places = (np.arange(COARSE) + 0.5) * width, np.arange(SIDE) + 0.5
    weights = np.maximum(0, 1 - np.abs(places - centres[:, None]) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _pooled(grey: np.ndarray) -> np.ndarray:
    """Pictures of SIDE x SIDE as ones of COARSE x COARSE: (pictures, SIDE²) to (pictures, COARSE²)."""
    weights, square = _weights(), grey.reshape(len(grey), SIDE, SIDE)
    return (weights @ square @ weights.T).reshape(len(grey), COARSE * COARSE)


def _drawn_again(pooled: np.ndarray) -> np.ndarray:
    """Pictures of SIDE x SIDE that say no more than ones of COARSE x COARSE: (pictures, COARSE²) to (pictures, SIDE²)."""
    back, square = np.linalg.pinv(_weights()), pooled.reshape(len(pooled), COARSE, COARSE)
    return (back @ square @ back.T).reshape(len(pooled), SIDE * SIDE)


def _neighbours(points: np.ndarray, wanted: np.ndarray, radius: float, count: int) -> Pairs:
    """Pairs of a wanted point and a point within the radius, of the nearest so many."""
    from scipy.spatial import KDTree

    if not len(points) or not len(wanted):
        return np.empty(0, int), np.empty(0, int)
    ranks: Any = np.arange(1, min(count, len(points)) + 1)
    near = np.asarray(KDTree(points).query(wanted, k=ranks, distance_upper_bound=radius)[1])
    row, rank = np.nonzero(near < len(points))
    return row, near[row, rank]


def _principal(vectors: np.ndarray) -> np.ndarray:
    """Directions in which vectors differ most, (dimensions, 12 at most), by which distances never grow."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :12]


def _alike_pictures(sketches: pa.Array, column: Column, names: Sequence[str]) -> tuple[Pairs, pa.Array]:
    pictures = _Pictures(sketches)
    if len(pictures.there) < 2:
        return (np.empty(0, int), np.empty(0, int)), sketches
    points = pictures.unit @ _principal(pictures.unit)
    left, right = _neighbours(points, points, 1.5 * COARSE_BOUND, NEIGHBOURS)
    left, right = left[left < right], right[left < right]
    close = pictures.copies(pictures, left, right)
    return (pictures.there[left[close]], pictures.there[right[close]]), sketches


def _same_pictures(ours: pa.Array, theirs: pa.Array) -> np.ndarray:
    wanted, known = _Pictures(ours), _Pictures(theirs)
    found = np.zeros(len(ours), bool)
    if len(wanted.there) and len(known.there):
        axes = _principal(known.unit)
        left, right = _neighbours(known.unit @ axes, wanted.unit @ axes, 1.5 * COARSE_BOUND, NEIGHBOURS)
        found[wanted.there[left[wanted.copies(known, left, right)]]] = True
    return found


# Tables: words as texts are, numbers nearly equal, whatever the order of the columns -----------------------------------------


def _of_table(contents: pa.Table, mapped: Callable[..., Iterable[Any]]) -> pa.Array:
    keys = np.zeros(len(contents), np.uint64)
    for name in contents.column_names:
        values = contents[name]
        keys += _hashed(name, values, _rounded(numbers(values)) if _is_numeric(values.type) else None)
    return pa.array((keys >> np.uint64(1)).astype(np.int64))


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def numbers(values: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as (rows,) float64, nan where one is missing."""
    return np.asarray(pc.cast(values, pa.float64(), safe=False).fill_null(np.nan).combine_chunks(), np.float64)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Numbers to six digits, whole ones as they are; equal ones stay equal."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        digits = 10.0 ** np.clip(5 - np.floor(np.log10(np.abs(values))), -300, 300)
        rounded = np.round(values * digits) / digits
    return np.where(np.isfinite(rounded) & (values != np.floor(values)), rounded, values) + 0.0  # no -0.0


def _hashed(name: str, values: pa.ChunkedArray, known: np.ndarray | None = None) -> np.ndarray:
    """A hash of each value with its column's name, (rows,) uint64, to be added up; 0 where one is missing."""
    start = np.uint64(splits.hash64(normalising.normal(name).encode() or name.encode()))
    missing = np.asarray(values.is_null().combine_chunks())
    if known is not None:
        bits, missing = np.ascontiguousarray(known, np.float64).view(np.uint64), missing | np.isnan(known)
    else:
        encoded = values.combine_chunks().dictionary_encode()
        said = [normalising.normal_word(str(value)) for value in encoded.dictionary.to_pylist()]
        hashes = np.array([splits.hash64(word.encode(errors="replace")) for word in said] + [0], np.uint64)
        bits = hashes[np.asarray(encoded.indices.fill_null(len(said)), np.int64)]
    return np.where(missing, np.uint64(0), splits.scramble(splits.scramble(bits) ^ start))


def _alike_rows(sketches: pa.Array, column: Column, names: Sequence[str]) -> tuple[Pairs, pa.Array]:
    """Rows with equal words and nearly equal numbers."""
    count = len(sketches)
    table = _Rows(count)
    for name in names:
        table.add(name, column(name))
    table.chance += np.log(CROWDED) if table.measured else 0.0
    telling = table.chance + np.log(max(1, count)) < np.log(CHANCE)
    places = np.flatnonzero(telling)
    kept = pa.array(np.asarray(sketches), mask=~telling) if count else sketches
    if not table.measured:
        return _chained(table.words[places], places), kept
    _, group = np.unique(table.words[places], return_inverse=True)
    points = np.column_stack([group, table.points[places]])  # different words are further apart than any radius
    left, right = _neighbours(points, points, 2 * TOLERANCE, NEIGHBOURS)
    left, right = places[left[left < right]], places[right[left < right]]
    close = np.ones(len(left), bool)
    for name, scale in table.measured.items():
        values = numbers(column(name))
        one, two = values[left], values[right]
        with np.errstate(invalid="ignore"):
            near = np.abs(np.arcsinh(one / scale) - np.arcsinh(two / scale)) <= TOLERANCE
            counts = (one == np.floor(one)) & (two == np.floor(two))  # two counts that differ aren't noise
        close &= (near & ~(counts & (one != two))) | (np.isnan(one) & np.isnan(two))
    return (left[close], right[close]), kept


class _Rows:
    """What is known of rows of a table, a column after the other.

    Attributes:
        words: (rows,) uint64, a hash of all that has to be equal.
        points: (rows, 3) mixtures of the numbers that have to be near.
        chance: (rows,) logarithm of the share of rows that meet a row by chance, were its columns independent.
        measured: scale of each column of numbers that have to be near.
    """

    def __init__(self, rows: int):
        self.words, self.points, self.chance = np.zeros(rows, np.uint64), np.zeros((rows, 3)), np.zeros(rows)
        self.measured: dict[str, float] = {}
        self._seen: list[np.ndarray] = []
        self._some = np.random.default_rng(0).permutation(rows)[:1000]

    def add(self, name: str, values: pa.ChunkedArray) -> None:
        """Take a column in."""
        given = numbers(values) if _is_numeric(values.type) else None
        if given is None or (np.isnan(given) | (given == np.floor(given))).all():
            hashes = _hashed(name, values, given)
            self.words += hashes
            _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
            self.chance += np.log(counts[place] / len(hashes))
            return
        there = ~np.isnan(given)
        self.words += np.where(there, np.uint64(0), splits.scramble(np.full(len(given), splits.hash64(name.encode()), np.uint64)))
        size = float(np.abs(given[there]).max())
        scale = size * float(np.sqrt(np.mean(np.square(given[there] / size))))
        self.measured[name] = scale
        spread = np.where(there, np.arcsinh(np.nan_to_num(given) / scale), 0.0)
        random = np.random.default_rng(splits.hash64(name.encode()))
        self.points += spread[:, None] * (random.choice([-1.0, 1.0], 3) * random.uniform(0.5, 1.0, 3))
        some = spread[self._some]
        some = (some - some.mean()) / (float(np.linalg.norm(some - some.mean())) or 1.0)
        if any(abs(float(some @ other)) > DEPENDENT for other in self._seen):
            return
        self._seen.append(some)
        self.chance += np.where(there, _met(spread), np.log(max(1, (~there).sum()) / len(given)))


def _met(values: np.ndarray) -> np.ndarray:
    """Logarithm of the share of rows whose number meets each one's by chance, (rows,)."""
    ordered = np.sort(values)

    def share(width: float) -> np.ndarray:
        return (np.searchsorted(ordered, values + width, "right") - np.searchsorted(ordered, values - width)) / len(values)

    densest = np.full(len(values), 1 / (WINDOWS[-1] * len(values)))
    for window in WINDOWS:  # without the number itself
        densest = np.maximum(densest, (share(window * TOLERANCE) - 1 / len(values)) / window)
    equal = np.searchsorted(ordered, values, "right") - np.searchsorted(ordered, values)
    often = np.where(equal > 1, share(TOLERANCE), 0.0)  # a count that recurs
    return np.log(np.maximum(often, densest))


KINDS = {
    "texts": Kind(_of_texts, _alike_by_sketch),
    "images": Kind(_of_pictures, _alike_pictures),
    "table": Kind(_of_table, _alike_rows),
}
"""How rows are compared, by what a dataset holds."""
