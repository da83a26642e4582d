"""Datasets: rows from any source, each with an id, a split, its content and perhaps a label.

A dataset artifact holds `part-00000.parquet` and on (the contents, in source order) and `rows.parquet` (one line per row
in the same order: `id`, `content` hash, `split`, `label`, `position` in the source, and whether it is `neutral`);
`near.parquet` says which rows are near copies (`near`). Contents are copied into the artifact, pictures as their encoded
bytes, so that what was trained on can't change afterwards. Records that could not be read are in `rejected.parquet` with their
place and the reason.
"""

import functools
import itertools
import logging
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from embedkit import assignment, columns, declarations, formats, giveaway, images, labels, loaded, near, pictures, progress, splits
from embedkit.artifacts import Artifact, EncoderArtifact
from embedkit.declarations import Declarations
from embedkit.delimited import MOST_COLUMNS, too_wide
from embedkit.fetching import Fetch
from embedkit.hubs import ClassName
from embedkit.readers import ReadFiles, Record, late_columns, passed_over, read
from embedkit.settings import Seeded, UserError, later, listed, not_among
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage, sync

log = logging.getLogger(__name__)
BYTES_PER_PART = 64 * 2**20
Share = Annotated[float, Field(ge=0, lt=1)]


class LoadRows(Seeded):
    """What rows of every kind have in common."""

    label_column: str | None = None
    """Column that holds the label; by default the one called `label`, if there is one. Class folders label pictures."""
    label_type: Literal["auto", "class", "classes", "number"] = "auto"
    """One class, several classes, or a number; `auto` takes lists as several, words and up to 100 whole numbers as classes."""
    label_separator: str | None = None
    """What separates several labels in one text column, such as `,`; makes the rows multi-label."""
    unlabelled: tuple[str, ...] = ()
    """Values of the label column that mean "no label", such as -1; a missing value always does."""
    neutral: labels.Neutral = labels.Neutral()
    """Which rows are ambiguous, and left out of training until a person has decided on them."""
    corrections: labels.Corrections | None = None
    """File with the columns `id` and `label`, csv or jsonl, as a review page saves it. The rows it names get that label
    (several as a JSON list, or with `label_separator`) and are no longer neutral; an empty label, or `neutral` where that is
    no class, leaves a row as it is. Of several lines for one id the last counts, so that the decisions of a later review can
    be appended. Another content of the file makes another dataset."""
    key_column: str | None = None
    """Column that identifies a row; by default a row's id is a hash of its content."""
    split: Literal["auto", "source", "hash", "stratified", "group", "time"] = "auto"
    """Where train, validation and test come from: the source's own splits where there are some, else a draw by hash."""
    split_column: str | None = None
    """Column that names each row's split."""
    group_column: str | None = None
    """Column whose equal values stay on one side, such as a patient or a user, whatever the split: they are drawn together, and
    where the source or a time has put them apart, they go to the earliest of train, validation, test."""
    time_column: str | None = None
    """Column whose latest values become the test rows; needs `split` time."""
    time_format: str | None = None
    """How moments are written in the time column, such as `%m/%d/%y`; by default numbers or ISO 8601."""
    validation_share: Share = 0.1
    """Share of rows drawn for validation, where the source has none."""
    test_share: Share = 0.2
    """Share of rows drawn for testing, where the source has neither test nor validation rows."""
    duplicates: Literal["move", "keep"] = "move"
    """What happens to equal rows in different splits: all to the earliest of train, validation, test; or left as they are."""
    near_copies: Literal["keep", "move"] = later("keep")
    """What happens to rows that differ from others in case, spaces, punctuation, encoding, size or the last digits only and are in
    different splits: left as they are, since test rows among them are left out of what is said first; or moved like equal rows."""
    max_unreadable: Share = 0.1
    """Share of unreadable records above which the load stops."""
    rows_per_part: PositiveInt = 8192
    """Rows in one file of the dataset, fewer where they are large (64 MiB a file)."""
    files: ReadFiles = ReadFiles()
    """How files of rows are read."""

    def deciding(self) -> dict[str, Any]:
        """What a load is known by: of corrections what stands in them, wherever the file lies."""
        known = super().deciding()
        return known | ({"corrections": labels.unpinned(self.corrections)[1]} if self.corrections else {})

    @property
    def follows_links(self) -> bool:
        """Whether links that lead out of a source's folder are followed."""
        return self.files.follow_links

    @property
    def threads(self) -> int:
        """How many records are prepared at a time, where that takes long."""
        return 4


class LoadImages(LoadRows):
    """How pictures become a dataset."""

    image_column: str = pictures.IMAGE_COLUMN
    """Column of a file of rows, or of a hub's, that holds pictures: encoded, as paths below the file's folder, or as http(s)
    addresses. Where none is called so, the only one whose values are paths or addresses of pictures."""
    max_pixels: Annotated[int, Field(gt=0, le=images.MAX_PIXELS)] = later(images.MAX_PIXELS)
    """Largest picture that is taken, in pixels; a larger one is set aside unopened. Decoding one takes 8 to 16 bytes a pixel."""
    fetch: Fetch = later(Fetch())
    """How pictures are fetched whose addresses rows name."""

    @property
    def threads(self) -> int:
        """How many pictures are fetched and decoded at a time."""
        return max(4, self.fetch.connections)

    def extend(self, source: Source) -> None:
        """Count the files that a file of rows names as a part of it."""
        pictures.name_files(source, lambda: _good(source, "images", self), self.image_column)


class LoadTexts(LoadRows):
    """How texts become a dataset."""

    text_column: str | None = None
    """Column that holds the texts; by default the one called `text`, or the only one that has no other role."""


class LoadTable(LoadRows):
    """How a table becomes a dataset."""

    types: Declarations = later(())
    """Types of columns, as NAME=TYPE, several with commas between: text, integer, number (`number:,` with a decimal comma),
    boolean, time (`time:%d.%m.%Y`), or leave-out. Others are found from all rows. What isn't of a declared type is missing."""


class Unreadable(Exception):
    """One record can't be used; the reason is its message."""


class SetAside(str):
    """Why a picture is no row that isn't damaged, but in a format that is not decoded: it doesn't count for `max_unreadable`."""


@stage("images", revision=2, name="{source}")
def load_images(out: Draft, source: Source, settings: LoadImages = LoadImages()) -> Facts:
    """Load pictures from a folder of class folders, a flat folder, a file that lists them or holds them, a hub or builtin:digits.

    Args:
        source: a folder of (class) folders; a file of rows that hold pictures, their paths or addresses; hf://NAME; builtin:digits.
    """
    seen = _seen_columns(source, "images", settings)
    column = pictures.image_column(source, seen, settings.image_column, lambda: _good(source, "images", settings))
    given = pictures.Pictures(source, column, settings.fetch, out.work / "fetched")

    def prepare(record: Record) -> tuple[dict[str, Any], bytes]:
        try:
            data, path = given.read(record.columns.get(column))
        except ValueError as error:
            raise (error if isinstance(error, UserError) else Unreadable(str(error))) from error
        try:
            images.check(data, settings.max_pixels)
        except formats.Foreign as error:
            raise Unreadable(SetAside(error)) from error
        except ValueError as error:
            raise Unreadable(str(error)) from error
        except MemoryError as error:  # what is set aside may not depend on how much memory there is today
            advice = "give it more, or set max_pixels so that such pictures are set aside"
            raise UserError(f"{record.place} is too large for the memory there is ({error}); {advice}") from error
        return {"image": data, "path": record.columns.get("path") or path or record.place}, data

    return _load(out, source, "images", settings, seen, prepare, pa.schema({"image": pa.binary(), "path": pa.string()}), column)


@stage("texts", revision=2, name="{source}")
def load_texts(out: Draft, source: Source, settings: LoadTexts = LoadTexts()) -> Facts:
    """Load texts from csv, tsv, jsonl, Parquet or one text a line, a hub or builtin:docstrings.

    Args:
        source: a file (also with .gz), a folder of train/dev/test files, hf://NAME or builtin:docstrings.
    """
    seen = _seen_columns(source, "texts", settings)
    column = settings.text_column or _text_column(seen, settings)
    if column not in seen:
        raise not_among("text column", column, seen, hint="set text_column")

    def prepare(record: Record) -> tuple[dict[str, Any], bytes]:
        text = record.columns.get(column)
        if text is None:
            raise Unreadable("the text is missing")
        if not isinstance(text, str):
            raise Unreadable(f"column {column!r} holds {type(text).__name__}, not a text")
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise Unreadable("not valid Unicode (a lone surrogate)") from error
        if not text.strip():
            raise Unreadable("the text is blank")
        return {"text": text}, encoded

    return _load(out, source, "texts", settings, seen, prepare, pa.schema({"text": pa.string()}), column)


@stage("table", revision=2, name="{source}")
def load_table(out: Draft, source: Source, settings: LoadTable = LoadTable(), *, like: EncoderArtifact | None = None) -> Facts:
    """Load a table from csv, tsv, XLSX, ODS, jsonl or Parquet, a hub or builtin:symbols.

    Args:
        like: encoder of tables whose columns' types decide how these are read; `types` goes before it.
        source: a file (also with .gz), a folder of train/dev/test files, hf://NAME or builtin:symbols.
    """
    seen = _seen_columns(source, "table", settings)
    roles = {_label_column(settings, seen), settings.key_column, settings.split_column, *settings.neutral.columns}
    names = [name for name in seen if name not in roles]
    if not names:
        raise UserError(f"{source} has no column left beside {listed(map(str, roles - {None}))}; a table needs one at least")
    declared = declarations.of_encoder(like, names) if like else {}
    declared |= declarations.declared(settings.types, names)
    found = out.decide("types", lambda: columns.study(_good(source, "table", settings), names, roles, declared))
    taken = {name: columns.Column(*one) for name, one in found.items()}
    kept = {name: one for name, one in taken.items() if one.type != columns.LEFT_OUT}
    if not kept:
        why = "; ".join(f"{name!r} {one.why}" for name, one in taken.items())
        raise UserError(f"{source} has no column left: {why}; a table needs one at least, and types says what columns are")
    schema = pa.schema({name: columns.TYPES[one.type] for name, one in kept.items()})

    def prepare(record: Record) -> tuple[dict[str, Any], bytes]:
        row = {name: record.columns.get(name) for name in kept}
        return row, "\x1f".join(f"{name}={value}" for name, value in row.items() if value is not None).encode(errors="replace")

    return _load(out, source, "table", settings, seen, prepare, schema, taken=taken)


def _good(source: Source, kind: str, settings: LoadRows) -> Iterator[dict[str, Any]]:
    return (record.columns for record in read(source, kind, settings.files) if record.problem is None)


def _seen_columns(source: Source, kind: str, settings: LoadRows) -> list[str]:
    """The columns of the first records, or of all where any may bring new ones, checked against those the settings name."""
    few = settings.files.model_copy(update={"limit": min(100, settings.files.limit or 100)})  # of each file or split
    rows = itertools.chain(
        (record.columns for record in read(source, kind, few)), itertools.islice(_good(source, kind, settings), 100)
    )
    known: dict[str, None] = {}
    for row in _good(source, kind, settings) if late_columns(source, kind) else rows:
        known |= dict.fromkeys(row)
        if len(known) > MOST_COLUMNS:
            raise too_wide(source.shown, len(known))
    seen = list(known)
    source.check()
    if not seen:
        first = next((f" ({record.place}: {record.problem})" for record in read(source, kind, few) if record.problem), "")
        advice = "give one that has, or see how its files are read (`files` settings)"
        raise UserError(f"{source} has no readable row{first}; {advice}")
    named = {"label": settings.label_column, "key": settings.key_column, "split": settings.split_column}
    neutral = settings.neutral
    named |= {"group": settings.group_column, "time": settings.time_column, "neutral": neutral.column}
    for role, column in (named | {"votes": neutral.votes_column, "confidence": neutral.confidence_column}).items():
        if column is not None and column not in seen:
            raise not_among(f"{role} column", column, seen)
    for split, column in (("group", settings.group_column), ("time", settings.time_column)):
        if (settings.split == split and column is None) or (settings.split != split == "time" and column is not None):
            raise UserError(f"split {split!r} and {split}_column belong together; give both or neither")
    for column, bound in (("votes_column", "min_agreement"), ("confidence_column", "min_confidence")):
        if (getattr(neutral, column) is None) != (getattr(neutral, bound) is None):
            raise UserError(f"neutral.{column} and neutral.{bound} belong together; give both or neither")
    return seen


def _label_column(settings: LoadRows, seen: list[str]) -> str | None:
    return settings.label_column or columns.called("label", seen)


def _text_column(seen: list[str], settings: LoadTexts) -> str:
    roles = {_label_column(settings, seen), settings.key_column, settings.split_column, settings.group_column, settings.time_column}
    rest = [name for name in seen if name not in roles and name not in settings.neutral.columns]
    if name := columns.called("text", rest) or (rest[0] if len(rest) == 1 else None):
        return name
    raise UserError(f"which column holds the texts is not clear: there is {listed(seen)}; set text_column")


Prepare = Callable[[Record], tuple[dict[str, Any], bytes]]


def _load(
    out: Draft,
    source: Source,
    kind: str,
    settings: LoadRows,
    seen: list[str],
    prepare: Prepare,
    schema: pa.Schema,
    content: str | None = None,
    taken: dict[str, columns.Column] | None = None,
) -> Facts:
    """Write the contents part by part, and then what is known of each row.

    Args:
        out: the draft.
        source: what is read.
        kind: of the dataset.
        settings: how.
        seen: the source's columns.
        prepare: from a record to its columns in the dataset and the bytes that identify its content.
        schema: of these columns.
        content: the source's column of texts or pictures; None for a table.
        taken: what a table's columns were taken for.
    """
    taken, told = taken or {}, list[str]()
    label_column = _label_column(settings, seen)
    corrections = labels.read_corrections(settings.corrections) if settings.corrections else {}
    parts, consumed = [], 0
    records = read(source, kind, settings.files, told.append)
    with ThreadPoolExecutor(settings.threads) as pool, progress.bar(None, "records") as advance:
        mapped = pool.map if kind == "images" else map  # threads pay off where decoding dominates, and cost more than a text
        for number in itertools.count():
            name = f"part-{number:05d}.parquet"
            light = _light(out, number)
            done = out.finished(name, light)
            if done:
                _skip(records, done["records"])
            else:
                sketch = functools.partial(near.KINDS[kind].sketch, mapped=mapped)
                batch = Batch(source, records, settings, label_column, prepare, schema, light, mapped, taken, sketch)
                done = out.part(name, lambda path, batch=batch, first=consumed: batch.write(path, first), light)
            consumed += done["records"]
            advance(done["records"])
            parts.append(done)
            broken = sum(len(part["rejected"]) - len(part.get("foreign", ())) for part in parts)
            if broken > settings.max_unreadable * consumed and (consumed >= 1000 or done["last"]):
                raise _too_many_unreadable(source, _broken(parts), consumed, settings)
            if done["last"]:
                break
    if not sum(part["rows"] for part in parts):
        first = next((f" ({place}: {reason})" for part in parts for place, reason in part["rejected"]), "")
        raise UserError(f"{source} has no readable row{first}; give one that has")
    passed = passed_over(source, kind, settings.files)
    told += [one.note for one in taken.values() if one.note] + loaded.lost_values(parts, taken)
    facts = _finish(out, source, kind, settings, parts, consumed, label_column, schema, corrections, passed, told)
    label = facts.details["label"] and f"label: {facts.details['label']['type']} ({facts.details.pop('label_why')})"
    roles = loaded.roles(settings, kind, seen, label_column, schema, label, content, taken)
    facts.details |= {"records": consumed, "taken_for": roles}
    if taken:
        facts.details["types"] = declarations.written(taken)
    said = listed((f"{name!r} is {role}" for name, role in roles.items()), "; ")
    log.info("%s", f"{source.shown}: {consumed:,} records, {facts.rows:,} rows; {said}")
    return facts


def _light(out: Draft, number: int) -> Path:
    """Where all of a part's rows but their contents lies beside the draft."""
    return out.work / f"rows-{number:05d}.parquet"


def _skip(records: Iterator[Record], count: int) -> None:
    next(itertools.islice(records, count, count), None)


def _broken(parts: list[dict]) -> list[list[str]]:
    """The records that can't be read, without pictures in formats that are not decoded."""
    found = []
    for part in parts:
        foreign = set(part.get("foreign", ()))
        found += [line for number, line in enumerate(part["rejected"]) if number not in foreign]
    return found


def _too_many_unreadable(source: Source, rejected: list[list[str]], records: int, settings: LoadRows) -> UserError:
    place, reason = rejected[0]
    return UserError(
        f"{len(rejected):,} of the first {records:,} records of {source} can't be read, more than {settings.max_unreadable:.0%}: "
        f"{place}: {reason}; mend the source, say how it is read (`files` settings), or raise max_unreadable"
    )


@dataclass
class Batch:
    """The records of one part, taken from the stream until the part is full."""

    source: Source
    records: Iterator[Record]
    settings: LoadRows
    label_column: str | None
    prepare: Prepare
    schema: pa.Schema
    light: Path
    mapped: Callable[..., Iterable[Any]]
    taken: dict[str, columns.Column]
    sketch: Callable[[pa.Table], pa.Array]
    declared: bool = False
    """Whether any label was that of a declared class."""

    def write(self, path: Path, first: int) -> dict[str, Any]:
        """Write the contents to `path` and what ids, splits and labels are made from beside the draft."""
        rows: list[dict[str, Any]] = []
        light: dict[str, list[Any]] = {name: [] for name in _LIGHT.names}
        rejected, foreign, taken, size, last = [], [], 0, 0, False
        while not last and len(rows) < self.settings.rows_per_part and size < BYTES_PER_PART:
            chunk = list(itertools.islice(self.records, min(256, self.settings.rows_per_part - len(rows))))
            last = not chunk
            for offset, (record, prepared) in enumerate(zip(chunk, self.mapped(self._prepared, chunk), strict=True)):
                if isinstance(prepared, str):
                    foreign += [len(rejected)] * isinstance(prepared, SetAside)
                    rejected.append([record.place, prepared])
                    continue
                row, content, neutral = prepared
                rows.append(row)
                size += len(content)
                self._note(light, record, content, neutral, first + taken + offset)
            taken += len(chunk)
        lost: dict[str, list[str]] = {name: [] for name, one in self.taken.items() if one.why == columns.DECLARED}
        table = pa.table([self._column(field, rows, lost) for field in self.schema], schema=self.schema)
        pq.write_table(table, path, compression="zstd")
        known = pa.table(light, schema=_LIGHT).append_column("sketch", self.sketch(table))
        pq.write_table(known, self.light, compression="zstd")
        sync(self.light)
        self.source.check()
        found = {"lost": {name: [len(values), values[0]] for name, values in lost.items() if values}, "declared": self.declared}
        return {"rows": len(rows), "records": taken, "rejected": rejected, "foreign": foreign, "last": last, **found}

    def _column(self, field: pa.Field, rows: list[dict[str, Any]], lost: dict[str, list[str]]) -> pa.Array:
        one = self.taken.get(field.name)
        return columns.convert([row.get(field.name) for row in rows], field.type, one and one.form, lost.get(field.name))

    def _prepared(self, record: Record) -> tuple[dict[str, Any], bytes, bool] | str:
        if record.problem:
            return record.problem
        try:
            neutral = labels.is_neutral(record.columns, self.settings.neutral)
        except ValueError as reason:
            return str(reason)
        try:
            return *self.prepare(record), neutral
        except Unreadable as reason:
            return reason.args[0]

    def _note(self, light: dict[str, list[Any]], record: Record, content: bytes, neutral: bool, position: int) -> None:
        settings, row = self.settings, record.columns
        split = record.split if settings.split_column is None else row.get(settings.split_column)
        light["content"].append(splits.hash64(content))
        light["position"].append(position)
        light["split"].append(None if split is None else str(split))
        light["neutral"].append(neutral)
        label = row.get(self.label_column) if self.label_column else None
        self.declared |= isinstance(label, ClassName)
        is_mark = self.label_column == settings.neutral.column and labels.marked(label, settings.neutral)
        light["label"].append(None if is_mark else labels.written(label, settings))
        for role, column in (("key", settings.key_column), ("group", settings.group_column), ("time", settings.time_column)):
            value = row.get(column) if column else None
            light[role].append(None if value is None else str(value))


_LIGHT = pa.schema(
    {"content": pa.int64(), "position": pa.int64(), "neutral": pa.bool_()}
    | {name: pa.string() for name in ("split", "label", "key", "group", "time")}
)


def _finish(
    out: Draft,
    source: Source,
    kind: str,
    settings: LoadRows,
    parts: list[dict],
    records: int,
    label_column: str | None,
    schema: pa.Schema,
    corrections: dict[int, Any],
    passed: list[tuple[str, str]],
    told: list[str],
) -> Facts:
    """All contents are written: give the rows their ids, labels and splits, and say what was found."""
    light = pa.concat_tables(pq.read_table(_light(out, number)) for number in range(len(parts)))
    content = light["content"].to_numpy()
    ids = assignment.ids_of(light, settings.key_column)
    declared = any(part.get("declared") for part in parts)
    decided, neutral, news = _labels(light, ids, corrections, label_column, settings, declared)
    found = decided and decided.labels
    column = functools.partial(_column, out, len(parts))
    alike = _near(out, kind, light, column, schema.names)
    drawn, notes = assignment.drawn(light, ids, content, alike, found, settings)
    notes = [*told, *notes, *news]
    final = drawn
    if keys := assignment.kept_together(light, content, alike, settings):
        final = splits.straddling(splits.together(*keys), drawn)[1]
    across, apart = splits.straddling(content, drawn)[0], assignment.apart(content, alike, drawn)
    notes += assignment.moved(light, across, apart, drawn, final, settings)
    if (drawn == 2).any() and not (final == 2).any():
        notes.append("no test row is left: each has an equal among the training or validation rows")
    telling = giveaway.find(column, schema.names, found.array, found.kind, final) if found and kind == "table" else []
    notes += giveaway.notes(telling)
    notes += loaded.unlike_splits(found, final) if found and label_column else []
    table = {"id": ids, "content": content, "position": light["position"].to_numpy()}
    table |= {"split": pa.DictionaryArray.from_arrays(final, list(splits.SPLITS))}
    if found:
        table["label"] = found.array
    if settings.neutral.columns:
        table["neutral"] = neutral
    pq.write_table(pa.table(table), out / "rows.parquet", compression="zstd")
    rejected = [line for part in parts for line in part["rejected"]]
    if rejected or passed:
        places, reasons = zip(*rejected, *passed, strict=True)
        pq.write_table(pa.table({"place": places, "reason": reasons}), out / "rejected.parquet")
    if rejected:
        place, reason = rejected[0]
        notes.append(f"{len(rejected):,} of {records:,} records could not be read: {place}: {reason} (rejected.parquet)")
    if passed:
        (place, reason), links = passed[0], source.passed_over() and not source.follow_links
        advice = "; links out of it are followed with files.follow_links" if links else ""
        notes.append(f"{len(passed):,} in the folder passed over: {place}: {reason} (rejected.parquet){advice}")
    for note in notes:
        log.warning("%s", note)
    copies = len(content) - len(np.unique(content))
    details = {
        "parts": [part["rows"] for part in parts if part["rows"] or len(parts) == 1],
        "splits": {name: int((final == index).sum()) for index, name in enumerate(splits.SPLITS)},
        "columns": {field.name: str(field.type) for field in schema},
        "label": found.summary() if found else None,
        "copies": copies,
        "duplicates_across_splits": int(across.sum()),
        "rejected": len(rejected),
    }
    if decided:
        details["label_why"] = decided.why
    if (alike != splits.together(content)).any():
        details |= {"near_copies": assignment.copies_of(alike, content), "near_copies_across_splits": int(apart.sum())}
    if telling:
        details[giveaway.DETAIL] = telling
    if shares := assignment.class_shares(found, final):
        details["class_shares"] = shares
    log.info("%s", assignment.sizes(final, shares))
    if passed:
        details["passed_over"] = len(passed)
    if settings.neutral.columns:
        details["neutral"] = {name: int(neutral[final == index].sum()) for index, name in enumerate(splits.SPLITS)}
    if settings.corrections:
        details["corrections"] = len(corrections)
    if not parts[-1]["rows"] and len(parts) > 1:  # the stream ended exactly at a part's end
        (out / f"part-{len(parts) - 1:05d}.parquet").unlink(missing_ok=True)
    return Facts(rows=len(content), notes=notes, details=details)


def _labels(
    light: pa.Table, ids: np.ndarray, corrections: dict[int, Any], label_column: str | None, settings: LoadRows, declared: bool
) -> tuple["labels.Decided | None", np.ndarray, list[str]]:
    """The labels after the corrections, which rows are neutral, and what should be said about them."""
    raw, neutral = light["label"].to_pylist(), light["neutral"].to_numpy()
    if not label_column and not corrections:
        return None, neutral, []
    found = labels.decide(raw, settings, declared)
    if not corrections:
        return found, neutral, found.notes
    known = found.labels.summary()
    if found.labels.kind == "number":  # one word among the corrections would otherwise make all of them classes
        settings = settings.model_copy(update={"label_type": "number"})
    raw, neutral = labels.correct(raw, neutral, ids, corrections, settings)
    found = labels.decide(raw, settings, declared)
    new = [name for name in found.labels.summary().get("classes", ()) if name not in known.get("classes", ())]
    news = [f"the corrections bring labels that no row had: {listed(new)}"] if new and known["labelled"] else []
    return found, neutral, [*found.notes, *news]


def _column(out: Draft, parts: int, name: str) -> pa.ChunkedArray:
    """A column of the contents of all rows."""
    files = [out / f"part-{number:05d}.parquet" for number in range(parts)]
    found = [chunk for file in files for chunk in pq.read_table(file, columns=[name])[name].chunks]
    return pa.chunked_array(found, pq.read_schema(files[0]).field(name).type)


def _near(out: Draft, kind: str, light: pa.Table, column: near.Column, names: list[str]) -> np.ndarray:
    """Find near copies and write them down; the place of the first row that each is a copy of, or its own, (rows,) int64."""
    found = near.found(kind, light["content"].to_numpy(), light["sketch"].combine_chunks(), column, names)
    pq.write_table(found, out / near.FILE, compression="zstd")
    return found["near"].to_numpy()


def read_near(dataset: Artifact) -> pa.Table:
    """The near copies of a dataset, a line for each row, as `near.parquet` has them; found anew where it has none."""
    if any(file.path == near.FILE for file in dataset.manifest.files):
        return pq.read_table(dataset / near.FILE)
    content, contents = read_rows(dataset, ["content"])["content"].to_numpy(), read_contents(dataset, 0, dataset.manifest.rows or 0)
    kind = dataset.manifest.kind
    with ThreadPoolExecutor(4) as pool:
        sketches = near.KINDS[kind].sketch(contents, pool.map)
    return near.found(kind, content, sketches, lambda name: contents[name], contents.column_names)


def with_near(dataset: Artifact, rows: pa.Table) -> pa.Table:
    """All lines of a dataset's `rows.parquet` with what is known of near copies beside them, as `leaks` takes it."""
    found = read_near(dataset)
    return rows.append_column("near", found["near"]).append_column("sketch", found["sketch"])


def given_away(dataset: Artifact, but: Collection[str] = ()) -> list[str]:
    """What should be said of columns that give a dataset's label away, as its load found, without those in `but`."""
    found = dataset.manifest.details.get(giveaway.DETAIL, [])
    return giveaway.notes([one for one in found if one["column"] not in but])


def read_rows(dataset: Artifact, columns: list[str] | None = None) -> pa.Table:
    """The rows of a dataset without their contents: id, content, position, split and, where there are such, label and neutral."""
    return pq.read_table(dataset / "rows.parquet", columns=columns)


def read_contents(dataset: Artifact, start: int, stop: int) -> pa.Table:
    """The contents of the rows from `start` up to `stop`, in order; only the files that hold them are read."""
    tables, first = [pq.read_schema(dataset / "part-00000.parquet").empty_table()], 0
    for number, rows in enumerate(dataset.detail("parts", list)):
        if first < stop and first + rows > start:
            table = pq.read_table(dataset / f"part-{number:05d}.parquet")
            tables.append(table.slice(max(start - first, 0), min(stop, first + rows) - max(start, first)))
        first += rows
    return pa.concat_tables(tables)


def fetch(dataset: Artifact, ids: list[int]) -> list[dict[str, Any] | None]:
    """The contents of the rows with these ids, in their order; None for an id that isn't in the dataset."""
    known = read_rows(dataset, ["id"])["id"].to_numpy()
    order = np.argsort(known)
    starts = list(itertools.accumulate(dataset.detail("parts", list), initial=0))
    found: list[dict[str, Any] | None] = [None] * len(ids)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, row_id in enumerate(ids):
        at = np.searchsorted(known, row_id, sorter=order)
        if at < len(order) and known[order[at]] == row_id:
            row = int(order[at])
            part = bisect_right(starts, row) - 1
            wanted.setdefault(part, []).append((place, row - starts[part]))
    for part, rows in wanted.items():
        table = pq.read_table(dataset / f"part-{part:05d}.parquet").take([row for _, row in rows])
        for (place, _), row in zip(rows, table.to_pylist(), strict=True):
            found[place] = row
    return found
