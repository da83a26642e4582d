"""ODS: the sheets of a workbook of LibreOffice's, cell by cell, as what they hold and not as what they look like."""

import re
import zipfile
from collections.abc import Iterator
from typing import Any

from embedkit.cells import (
    LONGEST,
    MOST_ROWS,
    Elements,
    Fault,
    Reader,
    Row,
    Sheet,
    Unreadable,
    attribute,
    clock,
    iso,
    parsed,
    whole_or_not,
)


class _OdsNames(Reader):
    """The tables of an ODS file, and which of them are hidden by their style."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.hidden, self.depth = None, set(), 0

    def start(self, name: str, given: dict[str, str]) -> None:
        if name == "style":
            self.style = attribute(given, "name")
        elif name == "table-properties" and attribute(given, "display") == "false":
            self.hidden.add(self.style)
        elif name == "table":
            self.depth += 1
            if self.depth == 1:
                self.done.append((attribute(given, "name") or "", attribute(given, "style-name") in self.hidden))

    def end(self, name: str) -> None:
        self.depth -= name == "table"


class _OdsRows(Reader):
    """The rows of the table with a number."""

    def __init__(self, wanted: int):
        super().__init__()
        self.wanted, self.table, self.depth = wanted, -1, 0
        self.number, self.column, self.row, self.times, self.repeat = 1, 0, Row(0), 1, 1
        self.given: dict[str, str] = {}
        self.paragraphs: list[str] = []
        self.comment = 0
        self.areas: list[tuple[int, int, int, int]] = []

    def start(self, name: str, given: dict[str, str]) -> None:
        if name == "table":
            self.depth += 1
            self.table += self.depth == 1
        if self.table != self.wanted or self.depth != 1:
            return
        if name in ("table-cell", "covered-table-cell"):
            self.given = {key.rpartition(" ")[2]: value for key, value in given.items() if "calcext" not in key}
            self.given |= {"error": "1"} if any("calcext" in key and value == "error" for key, value in given.items()) else {}
            self.repeat, self.paragraphs = int(self.given.get("number-columns-repeated", 1)), []
        elif name == "table-row":
            self.times, self.row, self.column = int(attribute(given, "number-rows-repeated") or 1), Row(self.number), 0
        elif name == "annotation":
            self.comment += 1
        elif name == "p" and not self.comment:
            self.take()
        elif name in ("s", "tab", "line-break") and self.words is not None:
            self.characters({"s": " " * min(LONGEST, int(attribute(given, "c") or 1)), "tab": "\t"}.get(name, "\n"))

    def end(self, name: str) -> None:
        if name == "table":
            self.depth -= 1
        if self.table != self.wanted or self.depth != 1:
            return
        if name == "p" and not self.comment:
            self.paragraphs.append(self.taken())
        elif name == "annotation":
            self.comment -= 1
        elif name in ("table-cell", "covered-table-cell"):
            self._finish(name)
        elif name == "table-row":
            if self.row.cells:
                if self.number + self.times > MOST_ROWS:
                    raise Unreadable(f"a sheet has more than {MOST_ROWS:,} rows")
                self.done.append((self.row, self.times))
            self.number += self.times

    def _finish(self, name: str) -> None:
        value = _ods_value(self.given, self.paragraphs)
        if value is not None and value != "" and name == "table-cell":
            if self.column + self.repeat > 2**14:
                raise Unreadable(f"row {self.number} has more than {2**14:,} columns")
            self.row.cells |= dict.fromkeys(range(self.column, self.column + self.repeat), value)
            if formula := self.given.get("formula"):
                self.row.formulas |= dict.fromkeys(range(self.column, self.column + self.repeat), formula)
        down, across = (int(self.given.get(f"number-{what}-spanned", 1)) for what in ("rows", "columns"))
        if down > 1 or across > 1:
            self.areas.append((self.number, self.column, self.number + down - 1, self.column + across - 1))
        self.column += self.repeat


def _ods_value(given: dict[str, str], paragraphs: list[str]) -> Any:
    kind, text = given.get("value-type"), "\n".join(paragraphs)
    if "error" in given or ("formula" in given and re.fullmatch(r"#[A-Z/0!?]+|Err:\d+", text)):
        return Fault(text)
    if kind in ("float", "percentage", "currency"):
        return whole_or_not(float(given.get("value", "nan")))
    if kind == "boolean":
        return given.get("boolean-value") == "true"
    if kind == "date":
        return iso(given.get("date-value", text))
    if kind == "time":
        match = re.fullmatch(r"(-?)PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", given.get("time-value", ""))
        if not match:
            return text
        hours, minutes, seconds = (float(part or 0) for part in match.groups()[1:])
        return clock((3600 * hours + 60 * minutes + seconds) * (-1 if match[1] else 1))
    if kind is None and not paragraphs:
        return Fault() if "formula" in given else None
    return given.get("string-value", text)


class Ods:
    """An ODS file."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive

    def sheets(self) -> list[Sheet]:
        """Its sheets, in their order."""
        if "META-INF/manifest.xml" in self.archive.namelist():
            if any(name == "encryption-data" for name, _ in parsed(self.archive, "META-INF/manifest.xml", Elements())):
                raise Unreadable("it is encrypted; save it without a password")
        names = list(parsed(self.archive, "content.xml", _OdsNames()))
        return [
            Sheet(name, hidden, lambda number=number: self._rows(number), lambda number=number: self._merged(number))
            for number, (name, hidden) in enumerate(names)
        ]

    def _rows(self, number: int) -> Iterator[Row]:
        try:
            for row, times in parsed(self.archive, "content.xml", _OdsRows(number)):
                for later in range(times):
                    yield Row(row.number + later, row.cells, row.formulas)
        except (ValueError, OverflowError) as error:
            if isinstance(error, Unreadable):
                raise
            raise Unreadable(f"content.xml in it is damaged ({error}); give a whole file") from error

    def _merged(self, number: int) -> list[tuple[int, int, int, int]]:
        reader = _OdsRows(number)
        for _ in parsed(self.archive, "content.xml", reader):
            pass
        return reader.areas
