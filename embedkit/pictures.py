"""Pictures of records: encoded bytes, files that a file of rows names beside itself, or addresses on the web.

A path in a file of rows is one below that file's folder: it may not lead out of it, other than where links are followed
(`files.follow_links`). Of a hub's rows no path is followed. What such files hold decides the rows as much as the file that names
them, so it is a part of the source's content.
"""

import base64
import binascii
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from embedkit.fetching import Fetch, Fetcher, is_address
from embedkit.folders import PICTURES
from embedkit.settings import UserError, listed, not_among
from embedkit.sources import Source, printable

IMAGE_COLUMN = "image"
"""How the column of pictures is called where nothing else is said."""
LOOKED_AT = 100
"""Rows that are looked at to find the column of pictures."""
SUFFIXES = (*PICTURES, ".jfif", ".jpe", ".ppm", ".pgm", ".pnm", ".dib", ".avif", ".heic", ".jp2", ".jxl")
DATA = "data:image/"
Rows = Callable[[], Iterator[dict[str, Any]]]
"""Gives the columns of the readable records, anew with each call."""


def named_in(value: Any) -> str | None:
    """The path or the address that stands for a picture, or None where the picture itself does, or nothing."""
    if isinstance(value, dict) and value.get("bytes") is None:
        value = value.get("path")
    return value.strip() or None if isinstance(value, str) and not value.startswith(DATA) else None


def image_column(source: Source, seen: list[str], asked: str, rows: Rows) -> str:
    """Which column holds the pictures.

    Args:
        source: for messages.
        seen: the columns there are.
        asked: the one that was asked for; IMAGE_COLUMN may mean another, the only one that names pictures.
        rows: the records.

    Raises:
        UserError: when it isn't there, or not clear.
    """
    if asked in seen:
        return asked
    likely = likely_columns(itertools.islice(rows(), LOOKED_AT), seen) if asked == IMAGE_COLUMN else []
    if len(likely) == 1:
        return likely[0]
    if likely:
        raise UserError(f"which column of {source.shown} holds the pictures is not clear: {listed(likely)} may; set image_column")
    raise not_among("image column", asked, seen, hint="set image_column")


def likely_columns(rows: Iterable[dict[str, Any]], seen: list[str]) -> list[str]:
    """The columns in which most values are paths or addresses of pictures."""
    every = list(rows)
    found = []
    for column in seen:
        values = [value for row in every if (value := row.get(column)) is not None]
        if values and sum(map(_names_a_picture, values)) > len(values) / 2:
            found.append(column)
    return found


def _names_a_picture(value: Any) -> bool:
    text = value if isinstance(value, str) else ""
    return is_address(text) or text.startswith(DATA) or text.strip().lower().endswith(SUFFIXES)


def name_files(source: Source, rows: Rows, asked: str) -> None:
    """Let a source count the files that its rows name; those of a folder are counted anyway.

    Args:
        source: a file of rows.
        rows: its records.
        asked: the setting that names the column of pictures.
    """
    texts: list[str] | None = None

    def named() -> dict[str, Path | str]:
        nonlocal texts
        if texts is None:  # another file would have another content anyway
            texts = sorted(set(_texts(source, rows, asked)))
        return {text: beside(source, text) for text in texts}

    if source.scheme == "path" and source.path.is_file():
        source.named = named


def _texts(source: Source, rows: Rows, asked: str) -> Iterator[str]:
    seen = list(dict.fromkeys(itertools.chain.from_iterable(itertools.islice(rows(), LOOKED_AT))))
    if not seen:
        return  # what is wrong is said when the rows are read
    column = image_column(source, seen, asked, rows)
    few = [row.get(column) for row in itertools.islice(rows(), LOOKED_AT)]
    if any(_is_bytes(value) for value in few) and not any(map(named_in, few)):
        return  # there is no need to read all of them, which may be large
    for row in rows():
        if (text := named_in(row.get(column))) and not is_address(text):
            yield text


def _is_bytes(value: Any) -> bool:
    return isinstance(value.get("bytes") if isinstance(value, dict) else value, bytes)


def beside(source: Source, text: str) -> Path | str:
    """The file that a path in a file of rows means, or the reason why it is none."""
    folder, name = source.path.parent, printable(source.path.name)
    shown = repr(printable(text)[:200])
    if "\0" in text:
        return f"{shown} can't be a path"
    inside = os.path.realpath(folder)
    for form in dict.fromkeys(text if "\\" not in text else text.replace("\\", "/") for text in _forms(text)):
        path = folder / form
        real = os.path.realpath(path)
        if not source.follow_links and not real.startswith(os.path.join(inside, "")):
            return f"{shown} leads out of the folder of {name}; what does is read with files.follow_links"
        try:
            if path.is_file():
                return path
        except OSError as error:
            return f"{shown} can't be read ({error.strerror})"
    return f"there is no file {shown} beside {name}"


def _forms(text: str) -> Iterator[str]:
    """A path as it stands, and as it may be written on the disk: macOS takes letters and their accents apart."""
    yield text
    yield unicodedata.normalize("NFC", text)
    yield unicodedata.normalize("NFD", text)


class Pictures:
    """The bytes of pictures, whatever stands for them in a column.

    Args:
        source: where the records come from.
        column: which column.
        fetch: how addresses are fetched.
        cache: a folder that keeps what was fetched.
        itself: whether the source is one picture.

    Attributes:
        own: whether paths are those of the source's own files, and not such as stand in a file.
    """

    def __init__(self, source: Source, column: str, fetch: Fetch = Fetch(), cache: Path | None = None, itself: bool = False):
        self.source, self.column = source, column
        self.fetcher = Fetcher(fetch, cache)
        self.local = source.scheme == "path"
        self.own = itself or (self.local and source.path.is_dir())

    def read(self, value: Any) -> tuple[bytes, str | None]:
        """A picture's bytes, and what the row calls it.

        Raises:
            ValueError: with the reason why there are none.
        """
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, str) and data.startswith(DATA):
            return _inline(data), None
        if self.own and data is None and path:
            return self._bytes(Path(path)), path
        if text := named_in(value):
            if is_address(text):
                return self.fetcher.get(text), text
            if self.local:
                return self._file(text), text
        if not isinstance(data, bytes):
            raise ValueError(f"column {self.column!r} holds {type(value).__name__}, not an encoded picture")
        return data, path

    def _file(self, text: str) -> bytes:
        found = beside(self.source, text)
        if isinstance(found, str):
            raise ValueError(found)
        if not self.source.counts(found):
            raise ValueError(f"{text[:200]!r} names a file, where the first rows hold the pictures themselves")
        return self._bytes(found)

    def _bytes(self, path: Path) -> bytes:
        try:
            return self.source.read(path)
        except OSError as error:
            raise ValueError(f"can't be read ({error.strerror})") from error


def _inline(text: str) -> bytes:
    kind, _, data = text.partition(",")
    if not kind.endswith(";base64"):
        raise ValueError("a data: address that is not in base64")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a data: address that is damaged ({error})") from error
