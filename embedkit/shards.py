"""Folders of files of rows: which files are read, and the split that each one's name or folder says.

`train.tsv` and `dev.tsv`, `train_0.csv` and `train_1.csv`, `train-00000-of-00002.parquet`, `reviews_test.csv`, `test/part-3.jsonl`.
Where some files say a split, those that say none are passed over by name; where none does, all of them are rows.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from embedkit.folders import SPLITS
from embedkit.settings import UserError
from embedkit.sources import Source, printable

TABULAR = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".xlsx", ".xlsm", ".ods")
PIECES = frozenset(("of", "part", "shard", "chunk", "data", "set", "split", "dataset", "file", "full", "all"))
"""Words in a file's name beside its split that say which piece it is."""


@dataclass
class Shards:
    """The files of rows in a source, with the split of each, and what is passed over, by path within it, with the reason."""

    files: list[tuple[Path, str | None]]
    passed: list[tuple[str, str]] = field(default_factory=list)


def suffix_of(path: Path) -> str:
    """The suffix that says a file's format, in small letters; `.gz` says none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1]) if suffixes else ""


def split_of(path: Path, root: Path) -> str | None:
    """The split that a file's name says, or else the nearest folder below `root`; None where none does, or the name says two.

    Args:
        path: of the file.
        root: the source's folder.
    """
    name = path.name.lower()
    if (word := re.split(r"[.-]", name, maxsplit=1)[0]) in SPLITS:
        return SPLITS[word]
    words = [word for word in re.findall("[a-z]+", name.partition(".")[0]) if word not in PIECES]
    found = {SPLITS[word] for word in words if word in SPLITS}
    if len(found) == 1 and words[-1] in SPLITS:
        return found.pop()
    if found:
        return None
    folders = [folder.lower() for folder in path.relative_to(root).parts[:-1]]
    return next((SPLITS[folder] for folder in reversed(folders) if folder in SPLITS), None)


def shards(source: Source, links: str = "") -> Shards:
    """The files of rows in a local source.

    Args:
        source: a file or folder.
        links: what to say of links that were passed over, where nothing is found.

    Raises:
        UserError: when none is, or they are of several formats.
    """
    if source.path.is_file():
        return Shards([(source.path, None)])
    every = source.files()
    files = [path for path in every if suffix_of(path) in TABULAR]

    def shown(path: Path) -> str:
        return printable(path.relative_to(source.path).as_posix())

    others = [(shown(path), "no file of rows") for path in every if suffix_of(path) not in TABULAR]
    named = {path: split for path in files if (split := split_of(path, source.path))}
    if named:
        unnamed = [
            (shown(path), "neither its name nor its folder says a split, as others do") for path in files if path not in named
        ]
        return Shards(list(named.items()), [*unnamed, *others])
    alike = [path for path in files if suffix_of(path) != ".txt"]
    if not alike or len({suffix_of(path) for path in alike}) > 1:
        raise UserError(
            f"{source.path} holds no rows that can be told: {len(alike)} files of rows, none named train, dev or test; "
            f"name one file ({', '.join(TABULAR)}, also with .gz){links}"
        )
    texts = [(shown(path), "a text beside files of rows") for path in files if path not in alike]
    return Shards([(path, None) for path in alike], [*texts, *others])
