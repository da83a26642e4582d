"""Assignment: which id each row of a dataset gets, and which split; and what is said of that.

`splits` draws; here the settings of a load decide what is drawn, what stays together, and what was moved for it.
"""

import contextlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit import splits
from embedkit.folders import SPLITS
from embedkit.labels import Labels
from embedkit.settings import UserError, listed, not_among, short

NOTEWORTHY = 0.02
"""Share of the rows that may leave the test split, since they have equals elsewhere, before a note says so."""


def ids_of(light: pa.Table, key_column: str | None) -> np.ndarray:
    """The id of each row, (rows,) int64: of its key, or of its content.

    Raises:
        UserError: when a key is missing or names several rows.
    """
    if key_column is None:
        return splits.content_ids(light["content"].to_numpy())
    keys = light["key"].to_pylist()
    if None in keys:
        raise UserError(f"row {keys.index(None)} has no value in the key column {key_column!r}; a key must name every row")
    ids = np.array([int(key) if _is_id(key) else splits.hash64(key.encode()) for key in keys], np.int64)
    if twice := np.flatnonzero(splits.occurrences(ids)).tolist():
        raise UserError(f"the key {short(keys[twice[0]])!r} names several rows; give a key_column whose values differ, or none")
    return ids


def _is_id(key: str) -> bool:
    return len(key) < 20 and key.isdecimal() and int(key) < 2**63 and str(int(key)) == key


def drawn(
    light: pa.Table,
    ids: np.ndarray,
    content: np.ndarray,
    alike: np.ndarray,
    found: Labels | None,
    settings: Any,
) -> tuple[np.ndarray, list[str]]:
    """Each row's split as an index into SPLITS, and what should be said about it."""
    shares = (settings.validation_share, settings.test_share)
    hashes = content if settings.key_column is None else ids
    if settings.group_column:
        groups = [f"row {row}" if group is None else group for group, row in zip(light["group"].to_pylist(), ids, strict=True)]
        hashes = np.array([splits.hash64(group.encode()) for group in groups], np.int64)
    given = light["split"].to_pylist()
    if settings.split == "source" or (settings.split == "auto" and any(given)):
        return _source_splits(given, hashes, settings)
    _leave_some(*shares)
    if settings.split == "time":
        return splits.draw_by_time(_times(light["time"].to_pylist(), settings), *shares), []
    if settings.split == "stratified":
        if found is None:
            raise UserError("split 'stratified' needs labels; give a label_column or another split")
        units = splits.together(hashes, *kept_together(light, content, alike, settings))
        return splits.draw_stratified(hashes, found.strata(), *shares, settings.seed, units), []
    return splits.draw(hashes, *shares, settings.seed), []


def _source_splits(given: list[str | None], hashes: np.ndarray, settings: Any) -> tuple[np.ndarray, list[str]]:
    unknown = [split for split in dict.fromkeys(given) if split is not None and split.lower() not in SPLITS]
    if unknown:
        raise not_among("split", unknown[0], SPLITS, hint="in the split column")
    if not any(given):
        raise UserError("split 'source' was asked for, but the source has no splits; give a split_column or another split")
    index = {None: 0} | {name: splits.SPLITS.index(split) for name, split in SPLITS.items()}
    drawn = np.array([index[split.lower() if split else None] for split in given], np.int8)
    notes, train = [], drawn == 0
    if not (drawn == 2).any() and (drawn == 1).any():
        drawn[drawn == 1] = 2
        notes.append("the source has no test split: its validation rows are the test rows")
    test = 0.0 if (drawn == 2).any() else settings.test_share
    validation = 0.0 if (drawn == 1).any() else settings.validation_share
    if validation or test:
        _leave_some(validation, test)
        drawn[train] = splits.draw(hashes[train], validation, test, settings.seed)
        made = " and ".join(name for name, share in (("validation", validation), ("test", test)) if share)
        notes.append(f"{made} rows were drawn from the training rows by hash")
    return drawn, notes


def _leave_some(validation: float, test: float) -> None:
    if validation + test >= 1:
        raise UserError(f"validation_share and test_share are {validation + test:g} together; leave more than nothing for training")


def _times(values: list[str | None], settings: Any) -> np.ndarray:
    column, form = settings.time_column, settings.time_format
    if None in values:
        raise UserError(f"row {values.index(None)} has no value in the time column {column!r}; a split by time needs every row's")
    expected = f"moments written as {form!r}" if form else "numbers or ISO dates"
    if not form:
        with contextlib.suppress(ValueError):
            times = np.array(values, np.float64)
            if not np.isnan(times).any():
                return times
    moments = []
    for value in values:
        try:
            moment = datetime.strptime(str(value), form) if form else datetime.fromisoformat(str(value))
        except ValueError:
            came = short(str(value))
            raise UserError(f"the time column {column!r} holds {came!r}, not {expected}; set time_format, like %m/%d/%y") from None
        moments.append(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment)
    return np.array(moments, "datetime64[us]")


def kept_together(light: pa.Table, content: np.ndarray, alike: np.ndarray, settings: Any) -> list[np.ndarray]:
    """What rows must have in common to come to the same split, (rows,) int each."""
    keys = [content] if settings.duplicates == "move" else []
    keys += [alike] if settings.near_copies == "move" else []
    return keys + ([_groups(light)] if settings.group_column else [])


def _groups(light: pa.Table) -> np.ndarray:
    """The group of each row by its number, (rows,) int; a row without one is alone."""
    encoded = light["group"].combine_chunks().dictionary_encode()
    return np.where(encoded.is_null(), len(encoded.dictionary) + np.arange(len(light)), encoded.indices.fill_null(0))


def apart(content: np.ndarray, alike: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Rows with a near copy in another split and no equal there, (rows,) bool."""
    return splits.straddling(alike, drawn)[0] & ~splits.straddling(content, drawn)[0]


def moved(light: pa.Table, across: np.ndarray, apart: np.ndarray, drawn: np.ndarray, final: np.ndarray, settings: Any) -> list[str]:
    """What should be said of rows that are copies, or pieces of one thing, in different splits."""
    changed, notes = int((final != drawn).sum()), []
    moved = f"{changed:,} of them moved to the earliest split"
    if across.any():
        what = moved if settings.duplicates == "move" else "left as they are"
        notes.append(f"{across.sum():,} rows have an equal in another split; {what}")
    if apart.any():
        advice = "left as they are; what is said of test rows leaves them out, and near_copies move puts them on one side"
        what = moved if settings.near_copies == "move" else advice
        notes.append(f"{apart.sum():,} rows have a near copy in another split; {what}")
    if settings.group_column and (torn := splits.straddling(_groups(light), drawn)[0]).any():
        notes.append(f"{torn.sum():,} rows have others of their {settings.group_column!r} in another split; {moved}")
    was, now = ((each == 2).mean() for each in (drawn, final))
    if was - now > NOTEWORTHY and now and not any(light["split"].to_pylist()):
        notes.append(f"so {now:.1%} of the rows are test rows, of {was:.1%} that were drawn; split stratified keeps the shares")
    return notes


def class_shares(found: Labels | None, final: np.ndarray) -> dict[str, dict[str, float]] | None:
    """The share of each class among the labelled rows of each split, where there are classes and splits."""
    if found is None or found.kind != "class" or len(np.unique(final)) < 2:
        return None
    names, strata = list(found.summary()["classes"]), found.array.to_pylist()
    codes = np.array([-1 if label is None else names.index(label) for label in strata])
    shares = {}
    for index, split in enumerate(splits.SPLITS):
        counts = np.bincount(codes[(final == index) & (codes >= 0)], minlength=len(names))
        if counts.sum():
            shares[split] = {name: round(float(count / counts.sum()), 4) for name, count in zip(names, counts, strict=True)}
    return shares


def sizes(final: np.ndarray, shares: dict[str, dict[str, float]] | None) -> str:
    """How many rows each split has, and how its classes are spread, in words."""
    counts = np.bincount(final, minlength=len(splits.SPLITS))
    said = ", ".join(f"{name} {count:,} rows ({count / len(final):.1%})" for name, count in zip(splits.SPLITS, counts, strict=True))
    if not shares:
        return said
    names = list(next(iter(shares.values())))
    each = [f"{name} {', '.join(f'{shares[split][name]:.1%}' for split in shares)}" for name in names]
    return f"{said}; classes in {', '.join(shares)}: {listed(each, '; ')}"


def copies_of(alike: np.ndarray, content: np.ndarray) -> int:
    """Rows that are near copies of an earlier row and equal none."""
    return int(len(np.unique(content)) - len(np.unique(alike)))
