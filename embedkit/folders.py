"""Folders of pictures: which files are pictures, and which folders are splits, which classes.

What a file holds decides whether it is a picture, not its suffix. Folders named after train, validation and test stand above the
classes, or below them; whatever lies beside them belongs to none and is passed over by name. Where that can't be known the
setting `files.folders` says it.
"""

import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from embedkit import formats
from embedkit.settings import UserError, listed
from embedkit.sources import Source, printable

SPLITS = {
    **dict.fromkeys(("train", "training", "unsup", "unsupervised", "unlabeled", "unlabelled"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
NUMBERED = re.compile(r"([a-z]+)[ _.-]*(\d+|sets?|data|images?|pictures?|photos?|split)?[ _.-]*\d*", re.IGNORECASE)
"""A folder's name that says a split: `train`, `Train2017`, `test_set`, `val-images`."""
PREFIXED = re.compile(r"(?:[a-z]+|\d+)[_.-]([a-z]+)", re.IGNORECASE)
"""One that says it at its end: `seg_train`, `1_train`."""


def split_of(folder: str) -> str | None:
    """The split that a folder is named after, or None."""
    for form in (NUMBERED, PREFIXED):
        if (match := form.fullmatch(folder)) and match[1].lower() in SPLITS:
            return SPLITS[match[1].lower()]
    return None


@dataclass
class Layout:
    """The pictures of a folder.

    Attributes:
        pictures: their paths within it, in order, with the split and the class that their folders say.
        passed: what is passed over, by path within it, with the reason.
        by_split: the folders that were taken for splits.
    """

    pictures: Sequence[tuple[PurePath, str | None, str | None]]
    passed: list[tuple[str, str]] = field(default_factory=list)
    by_split: list[str] = field(default_factory=list)


def layout(source: Source, folders: str = "auto") -> Layout:
    """The pictures of a source that is a folder, and what their folders say.

    Args:
        source: the folder.
        folders: `splits` where folders of splits stand above others, `classes` where all folders are classes, or `auto`.

    Raises:
        UserError: when `auto` can't tell, or splits are asked for and there are none.
    """
    files = source.files()
    with ThreadPoolExecutor(4) as pool:
        are = list(pool.map(_is_picture, files))
    inside = [path.relative_to(source.path) for path in files]
    pictures = [path for path, is_picture in zip(inside, are, strict=True) if is_picture]
    others = [(_shown(path), "no picture") for path, is_picture in zip(inside, are, strict=True) if not is_picture]
    level, names = _split_level(source, pictures, folders)
    if level is None:
        found = [(path, None, path.parts[0] if len(path.parts) > 1 else None) for path in pictures]
        return Layout(found, others)
    found, beside = [], {}
    for path in pictures:
        above = path.parts[:-1]
        split = split_of(above[level]) if len(above) > level else None
        if split is None and len(above) > level:
            name = "/".join(map(printable, above[: level + 1]))
            beside[name] = beside.get(name, 0) + 1
            continue
        rest = above[:level] if level and above[0] not in _one_top(pictures) else above[level + 1 :]
        found.append((path, split, rest[0] if rest else None))
    reason = "{:,} pictures in a folder that is neither of training, validation nor test (files.folders says what folders are)"
    passed = [(f"{name}/", reason.format(count)) for name, count in beside.items()]
    return Layout(found, [*passed, *others], names)


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in PICTURES:
        return True
    try:
        return formats.sniffed_file(path) is not None
    except OSError:
        return False  # it is missed, or refused, where the source's content is taken


def _shown(path: PurePath) -> str:
    return printable(path.as_posix())


def _one_top(pictures: Sequence[PurePath]) -> tuple[str, ...]:
    """The folder that all pictures lie in, where it is one."""
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in pictures}
    return tuple(tops) if len(tops) == 1 and "" not in tops else ()


def _split_level(source: Source, pictures: Sequence[PurePath], folders: str) -> tuple[int | None, list[str]]:
    """At which depth the folders of splits stand, None where there are none, and how they are called."""
    if folders == "classes":
        return None, []
    tops = _at(pictures, 0)
    named = {name: split for name in tops if (split := split_of(name))}
    exact = all(name.lower() in SPLITS for name in tops)
    if tops and (exact or (len(named) == len(tops) and len(set(named.values())) > 1)):
        return 0, list(named)
    seconds = _at(pictures, 1)
    below = {name: split for name in seconds if (split := split_of(name))}
    if not named and len(set(below.values())) > 1 and (len(below) == len(seconds) or len(tops) == 1):
        return 1, list(below)  # `cat/train/1.jpg`, or `pets/train/cat/1.jpg`
    if folders == "splits":
        if not named:
            raise UserError(f"no folder in {source.shown} is named after a split ({listed(tops)}); leave files.folders out")
        return 0, list(named)
    if len(set(named.values())) > 1:  # beside others
        if all(len(path.parts) > 2 for path in pictures if path.parts[0] in named):
            return 0, list(named)
        raise UserError(
            f"whether the folders of {source.shown} are splits or classes is not clear: {listed(named, ' and ')} beside "
            f"{listed(name for name in tops if name not in named)}; set files.folders to splits or classes"
        )
    if named and _deeper(pictures, named) and not _deeper(pictures, set(tops) - set(named)):
        raise UserError(
            f"whether {listed(named)} in {source.shown} is a split or a class is not clear, beside "
            f"{listed(name for name in tops if name not in named)}; set files.folders to splits or classes"
        )
    return None, []


def _at(pictures: Sequence[PurePath], depth: int) -> list[str]:
    """The folders that pictures lie in at a depth, in order."""
    return list(dict.fromkeys(path.parts[depth] for path in pictures if len(path.parts) > depth + 1))


def _deeper(pictures: Sequence[PurePath], tops: Collection[str]) -> bool:
    """Whether all pictures in some folders lie in folders of their own there, and in several."""
    inside = [path.parts for path in pictures if len(path.parts) > 1 and path.parts[0] in tops]
    return all(len(parts) > 2 for parts in inside) and len({parts[1] for parts in inside}) > 1
