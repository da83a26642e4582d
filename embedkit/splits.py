"""Which row is which, and which side of an evaluation it is on. Arrays in, arrays out.

Ids and content hashes are int64, never negative. A split is drawn by comparing a hash with fixed bounds, so that adding
rows moves no old one; equal contents have equal hashes, so that they fall on the same side.
"""

import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")


def hash64(data: bytes) -> int:
    """The first 63 bits of BLAKE2b, as a non-negative int64."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def mix(values: np.ndarray, seed: int) -> np.ndarray:
    """Hash int64 values with a seed into numbers that are uniform in [0, 1) (SplitMix64; Steele et al. 2014)."""
    x = values.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    return (scramble(x) >> np.uint64(11)).astype(np.float64) / 2**53


def scramble(x: np.ndarray) -> np.ndarray:
    """Hash uint64 values into others, none twice (the last steps of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def occurrences(values: np.ndarray) -> np.ndarray:
    """For each value, how many equal ones came before it: [7, 8, 7] -> [0, 0, 1]."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0]) if len(values) else np.empty(0, int)
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return counts


def content_ids(content: np.ndarray) -> np.ndarray:
    """Ids from content hashes: the hash itself for the first row of a content, a hash of hash and count for its copies."""
    ids, copies = content.copy(), occurrences(content)
    for row in np.flatnonzero(copies):
        ids[row] = hash64(f"{content[row]} {copies[row]}".encode())
    return ids


def draw(hashes: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    """Splits by hash.

    Args:
        hashes: (rows,) int64; equal ones come to the same side.
        validation: share of rows for validation.
        test: share of rows for testing.
        seed: another seed, another draw.

    Returns:
        (rows,) int8, indices into SPLITS.
    """
    return _cut(mix(hashes, seed), validation, test)


def draw_stratified(
    hashes: np.ndarray, strata: np.ndarray, validation: float, test: float, seed: int, units: np.ndarray | None = None
) -> np.ndarray:
    """Splits with the same shares of rows in each stratum, see `draw`.

    Args:
        hashes: (rows,) int64, which decide the order in which rows are drawn.
        strata: (rows,) int, such as labels; rows that stay together count to the stratum that most of them are in.
        validation: share of rows for validation.
        test: share of rows for testing.
        seed: another seed, another draw.
        units: (rows,) int, equal for rows that stay together and are counted as what they are; by default rows of equal hashes.
    """
    if not len(hashes):
        return np.zeros(0, np.int8)
    _, first, unit = np.unique(hashes if units is None else units, return_index=True, return_inverse=True)
    _, stratum = np.unique(strata, return_inverse=True)
    pairs, counts = np.unique(np.column_stack([unit, stratum]), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    most = pairs[order][np.unique(pairs[order, 0], return_index=True)[1], 1]  # of each unit
    place, rows = mix(hashes[first], seed), np.bincount(unit)
    drawn = np.zeros(len(first), np.int8)
    for number in np.unique(most):
        these = np.flatnonzero(most == number)
        these = these[np.argsort(place[these], kind="stable")]
        drawn[these] = _filled(rows[these], validation, test)
    return drawn[unit]


def _filled(rows: np.ndarray, validation: float, test: float) -> np.ndarray:
    """Splits of units in their order, by how many rows each has; one that would make a split too large is passed over."""
    total = rows.sum()
    if (rows == 1).all():
        return _cut((np.arange(len(rows)) + 0.5) / total, validation, test)
    splits, taken = np.zeros(len(rows), np.int8), 0
    for split, share, until in ((2, test, test), (1, validation, test + validation)):
        for over in (False, True):  # first what fits, then what brings the split nearer to its share
            for unit in np.flatnonzero(splits == 0).tolist():
                size = rows[unit]
                fits = size <= max(1, share * total) and (over or size == 1 or taken + size <= until * total)
                if fits and (taken + size / 2) / total < until:
                    splits[unit], taken = split, taken + size
    return splits


def together(*keys: np.ndarray) -> np.ndarray:
    """Numbers that are equal for rows which have any of these keys in common, be it by way of other rows.

    Args:
        keys: (rows,) int each.

    Returns:
        (rows,) int64, the place of the first row of each such set.
    """
    sets = [np.unique(key, return_inverse=True)[1] for key in keys]
    lowest = np.arange(len(keys[0]))
    while True:
        before = lowest
        for inverse in sets:
            least = np.full(inverse.max(initial=-1) + 1, len(lowest))
            np.minimum.at(least, inverse, lowest)
            lowest = least[inverse]
        if (lowest == before).all():
            return lowest


def draw_by_time(times: np.ndarray, validation: float, test: float) -> np.ndarray:
    """The latest rows for testing, those before them for validation; rows of one moment stay together. See `draw`."""
    ordered = np.sort(times)

    def among_last(share: float) -> np.ndarray:
        place = round(len(ordered) * (1 - share))
        return times >= ordered[place] if place < len(ordered) else np.zeros(len(times), bool)

    return np.select([among_last(test), among_last(test + validation)], [2, 1], 0).astype(np.int8)


def _cut(uniform: np.ndarray, validation: float, test: float) -> np.ndarray:
    return np.select([uniform < test, uniform < test + validation], [2, 1], 0).astype(np.int8)


def straddling(content: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose equals are on another side.

    Args:
        content: (rows,) int64 content hashes.
        splits: (rows,) int8 indices into SPLITS.

    Returns:
        (rows,) bool, true where an equal row is in another split, and (rows,) int8, the splits with those rows all on
        the earliest side (train before validation before test), so that no test row was ever trained on.
    """
    _, inverse = np.unique(content, return_inverse=True)
    lowest = np.full(inverse.max(initial=-1) + 1, len(SPLITS), np.int8)
    highest = np.full_like(lowest, -1)
    np.minimum.at(lowest, inverse, splits)
    np.maximum.at(highest, inverse, splits)
    return (lowest != highest)[inverse], lowest[inverse]
