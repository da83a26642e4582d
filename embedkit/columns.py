"""Columns of a table: which type fits all values of a column, and conversion to it.

A type is chosen once, for the whole column, from all readable rows: whole numbers, numbers, truth values, moments (ISO
8601) or words. So every file of a dataset has the same types, whatever its first rows look like.
"""

import itertools
import json
import re
from collections.abc import Collection, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TYPES = {
    "whole": pa.int64(),
    "number": pa.float64(),
    "truth": pa.bool_(),
    "moment": pa.timestamp("us"),
    "word": pa.string(),
}
MISSING = frozenset(("", "NA", "N/A", "na", "n/a", "NaN", "nan", "null", "NULL", "None", "?"))
"""Words that stand for "no value" in a column whose other values are numbers, moments or truth values."""
# What Python values a type takes.
TAKEN = {
    pa.int64(): int,
    pa.float64(): int | float | Decimal,
    pa.bool_(): bool,
    pa.timestamp("us"): date,
}
CODE = re.compile(r"\s*[+-]?0[0-9xXbBoO]")
"""Digits that are no number but a code, whose leading zeros count: 01067, 0x1F."""
NARROW_FIRST = ("truth", "whole", "number", "moment", "word")
ROWS_AT_ONCE = 65_536
VALUES_AT_ONCE = 2**24
"""Of rows with so many columns that this is less, fewer are looked at in one go: each value is an object."""


def infer(rows: Iterator[dict[str, Any]], names: list[str], but: Collection[str | None] = ()) -> dict[str, str]:
    """The narrowest type, by name, that every value of each column fits; `word` for a column without values.

    Columns that `names` doesn't know come after those it does, except the ones in `but`.
    """
    candidates = {name: list(NARROW_FIRST) for name in names}
    filled = dict.fromkeys(names, False)
    while chunk := list(itertools.islice(rows, min(ROWS_AT_ONCE, 1 + VALUES_AT_ONCE // max(1, len(candidates))))):
        for name in dict.fromkeys(itertools.chain.from_iterable(chunk)):
            if name not in candidates and name not in but:
                candidates[name], filled[name] = list(NARROW_FIRST), False
        for name in candidates:
            values = [value for row in chunk if not _missing(value := row.get(name))]
            filled[name] |= bool(values)
            candidates[name] = [kind for kind in candidates[name] if values == [] or _fits(values, TYPES[kind])]
    return {name: kinds[0] if filled[name] else "word" for name, kinds in candidates.items()}


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in MISSING)


def _fits(values: list[Any], kind: pa.DataType) -> bool:
    """Whether all values are of a type, or texts of it; Arrow by itself would cut fractions off and take 1 as true."""
    if kind == pa.string():
        return True
    given = [value for value in values if not isinstance(value, str)]
    if not all(isinstance(value, TAKEN[kind]) and (kind == pa.bool_() or not isinstance(value, bool)) for value in given):
        return False
    if kind == pa.float64() and any(isinstance(value, int) and abs(value) >= 2**63 for value in given):
        return False  # more digits than a double holds; a key, most likely
    texts = [value for value in values if isinstance(value, str)]
    if kind in (pa.int64(), pa.float64()) and any(CODE.match(text) for text in texts):
        return False
    if kind == pa.bool_() and not {text.strip() for text in texts} <= {"true", "false", "True", "False"}:
        return False
    try:
        convert(values, kind)
    except (pa.ArrowException, ValueError, OverflowError):
        return False
    return True


def convert(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array: texts are parsed, numbers written as texts where the column is of words, None
    and, outside columns of words, MISSING become null.

    Raises:
        pyarrow.ArrowInvalid: when a value doesn't fit.
    """
    if kind == pa.binary():
        return pa.array(values, kind)
    if kind == pa.string():
        return pa.array([value if value is None or isinstance(value, str) else _text(value) for value in values], kind)
    if any(isinstance(value, str) for value in values):
        texts = pa.array([None if _missing(value) else str(value).strip() for value in values], pa.string())
        return pc.cast(texts, kind)
    if kind == pa.timestamp("us"):
        values = [datetime(v.year, v.month, v.day) if type(v) is date else v for v in values]
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
