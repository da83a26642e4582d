"""Sources: what comes from outside, and what of it decides a result.

A source is written as a path (`reviews.csv`, `photos/`), as `builtin:NAME`, or as `scheme://NAME` for a hub. Its content,
not its whereabouts, enters a fingerprint: a moved folder is the same source, a changed byte is another.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from embedkit.artifacts import checksum
from embedkit.settings import UserError, not_among

HUBS = ("hf", "kaggle", "keras", "applications")
SCHEME = re.compile(r"(builtin):([^/]*)|(\w+)://(.+)")
"""What stands elsewhere than at a path: the whole of a source's text fits it."""


class Source:
    """Where rows or a network come from.

    Args:
        text: a path, `builtin:NAME`, `hf://NAME[@REVISION]`, `kaggle://HANDLE`, `keras://PRESET` or `applications://ARCHITECTURE`.

    Raises:
        UserError: when the path is missing or unreadable, or the scheme unknown.
    """

    def __init__(self, text: "str | os.PathLike[str] | Source"):
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

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The source as it can be written anywhere; a path may hold bytes that are no text."""
        return self.text.encode(errors="replace").decode()

    @property
    def stem(self) -> str:
        """A short name for what comes from here: the last part of the path or handle, without suffixes."""
        last = self.path.resolve().name if self.scheme == "path" else self.name.partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
        stem = re.sub(r"(\.(csv|tsv|jsonl|json|txt|parquet|h5|keras|gz|weights))+$", "", last, flags=re.IGNORECASE)
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-").lower() or "source"

    def files(self) -> list[Path]:
        """The files of a local source in order of their names; hidden ones left out."""
        if self.path.is_file():
            return [self.path]
        return sorted(_walk(self.path))

    def content(self) -> str:
        """SHA-256 of what decides the rows or the network: the files' names and bytes, or a hub's commit or version."""
        if self.scheme == "path":
            files = self.files()
            with ThreadPoolExecutor(4) as pool:
                sums = list(pool.map(_sum, files))
            names = ["".join(self.path.suffixes[-2:])] if self.path.is_file() else [str(f.relative_to(self.path)) for f in files]
            parts = [f"{name}\0{one}" for name, one in zip(names, sums, strict=True)]
        elif self.scheme == "builtin":
            from embedkit import builtin

            parts = [self.text, builtin.content(self.name)]
        else:
            from embedkit import hubs

            parts = [self.text, hubs.content(self.scheme, self.name)]
        return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


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


def _walk(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _sum(path: Path) -> str:
    try:
        return checksum(path)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); mend its permissions or take it out of the source") from error
