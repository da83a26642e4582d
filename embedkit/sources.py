"""Sources: what comes from outside, and what of it decides a result.

A source is written as a path (`reviews.csv`, `photos/`), as `builtin:NAME`, or as `scheme://NAME` for a hub. Its content,
not its whereabouts, enters a fingerprint: a moved folder is the same source, a changed byte is another.

Of a folder each folder is read once, wherever links lead: under its own name where it lies within, else under the first link's.
Links to files within are files. What leads out of the folder is followed only where the settings say so, and what is passed over
is told with the reason. What was read is what the fingerprint counted: bytes that come through `open` and `read` are hashed as
they are handed on, and a file that a library reads by its path may not have been touched in between.
"""

import errno
import hashlib
import io
import os
import re
import stat
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

from embedkit.artifacts import checksum
from embedkit.settings import UserError, not_among

HUBS = ("hf", "kaggle", "keras", "applications")
SCHEME = re.compile(r"(builtin):([^/]*)|(\w+)://(.+)")
"""What stands elsewhere than at a path: the whole of a source's text fits it."""
STEP = 0.02
"""Seconds in which two changes of a file may carry one time; the clock of most file systems moves every 1 to 10 ms."""
State = tuple[int, int, int, int]
"""A file as the disk tells it: its inode, size, time of writing and time of change, which nobody can set."""


class Source:
    """Where rows or a network come from.

    Args:
        text: a path, `builtin:NAME`, `hf://NAME[@REVISION]`, `kaggle://HANDLE`, `keras://PRESET` or `applications://ARCHITECTURE`.
        follow_links: whether links that lead out of a folder are followed; None for a network, whose library follows all by
            itself, so that what can't be followed is neither told nor counted.

    Attributes:
        named: where a file names others, as a list of photos does, gives those that are read with it: by what they are called there
            the file, or the reason why there is none.

    Raises:
        UserError: when the path is missing or unreadable, or the scheme unknown.
    """

    def __init__(self, text: "str | os.PathLike[str] | Source", follow_links: bool | None = False):
        self.text = text.text if isinstance(text, Source) else os.fspath(text)
        match = SCHEME.fullmatch(self.text)
        if not self.text.strip():
            raise UserError("the source is empty; give a path, builtin:NAME or hf://NAME")
        self.scheme = (match.group(1) or match.group(3)) if match else "path"
        self.name = (match.group(2) or match.group(4) or "") if match else self.text
        if self.scheme not in ("path", "builtin", *HUBS):
            raise not_among("scheme", f"{self.scheme}://", [f"{hub}://" for hub in HUBS] + ["builtin:"])
        if self.scheme == "path":
            self.path = _path(self.text)
        self.follow_links = follow_links
        self.named: Callable[[], dict[str, Path | str]] | None = None
        self._known: dict[Path, tuple[State | None, str]] = {}
        self._proven: set[Path] = set()
        self._open: weakref.WeakSet[_Watched] = weakref.WeakSet()
        self._touched = False

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The source as it can be written anywhere; a path may hold bytes that are no text."""
        return printable(self.text) if self.scheme == "path" else self.text.encode(errors="replace").decode()

    @property
    def stem(self) -> str:
        """A short name for what comes from here: the last part of the path or handle, without suffixes."""
        last = self.path.resolve().name if self.scheme == "path" else self.name.partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
        stem = re.sub(r"(\.(csv|tsv|jsonl|json|txt|parquet|xlsx|xlsm|ods|h5|keras|gz|weights))+$", "", last, flags=re.IGNORECASE)
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-").lower() or "source"

    def files(self) -> list[Path]:
        """The files of a local source in order of their names; hidden ones left out."""
        return [self.path] if self.path.is_file() else _walk(self.path, self.follow_links is not False)[0]

    def passed_over(self) -> list[tuple[str, str]]:
        """What is in a local source's folder and is not read, by name, each with the reason."""
        if self.scheme != "path" or self.path.is_file() or self.follow_links is None:
            return []
        passed = _walk(self.path, self.follow_links)[1]
        return [(printable(str(path.relative_to(self.path))), reason) for path, reason in passed]

    def content(self) -> str:
        """SHA-256 of what decides the rows or the network: the files' names and bytes, or a hub's commit or version."""
        if self.scheme == "path":
            named = self.named() if self.named else {}
            own = self.files()
            files = [*own, *dict.fromkeys(path for path in named.values() if isinstance(path, Path))]
            states = [_state(path) for path in files]
            if any(state and time.time_ns() - state[3] < STEP * 1e9 for state in states):
                time.sleep(STEP)  # so that whatever is written from here on has another time
            with ThreadPoolExecutor(4) as pool:
                sums = list(pool.map(_sum, files))
            if not self._known:  # what a stage reads has to be what it was first known by
                self._known = {path: (state, one) for path, state, one in zip(files, states, sums, strict=True)}
            names = ["".join(self.path.suffixes[-2:])] if self.path.is_file() else [str(f.relative_to(self.path)) for f in own]
            parts = [os.fsencode(name) + b"\0" + one.encode() for name, one in zip(names, sums[: len(own)], strict=True)]
            known = dict(zip(files, sums, strict=True))
            parts += [_as_counted(text, known[found] if isinstance(found, Path) else found) for text, found in named.items()]
            parts += [f"{name}\0\0{reason}".encode() for name, reason in self.passed_over()]  # what is made tells of it
        else:
            parts = [self.text.encode(), self._made_with().encode()]
        return hashlib.sha256(b"\n".join(parts)).hexdigest()

    def counts(self, path: Path) -> bool:
        """Whether a file is one of those that `content` knew, or would know."""
        return not self._known or path in self._known

    def known(self) -> dict[str, str]:
        """What a manifest says of it: as it is written, its content, and where it has no files of its own what it is made with."""
        said = {"text": self.shown, "sha256": self.content()}
        return said | ({} if self.scheme == "path" else {"with": self._made_with()})

    def _made_with(self) -> str:
        """Of what stands elsewhere: the versions that decide what it holds."""
        from embedkit import builtin, hubs

        return builtin.content(self.name) if self.scheme == "builtin" else hubs.content(self.scheme, self.name)

    def open(self, path: Path) -> BinaryIO:
        """One of the files, for reading bytes.

        Raises:
            UserError: now or at the end of the file, when its bytes aren't those that `content` knew.
        """
        self._expected(path)
        watched = _Watched(self, path)
        self._open.add(watched)
        return cast(BinaryIO, io.BufferedReader(watched, 2**20))

    def read(self, path: Path) -> bytes:
        """The bytes of one of the files.

        Raises:
            UserError: when they aren't those that `content` knew.
        """
        expected, data = self._expected(path), path.read_bytes()
        if expected:
            self._prove(path, hashlib.sha256(data).hexdigest())
        return data

    def _prove(self, path: Path, found: str) -> None:
        """Take note that all bytes of a file were read and have this checksum."""
        if self._known and self._known[path][1] != found:
            raise self._unlike()
        self._proven.add(path)

    def check(self) -> None:
        """See that nothing was written so far to the files that are being read: for a reader that is about to keep something.

        Raises:
            UserError: when something was.
        """
        if self._known and (self._touched or any(watched.moved() for watched in list(self._open))):
            raise self._unlike()

    def changed(self) -> bool:
        """Whether what was read may be something else than what `content` first knew.

        A file whose bytes were all seen here may have been touched since. Of others, which a library read by their path or of
        which only the beginning was read, the disk tells whether they were, even if they have their old bytes again.
        """
        seen = (state == _state(path) for path, (state, _) in self._known.items() if path not in self._proven)
        return bool(self._known) and (self._touched or not all(seen) or any(watched.moved() for watched in list(self._open)))

    def _unlike(self) -> UserError:
        return UserError(f"{self.shown} changed while it was read; make the same call again when nobody writes to it")

    def _expected(self, path: Path) -> bool:
        if self._known and path not in self._known:  # it came after the fingerprint
            raise self._unlike()
        return bool(self._known)


def _as_counted(text: str, found: str) -> bytes:
    return text.encode(errors="surrogatepass") + b"\0\0\0" + found.encode(errors="surrogatepass")


class _Watched(io.RawIOBase):
    """A file whose bytes are hashed as they are handed on from its beginning."""

    def __init__(self, source: Source, path: Path):
        self.source, self.path = source, path
        self.file = path.open("rb", buffering=0)
        self.digest, self.hashed, self.ended = hashlib.sha256(), 0, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        place = self.file.seek(offset, whence)
        if place == 0 and self.hashed:
            self.digest, self.hashed = hashlib.sha256(), 0
        return place

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any, /) -> int:
        in_order = self.file.tell() == self.hashed
        count = self.file.readinto(buffer) or 0
        if in_order:
            self.digest.update(memoryview(buffer)[:count])
            self.hashed += count
            if not count and len(buffer):
                self.source._prove(self.path, self.digest.hexdigest())
                self.ended = True
        return count

    def moved(self) -> bool:
        """Whether the file, not all of which was read, is no longer as it was known."""
        known = self.source._known.get(self.path)
        return known is not None and not self.ended and not self.closed and _told(os.fstat(self.file.fileno())) != known[0]

    def close(self) -> None:
        if not self.closed:
            if self.moved():
                self.source._touched = True
            self.file.close()
        super().close()


def printable(name: str) -> str:
    """A name of a file as it can be written anywhere, whatever the locale: bytes of it that are no UTF-8 as \\x and two digits."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _path(text: str) -> Path:
    """The path, after it was seen to exist."""
    try:
        path = Path(text).expanduser()
        found = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        shown = text if len(text) <= 60 else text[:60] + "..."
        raise UserError(f"{shown!r} can't be a path ({error.args[-1]}); give one, builtin:NAME or hf://NAME") from error
    if not found:
        near = [entry.name for entry in _entries(path.parent) if entry.name[0] != "."] if path.parent.is_dir() else []
        raise not_among(f"in {path.parent.absolute()}, the file or folder", path.name, near)
    return path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); mend its permissions or name another source") from error


def _walk(folder: Path, follow: bool) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files in a folder, and what is passed over, each in order of names.

    Args:
        folder: where to begin; it may be a link itself.
        follow: whether links may lead out of it.
    """
    root, files, passed = os.path.realpath(folder), [], []
    read: dict[tuple[int, int], Path] = {}
    starts = [folder]
    while starts:  # a folder's own name comes before those that links give it, so links to folders wait
        starts.sort()
        waiting = [starts.pop(0)]
        while waiting:
            here = waiting.pop()
            status = _status(here)
            if status is None:
                continue  # it went away in between, and will be missed in the fingerprint
            place = (status.st_dev, status.st_ino)
            if place in read:
                passed.append((here, f"a folder that is read as {printable(str(read[place].relative_to(folder)))!r}"))
                continue
            read[place] = here
            for entry in _entries(here):
                if entry.name.startswith("."):
                    continue
                linked = entry.is_symlink()
                status = None if linked and not follow and _leads_out(entry, root) else _status(entry)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    (starts if linked else waiting).append(entry)
                elif status is not None and stat.S_ISREG(status.st_mode):
                    files.append(entry)
                elif status is not None:
                    passed.append((entry, "neither a file nor a folder"))
                elif linked:
                    where = "that leads out of the folder" if os.path.exists(entry) else "that leads nowhere"
                    passed.append((entry, f"a link {where} ({printable(os.readlink(entry))})"))
    return sorted(files), sorted(passed)


def _leads_out(link: Path, root: str) -> bool:
    target = os.path.realpath(link)
    return target != root and not target.startswith(os.path.join(root, ""))


def _status(path: Path) -> os.stat_result | None:
    """What the disk says of a file or folder, links followed; None where there is none."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise _closed(path, error) from error


def _state(path: Path) -> State | None:
    status = _status(path)
    return status and _told(status)


def _told(status: os.stat_result) -> State:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _closed(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} can't be read ({error.strerror}); mend its permissions or take it out of the source")


def _sum(path: Path) -> str:
    try:
        return checksum(path)
    except OSError as error:
        raise _closed(path, error) from error
