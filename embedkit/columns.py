"""Columns of a table: which type fits all values of a column, and conversion to it.

A type is chosen once, for the whole column, from all readable rows: whole numbers, numbers, truth values, moments or words. So
every file of a dataset has the same types, whatever its first rows look like. Digits that name things stay words: those with
leading zeros, and those with more places than a number keeps. What a column was taken for has its reason, and what looks wrong
is noted with the first value that stood in the way.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from embedkit import moments
from embedkit.settings import listed, short

pc: Any = pyarrow.compute  # its functions are made when it is imported
TYPES = {
    "whole": pa.int64(),
    "number": pa.float64(),
    "truth": pa.bool_(),
    "moment": moments.TYPE,
    "word": pa.string(),
}
LEFT_OUT = "left out"
"""What a column is that no row keeps."""
MISSING = frozenset(
    ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NAN", "null", "NULL", "Null", "None", "none", "NONE", "nil", "?", "-", "--", ".")
    + ("<NA>", "<na>", "#N/A", "#N/A N/A", "#NA", "#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "(null)", "(blank)")
    + ("-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "NaT", "missing", "Missing")
)
"""Words that stand for "no value" in a column whose other values are numbers, moments or truth values: those that pandas, R, SAS,
Stata and spreadsheets write."""
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
DECLARED_TRUTHS = {
    **TRUTHS,
    **dict.fromkeys(("yes", "Yes", "YES", "y", "Y", "t", "T", "1"), True),
    **dict.fromkeys(("no", "No", "NO", "n", "N", "f", "F", "0"), False),
}
CODE = r"^[+-]?0[0-9xXbBoO]|^[0-9]+E[0-9]+$"
"""Digits that are no number but a code: with zeros before it, in another base, or with an E that no program writes so (01067,
0x1F, 12E4)."""
WHOLE = r"^[+-]?[0-9]+$"
NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?([iI]nf|[iI]nfinity)$"
COMMA = r"^[+-]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]*),[0-9]+$"
"""A number with a decimal comma, and points between thousands."""
THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?$"
EITHER = r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$"
"""What may be either: 1,234."""
DRESS = r"^([+-]?)[$€£¥₹]\s*|\s*[$€£¥₹%]$"
POINT, DECIMAL_COMMA = ".", ","
"""How numbers are written that aren't plain: with a decimal point and perhaps commas between thousands, or the other way."""
LARGEST_EXACT = 2**53
ROWS_AT_ONCE = 65_536
VALUES_AT_ONCE = 2**24
"""Of rows with so many columns that this is less, fewer are looked at in one go: each value is an object."""
INDEX = re.compile(r"|unnamed: ?\d+|\.\.\.\d+|index|level_\d+", re.IGNORECASE)
"""What pandas, R and others call the column of row names that they wrote."""
COUNTER = re.compile(
    r"(row|record|line|obs|observation|serial|seq|sr|s)?[ _.-]?(id|no|nr|num|number|index|name)?[.]?|#|idx", re.IGNORECASE
)
"""What a column may be called that counts the rows."""
ENOUGH = 10
"""Rows from which on a column that goes up by one, by such a name, counts the rows; fewer may do so by chance."""
OTHERS = 3
NEARLY = 0.8
"""Share of a column's values that are numbers, from which on it is said what the others are."""


DECLARED = "as was declared"
"""Why a column is what the user said of it."""


class Column(NamedTuple):
    """What a column was taken for.

    `type` is a name in TYPES, or LEFT_OUT; `form` says how its numbers or moments are written, where that isn't plain; `why` is the
    reason, and `note` what a person should know, or empty.
    """

    type: str
    why: str
    form: str | None = None
    note: str = ""


class Declared(NamedTuple):
    """What a user says of a column: a name in TYPES or LEFT_OUT, and how its values are written."""

    type: str
    form: str | None = None


@dataclass
class _Tally:
    """What the values of one column were so far."""

    values: int = 0
    truths: int = 0
    wholes: int = 0
    numbers: int = 0
    moments: int = 0
    points: int = 0
    commas: int = 0
    either: int = 0
    codes: int = 0
    first_code: str = ""
    large: bool = False
    huge: bool = False
    others: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    forms: tuple[str, ...] | None = None
    counts: "_Counting | None" = None


class _Counting:
    """Whether whole numbers count the rows."""

    def __init__(self, index: bool):
        self.index = index
        self.first: int | None = None
        self.before: int | None = None
        self.in_order = True
        self.rows = 0
        self.seen: set[int] = set()

    def see(self, values: list[Any]) -> None:
        """Look at the next rows' values."""
        for value in values:
            try:
                number = int(value) if not isinstance(value, bool | float) else None
            except (TypeError, ValueError):
                number = None
            if number is None:
                self.in_order = self.index = False
                return
            self.rows += 1
            self.first = number if self.first is None else self.first
            follows = self.before is None or number in (self.before + 1, self.first)  # each file of several may begin anew
            self.in_order &= follows and self.first in (0, 1)
            self.before = number
            if self.index:
                self.index = number not in self.seen
                self.seen.add(number)

    @property
    def yes(self) -> bool:
        """Whether they do."""
        return self.rows >= ENOUGH and (self.in_order or self.index)


def study(
    rows: Iterator[dict[str, Any]],
    names: list[str],
    but: Collection[str | None] = (),
    declared: Mapping[str, Declared] | None = None,
) -> dict[str, Column]:
    """What each column is taken for: the narrowest type that every value fits, `word` for a column without values.

    Args:
        rows: all of them.
        names: the columns that are known; others come after them, as they come up.
        but: columns that are none of the table's.
        declared: what the user says; a value that isn't of that type is missing.
    """
    declared = declared or {}
    tallies = {name: _tally(name) for name in names}
    while chunk := list(itertools.islice(rows, min(ROWS_AT_ONCE, 1 + VALUES_AT_ONCE // max(1, len(tallies))))):
        for name in dict.fromkeys(itertools.chain.from_iterable(chunk)):
            if name not in tallies and name not in but:
                tallies[name] = _tally(name)
        for name, tally in tallies.items():
            if name not in declared:
                _count(tally, [row.get(name) for row in chunk])
    return {
        name: Column(declared[name].type, DECLARED, declared[name].form) if name in declared else _decided(name, tally)
        for name, tally in tallies.items()
    }


def infer(rows: Iterator[dict[str, Any]], names: list[str], but: Collection[str | None] = ()) -> dict[str, str]:
    """The narrowest type, by name, that every value of each column fits. See `study`, of which this leaves none out."""
    found = study(rows, names, but)
    return {name: "whole" if column.type == LEFT_OUT else column.type for name, column in found.items()}


def _tally(name: str) -> _Tally:
    index = INDEX.fullmatch(name.strip()) is not None
    return _Tally(counts=_Counting(index) if index or COUNTER.fullmatch(name.strip()) else None)


def _count(tally: _Tally, column: list[Any]) -> None:
    """Look at the values of the next rows."""
    if tally.counts and tally.counts.in_order | tally.counts.index:
        tally.counts.see(column)
    given = [value for value in column if value is not None and not isinstance(value, str)]
    texts = [value for value in column if isinstance(value, str)]
    tally.values += len(given)
    for value in given:
        _count_given(tally, value)
    if not texts:
        return
    trimmed = pc.utf8_trim_whitespace(pa.array(texts, pa.string()))
    absent = pc.is_in(trimmed, pa.array(sorted(MISSING)))
    if pc.any(absent).as_py():
        found = trimmed.filter(absent).value_counts()
        tally.missing.update(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
        trimmed = trimmed.filter(pc.invert(absent))
    if len(trimmed):
        _count_texts(tally, trimmed)


def _count_given(tally: _Tally, value: Any) -> None:
    """A value that is no text, as JSON, Parquet and spreadsheets have them."""
    if isinstance(value, bool):
        tally.truths += 1
    elif isinstance(value, int):
        tally.wholes, tally.numbers = tally.wholes + 1, tally.numbers + 1
        tally.large |= abs(value) > LARGEST_EXACT
        tally.huge |= abs(value) >= 2**63
    elif isinstance(value, float | Decimal):
        tally.numbers += 1
    elif isinstance(value, date):
        tally.moments += 1
    if not isinstance(value, int | float | Decimal) and len(tally.others) < OTHERS:
        tally.others[str(value)[:40]] += 1


def _count_texts(tally: _Tally, texts: pa.Array) -> None:
    """Trimmed texts, one at least, none of which says that there is no value."""
    rows = len(texts)
    tally.values += rows

    def like(pattern: str, those: pa.Array = texts) -> pa.Array:
        return pc.match_substring_regex(those, pattern)

    number = like(NUMBER)
    if pc.any(number).as_py():
        code = pc.and_(like(CODE), like(r"^[+-]?[0-9]"))
        if pc.any(code).as_py():
            tally.codes += pc.sum(code).as_py()
            tally.first_code = tally.first_code or texts.filter(code)[0].as_py()
        whole = like(WHOLE)
        tally.wholes += pc.sum(whole).as_py()
        tally.numbers += pc.sum(number).as_py()
        wholes = texts.filter(whole)
        try:
            largest = pc.max(pc.abs(pc.cast(wholes, pa.int64()))).as_py()
            tally.large |= (largest or 0) > LARGEST_EXACT
        except pa.ArrowInvalid:
            tally.large = tally.huge = True
    others = texts.filter(pc.invert(number))
    if not len(others):
        tally.points, tally.commas = tally.points + rows, tally.commas + pc.sum(like(WHOLE)).as_py()
        tally.forms = ()
        return
    for value in others.slice(0, 100).unique().to_pylist():
        if len(tally.others) < OTHERS or value in tally.others:
            tally.others[value] += 1
    truths = pc.is_in(others, pa.array(list(TRUTHS)))
    tally.truths += pc.sum(truths).as_py()
    bare = pc.replace_substring_regex(others, DRESS, r"\1")
    bare = pc.replace_substring_regex(bare, "[\u00a0\u202f ]([0-9]{3})", r"\1")
    plain = pc.sum(like(NUMBER, bare)).as_py() + rows - len(others)
    tally.points += plain + pc.sum(like(THOUSANDS, bare)).as_py()
    tally.commas += pc.sum(like(COMMA, bare)).as_py() + pc.sum(like(WHOLE, bare)).as_py() + pc.sum(like(WHOLE)).as_py()
    tally.either += pc.sum(like(EITHER, bare)).as_py()
    if tally.forms is None or tally.forms:
        tally.forms = moments.fitting(texts, tally.forms or moments.FORMS)
        tally.moments += rows if tally.forms else 0


def _decided(name: str, tally: _Tally) -> Column:
    """The type of a column after all of its rows were seen."""
    values = tally.values
    absent = "" if not tally.missing else f"; {_quoted(tally.missing)} means that there is none"
    if not values:
        return Column("word", "no value" + ("" if not tally.missing else f" but {_quoted(tally.missing)}"))
    if tally.truths == values:
        return Column("truth", "true and false" + absent)
    if tally.codes and tally.numbers == values:
        return Column("word", f"digits that are codes, such as {tally.first_code!r}")
    if tally.wholes == values and not tally.huge:
        if tally.counts and tally.counts.yes and not tally.missing:
            note = f"column {name!r} numbers the rows, and is left out; keep it with types {name}=integer"
            return Column(LEFT_OUT, "numbers the rows", note=note)
        return Column("whole", "whole numbers" + absent)
    if tally.numbers == values:
        if tally.large:
            return Column("word", "whole numbers of more digits than a number keeps (2^53); names of things, most likely")
        return Column("number", "numbers" + absent)
    if tally.moments == values:
        return _moment(name, tally, absent)
    if max(tally.points, tally.commas) == values and not tally.codes and not tally.large:
        return _written(name, tally, absent)
    return Column("word", "texts", note=_nearly(name, tally))


def _moment(name: str, tally: _Tally, absent: str) -> Column:
    forms = tally.forms or (moments.ISO,)  # where they are given as moments
    if forms[0] in (moments.ISO, moments.OFFSET):
        zone = ", converted to UTC" if forms[0] == moments.OFFSET else ""
        return Column("moment", f"moments in {forms[0]}{zone}{absent}", forms[0])
    if len(forms) == 1:
        return Column("moment", f"moments written as {forms[0]}{absent}", forms[0])
    either = " or ".join(f"{name}=time:{form}" for form in forms)
    return Column(
        "word",
        "dates whose day and month can't be told apart",
        note=f"column {name!r} holds dates, but in which order is not clear, so it is taken as text; say types {either}",
    )


def _written(name: str, tally: _Tally, absent: str) -> Column:
    """A column of numbers that aren't plain."""
    first = next(iter(tally.others))
    if tally.points == tally.commas == tally.values and tally.either:
        one, other = first.replace(",", ""), first.replace(",", ".")
        advice = f"say types {name}=number:. (a decimal point) or {name}=number:, (a decimal comma)"
        note = f"column {name!r} holds {first!r}, which may be {one} or {other}, so it is taken as text; {advice}"
        return Column("word", "numbers whose comma can't be told", note=note)
    form = POINT if tally.points == tally.values else DECIMAL_COMMA
    how = "a decimal comma" if form == DECIMAL_COMMA else "signs beside the digits"
    note = f"column {name!r} holds numbers written with {how}, such as {short(first)!r}; where it is none say types {name}=text"
    return Column("number", f"numbers with {how}{absent}", form, note)


def _nearly(name: str, tally: _Tally) -> str:
    """What to say of a column of words most of which are numbers."""
    if tally.codes or tally.numbers < NEARLY * tally.values or not tally.others:
        return ""
    return (
        f"column {name!r} is taken as text: {tally.numbers:,} of its {tally.values:,} values are numbers, but not "
        f"{short(next(iter(tally.others)))!r}; where that means none, say types {name}=number"
    )


def _quoted(counts: Counter[str]) -> str:
    return listed(f"{word!r} ({count:,})" for word, count in counts.most_common())


def called(name: str, names: Collection[str]) -> str | None:
    """The column of this name, or the only one that differs from it in case; None where there is none."""
    alike = [each for each in names if each.casefold() == name]
    return name if name in names else alike[0] if len(alike) == 1 else None


def is_missing(value: Any) -> bool:
    """Whether a value is none, or a word that says so where other values are no words."""
    return value is None or (isinstance(value, str) and value.strip() in MISSING)


def convert(values: list[Any], kind: pa.DataType, form: str | None = None, lost: list[str] | None = None) -> pa.Array:
    """Values as an Arrow array: texts are parsed, numbers written as texts where the column is of words, None
    and, outside columns of words, MISSING become null.

    Args:
        values: as they were read.
        kind: one of TYPES' types, or binary.
        form: how texts are written, as `Column.form` says; moments find it for themselves where there is none.
        lost: takes what doesn't fit, which then is null.

    Raises:
        pyarrow.ArrowInvalid: when a value doesn't fit and there is no `lost`.
    """
    if kind == pa.binary():
        return pa.array(values, kind)
    if kind == pa.string():
        return pa.array([value if value is None or isinstance(value, str) else text(value) for value in values], kind)
    given = [None if isinstance(value, str) else value for value in values]
    typed = _typed(given, kind, lost)
    if not any(isinstance(value, str) for value in values):
        return typed
    words = pa.array([value.strip() if isinstance(value, str) and not is_missing(value) else None for value in values], pa.string())
    parsed = _parsed(words, kind, form, lost)
    return pc.coalesce(parsed, typed)


def _typed(values: list[Any], kind: pa.DataType, lost: list[str] | None) -> pa.Array:
    """Values none of which is a text."""
    if lost is not None:
        fitting: Any = {pa.bool_(): bool, pa.int64(): int, pa.float64(): int | float | Decimal, moments.TYPE: date}[kind]
        strange = [isinstance(value, bool) and kind != pa.bool_() for value in values]
        strange = [odd or not (value is None or isinstance(value, fitting)) for odd, value in zip(strange, values, strict=True)]
        lost += [str(value) for odd, value in zip(strange, values, strict=True) if odd]
        values = [None if odd else value for odd, value in zip(strange, values, strict=True)]
    if kind == moments.TYPE:
        values = [moments.naive(value) if isinstance(value, date) else value for value in values]
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def _parsed(words: pa.Array, kind: pa.DataType, form: str | None, lost: list[str] | None) -> pa.Array:
    """Texts, null where there is no value, as another type."""
    if kind == moments.TYPE:
        parsed = moments.parse(words, form or _form(words))
    elif kind == pa.bool_():
        known = DECLARED_TRUTHS if lost is not None else TRUTHS
        parsed = pa.array([None if word is None else known.get(word) for word in words.to_pylist()], pa.bool_())
    else:
        form = form or _number_form(words)
        plain = _plain(words, form) if form or lost is not None else words
        if lost is not None:
            fits = pc.match_substring_regex(plain, NUMBER if kind == pa.float64() else r"^[+-]?[0-9]{1,18}(\.0*)?$")
            plain = pc.if_else(fits, plain, None)
            plain = pc.replace_substring_regex(plain, r"\.0*$", "") if kind == pa.int64() else plain
        parsed = pc.cast(plain, kind)
    strange = words.filter(pc.and_(pc.is_valid(words), pc.is_null(parsed)))
    if len(strange) and lost is None:
        raise pa.ArrowInvalid(f"{short(strange[0].as_py())!r} is none")
    if lost is not None:
        lost += strange.to_pylist()
    return parsed


def _number_form(words: pa.Array) -> str | None:
    """How a batch's numbers are written, as `study` finds it for a column; None where they are plain, or are none."""
    tally = _Tally()
    if len(known := words.drop_null()):
        _count_texts(tally, known)
    found = _decided("", tally)
    return found.form if found.type == "number" else None


def _plain(words: pa.Array, form: str | None) -> pa.Array:
    """Numbers as they are written elsewhere, with nothing but digits and a point."""
    bare = pc.replace_substring_regex(words, DRESS, r"\1")
    bare = pc.replace_substring_regex(bare, "[\u00a0\u202f ]([0-9]{3})", r"\1")
    if form == DECIMAL_COMMA:
        return pc.replace_substring(pc.replace_substring(bare, ".", ""), ",", ".")
    return pc.if_else(pc.match_substring_regex(bare, THOUSANDS), pc.replace_substring(bare, ",", ""), bare)


def _form(words: pa.Array) -> str:
    """The form in which a batch's moments are written, ISO 8601 where none or several would do."""
    known = words.drop_null()
    forms = moments.fitting(known) if len(known) else ()
    return forms[0] if len(forms) == 1 or (forms and forms[0] in (moments.ISO, moments.OFFSET)) else moments.ISO


def text(value: Any) -> str:
    """A value that is no text as one: lists and objects as JSON, bytes as UTF-8."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
