"""Readers: files of every supported kind become one stream of records.

A record is a dictionary of columns with its place in the source, or the reason why it could not be read. Nothing raises
for one bad record: it is the loader that counts them and decides. Records come in the order of the source, always the
same, so that an interrupted load can skip what it has.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BeforeValidator, Field

from embedkit import builtin
from embedkit.settings import PositiveIntOrNone, Settings, UserError, not_among
from embedkit.sources import Source

SPLITS = {
    **dict.fromkeys(("train", "training", "unsup", "unsupervised", "unlabeled", "unlabelled"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
TABULAR = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
csv.field_size_limit(2**31 - 1)  # the default of 128 KiB would refuse long texts


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
        yield from _pictures(source.path, source.files(), settings.limit)
    else:
        for path, split in _files(source):
            yield from _limited(_file(path, split, settings), settings.limit)


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
            f"name one file ({', '.join(TABULAR)}, also with .gz)"
        )
    return [(path, None) for path in alike]


def _file(path: Path, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    suffix = _suffix(path)
    try:
        if suffix == ".parquet":
            from embedkit import hubs

            yield from (Record(f"{path.name} row {n}", split, row) for n, row in enumerate(hubs.parquet(path)))
        elif suffix in (".jsonl", ".json"):
            yield from _json_lines(path, split, settings)
        elif suffix == ".txt" and settings.delimiter is None:
            yield from _lines(path, split, settings)
        elif suffix in (".csv", ".tsv") or settings.delimiter is not None:
            yield from _delimited(path, split, settings, suffix)
        else:
            raise not_among(f"the format of {path.name}", suffix, TABULAR, hint="or give a delimiter")
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise UserError(f"{path} can't be read ({error}); mend the file or its permissions and make the same call again") from error


def _open(path: Path, encoding: str) -> IO[str]:
    # Bytes that aren't in the encoding become lone surrogates, which `_sound` finds: one bad row isn't a bad file.
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UserError(f"the encoding {encoding!r} is not known; give one that Python knows, such as utf-8 or latin-1") from error
    raw: Any = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")
    return io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline="")


def _sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _delimited(path: Path, split: str | None, settings: ReadFiles, suffix: str) -> Iterator[Record]:
    with _open(path, settings.encoding) as file:
        delimiter = settings.delimiter or ("\t" if suffix == ".tsv" else ",")
        if settings.delimiter is None and suffix == ".csv":
            header = file.readline()
            delimiter = ";" if ";" in header and "," not in header else ","
            file.seek(0)
        quoted = suffix != ".tsv" if settings.quoted is None else settings.quoted
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        text = (line.rstrip(" \r\n") + "\n" for line in file) if delimiter == " " else file  # "1 2 " has two columns, not three
        lines = csv.reader(text, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter != "\t")
        names = list(settings.column_names) or next(lines, [])
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path.name} has the column {twice!r} twice; rename one, or give all names with column_names")
        if not all(map(_sound, names)):
            raise UserError(f"the header of {path.name} is not in the encoding {settings.encoding}; give its own, such as latin-1")
        while True:
            place = f"{path.name} line {lines.line_num + 1}"
            try:
                fields = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(place, split, problem=str(error))
                continue
            if not fields:
                continue
            if len(fields) != len(names):
                yield Record(place, split, problem=f"{len(fields)} columns instead of {len(names)}")
            elif not all(map(_sound, fields)):
                yield Record(place, split, problem=f"not in the encoding {settings.encoding}")
            else:
                yield Record(place, split, {name: value or None for name, value in zip(names, fields, strict=True)})


def _json_lines(path: Path, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    with _open(path, settings.encoding) as file:
        for number, line in enumerate(file, 1):
            place = f"{path.name} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
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


def _lines(path: Path, split: str | None, settings: ReadFiles) -> Iterator[Record]:
    with _open(path, settings.encoding) as file:
        for number, line in enumerate(file, 1):
            text, place = line.strip(), f"{path.name} line {number}"
            if not _sound(text):
                yield Record(place, split, problem=f"not in the encoding {settings.encoding}")
            elif text:
                yield Record(place, split, {"text": text})


def _pictures(root: Path, files: list[Path], limit: int | None) -> Iterator[Record]:
    """A folder of pictures: `[split/][class/].../picture`. The bytes are read when the loader asks for them."""
    pictures = [path.relative_to(root) for path in files if path.suffix.lower() in PICTURES]
    if not pictures:
        parquets = [path for path in files if path.suffix == ".parquet"]
        hint = f"; name one of its Parquet files, such as {parquets[0].name}" if parquets else ""
        raise UserError(f"{root} holds no pictures ({', '.join(PICTURES)}){hint or '; name a folder that does'}")
    tops = {path.parts[0].lower() for path in pictures if len(path.parts) > 1}
    by_split = bool(tops) and all(top in SPLITS for top in tops)
    counts: dict[str | None, int] = {}
    for path in pictures:
        folders = path.parts[:-1]
        split = SPLITS[folders[0].lower()] if by_split and folders else None
        classes = folders[1:] if split else folders
        counts[split] = counts.get(split, 0) + 1
        if limit is None or counts[split] <= limit:
            columns = {"image": {"bytes": None, "path": str(root / path)}, "path": path.as_posix()}
            if classes:
                columns["label"] = classes[0]
            yield Record(path.as_posix(), split, columns)
