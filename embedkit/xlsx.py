"""XLSX: the sheets of a workbook of Excel's, cell by cell, as what they hold and not as what they look like.

Dates are numbers that a format makes dates of; numbers whose format has leading zeros are codes. Only what a program computed and
stored is read: no formula is computed, no macro runs, no link is followed.
"""

import functools
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from embedkit.cells import (
    MOST_WORDS,
    STEP,
    Elements,
    Fault,
    Reader,
    Row,
    Sheet,
    Unreadable,
    attribute,
    clock,
    column_number,
    iso,
    parsed,
    whole_or_not,
)

ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
MERGED = re.compile(rb'<(?:\w+:)?mergeCell [^<>]*?ref="([A-Z]{1,3})(\d{1,8}):([A-Z]{1,3})(\d{1,8})"')
QUIET = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', re.IGNORECASE)
"""What a number format shows as it stands, pads, fills, or says of colours, conditions and languages."""
BUILT_IN = {**dict.fromkeys((14, 15, 16, 17, 27, 28, 29, 30, 31, 34, 35, 36, 50, 51, 52, 53, 54, 57, 58), "yyyy-mm-dd")}
BUILT_IN |= {18: "h:mm", 19: "h:mm:ss", 20: "h:mm", 21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss"}
"""Formats of dates and times that files name by number alone."""


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text


class _Strings(Reader):
    """The table of texts: runs are joined, hints of pronunciation left out."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hint = False

    def start(self, name: str, given: dict[str, str]) -> None:
        if name == "si":
            self.parts = []
        elif name == "rPh":
            self.hint = True
        elif name == "t" and not self.hint:
            self.take()

    def end(self, name: str) -> None:
        if name == "t" and not self.hint:
            self.parts.append(self.taken())
        elif name == "rPh":
            self.hint = False
        elif name == "si":
            self.done.append(_unescaped("".join(self.parts)))


class _Rows(Reader):
    """The rows of a sheet of an XLSX file."""

    def __init__(self, strings: list[str], formats: list[str], epoch: datetime):
        super().__init__()
        self.strings, self.formats, self.epoch = strings, formats, epoch
        self.row, self.column, self.number = Row(0), -1, 0
        self.kind, self.style, self.text, self.formula = "n", "0", None, None
        self.hint = False
        self.columns: dict[str, int] = {}
        self.converters: dict[str, Callable[[float], Any]] = {}

    def start(self, name: str, given: dict[str, str]) -> None:
        if name == "v" or name == "f" or (name == "t" and not self.hint):
            self.words, self.size = [], 0
        elif name == "c":
            if place := given.get("r"):
                letters = place.rstrip("0123456789")
                column = self.columns.get(letters)
                if column is None:
                    column = self.columns[letters] = column_number(letters)
                self.column = column
            else:
                self.column += 1
            self.kind, self.style = given.get("t", "n"), given.get("s", "0")
            self.text = self.formula = None
        elif name == "rPh":
            self.hint = True
        elif name == "row":
            self.number = int(given["r"]) if "r" in given else self.number + 1
            self.row, self.column = Row(self.number), -1

    def end(self, name: str) -> None:
        if name == "v" or (name == "t" and not self.hint):
            words, self.words = "".join(self.words or ()), None
            self.text = words if self.text is None else self.text + words
        elif name == "c":
            if self.text is not None or self.formula is not None:
                self._finish()
        elif name == "f":
            self.formula = self.taken()
        elif name == "rPh":
            self.hint = False
        elif name == "row" and self.row.cells:
            self.done.append(self.row)

    def _finish(self) -> None:
        text, kind, value = self.text, self.kind, None
        if kind == "s" and text is not None:
            value = self.strings[int(text)]
        elif text is None or (kind == "n" and not text.strip()):
            value = Fault() if self.formula is not None else None
        elif kind == "n":
            value = self.converter(self.style)(float(text))
        elif kind in ("str", "inlineStr"):
            value = _unescaped(text)
        elif kind == "e":
            value = Fault(text)
        elif kind == "b":
            value = text.strip() == "1"
        elif kind == "d":
            value = iso(text)
        if value is not None and value != "":
            self.row.cells[self.column] = value
            if self.formula is not None:
                self.row.formulas[self.column] = self.formula

    def converter(self, style: str) -> Callable[[float], Any]:
        """What makes values of the numbers of a style."""
        if style not in self.converters:
            place = int(style)
            form = self.formats[place] if place < len(self.formats) else ""
            self.converters[style] = reading(form, self.epoch)
        return self.converters[style]


def reading(form: str, epoch: datetime = datetime(1899, 12, 30)) -> Callable[[float], Any]:
    """What makes of a number of an XLSX file what its format does: a date, a moment, a time of day, a code with leading zeros.

    Args:
        form: its format, such as `yyyy-mm-dd`.
        epoch: the day that is 0.
    """
    pattern = QUIET.sub("", form).partition(";")[0].lower().replace("general", "").replace("am/pm", "").strip()
    if not re.search("[dmyhs]", pattern):
        return functools.partial(_code, len(pattern)) if re.fullmatch("00+", pattern) else whole_or_not
    hourly, timed = "[" in pattern or not re.search("[dy]", pattern), re.search("[hs]", pattern) is not None

    def moment(number: float) -> Any:
        if not math.isfinite(number) or not -700_000 < number < 2_958_466:  # beyond the year 9999 it is shown as a row of #
            return number
        if hourly and (0 <= number < 1 or "[" in pattern):
            return clock(number * 86400)
        if number < 60 and epoch.year == 1899:  # day 60 is a 29th of February that 1900 didn't have
            number += 1
        found = epoch + timedelta(milliseconds=round(number * 86_400_000))
        return found if timed or found.time() != found.min.time() else found.date()

    return moment


def _code(digits: int, number: float) -> str | int | float:
    return f"{int(number):0{digits}d}" if number.is_integer() and 0 <= number < 2**63 else whole_or_not(number)


class Xlsx:
    """An XLSX file."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.names = {name.lower(): name for name in archive.namelist()}

    def sheets(self) -> list[Sheet]:
        """Its sheets of cells, in their order."""
        book = next((target for kind, target, _ in self._related("") if kind == "officeDocument"), "xl/workbook.xml")
        related = self._related(book)
        sheets_ = {key: target for kind, target, key in related if kind == "worksheet"}
        epoch, found = datetime(1899, 12, 30), []
        for name, given in parsed(self.archive, self._name(book), Elements()):
            if name == "workbookPr" and given.get("date1904") in ("1", "true"):
                epoch = datetime(1904, 1, 1)
            key = attribute({key: value for key, value in given.items() if " " in key}, "id") if name == "sheet" else None
            if key in sheets_:
                found.append((given.get("name", ""), given.get("state", "visible") != "visible", sheets_[key]))
        strings = next((target for kind, target, _ in related if kind == "sharedStrings"), None)
        styles = next((target for kind, target, _ in related if kind == "styles"), None)
        texts = list(parsed(self.archive, self._name(strings), _Strings(), MOST_WORDS)) if strings else []
        formats = self._formats(styles) if styles else []
        return [
            Sheet(
                name,
                hidden,
                lambda part=part: self._rows(self._name(part), texts, formats, epoch),
                lambda part=part: self._merged(self._name(part)),
            )
            for name, hidden, part in found
        ]

    def _rows(self, part: str, texts: list[str], formats: list[str], epoch: datetime) -> Iterator[Row]:
        try:
            yield from parsed(self.archive, part, _Rows(texts, formats, epoch))
        except (IndexError, ValueError, OverflowError) as error:
            if isinstance(error, Unreadable):
                raise
            raise Unreadable(f"{part} in it is damaged ({error}); give a whole file") from error

    def _name(self, part: str) -> str:
        return self.names.get(part.lower(), part)

    def _related(self, part: str) -> list[tuple[str, str, str]]:
        """What a part refers to: kind, path and key."""
        folder, _, name = part.rpartition("/")
        found = []
        for element, given in parsed(self.archive, self._name(f"{folder}/_rels/{name}.rels".lstrip("/")), Elements()):
            if element == "Relationship" and given.get("TargetMode") != "External":
                target = given.get("Target", "")
                path = target.lstrip("/") if target.startswith("/") else f"{folder}/{target}".lstrip("/")
                while "/../" in path:
                    path = re.sub(r"[^/]+/\.\./", "", path, count=1)
                found.append((given.get("Type", "").rpartition("/")[2], path.removeprefix("./"), given.get("Id", "")))
        return found

    def _formats(self, part: str) -> list[str]:
        """The number format of each style."""
        own, styles, inside = {}, [], False
        for name, given in parsed(self.archive, self._name(part), Elements(), MOST_WORDS):
            if name == "numFmt":
                own[given.get("numFmtId")] = given.get("formatCode", "")
            elif name in ("cellXfs", "cellStyles", "dxfs", "cellStyleXfs"):
                inside = name == "cellXfs"
            elif name == "xf" and inside:
                styles.append(given.get("numFmtId", "0"))
        return [own.get(style) or (BUILT_IN.get(int(style), "") if style.isdecimal() else "") for style in styles]

    def _merged(self, part: str) -> list[tuple[int, int, int, int]]:
        """The merged areas, which stand behind all rows; read without parsing those."""
        found, rest = [], b""
        with self.archive.open(part) as file:
            while data := file.read(STEP):
                data = rest + data
                found += MERGED.findall(data)
                rest = data[max(data.rfind(b"<"), len(data) - 200) :] if b"<" in data[-200:] else b""
        places = [tuple(part.decode() for part in area) for area in dict.fromkeys(found)]
        return [(int(up), column_number(left), int(down), column_number(right)) for left, up, right, down in places]
