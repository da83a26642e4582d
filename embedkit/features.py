"""Features: what an encoder of tables makes of each column.

A column of numbers becomes a number near [-1, 1], one of few words or of indices (one-hot) a number for each value, a moment
its calendar parts, and one of many values the place of its value in a vocabulary, for which the network has a vector.
`columns.json` in an encoder holds all of it, and what a column was fitted to is part of the encoder's identity.
"""

import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pydantic import BaseModel, Field, PrivateAttr, StrictBool, StrictFloat, StrictInt, StrictStr, computed_field

from embedkit import columns as types
from embedkit import moments as forms

pc: Any = pyarrow.compute  # its functions are made when it is imported
CORE = 0.9
"""Where the ends of a bounded column's range come to lie; what lies outside shares the rest up to 1."""
UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Places in every vocabulary: of values that training rows hardly had, of none at all, and of the first value."""
PARTS = ("year", "month", "day", "weekday", "hour")
"""Calendar parts of a moment; Monday is weekday 0."""

NUMERIC = ("whole", "number")
"""Types of `columns` that one column may have in one file and another in the next."""


def is_of(values: Sequence[Any], kinds: Sequence[str]) -> bool:
    """Whether all values of a file, missing ones aside, are of these types, found as `load_table` finds them."""
    given = [value for value in values if not types.is_missing(value)]
    return not given or types.infer(({"": value} for value in given), [""])[""] in kinds


def read_as(values: Sequence[Any], kind: str) -> pa.Array:
    """Values of a file as the texts that those of a column of this type become; what is of another type stays as it is."""
    kinds = NUMERIC if kind in NUMERIC else (kind,)
    if kind != "word" and is_of(values, kinds):
        found = types.infer(({"": value} for value in values), [""])[""]
        found = kind if found == "word" else found  # where all are missing
        return as_texts(pa.chunked_array([types.convert(list(values), types.TYPES[found])])).combine_chunks()
    if kind == "word" or len(values) == 1:
        return text_array(values)
    return pa.concat_arrays([read_as([value], kind) for value in values])  # few columns are such, and few of their batches


class Numbers(BaseModel):
    """A column of numbers: `low` to `high`, the range in the training rows, becomes -1 to 1.

    What lies outside goes on linearly beyond, since order and distance count there too. Where it is `bounded`, `low` to `high`
    becomes -0.9 to 0.9 and what lies outside keeps its order but stays within 1, so that no outlier sets the scale. A number
    that is missing, or not finite, becomes 0; where training rows had such gaps, a second output is 1 for a gap and 0 for a
    number.
    """

    kind: Literal["numbers"] = "numbers"
    name: str
    low: float
    high: float
    gaps: bool
    bounded: bool = False

    @property
    def takes(self) -> str:
        """What belongs here, in words."""
        return "numbers"

    @property
    def value_type(self) -> str:
        """The type of `columns` that its values have in a file."""
        return "number"

    @property
    def outputs(self) -> list[str]:
        """What each output says."""
        return [self.name, f"{self.name} is missing"] if self.gaps else [self.name]

    @property
    def center(self) -> float:
        """What becomes 0."""
        return self.high / 2 + self.low / 2  # halved first, since the whole may overflow

    @property
    def half(self) -> float:
        """From there to the ends of the range."""
        return self.high / 2 - self.low / 2

    def fits(self, kind: type) -> bool:
        """Whether a Python type of values belongs here."""
        return issubclass(kind, int | float | Decimal | np.integer | np.floating) and kind is not bool

    def example(self, place: float) -> float:
        """A value for each place from 0 to 1, over the range and half of it on either side."""
        return self.low + (self.high - self.low) * (2 * place - 0.5)

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Python values, None for a missing one, as Arrow has them."""
        return pa.array(np.array(values, np.float64))  # pyarrow itself mixes no types of numbers

    def belong(self, values: Sequence[Any]) -> bool:
        """Whether all values of a file belong here."""
        return is_of(values, NUMERIC)

    def read(self, values: Sequence[Any]) -> pa.Array:
        """Values of a file that belong here, as Arrow has them."""
        return types.convert(list(values), pa.float64())

    def encode(self, values: pa.ChunkedArray) -> np.ndarray:
        """(rows,) of any type of number as (rows, outputs) float32."""
        numbers = values.cast(pa.float64(), safe=False).to_numpy()  # NaN where a number is missing
        known = np.isfinite(numbers)
        with np.errstate(over="ignore"):  # what is too far for float32 becomes infinite, and `embed` refuses that by its row
            scaled = (np.where(known, numbers, self.center) - self.center) / (self.half or math.inf)
            scaled = _bounded(scaled) if self.bounded else scaled
            return np.stack([scaled, ~known] if self.gaps else [scaled], axis=1).astype(np.float32)


def _bounded(scaled: np.ndarray) -> np.ndarray:
    """[-1, 1] as [-CORE, CORE], and all beyond as what is left up to -1 and 1, with one slope where they meet."""
    inner, beyond = CORE * np.clip(scaled, -1, 1), CORE * np.maximum(np.abs(scaled) - 1, 0)
    rest = 1 - CORE
    with np.errstate(invalid="ignore"):
        outer = np.where(np.isinf(beyond), rest, rest * beyond / (rest + beyond))
    return inner + np.sign(scaled) * outer


class Category(BaseModel):
    """A column of few words, truth values or indices: one output for each of `values`, 1 where a row has it and 0 elsewhere.

    `values` are those of the training rows. Any other, and a missing one, becomes all zeros. Indices are whole numbers of any
    type, as texts too; other numbers are values only where that was asked for.
    """

    kind: Literal["category"] = "category"
    name: str
    values: list[StrictStr] | list[StrictBool] | list[StrictInt] | list[StrictFloat]

    @property
    def takes(self) -> str:
        """What belongs here, in words."""
        return {str: "texts", bool: "truth values", int: "whole numbers", float: "numbers"}[type(self.values[0])]

    @property
    def value_type(self) -> str:
        """The type of `columns` that its values have in a file."""
        return {str: "word", bool: "truth", int: "whole", float: "number"}[type(self.values[0])]

    @property
    def outputs(self) -> list[str]:
        """What each output says."""
        return [f"{self.name} is {value}" for value in self.values]

    def fits(self, kind: type) -> bool:
        """Whether a Python type of values belongs here."""
        own = type(self.values[0])
        if own in (int, float):
            return kind is not bool and issubclass(kind, int | float | str | np.integer | np.floating)
        return issubclass(kind, str if own is str else bool | np.bool_)

    def example(self, place: float) -> str | bool | int | float:
        """A value for each place from 0 up to 1; the last is one that no row had, where there can be such."""
        values: list[Any] = list(self.values)
        values += {str: ["no such text"], int: [10**9], float: [1e9], bool: []}[type(values[0])]
        return values[int(place * len(values))]

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Python values, None for a missing one, as Arrow has them."""
        if type(self.values[0]) in (int, float):
            return text_array(values)
        known = pa.array(self.values)
        return pa.array([value if value in self.values else None for value in values], known.type)

    def belong(self, values: Sequence[Any]) -> bool:
        """Whether all values of a file belong here."""
        return type(self.values[0]) is not bool or is_of(values, ("truth",))

    def read(self, values: Sequence[Any]) -> pa.Array:
        """Values of a file that belong here, as Arrow has them."""
        own = type(self.values[0])
        if own in (int, float):
            return read_as(values, "number")
        return types.convert(list(values), pa.bool_() if own is bool else pa.string())

    def encode(self, values: pa.ChunkedArray) -> np.ndarray:
        """(rows,) of the type of `values` as (rows, outputs) float32."""
        known = as_texts(pa.chunked_array([pa.array(self.values)]))
        places = pc.index_in(as_texts(values), known.combine_chunks()).fill_null(-1).to_numpy()
        return (places[:, None] == np.arange(len(self.values))).astype(np.float32)


class Calendar(BaseModel):
    """A column of moments: one-hot calendar parts, each with the values that training rows had.

    Any other value, and a missing moment, becomes all zeros. Moments are timestamps, or texts as `format` says, ISO 8601 by
    default; with a format whole numbers too, such as 20260131.
    """

    kind: Literal["calendar"] = "calendar"
    name: str
    parts: dict[str, list[int]]
    format: str | None = None

    @property
    def takes(self) -> str:
        """What belongs here, in words."""
        return f"moments written as {self.format!r}" if self.format else "moments"

    @property
    def value_type(self) -> str:
        """The type of `columns` that its values have in a file."""
        return "moment"

    @property
    def outputs(self) -> list[str]:
        """What each output says."""
        return [f"{part} of {self.name} is {value}" for part, values in self.parts.items() for value in values]

    def fits(self, kind: type) -> bool:
        """Whether a Python type of values belongs here."""
        written = (date, str, int, np.integer) if self.format else (date, str)
        return issubclass(kind, written) and kind is not bool

    def example(self, place: float) -> str:
        """A moment for each place from 0 up to 1, in one year."""
        moment = datetime(2001 + int(4 * place), 1 + int(12 * place), 1 + int(200 * place) % 28, int(997 * place) % 24)
        return moment.strftime(self.format or "%Y-%m-%dT%H:%M:%S")

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Python values, None for a missing one, as Arrow has them."""
        wanted = self.format or "%Y-%m-%dT%H:%M:%S"
        return text_array([value.strftime(wanted) if isinstance(value, date) else value for value in values])

    def belong(self, values: Sequence[Any]) -> bool:
        """Whether all values of a file belong here."""
        if not self.format:
            return is_of(values, ("moment",))
        if not all(types.is_missing(value) or self.fits(type(value)) for value in values):
            return False
        try:
            moments(pa.chunked_array([self.read(values)]), self.format)
        except pa.ArrowInvalid:
            return False
        return True

    def read(self, values: Sequence[Any]) -> pa.Array:
        """Values of a file that belong here, as Arrow has them."""
        if self.format:
            return self.array([None if types.is_missing(value) else value for value in values])
        return types.convert(list(values), pa.timestamp("us"))

    def encode(self, values: pa.ChunkedArray) -> np.ndarray:
        """(rows,) of timestamps or texts as (rows, outputs) float32."""
        found = calendar(moments(values, self.format))
        columns = [found[part][:, None] == np.array(known) for part, known in self.parts.items()]
        return np.concatenate(columns, axis=1).astype(np.float32)


def moments(values: pa.ChunkedArray, form: str | None) -> pa.ChunkedArray:
    """Timestamps, or texts of them (with a format whole numbers too), as timestamps.

    Raises:
        pyarrow.ArrowInvalid: when a text is none.
    """
    values = as_texts(values) if form and pa.types.is_integer(values.type) else values
    if pa.types.is_string(values.type):
        texts = values.combine_chunks()
        found = forms.parse(texts, form or forms.ISO)
        if not form and found.null_count > texts.null_count:
            found = pc.coalesce(found, forms.parse(texts, forms.OFFSET))
        if found.null_count > texts.null_count:
            wrong = texts.filter(pc.and_(pc.is_valid(texts), pc.is_null(found)))[0].as_py()
            raise pa.ArrowInvalid(f"{wrong!r:.80} is none")
        return pa.chunked_array([found])
    return values.cast(pa.timestamp("us"))


def calendar(values: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Each calendar part of moments, -1 for a missing one; (rows,) int64 each."""
    parts = {"year": pc.year, "month": pc.month, "day": pc.day, "weekday": pc.day_of_week, "hour": pc.hour}
    return {part: np.asarray(parts[part](values).fill_null(-1)).astype(np.int64) for part in PARTS}


class Vocabulary(BaseModel):
    """The values that have a vector of their own, as texts; place UNKNOWN is for all others, MISSING for none at all.

    `missing` says whether enough training rows had none for that to have a vector of its own.
    """

    name: str
    values: list[StrictStr]
    missing: bool
    dimension: int
    _known: Any = PrivateAttr(None)

    @property
    def size(self) -> int:
        """Vectors that it has."""
        return len(self.values) + FIRST

    @cached_property
    def kind(self) -> str:
        """The type of `columns` that all of its values have: a number was written without a fraction, a moment in one way."""
        return types.infer(({"": value} for value in self.values), [""])[""]

    def places(self, values: pa.ChunkedArray) -> np.ndarray:
        """The place of each value; (rows,) int32."""
        if self._known is None:
            self._known = pa.array(self.values, pa.string())
        found = pc.index_in(values, self._known, skip_nulls=True)
        places = np.asarray(found.fill_null(-1)).astype(np.int32)
        places = np.where(places < 0, UNKNOWN, places + FIRST)
        return np.where(np.asarray(values.is_null()), MISSING if self.missing else UNKNOWN, places).astype(np.int32)


class Embedded(BaseModel):
    """A column of many values, each of which has a vector: the place of a row's value in a vocabulary.

    Values are compared as texts, whole numbers without a fraction, so that 7, 7.0 and "7" are one value.
    """

    kind: Literal["embedded"] = "embedded"
    name: str
    vocabulary: int

    @property
    def takes(self) -> str:
        """What belongs here, in words."""
        return "texts, numbers, truth values or moments"

    def fits(self, kind: type) -> bool:
        """Whether a Python type of values belongs here."""
        return issubclass(kind, str | bool | int | float | Decimal | date | np.generic)

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Python values, None for a missing one, as texts."""
        return text_array(values)

    def belong(self, values: Sequence[Any]) -> bool:
        """Whether all values of a file belong here."""
        return all(value is None or self.fits(type(value)) for value in values)


def as_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of any type as texts: whole numbers without a fraction, moments as in ISO 8601; NaN is missing."""
    if pa.types.is_string(values.type):
        return values
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        as_whole = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string())
        return pc.if_else(whole, as_whole, values.cast(pa.string()))
    return values.cast(pa.string())


def text_array(values: Sequence[Any]) -> pa.Array:
    """Python values as texts, as `as_texts` writes them."""
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating | Decimal):
        number = float(value)
        if not math.isfinite(number):
            return None
        if number.is_integer() and abs(number) < 2**53:
            return str(int(number))
        return pa.scalar(number).cast(pa.string()).as_py()  # Python itself writes 1e-05 where Arrow writes 0.00001
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return pa.array([moment], pa.timestamp("us")).cast(pa.string())[0].as_py()
    return str(value).encode(errors="backslashreplace").decode()  # a lone surrogate is no value that a row could have had


Plain = Numbers | Category | Calendar


class Columns(BaseModel):
    """What `columns.json` says: which columns an encoder of tables takes, in the dataset's order, and what it makes of them.

    `outputs` says what each number of a vector is: first those of plain columns, then the vectors of embedded ones. A column's
    outputs stand together, and categories are sorted.
    """

    columns: list[Annotated[Numbers | Category | Calendar | Embedded, Field(discriminator="kind")]]
    vocabularies: list[Vocabulary] = []

    @property
    def plain(self) -> list[Plain]:
        """Columns that become numbers before the network."""
        return [column for column in self.columns if not isinstance(column, Embedded)]

    @property
    def embedded(self) -> list[Embedded]:
        """Columns whose values have vectors."""
        return [column for column in self.columns if isinstance(column, Embedded)]

    def vocabulary(self, column: Embedded) -> Vocabulary:
        """That of a column."""
        return self.vocabularies[column.vocabulary]

    def read(self, column: Plain | Embedded, values: Sequence[Any]) -> pa.Array:
        """Values of a file that belong into a column, as Arrow has them.

        A file of texts says no types, so those of an embedded column are read as the values of its vocabulary were.
        """
        return read_as(values, self.vocabulary(column).kind) if isinstance(column, Embedded) else column.read(values)

    def type_of(self, column: Plain | Embedded) -> tuple[str, str | None]:
        """The type of `columns` that a file's values of a column have, and how they are written where that isn't plain."""
        if isinstance(column, Embedded):
            return self.vocabulary(column).kind, None
        return column.value_type, column.format if isinstance(column, Calendar) else None

    def example(self, column: Plain | Embedded, place: float) -> Any:
        """A value of a column for each place from 0 up to 1, some of which no row had."""
        if not isinstance(column, Embedded):
            return column.example(place)
        values = [*self.vocabulary(column).values, "no such value"]
        return values[int(place * len(values))]

    @computed_field
    @property
    def outputs(self) -> list[str]:
        """What each number of a vector is."""
        wide = [(column.name, self.vocabulary(column).dimension) for column in self.embedded]
        vectors = [f"{name} [{number}]" for name, dimension in wide for number in range(dimension)]
        return [output for column in self.plain for output in column.outputs] + vectors
