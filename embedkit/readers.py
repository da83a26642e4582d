"""Readers: files of every supported kind become one stream of records.

A record is a dictionary of columns with its place in the source, or the reason why it could not be read. Nothing raises
for one bad record: it is the loader that counts them and decides. Records come in the order of the source, always the
same, so that an interrupted load can skip what it has.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from embedkit import builtin
from embedkit.folders import PICTURES, SPLITS, layout
from embedkit.settings import PositiveIntOrNone, Settings, UserError, later, not_among, short
from embedkit.sources import Source, printable

TABULAR = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
MOST_COLUMNS = 20_000
"""Columns of a file of rows. Each is a Python object in every row, and a part of a dataset holds thousands of rows."""
DEEPEST = 100
"""Lists and objects in one another of a JSON record; Python's own writer ends at about a thousand."""
csv.field_size_limit(2**31 - 1)  # the default of 128 KiB would refuse long texts; `longest_line` bounds them


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
    """Names of the columns of a csv or tsv file that has no header line; its first line is then a row."""
    delimiter: Annotated[str, BeforeValidator(_tab), Field(min_length=1, max_length=1)] | None = None
    """What separates the columns, `\\t` for a tab; by default a tab in .tsv, a comma in .csv (or `;` where the header has none)."""
    quoted: bool | None = None
    """Whether `"` quotes a column of csv or tsv; by default yes for .csv and no for .tsv, where GLUE's files use it as a letter."""
    encoding: str = "utf-8"
    """Character encoding of text files, such as utf-8 or latin-1."""
    subset: str | None = None
    """Name of the configuration of a hub dataset that has several, such as `sst2` of `hf://nyu-mll/glue`."""
    limit: PositiveIntOrNone = None
    """Read at most this many records of each file or split; all of them by default."""
    folders: Literal["auto", "splits", "classes"] = later("auto")
    """What the folders of pictures are named after: splits above (or below) classes, or classes alone; `auto` looks, and asks
    where that isn't clear."""
    follow_links: bool = later(False)
    """Whether links that lead out of a folder are followed; those that stay inside always are, and each folder is read once."""
    longest_line: PositiveInt = later(2**26)
    """Characters of the longest line, or quoted record of csv, that is read; a longer one is set aside without keeping it."""


def read(source: Source, kind: str, settings: ReadFiles) -> Iterator[Record]:
    """All records of a source.

    Args:
        source: what to read.
        kind: `images`, `texts` or `table`.
        settings: how to read it.

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
        for path, split in _files(source):
            yield from _limited(_file(source, path, split, settings), settings.limit)


def _limited(records: Iterator[Record], limit: int | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if limit is not None and number >= limit:
            return
        yield record


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1]) if suffixes else ""


def _files(source: Source) -> list[tuple[Path, str | None]]:
    """The files of rows in a source and the split each one's name says: `train.tsv` and `dev.tsv` in a folder."""
    if source.path.is_file():
        return [(source.path, None)]
    files = [path for path in source.files() if _suffix(path) in TABULAR]
    named: list[tuple[Path, str | None]] = []
    for path in files:
        word = re.split(r"[.-]", path.name.lower(), maxsplit=1)[0]
        if word in SPLITS:
            named.append((path, SPLITS[word]))
    if named:
        return named
    alike = [path for path in files if _suffix(path) != ".txt"]
    if not alike or len({_suffix(path) for path in alike}) > 1:
        raise UserError(
            f"{source.path} holds no rows that can be told: {len(alike)} files of rows, none named train, dev or test; "
            f"name one file ({', '.join(TABULAR)}, also with .gz){_passed_over(source)}"
        )
    return [(path, None) for path in alike]


def _passed_over(source: Source) -> str:
    """What to say where nothing was found and links were passed over."""
    if not (passed := source.passed_over()):
        return ""
    (name, reason), more = passed[0], f" and {len(passed) - 1:,} more" if len(passed) > 1 else ""
    return f"; {name}{more} was passed over: {reason}" + ("" if source.follow_links else "; follow links with files.follow_links")


def _file(source: Source, path: Path, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    suffix, name = _suffix(path), printable(path.name)
    try:
        if suffix == ".parquet":
            from embedkit import hubs

            with source.open(path) as file:
                yield from (Record(f"{name} row {n}", split, row) for n, row in enumerate(hubs.parquet(path, file)))
        elif suffix in (".jsonl", ".json"):
            with _open(source, path, settings) as lines:
                yield from _json_lines(lines, name, split, settings)
        elif suffix == ".txt" and settings.delimiter is None:
            with _open(source, path, settings) as lines:
                yield from _texts(lines, name, split, settings)
        elif suffix in (".csv", ".tsv") or settings.delimiter is not None:
            with _open(source, path, settings) as lines:
                yield from _delimited(lines, name, split, settings, suffix)
        else:
            raise not_among(f"the format of {name}", suffix, TABULAR, hint="or give a delimiter")
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise UserError(f"{path} can't be read ({error}); mend the file or its permissions and make the same call again") from error


class _TooLong(csv.Error):
    """A line, or a record of several, goes on for too long."""


class _Lines:
    """The lines of a text file, of which none is kept beyond `longest` characters.

    Attributes:
        number: of the line that came last, as an editor counts.
        room: how many characters the lines that come next may have together.
    """

    def __init__(self, file: IO[str], longest: int):
        self.file, self.longest = file, longest
        self.number, self.room = 0, longest

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline(self.room + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.room:
            while line and line[-1] not in "\r\n":
                line = self.file.readline(2**20)
            raise _TooLong(f"longer than {self.longest:,} characters (files.longest_line)")
        self.room -= len(line)
        return line

    def first(self) -> str:
        """The first line, or as much of it as is kept; the file is then at its beginning again."""
        line = self.file.readline(self.longest + 1)
        self.file.seek(0)
        return line


def _open(source: Source, path: Path, settings: ReadFiles) -> _Lines:
    # Bytes that aren't in the encoding become lone surrogates, which `_sound` finds: one bad row isn't a bad file.
    encoding = settings.encoding
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UserError(f"the encoding {encoding!r} is not known; give one that Python knows, such as utf-8 or latin-1") from error
    raw: Any = source.open(path)
    raw = gzip.open(raw) if path.suffix.lower() == ".gz" else raw
    return _Lines(io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline=""), settings.longest_line)


def _records(lines: _Lines, rows: Iterator[Any], name: str) -> Iterator[tuple[str, Any]]:
    """What an iterator makes of lines, each with its place; an error where one can't be had."""
    while True:
        place, lines.room = f"{name} line {lines.number + 1}", lines.longest
        try:
            yield place, next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, error


def _sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _delimited(lines: _Lines, name: str, split: str | None, settings: ReadFiles, suffix: str) -> Iterator[Record]:
    first = lines.first()
    delimiter = settings.delimiter or ("\t" if suffix == ".tsv" else ",")
    if settings.delimiter is None and suffix == ".csv":
        delimiter = ";" if ";" in first and "," not in first else ","
    if not settings.column_names and first.count(delimiter) >= MOST_COLUMNS:
        raise too_wide(name, first.count(delimiter) + 1)
    quoted = suffix != ".tsv" if settings.quoted is None else settings.quoted
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    text = map(lambda line: line.rstrip(" \r\n") + "\n", lines) if delimiter == " " else lines  # "1 2 " has two columns, not three
    rows = csv.reader(text, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter != "\t")
    try:
        names = list(settings.column_names) or next(rows, [])
    except csv.Error as error:
        advice = "say how the file is read, or give the names with column_names"
        raise UserError(f"the header of {name} can't be read: {error}; {advice} (`files` settings)") from error
    if len(set(names)) < len(names):
        twice = next(column for column, count in Counter(names).items() if count > 1)
        raise UserError(f"{name} has the column {short(twice)!r} twice; rename one, or give all names with column_names")
    if not all(map(_sound, names)):
        raise UserError(f"the header of {name} is not in the encoding {settings.encoding}; give its own, such as latin-1")
    for place, fields in _records(lines, rows, name):
        if isinstance(fields, csv.Error):
            yield Record(place, split, problem=str(fields))
        elif fields and len(fields) != len(names):
            yield Record(place, split, problem=f"{len(fields)} columns instead of {len(names)}")
        elif not all(map(_sound, fields)):
            yield Record(place, split, problem=f"not in the encoding {settings.encoding}")
        elif fields:
            yield Record(place, split, {column: value or None for column, value in zip(names, fields, strict=True)})


def too_wide(name: str, columns: int) -> UserError:
    """The error for a source with more columns than can be dealt with."""
    advice = "leave some out, or say how its files are read (`files` settings)"
    return UserError(f"{name} has {columns:,} columns or more, and at most {MOST_COLUMNS:,} are read; {advice}")


def _json_lines(lines: _Lines, name: str, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    for place, line in _records(lines, lines, name):
        if isinstance(line, csv.Error):
            yield Record(place, split, problem=str(line))
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if line.count("[") + line.count("{") > DEEPEST and _depth(row) > DEEPEST:
                raise RecursionError
        except RecursionError:
            yield Record(place, split, problem="not JSON (nested too deeply)")
            continue
        except ValueError as error:
            yield Record(place, split, problem=f"not JSON ({error})")
            continue
        if not _sound(line):
            yield Record(place, split, problem=f"not in the encoding {settings.encoding}")
        elif "\\ud" in line.lower() and not _sound(json.dumps(row, ensure_ascii=False)):
            yield Record(place, split, problem="not valid Unicode (a lone surrogate)")
        elif not isinstance(row, dict):
            yield Record(place, split, problem=f"not a JSON object but {type(row).__name__}")
        else:
            yield Record(place, split, row)


def _depth(value: Any) -> int:
    """How many lists and objects are in one another."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _texts(lines: _Lines, name: str, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    for place, line in _records(lines, lines, name):
        if isinstance(line, csv.Error):
            yield Record(place, split, problem=str(line))
        elif not _sound(text := line.strip()):
            yield Record(place, split, problem=f"not in the encoding {settings.encoding}")
        elif text:
            yield Record(place, split, {"text": text})


def _pictures(source: Source, settings: ReadFiles) -> Iterator[Record]:
    """A folder of pictures: `[split/][class/].../picture`. The bytes are read when the loader asks for them."""
    root, pictures = source.path, layout(source, settings.folders).pictures
    if not pictures:
        parquets = [path for path in source.files() if path.suffix == ".parquet"]
        hint = f"; name one of its Parquet files, such as {parquets[0].name}" if parquets else "; name a folder that does"
        raise UserError(f"{root} holds no pictures ({', '.join(PICTURES)}){hint}{_passed_over(source)}")
    counts: dict[str | None, int] = {}
    for path, split, label in pictures:
        counts[split] = counts.get(split, 0) + 1
        if settings.limit is not None and counts[split] > settings.limit:
            continue
        name = os.fsencode(path.as_posix()).decode(errors="surrogateescape")
        if not _sound(name):
            yield Record(printable(path.as_posix()), split, problem="its name, or that of its folder, is not in UTF-8")
            continue
        columns = {"image": {"bytes": None, "path": str(root / path)}, "path": name}
        if label is not None:
            columns["label"] = printable(label)
        yield Record(name, split, columns)


def passed_over(source: Source, kind: str, settings: ReadFiles) -> list[tuple[str, str]]:
    """What lies in a source's folder and is not read, by name, each with the reason; what matters most comes first."""
    if kind != "images" or source.scheme != "path" or not source.path.is_dir():
        return source.passed_over()
    found = layout(source, settings.folders).passed
    folders = [one for one in found if one[0].endswith("/")]
    return [*folders, *source.passed_over(), *(one for one in found if not one[0].endswith("/"))]
