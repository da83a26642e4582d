"""Readers: files of every supported kind become one stream of records.

A record is a dictionary of columns with its place in the source, or the reason why it could not be read. Nothing raises
for one bad record: it is the loader that counts them and decides. Records come in the order of the source, always the
same, so that an interrupted load can skip what it has.
"""

import csv
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from embedkit import builtin, delimited, jsonfiles, spreadsheets
from embedkit.folders import PICTURES, SPLITS, layout
from embedkit.hubs import ClassName
from embedkit.settings import PositiveIntOrNone, Settings, UserError, later, not_among
from embedkit.shards import TABULAR, shards, suffix_of
from embedkit.sources import Source, printable
from embedkit.textfiles import Lines, each_line, open_lines, sound


@dataclass
class Record:
    """One row as read: its place, its split where the source says one, its columns, or why it is unreadable."""

    place: str
    split: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def _tab(value: object) -> object:
    return "\t" if value == "\\t" else value  # as a shell writes it


class ReadFiles(Settings):
    """How files of rows are read."""

    column_names: tuple[str, ...] = ()
    """Names of the columns of a csv or tsv file, or a sheet, that has no header line; its first line is then a row."""
    delimiter: Annotated[str, BeforeValidator(_tab), Field(min_length=1, max_length=1)] | None = None
    """What separates the columns, `\\t` for a tab; by default a tab in .tsv and a comma in .csv, or that of comma, semicolon, tab
    and bar by which the first rows have as many columns as the header."""
    quoted: bool | None = None
    """Whether `"` quotes a column of csv or tsv; by default yes for .csv and no for .tsv, where GLUE's files use it as a letter."""
    escape: Annotated[str, Field(min_length=1, max_length=1)] | None = later(None)
    """What stands before a `"` that is a letter in a quoted column, such as a backslash; by default such a quote is doubled, or has
    a backslash where the first rows can only be read so."""
    encoding: str = "utf-8"
    """Character encoding of text files, such as utf-8 or latin-1; one in UTF-16 or UTF-32 is known by the mark it begins with."""
    subset: str | None = None
    """Name of the configuration of a hub dataset that has several, such as `sst2` of `hf://nyu-mll/glue`."""
    limit: PositiveIntOrNone = None
    """Read at most this many records of each file or split; all of them by default."""
    sheet: str | None = later(None)
    """Sheet of a spreadsheet (.xlsx, .xlsm, .ods); by default the only visible one that holds something."""
    header_row: PositiveIntOrNone = later(None)
    """Row of a sheet that names its columns, such as 3 below a title; by default the first that holds something."""
    folders: Literal["auto", "splits", "classes"] = later("auto")
    """What the folders of pictures are named after: splits above (or below) classes, or classes alone; `auto` looks, and asks
    where that isn't clear."""
    follow_links: bool = later(False)
    """Whether links that lead out of a folder are followed; those that stay inside always are, and each folder is read once."""
    longest_line: PositiveInt = later(2**26)
    """Characters of the longest line, or quoted record of csv, that is read; a longer one is set aside without keeping it."""


def read(source: Source, kind: str, settings: ReadFiles, tell: Callable[[str], None] | None = None) -> Iterator[Record]:
    """All records of a source.

    Args:
        source: what to read.
        kind: `images`, `texts` or `table`.
        settings: how to read it.
        tell: takes sentences about how it is read, where that isn't as usual.

    Raises:
        UserError: when the source as a whole can't be read.
    """
    if source.scheme == "builtin":
        rows = builtin.rows(source.name, kind)
        yield from _limited((Record(f"row {n}", None, row) for n, row in enumerate(rows)), settings.limit)
    elif source.scheme == "hf":
        from embedkit import hubs

        for split, rows in hubs.splits(source.name, settings.subset):
            if split.lower() not in SPLITS:
                raise not_among(f"split of {source}", split, SPLITS, hint="only rows of known splits are read")
            records = (Record(f"{split} {n}", SPLITS[split.lower()], row) for n, row in enumerate(rows))
            yield from _limited(records, settings.limit)
    elif source.scheme != "path":
        raise UserError(f"{source} is no dataset; rows come from a file, a folder, builtin:NAME or hf://NAME")
    elif kind == "images" and source.path.is_dir():
        yield from _pictures(source, settings)
    else:
        for path, split in shards(source, _links(source)).files:
            yield from _limited(_file(source, kind, path, split, settings, tell or _silent), settings.limit)


def _silent(_: str) -> None:
    """Take note of nothing."""


def _limited(records: Iterator[Record], limit: int | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if limit is not None and number >= limit:
            return
        yield record


def _passed_over(source: Source) -> str:
    """What to say where nothing was found and links were passed over."""
    if not (passed := source.passed_over()):
        return ""
    (name, reason), more = passed[0], f" and {len(passed) - 1:,} more" if len(passed) > 1 else ""
    return f"; {name}{more} was passed over: {reason}" + ("" if source.follow_links else "; follow links with files.follow_links")


def _links(source: Source) -> str:
    """What to say where nothing was found and links were passed over."""
    if not (passed := source.passed_over()):
        return ""
    (name, reason), more = passed[0], f" and {len(passed) - 1:,} more" if len(passed) > 1 else ""
    return f"; {name}{more} was passed over: {reason}" + ("" if source.follow_links else "; follow links with files.follow_links")


def _file(
    source: Source, kind: str, path: Path, split: str | None, settings: ReadFiles, tell: Callable[[str], None]
) -> Iterator[Record]:
    suffix, name = suffix_of(path), printable(path.name)
    try:
        if suffix == ".parquet":
            from embedkit import hubs

            with source.open(path) as file:
                for number, row in enumerate(hubs.parquet(path, file)):
                    row = row if kind == "images" else {column: _plain(value) for column, value in row.items()}
                    yield Record(f"{name} row {number}", split, row)
        elif suffix in spreadsheets.SUFFIXES:
            with source.open(path) as file:
                rows = spreadsheets.records(file, name, settings.sheet, settings.header_row, settings.column_names)
                yield from (Record(place, split, row, problem) for place, row, problem in rows)
        elif suffix in (".jsonl", ".json"):
            with _open(source, path, settings) as lines:
                yield from _made(jsonfiles.rows(lines, name, settings.encoding), split)
        elif suffix == ".txt" and settings.delimiter is None:
            with _open(source, path, settings) as lines:
                yield from _made(_texts(lines, name, settings.encoding), split)
        elif suffix in (".csv", ".tsv") or settings.delimiter is not None:
            with _open(source, path, settings) as lines:
                yield from _made(delimited.rows(lines, name, settings, suffix, tell), split)
        else:
            raise not_among(f"the format of {name}", suffix, TABULAR, hint="or give a delimiter")
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise UserError(f"{path} can't be read ({error}); mend the file or its permissions and make the same call again") from error


def _made(rows: Iterator[tuple[str, dict[str, Any] | str]], split: str | None) -> Iterator[Record]:
    for place, row in rows:
        yield Record(place, split, problem=row) if isinstance(row, str) else Record(place, split, row)


def _open(source: Source, path: Path, settings: ReadFiles) -> Lines:
    return open_lines(source, path, settings.encoding, settings.longest_line)


def _texts(lines: Lines, name: str, encoding: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for place, line in each_line(lines, name):
        if isinstance(line, csv.Error):
            yield place, str(line)
        elif not sound(text := line.strip()):
            yield place, f"not in the encoding {encoding}"
        elif text:
            yield place, {"text": text}


def _plain(value: Any) -> Any:
    """A value of a Parquet file, where bytes that are text are one."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _pictures(source: Source, settings: ReadFiles) -> Iterator[Record]:
    """A folder of pictures: `[split/][class/].../picture`. The bytes are read when the loader asks for them."""
    root, pictures = source.path, layout(source, settings.folders).pictures
    if not pictures:
        parquets = [path for path in source.files() if path.suffix == ".parquet"]
        hint = f"; name one of its Parquet files, such as {parquets[0].name}" if parquets else "; name a folder that does"
        raise UserError(f"{root} holds no pictures ({', '.join(PICTURES)}){hint}{_links(source)}")
    counts: dict[str | None, int] = {}
    for path, split, label in pictures:
        counts[split] = counts.get(split, 0) + 1
        if settings.limit is not None and counts[split] > settings.limit:
            continue
        name = os.fsencode(path.as_posix()).decode(errors="surrogateescape")
        if not sound(name):
            yield Record(printable(path.as_posix()), split, problem="its name, or that of its folder, is not in UTF-8")
            continue
        columns = {"image": {"bytes": None, "path": str(root / path)}, "path": name}
        if label is not None:
            columns["label"] = ClassName(printable(label))  # folders are classes, however they are numbered
        yield Record(name, split, columns)


def late_columns(source: Source, kind: str) -> bool:
    """Whether any record may bring columns that those before it didn't have: JSON has no header."""
    if source.scheme != "path" or (kind == "images" and source.path.is_dir()):
        return False
    return any(suffix_of(path) in (".json", ".jsonl") for path, _ in shards(source, _links(source)).files)


def passed_over(source: Source, kind: str, settings: ReadFiles) -> list[tuple[str, str]]:
    """What lies in a source's folder and is not read, by name, each with the reason; what matters most comes first."""
    if source.scheme != "path" or not source.path.is_dir():
        return source.passed_over()
    if kind != "images":
        return [*shards(source).passed, *source.passed_over()]
    found = layout(source, settings.folders).passed
    folders = [one for one in found if one[0].endswith("/")]
    return [*folders, *source.passed_over(), *(one for one in found if not one[0].endswith("/"))]
