"""Cells: what the readers of XLSX and ODS files have in common.

Both formats are XML in a zip. It is parsed in a stream and within bounds, so that memory doesn't grow with a sheet, nor with what a
crafted file claims.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from xml.parsers import expat

MOST_BYTES = 2**32
"""Bytes of one XML file in a workbook, unpacked; a sheet of 1,048,576 rows and 40 columns has about so many."""
MOST_WORDS = 2**29
"""Bytes of what has to be in memory: the table of an XLSX's texts."""
LONGEST = 2**26
"""Characters of one cell."""
MOST_ROWS = 2**24
"""Rows of a sheet; Excel has 2**20, LibreOffice up to 2**24."""
MOST_NAMES = 10_000
"""Different names of elements; a workbook has a hundred."""
STEP = 2**16
"""Bytes that are unpacked in one go."""


class Unreadable(ValueError):
    """A workbook can't be read; the reason is its message."""


@dataclass(frozen=True)
class Fault:
    """What stands in a cell that has no value: an error such as `#DIV/0!`, or None for a formula that nobody computed."""

    error: str | None = None


@dataclass
class Row:
    """The cells of a row that hold something.

    Attributes:
        number: of the row, from 1.
        cells: values (str, int, float, bool, date, datetime or Fault) by the number of their column, from 0.
        formulas: formulas by column, where there are some.
    """

    number: int
    cells: dict[int, Any] = field(default_factory=dict)
    formulas: dict[int, str] = field(default_factory=dict)


@dataclass
class Sheet:
    """A sheet of a workbook.

    Attributes:
        name: of the sheet.
        hidden: whether its tab is hidden.
        rows: gives its rows that hold something, anew with each call.
        merged: gives the areas of merged cells: first row, first column, last row, last column, rows from 1, columns from 0.
    """

    name: str
    hidden: bool
    rows: Callable[[], Iterator[Row]]
    merged: Callable[[], list[tuple[int, int, int, int]]]


def column_letters(column: int) -> str:
    """A column's name in a sheet: 0 is A, 26 is AA."""
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def column_number(letters: str) -> int:
    """The number of a column from 0 by its name in a sheet."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


class Reader:
    """Handlers of an XML file's elements by their names without namespaces; `done` takes what is finished."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.words: list[str] | None = None  # of the element whose text is wanted
        self.size = 0

    def start(self, name: str, given: dict[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def take(self) -> None:
        """Keep the text that comes."""
        self.words, self.size = [], 0

    def taken(self) -> str:
        """The text that came since `take`."""
        words, self.words = "".join(self.words or ()), None
        return words

    def characters(self, text: str) -> None:
        """Text between elements."""
        if self.words is not None:
            self.size += len(text)
            if self.size > LONGEST:
                raise Unreadable(f"a cell holds more than {LONGEST:,} characters")
            self.words.append(text)


def parsed(archive: zipfile.ZipFile, name: str, reader: Reader, most: int = MOST_BYTES) -> Iterator[Any]:
    """What a reader makes of an XML file, as soon as it is finished."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise Unreadable(f"it lacks {name}; give a whole file") from error
    if info.file_size > most:
        raise Unreadable(f"{name} in it has {info.file_size:,} bytes, and at most {most:,} are read")
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def refuse(*_: Any) -> None:
        raise Unreadable(f"{name} in it defines entities, which no spreadsheet needs")

    parser.StartDoctypeDeclHandler = refuse
    plain = _Plain()
    start, end = reader.start, reader.end
    parser.StartElementHandler = lambda name, given: start(plain[name], given)
    parser.EndElementHandler = lambda name: end(plain[name])
    parser.CharacterDataHandler = reader.characters
    try:
        with archive.open(info) as file:
            while True:
                data = file.read(STEP)
                parser.Parse(data, not data)
                yield from reader.done
                reader.done.clear()
                if not data:
                    return
    except (expat.ExpatError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"{name} in it is damaged ({error}); give a whole file") from error


class _Plain(dict[str, str]):
    """Names of elements without their namespaces."""

    def __missing__(self, name: str) -> str:
        if len(self) > MOST_NAMES:
            raise Unreadable(f"it has more than {MOST_NAMES:,} kinds of elements")
        plain = self[name] = name.rpartition(" ")[2]
        return plain


def attribute(given: dict[str, str], name: str) -> str | None:
    """An attribute by its name without a namespace."""
    return next((value for key, value in given.items() if key.rpartition(" ")[2] == name), None)


class Elements(Reader):
    """Every element of a small file: its name and its attributes."""

    def start(self, name: str, given: dict[str, str]) -> None:
        """Note the element."""
        self.done.append((name, given))


def whole_or_not(number: float) -> int | float:
    """A number as a whole one where it is one."""
    return int(number) if number.is_integer() and abs(number) < 2**63 else number


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: `30:00:00`; fractions down to a thousandth."""
    whole = round(seconds, 3)
    hours, rest = divmod(abs(whole), 3600)
    minutes, rest = divmod(rest, 60)
    fraction = f"{rest:06.3f}".rstrip("0").rstrip(".") if rest % 1 else f"{rest:02.0f}"
    return f"{'-' * (whole < 0)}{int(hours):02d}:{int(minutes):02d}:{fraction}"


def iso(text: str) -> Any:
    """A moment or a date as ISO 8601 writes it; the text itself where it doesn't."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment if "T" in text or ":" in text else date(moment.year, moment.month, moment.day)
