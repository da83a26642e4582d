"""Spreadsheets: a sheet of an XLSX or ODS file as rows with named columns.

A sheet is made for people: titles stand above the names, totals and footnotes below the rows, cells are merged, errors stand where
values should. What is no row is set aside with the reason, and where it can't be known what is meant a sentence names the setting.

The libraries there are were tried. python-calamine gives error cells, and formulas that nobody computed, as empty, and one cell in
the far corner of a sheet ends the process; openpyxl gives such formulas as empty too, and is slower than this; odfpy holds a whole
file in memory.
"""

import itertools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from embedkit.cells import Fault, Row, Sheet, Unreadable, column_letters
from embedkit.ods import Ods
from embedkit.settings import UserError, listed, not_among, short
from embedkit.xlsx import Xlsx

SUFFIXES = (".xlsx", ".xlsm", ".ods")
LOOKED_AT = 50
"""Rows that are looked at before the names of the columns are believed."""
NOTHING = "#N/A"
"""The error that people write where there is no value."""
TOTAL = re.compile(
    "((grand|over-?all) )?(sub-?)?(totals?|sum|average|mean|count|summe|gesamt|insgesamt|mittelwert|somme|moyenne|totale|suma):?",
    re.IGNORECASE,
)
SUMS = "SUM|SUBTOTAL|AVERAGE|AGGREGATE|COUNTA?|MIN|MAX"
OVER_ROWS = re.compile(rf"(?:{SUMS})\([^)]*?\$?([A-Z]{{1,3}})\$?(\d+):\.?\$?\1\$?(\d+)", re.IGNORECASE)
"""A formula over several rows of one column."""
Found = tuple[str, dict[str, Any], str | None]
"""A row's place, its columns, and the reason why it is none."""


def records(
    file: IO[bytes], name: str, sheet: str | None = None, header_row: int | None = None, column_names: tuple[str, ...] = ()
) -> Iterator[Found]:
    """The rows of a sheet.

    Args:
        file: an XLSX or ODS file.
        name: what it is called in messages.
        sheet: which sheet; by default the only visible one that holds something.
        header_row: the row, from 1, that names the columns; by default the first that holds something.
        column_names: names of the columns of a sheet that has none.

    Raises:
        UserError: when the file, or what its columns are called, can't be known.
    """
    try:
        chosen = _chosen(sheets(file), name, sheet)
        yield from _Rows(chosen, name, header_row, column_names).read()
    except Unreadable as error:
        raise UserError(f"{name} can't be read: {error}") from error


def sheets(file: IO[bytes]) -> list[Sheet]:
    """The sheets of an XLSX or ODS file, which has to stay open while they are read.

    Raises:
        Unreadable: with the reason, now or while rows are read.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter of a version of zip that there isn't
        file.seek(0)
        if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            raise Unreadable("it is encrypted, or of Excel before 2007; save it as .xlsx without a password") from error
        raise Unreadable("it is no workbook, whatever its name says; give a whole .xlsx or .ods file") from error
    names = set(archive.namelist())
    if "content.xml" in names:
        return Ods(archive).sheets()
    if "_rels/.rels" in names:
        return Xlsx(archive).sheets()
    raise Unreadable("it is a zip but no workbook; give a whole .xlsx or .ods file")


def _chosen(book: list[Sheet], name: str, wanted: str | None) -> Sheet:
    if wanted is not None:
        if found := [sheet for sheet in book if sheet.name == wanted]:
            return found[0]
        raise not_among(f"sheet of {name}", wanted, [sheet.name for sheet in book], hint="files.sheet")
    filled = [sheet for sheet in book if next(sheet.rows(), None) is not None]
    visible = [sheet for sheet in filled if not sheet.hidden]
    if len(visible) == 1:
        return visible[0]
    if visible:
        names = listed(repr(sheet.name) for sheet in visible)
        raise UserError(f"{name} has {len(visible)} sheets that hold something ({names}); name one with files.sheet")
    if not filled:
        raise UserError(f"no sheet of {name} holds anything; give a file with rows")
    hidden = listed(repr(sheet.name) for sheet in filled)
    raise UserError(f"of {name} hidden sheets alone hold something ({hidden}); name one with files.sheet")


class _Rows:
    """Reads the rows of one sheet."""

    def __init__(self, sheet: Sheet, name: str, header_row: int | None, column_names: tuple[str, ...]):
        self.sheet, self.header_row, self.given = sheet, header_row, column_names
        self.where = f"sheet {short(sheet.name)!r} of {name}"
        self.place = f"{name} sheet {sheet.name} row "
        self.down: list[tuple[int, int, int]] = []  # areas of one column: first row, last row, column
        self.across: list[tuple[int, int, int, int]] = []
        self.merged = sheet.merged()
        for up, left, low, right in self.merged:
            if right > left:
                self.across.append((up, left, low, right))
            else:
                self.down.append((up, low, left))
        self.down.sort(reverse=True)  # the next to begin is the last
        self.open: dict[int, tuple[int, Any]] = {}  # by column: until which row, and what

    def read(self) -> Iterator[Found]:
        rows = map(self._filled_down, self.sheet.rows())
        rows = (row for row in rows if any(map(_holds, row.cells.values())) and row.number >= (self.header_row or 1))
        first = list(itertools.islice(rows, LOOKED_AT))
        if not first:
            return
        names = self._names(first)
        previous, sparse = first[0].number, False
        gap = False
        every = itertools.chain(first if self.given else first[1:], rows, [None])
        for row, following in itertools.pairwise(every):
            assert row is not None
            gap |= row.number > previous + 1
            previous = row.number
            filled = [column for column, value in row.cells.items() if _holds(value)]
            note = gap and len(names) > 1 and len(filled) == 1 and not sparse
            sparse |= len(filled) == 1 and not gap
            last = following is None or following.number > row.number + 1 or _total(following) is not None
            problem = self._problem(row, filled, names, note, last)
            columns = {} if problem else {title: _value(row.cells.get(column)) for column, title in names.items()}
            yield f"{self.place}{row.number}", columns, problem

    def _filled_down(self, row: Row) -> Row:
        """A row whose cells that are merged with the one above hold what it holds."""
        for column, (last, value) in [*self.open.items()]:
            if row.number > last:
                del self.open[column]
            else:
                row = Row(row.number, row.cells | {column: value}, row.formulas)
        while self.down and self.down[-1][0] <= row.number:
            first, last, column = self.down.pop()
            if first == row.number and column in row.cells:
                self.open[column] = last, row.cells[column]
        return row

    def _names(self, first: list[Row]) -> dict[int, str]:
        """What the columns are called, by their number."""
        header = first[0]
        if self.given:
            start = min(min(row.cells) for row in first)
            return dict(enumerate(self.given, start))
        here = header.number
        merged = [
            (up, left, low, right) for up, left, low, right in self.merged if up <= here <= low and (right > left or here < low)
        ]
        advice = "say which row names the columns with files.header_row"
        if merged:
            up, left, low, right = merged[0]
            cells = f"{column_letters(left)}{up}:{column_letters(right)}{low}"
            raise UserError(f"row {here} of {self.where}, which should name the columns, has merged cells ({cells}); {advice}")
        names: dict[int, str] = {}
        for column, value in sorted(header.cells.items()):
            if isinstance(value, Fault):
                raise UserError(
                    f"{column_letters(column)}{here} of {self.where} names no column, since it is {_words(value)}; {advice}"
                )
            if _holds(value):
                names[column] = " ".join(str(value).split())
        data = {column for row in first[1:] for column, value in row.cells.items() if _holds(value)}
        unnamed = sorted(data - names.keys())
        if unnamed and unnamed[0] < min(names) and all(type(row.cells.get(unnamed[0])) is int for row in first[1:]):
            names = {unnamed.pop(0): "", **names}  # the index that pandas writes
        if unnamed:
            columns = listed(map(column_letters, unnamed))
            raise UserError(
                f"row {here} of {self.where} doesn't name the column {columns}, which holds values; name it, or {advice}"
            )
        if twice := [title for title, count in Counter(names.values()).items() if count > 1]:
            raise UserError(f"{self.where} has the column {short(twice[0])!r} twice; rename one, or {advice}")
        return names

    def _problem(self, row: Row, filled: list[int], names: dict[int, str], note: bool, last: bool) -> str | None:
        stray = next((column for column in filled if column not in names), None)
        if stray is not None:
            return f"{column_letters(stray)}{row.number} holds a value, but its column has no name"
        for column in filled:
            value = row.cells[column]
            if isinstance(value, Fault) and value.error is None:
                raise UserError(
                    f"{column_letters(column)}{row.number} of {self.where} is a formula that no program has computed yet; open the "
                    "file in Excel or LibreOffice, and save it there"
                )
        if (word := _total(row)) and (last or word.lower().startswith("sub")):
            return f"a row of totals, as {word!r} says"
        if len(filled) < len(names) and any(_over_rows(formula, row.number) for formula in row.formulas.values()):
            return "a row of totals, as its formulas over other rows say"
        for column in filled:
            value = row.cells[column]
            if isinstance(value, Fault) and value.error != NOTHING:
                cell = f"{column_letters(column)}{row.number}"
                return f"{cell} holds {_words(value)}; fix it, or write {NOTHING} where there is no value"
        for up, left, low, right in self.across:
            if up <= row.number <= low and any(left <= column <= right for column in names):
                return f"{column_letters(left)}{up}:{column_letters(right)}{low} are merged over several columns"
        return "a footnote: one cell alone, below an empty row" if note else None


def _holds(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _value(value: Any) -> Any:
    return value if _holds(value) and not isinstance(value, Fault) else None


def _words(fault: Fault) -> str:
    return f"the error {fault.error}" if fault.error is not None else "a formula that no program has computed yet"


def _total(row: Row) -> str | None:
    """The word by which a row says that it holds totals: one alone before numbers."""
    first, *others = [value for _, value in sorted(row.cells.items()) if _holds(value)]
    if isinstance(first, str) and TOTAL.fullmatch(first.strip()) and others and not any(isinstance(value, str) for value in others):
        return first.strip()
    return None


def _over_rows(formula: str, row: int) -> bool:
    return any(int(first) != row or int(last) != row for _, first, last in OVER_ROWS.findall(formula))
