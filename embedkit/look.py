"""look: what a source holds and what would be taken for what, before anything is loaded.

Of a large file its beginning is read, for a few seconds; what is said of columns holds for the rows that were looked at. The
command that is offered is the one that loads the source as it is described here.
"""

import itertools
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveFloat, PositiveInt

from embedkit import builtin, columns, declarations, formats, pictures, readers
from embedkit.folders import SPLITS, layout
from embedkit.readers import ReadFiles, Record
from embedkit.settings import Settings, UserError, not_among
from embedkit.shards import TABULAR, suffix_of
from embedkit.sources import Source

COMMANDS = {"images": "load-images", "texts": "load-texts", "table": "load-table"}
EXAMPLES = 3
AT_LEAST = 20
"""Rows that are read however long that takes."""
FEW = 20
"""Different values of a column that are counted instead of shown as examples."""
TEXT_NAMES = ("text", "sentence", "review", "comment", "content", "body", "message", "question", "description", "abstract", "tweet")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "species", "sentiment", "intent", "topic", "outcome", "y")
ID_NAME = re.compile(r"(.*[_\W])?(id|key|uuid|guid)|.*Id|.*ID", re.DOTALL)
SPLIT_NAME = re.compile(r"split|set|subset|partition", re.IGNORECASE)
LONG = 25
"""Characters that texts have on average, at least; names and classes have fewer."""


class Look(Settings):
    """How much is looked at."""

    seconds: PositiveFloat = 3.0
    """Time after which no further rows are read; a few are in any case."""
    rows: PositiveInt = 10_000
    """Rows after which no further ones are read."""
    files: ReadFiles = ReadFiles()
    """How files of rows are read."""


class ColumnSeen(BaseModel):
    """A column as it was seen: its type with the reason, the share without a value, examples, and what it would be taken for."""

    name: str
    type: str
    why: str
    missing: float
    examples: list[str]
    role: str | None = None


class Seen(BaseModel):
    """What a source holds.

    `rows` were looked at, all there are if `whole`; `unreadable` of them can't be read. `command` loads the source: a command line,
    as words.
    """

    source: str
    kind: str
    rows: int
    whole: bool
    unreadable: int
    columns: list[ColumnSeen]
    splits: dict[str, int]
    passed_over: list[tuple[str, str]]
    notes: list[str]
    command: list[str]
    seconds: float

    @property
    def shell(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


def look(source: str | Path | Source, settings: Look = Look()) -> Seen:
    """See what a source holds.

    Args:
        source: as the loading stages take it: a folder, a file of rows, builtin:NAME or hf://NAME.
        settings: how much is looked at, and how files are read.

    Raises:
        UserError: when it can't be read, or what it holds can't be told.
    """
    started = time.monotonic()
    source = Source(source, settings.files.follow_links)
    notes: list[str] = []
    asked = _asked(source, settings.files)
    rows, problems, whole = _sampled(source, asked, settings, notes, started)
    if not rows:
        first = f" ({problems[0].place}: {problems[0].problem})" if problems else ""
        raise UserError(f"{source.shown} has no readable row{first}; give one that has, or say how it is read (`files` settings)")
    values = [record.columns for record in rows]
    names = list(dict.fromkeys(itertools.chain.from_iterable(values)))
    folder = source.scheme == "path" and source.path.is_dir() and asked == "images"
    found = columns.study(iter(values), names)
    roles = {"picture": "image", "label": "label"} if folder else _roles(values, names, found, source)
    roles = {role: name for role, name in roles.items() if name in names}
    kind = asked if asked != "table" or source.scheme == "builtin" else _kind(roles)
    if kind == "images" and not folder and "text" in roles:
        del roles["text"]
    if kind == "table":
        roles.pop("text", None)
    notes += [column.note for column in found.values() if column.note]
    if problems:
        notes.append(
            f"{len(problems):,} of {len(rows) + len(problems):,} can't be read: {problems[0].place}: {problems[0].problem}"
        )
    if kind == "images" and source.scheme == "path" and source.path.is_file():
        notes += _not_there(source, values, roles.get("picture"))
    if unlikely := [name for name in names if re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name)]:
        notes.append(f"{unlikely[0]!r} reads like a value, not a name; where no line names the columns, give --files.column-names")
    if "label" not in roles:
        notes.append("no column is taken for the label; name one with --label-column" if not folder else "no folder is a class")
    return Seen(
        source=source.shown,
        kind=kind,
        rows=len(rows) + len(problems),
        whole=whole,
        unreadable=len(problems),
        columns=[_column(name, values, found[name], roles, folder) for name in names if not (folder and name == "path")],
        splits=_splits(rows, roles.get("split")),
        passed_over=readers.passed_over(source, kind, settings.files),
        notes=notes,
        command=_command(source, kind, roles, settings.files, whole, folder),
        seconds=round(time.monotonic() - started, 2),
    )


def _asked(source: Source, files: ReadFiles) -> str:
    """The kind that a source is read as: pictures of a folder, a built-in's own, and the rows of files as a table."""
    if source.scheme == "builtin":
        if source.name not in builtin.KINDS:
            raise not_among("built-in dataset", source.name, builtin.KINDS)
        return builtin.KINDS[source.name]
    if source.scheme != "path":
        return "table"
    if source.path.is_dir():
        tabular = any(suffix_of(path) in TABULAR and suffix_of(path) != ".txt" for path in source.files())
        return "images" if layout(source, files.folders).pictures or not tabular else "table"
    if suffix_of(source.path) not in TABULAR and files.delimiter is None and formats.sniffed_file(source.path):
        raise UserError(f"{source.shown} is one picture; give the folder it lies in, or a file that lists pictures")
    return "texts" if suffix_of(source.path) == ".txt" and files.delimiter is None else "table"


def _sampled(
    source: Source, kind: str, settings: Look, notes: list[str], started: float
) -> tuple[list[Record], list[Record], bool]:
    """The first records, readable and not, and whether they are all there are."""
    rows: list[Record] = []
    problems: list[Record] = []
    if source.scheme == "builtin":  # all of its rows at once take a minute
        limit = settings.files.limit
        records = (
            Record(f"row {number}", None, row) for number, row in enumerate(itertools.islice(builtin.begun(source.name), limit))
        )
    else:
        records = readers.read(source, kind, settings.files, notes.append)
    for record in records:
        seen = len(rows) + len(problems)
        if seen >= settings.rows or (seen >= AT_LEAST and time.monotonic() - started > settings.seconds):
            return rows, problems, False
        (problems if record.problem else rows).append(record)
    return rows, problems, settings.files.limit is None


def _roles(values: list[dict[str, Any]], names: list[str], found: dict[str, columns.Column], source: Source) -> dict[str, str]:
    """What columns would be taken for, by role: picture, split, label, text, id."""
    roles: dict[str, str] = {}
    given = {name: [value for row in values if (value := row.get(name)) is not None] for name in names}
    encoded = [name for name in names if given[name] and all(map(_is_picture, given[name][:EXAMPLES]))]
    listed = pictures.likely_columns(values[: pictures.LOOKED_AT], names)
    if encoded or len(listed) == 1:
        roles["picture"] = (encoded or listed)[0]
    words = {name: Counter(map(str, given[name][: 10 * FEW])) for name in names if name not in roles.values()}
    for name, counts in words.items():
        if counts and {word.lower() for word in counts} <= SPLITS.keys() and (len(counts) > 1 or SPLIT_NAME.fullmatch(name)):
            roles.setdefault("split", name)
    free = [name for name in names if name not in roles.values()]
    if found_ := [name for word in LABEL_NAMES for name in free if name.strip().lower() == word]:
        roles["label"] = found_[0]
    free = [name for name in free if name not in roles.values()]
    for name in free:
        if ID_NAME.fullmatch(name) and len(set(map(str, given[name]))) == len(values) > 1 and found[name].type != "number":
            roles.setdefault("id", name)
    texts = [name for name in free if name != roles.get("id") and found[name].type == "word"]
    lengths = {name: sum(len(str(value)) for value in given[name]) / max(1, len(given[name])) for name in texts}
    texts = [name for name in texts if all(isinstance(value, str) for value in given[name][:FEW])]
    long = [name for name in texts if lengths[name] >= LONG and len(set(given[name])) > len(given[name]) / 2]
    named = [name for word in TEXT_NAMES for name in texts if name.strip().lower() == word]
    if source.scheme == "path" and source.path.suffix == ".txt" and texts:
        roles["text"] = texts[0]
    elif named or long:
        roles["text"] = named[0] if named else max(long, key=lengths.__getitem__)
    if "label" not in roles and ("picture" in roles or "text" in roles):
        recurring = [name for name in free if name not in roles.values() and _recurs(given[name])]
        if len(recurring) == 1:
            roles["label"] = recurring[0]
    return roles


def _is_picture(value: Any) -> bool:
    data = value.get("bytes") if isinstance(value, dict) else value
    return isinstance(data, bytes) and formats.sniffed(data[: formats.LENGTH]) is not None


def _recurs(values: list[Any]) -> bool:
    """Whether values are few and come again and again, as classes do."""
    different = len(set(map(str, values)))
    return 2 <= different <= 1000 and different <= len(values) / 3


def _kind(roles: dict[str, str]) -> str:
    return "images" if "picture" in roles else "texts" if "text" in roles else "table"


def _column(name: str, values: list[dict[str, Any]], found: columns.Column, roles: dict[str, str], folder: bool) -> ColumnSeen:
    given = [value for row in values if not columns.is_missing(value := row.get(name))]
    role = next((role for role, taken in roles.items() if taken == name), None)
    shown = [_shown(value) for value in given]
    counts = Counter(shown)
    kind, why = found.type if found.type == columns.LEFT_OUT else declarations.WORDS[found.type], found.why
    if folder:
        kind, why = ("text", "the names of the folders") if name == "label" else ("picture", "a file each")
        shown = [row["path"] for row in values] if name == "image" else shown
    elif any(isinstance(value, dict | bytes) for value in given[:EXAMPLES]):
        kind, why = ("picture", "encoded pictures") if role == "picture" else ("other", "objects or bytes")
    elif any(isinstance(value, list) for value in given[:FEW]):
        kind, why = "list", "several values in one"
    few = 1 < len(counts) <= FEW and len(counts) <= len(given) / 2
    examples = [f"{word} ({count:,})" for word, count in counts.most_common()] if few else list(dict.fromkeys(shown))[:EXAMPLES]
    missing = 1 - len(given) / len(values)
    return ColumnSeen(name=name, type=kind, why=why, missing=round(missing, 4), examples=examples, role=role)


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    if isinstance(value, bytes):
        return f"{formats.sniffed(value[: formats.LENGTH]) or 'bytes'}, {len(value):,} bytes"
    return " ".join(str(value)[:200].split())


def _splits(rows: list[Record], column: str | None) -> dict[str, int]:
    """How many rows each split has, by the source or by a column."""
    found = Counter(SPLITS.get(str(row.columns.get(column)).lower()) if column else row.split for row in rows)
    return {split: found[split] for split in ("train", "validation", "test") if found[split]}


def _not_there(source: Source, values: list[dict[str, Any]], column: str | None) -> Iterator[str]:
    """What to say of pictures that are listed but not there."""
    texts = [text for row in values[: pictures.LOOKED_AT] if column and (text := pictures.named_in(row.get(column)))]
    here = [text for text in texts if not pictures.is_address(text)]
    lacking = [reason for text in here if isinstance(reason := pictures.beside(source, text), str)]
    if lacking:
        yield f"{len(lacking):,} of the first {len(here):,} pictures that are listed can't be read: {lacking[0]}"


def _command(source: Source, kind: str, roles: dict[str, str], files: ReadFiles, whole: bool, folder: bool) -> list[str]:
    words = ["embedkit", COMMANDS[kind], source.text]
    if folder:
        return [*words, *_options(files)]
    plain = {"picture": ("image_column", "image"), "text": ("text_column", "text"), "label": ("label_column", "label")}
    for role, (option, default) in plain.items():
        if roles.get(role, default) != default:
            words += [f"--{option.replace('_', '-')}", roles[role]]
    if "split" in roles:
        words += ["--split-column", roles["split"]]
    if "id" in roles and whole:  # else rows that weren't looked at may have it too
        words += ["--key-column", roles["id"]]
    return [*words, *_options(files)]


def _options(files: ReadFiles) -> Iterator[str]:
    """The settings by which files were read, as options."""
    for name, value in files.model_dump(exclude_defaults=True).items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--files.{'' if value else 'no-'}{option}"
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            yield from (f"--files.{option}", str(each))
