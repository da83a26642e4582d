"""Lines of text files, whatever their encoding, of which none is kept beyond a bound."""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from embedkit.settings import UserError
from embedkit.sources import Source

MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""How a text file begins that says its encoding itself (Unicode, 23.8)."""


class TooLong(csv.Error):
    """A line, or a record of several, goes on for too long."""


class Lines:
    """The lines of a text file, of which none is kept beyond `longest` characters.

    Attributes:
        number: of the line that came last, as an editor counts.
        record: the lines of the record that is being read.
    """

    def __init__(self, file: IO[str], longest: int):
        self.file, self.longest = file, longest
        self.number, self.record = 0, list[str]()
        self._room = longest

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline(self._room + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self._room:
            while line and line[-1] not in "\r\n":
                line = self.file.readline(2**20)
            raise TooLong(f"longer than {self.longest:,} characters (files.longest_line)")
        self._room -= len(line)
        self.record.append(line)
        return line

    def begin(self) -> int:
        """Begin a record, whose lines may together be as long as one; the number of its first line."""
        self._room, self.record = self.longest, []
        return self.number + 1

    def head(self, characters: int) -> str:
        """The first lines, about so many characters; the file is then at its beginning again. What can't be read ends them."""
        found, room = list[str](), min(characters, self.longest + 1)
        with contextlib.suppress(EOFError, OSError, zlib.error):
            while room > 0 and (line := self.file.readline(room)):
                found.append(line)
                room -= len(line)
        if room <= 0 and len(found) > 1:
            found.pop()  # it may go on
        self.file.seek(0)
        return "".join(found)


def open_lines(source: Source, path: Path, encoding: str, longest: int) -> Lines:
    """A text file, also compressed by gzip. A mark at its beginning says more than `encoding` where that is UTF-8.

    Bytes that aren't in the encoding become lone surrogates, which `sound` finds: one bad row isn't a bad file.

    Raises:
        UserError: when no encoding has that name.
    """
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UserError(f"the encoding {encoding!r} is not known; give one that Python knows, such as utf-8 or latin-1") from error
    raw: Any = source.open(path)
    raw = gzip.open(raw) if path.suffix.lower() == ".gz" else raw
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        start = raw.read(4)
        raw.seek(0)
        encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8-sig")
    return Lines(io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline=""), longest)


def each_line(lines: Lines, name: str) -> Iterator[tuple[str, str | csv.Error]]:
    """Each line with its place; an error where it is too long."""
    while True:
        place = f"{name} line {lines.begin()}"
        try:
            yield place, next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, error


def sound(text: str) -> bool:
    """Whether all of a text could be read in its encoding."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
