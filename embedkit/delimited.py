"""Tables as text: csv, tsv and their kin.

How columns are separated is found from the first lines, where the user doesn't say it. A quote that isn't closed, or closes in a
later row, would make one row of many; such a file is refused with the line in which the quote opens, and never read by halves.
"""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from embedkit.settings import UserError, listed, short
from embedkit.textfiles import Lines, TooLong, sound

MOST_COLUMNS = 20_000
"""Columns of a file of rows. Each is a Python object in every row, and a part of a dataset holds thousands of rows."""
csv.field_size_limit(2**31 - 1)  # the default of 128 KiB would refuse long texts; `longest_line` bounds them
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
HEAD = 2**18
"""Characters from which it is told how columns are separated."""
ROWS = 200
CONSISTENT = 0.9
"""Share of the first rows that have as many columns as the header, for a delimiter that is believed."""
LINES = 4
"""Lines of one quoted record each of which would be a row by itself, from which on the record can't be meant."""
RECURRING = 0.2
"""Different values in a column, as a share of its rows, up to which it is known by them."""
MOST_COMPARED = 100
"""Columns of a file whose lines are told from rows by values, too."""
NUMBER = re.compile(r"[+-]?[0-9]*[.,][0-9]+([eE][+-]?[0-9]+)?")

Row = dict[str, Any] | str
"""The columns of a row, or why it can't be read."""


@dataclass
class Dialect:
    """How a file separates columns, and whether `"` quotes them; `escape` stands before a quote that is a letter."""

    delimiter: str
    quoted: bool
    escape: str | None = None
    sure: bool = False
    """Whether the user said that quotes are quotes."""

    def reader(self, lines: Any, strict: bool = True) -> Iterator[list[str]]:
        """Fields of each record."""
        options: dict[str, Any] = {"delimiter": self.delimiter, "skipinitialspace": self.delimiter != "\t"}
        if not self.quoted:
            return csv.reader(lines, quoting=csv.QUOTE_NONE, **options)
        if self.escape:
            options |= {"escapechar": self.escape, "doublequote": False}
        return csv.reader(lines, strict=strict, **options)


def rows(lines: Lines, name: str, settings: Any, suffix: str, tell: Callable[[str], None]) -> Iterator[tuple[str, Row]]:
    """Each row of a file with its place.

    Args:
        lines: of the file.
        name: of the file, for places.
        settings: a ReadFiles.
        suffix: of the file, such as `.csv`.
        tell: takes sentences about how the file was read.

    Raises:
        UserError: when how it is to be read isn't clear.
    """
    head = lines.head(HEAD)
    dialect = _dialect(head, name, settings, suffix, tell)
    text = map(lambda line: line.rstrip(" \r\n") + "\n", lines) if dialect.delimiter == " " else lines  # "1 2 " has two columns
    reader = dialect.reader(text)
    names = list(settings.column_names) or _header(lines, reader, name, settings)
    known = _Known(head, dialect.delimiter, len(names))
    for place, fields in _records(lines, reader, dialect, name, known):
        if isinstance(fields, str):
            yield place, fields
        elif not all(map(sound, fields)):
            yield place, f"not in the encoding {settings.encoding}"
        elif fields and len(fields) != len(names):
            yield place, f"{len(fields)} columns instead of {len(names)}"
        elif fields:
            yield place, {column: value or None for column, value in zip(names, fields, strict=True)}


def _records(
    lines: Lines, reader: Iterator[list[str]], dialect: Dialect, name: str, known: "_Known"
) -> Iterator[tuple[str, list[str] | str]]:
    """Fields of each record with its place, or why they can't be had."""
    while True:
        number = lines.begin()
        place, fields = f"{name} line {number}", None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            too_long = isinstance(error, TooLong)
            if dialect.quoted and (known.swallowed(lines.record[:LINES]) if too_long else len(lines.record) > 1):
                nowhere = too_long or "unexpected end" in str(error)
                raise _stray(name, number, "" if nowhere else f"within a column in line {lines.number}", lines.record) from error
            literal = None if too_long else _literal(lines.record, dialect, known.columns)
            yield place, literal or (str(error) if too_long else f"a quote that opens isn't closed rightly ({error})")
            continue
        if len(lines.record) > 1 and dialect.quoted and not dialect.sure and known.swallowed(lines.record):
            raise _stray(name, number, f"in line {lines.number}, though each line between is a row by itself", lines.record)
        yield place, fields


def _literal(record: list[str], dialect: Dialect, columns: int) -> list[str] | None:
    """The fields of a line whose quotes are letters, where that makes as many as the header has."""
    line = record[0] if record else ""
    fields = next(Dialect(dialect.delimiter, quoted=False).reader([line]), [])
    return fields if len(fields) == columns and sum(value.startswith('"') for value in fields) == 1 else None


def _stray(name: str, number: int, closes: str, record: list[str]) -> UserError:
    escaped = ", files.escape where a sign stands before quotes that are letters" if any('\\"' in line for line in record) else ""
    said = f'{name}: the quote (") that opens in line {number} closes {closes or "nowhere"}, so that rows would be lost'
    return UserError(
        f"{said}; set files.quoted to false where quotes are letters{escaped}, to true where texts have such lines, or fix the line"
    )


class _Known:
    """The values that recur in short columns, by which a line of a text is told from a row.

    Args:
        head: the first lines of the file, header included.
        delimiter: between columns.
        columns: how many there are.
    """

    def __init__(self, head: str, delimiter: str, columns: int):
        self.delimiter, self.columns = delimiter, columns
        rows = [parts for line in head.splitlines()[1:] if len(parts := self._parts(line)) == columns]
        counts = [Counter(values) for values in zip(*rows, strict=True)] if columns <= MOST_COMPARED else []
        self.values = {
            place: {value for value, count in found.items() if count > 1}
            for place, found in enumerate(counts)
            if len(found) <= RECURRING * len(rows)
        }

    def _parts(self, line: str) -> list[str]:
        return [part.strip().strip('"').strip() for part in line.rstrip("\r\n").split(self.delimiter)]

    def swallowed(self, record: list[str]) -> bool:
        """Whether each line of a record looks like a row."""
        split = list(map(self._parts, record))
        if self.columns < 2 or not split or any(len(parts) != self.columns for parts in split):
            return False
        seen = [parts[place] in known for parts in split for place, known in self.values.items()]
        return len(record) >= LINES or (bool(seen) and all(seen))


def _header(lines: Lines, reader: Iterator[list[str]], name: str, settings: Any) -> list[str]:
    """The names in the first line that isn't blank, without the spaces around them; pandas' for columns without one.

    Raises:
        UserError: when it can't be one.
    """
    advice = "say how the file is read, or give the names with column_names"
    found: list[str] = []
    try:
        while not found:
            lines.begin()
            found = next(reader)
    except StopIteration:
        return []
    except csv.Error as error:
        raise UserError(f"the header of {name} can't be read: {error}; {advice} (`files` settings)") from error
    if not all(map(sound, found)):
        raise UserError(f"the header of {name} is not in the encoding {settings.encoding}; give its own, such as latin-1")
    names = [value.strip() or f"Unnamed: {place}" for place, value in enumerate(found)]
    if len(names) > MOST_COLUMNS:
        raise too_wide(name, len(names))
    if len(set(names)) < len(names):
        twice = next(column for column, count in Counter(names).items() if count > 1)
        raise UserError(f"{name} has the column {short(twice)!r} twice; rename one, or give all names with column_names")
    if value := next(filter(NUMBER.fullmatch, names), None):
        raise UserError(f"the first line of {name} holds {value!r}, so it is a row and no header; give files.column_names")
    return names


def too_wide(name: str, columns: int) -> UserError:
    """The error for a source with more columns than can be dealt with."""
    advice = "leave some out, or say how its files are read (`files` settings)"
    return UserError(f"{name} has {columns:,} columns or more, and at most {MOST_COLUMNS:,} are read; {advice}")


def _dialect(head: str, name: str, settings: Any, suffix: str, tell: Callable[[str], None]) -> Dialect:
    """How a file is written, by the settings or its first lines."""
    quoted = suffix != ".tsv" if settings.quoted is None else settings.quoted
    usual = "\t" if suffix == ".tsv" else ","
    delimiter = settings.delimiter or _delimiter(head, name, len(settings.column_names), usual, quoted)
    if settings.delimiter is None and delimiter != usual:
        tell(f"{name} separates its columns by {DELIMITERS[delimiter]}")
    escape = settings.escape
    if quoted and escape is None and '\\"' in head:
        plain, escaped = Dialect(delimiter, quoted), Dialect(delimiter, quoted, "\\")
        escape = "\\" if _faults(head, escaped) < _faults(head, plain) else None
    return Dialect(delimiter, quoted, escape, settings.quoted is True)


def _faults(head: str, dialect: Dialect) -> int:
    """How many of the first records can't be read."""
    reader, faults = dialect.reader(iter(head.splitlines(keepends=True))), 0
    for _ in range(ROWS):
        try:
            next(reader)
        except StopIteration:
            break
        except csv.Error:
            faults += 1
    return faults


def _delimiter(head: str, name: str, columns: int, usual: str, quoted: bool) -> str:
    """What separates columns: the usual one, or the one by which the first rows have as many columns as the header.

    Raises:
        UserError: when several would do.
    """
    shares: dict[str, float] = {}
    for delimiter in dict.fromkeys((usual, *DELIMITERS)):
        reader = Dialect(delimiter, quoted).reader(iter(head.splitlines(keepends=True)), strict=False)
        found = [len(fields) for fields in itertools.islice(reader, ROWS + 1) if fields]
        wanted = columns or (found[0] if found else 1)
        found = found if columns else found[1:]
        if wanted > 1:
            shares[delimiter] = sum(count == wanted for count in found) / len(found) if found else 1.0
    if not shares or (len(shares) == 1 and usual in shares):
        return usual
    believed = [delimiter for delimiter, share in shares.items() if share >= CONSISTENT]
    if len(believed) > 1:
        either = listed((f"{DELIMITERS[one]}" for one in believed), " or ")
        raise UserError(f"what separates the columns of {name} is not clear, {either}; give files.delimiter")
    if believed:
        return believed[0]
    return usual if usual in shares else max(shares, key=lambda delimiter: shares[delimiter])
