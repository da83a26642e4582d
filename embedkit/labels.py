"""Labels: one class, several classes, or a number; what a label column holds is decided once all of it was seen.

Classes are strings, sorted (as numbers where all of them are numbers), so that the same labels have the same order
everywhere. A row without a label has none: it is left out of supervised training, never made a class. A neutral row may
have one, but people don't agree on it: it is left out too, until a correction says what it is.
"""

import ast
import contextlib
import json
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field

from embedkit.artifacts import checksum
from embedkit.columns import LARGEST_EXACT, MISSING
from embedkit.escaping import of_cell
from embedkit.readers import ReadFiles, read
from embedkit.settings import Settings, UserError, listed, short
from embedkit.sources import Source

MOST_WHOLE_NUMBERS = 100
LONGEST_LIST = 10_000
"""Characters of a list as Python writes it that is read; its parser takes memory by the depth."""
NUMBER = re.compile(r"[+-]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
CODED = re.compile(r"[+-]?0[0-9]|.*_|[0-9]+[eE][0-9]+$")
NEVER_A_CLASS = frozenset(("nan", "NaN", "NAN", "null", "NULL", "Null", "<NA>", "<na>", "#N/A", "N/A", "n/a", "NaT", "(null)"))
"""Words that programs write for "no label"; others, such as NA and none, may name a class."""
PINNED = re.compile(r"(.+)#sha256=([0-9a-f]{64})", re.DOTALL)


class Neutral(Settings):
    """Which rows are ambiguous; any of these may say so.

    A missing value says nothing; votes or a confidence that can't be read make their record unreadable.
    """

    column: str | None = None
    """Column that marks neutral rows; where it is the label column too, the mark is no label."""
    values: tuple[str, ...] = ("true", "yes", "1")
    """Values of that column that mean neutral, whatever their case; any other value means that the row is not."""
    votes_column: str | None = None
    """Column of what the annotators said: a list of numbers, the votes for each class, or a list of words, one a vote; as
    JSON too, or as words in one text."""
    votes_separator: Annotated[str, Field(min_length=1)] = ","
    """What separates the votes in one text."""
    min_agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the votes for the winner below which a row is neutral, such as 0.8; needs a votes column."""
    confidence_column: str | None = None
    """Column of how sure the annotator was, or whatever made the label."""
    min_confidence: float | None = None
    """Confidence below which a row is neutral, in the unit of its column; needs a confidence column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read; none where no criterion was given."""
        return tuple(name for name in (self.column, self.votes_column, self.confidence_column) if name is not None)


def written(value: Any, settings: Any) -> str | None:
    """A raw label as JSON text, None where it means "no label". Spaces around a text are none of it, and accents are one way."""
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    value = _trimmed(value)
    if _missing(value) or {str(value), _name(value)} & set(settings.unlabelled):
        return None
    if isinstance(value, str) and settings.label_separator:
        value = [part.strip() for part in value.split(settings.label_separator) if part.strip()]
    if isinstance(value, list):
        value = [part for part in map(_trimmed, value) if not _missing(part)]
    return json.dumps(value, default=str, ensure_ascii=False)


def _trimmed(value: Any) -> Any:
    return unicodedata.normalize("NFC", value.strip()) if isinstance(value, str) else value


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def marked(value: Any, settings: Neutral) -> bool:
    """Whether a value of the neutral column means neutral."""
    return not _missing(value) and _name(value).strip().lower() in {word.strip().lower() for word in settings.values}


def is_neutral(row: dict[str, Any], settings: Neutral) -> bool:
    """Whether a row is neutral by any criterion that was given.

    Raises:
        ValueError: with the reason, when its votes or its confidence can't be read.
    """
    neutral = settings.column is not None and marked(row.get(settings.column), settings)
    if settings.votes_column is not None and settings.min_agreement is not None:
        try:
            share = agreement(row.get(settings.votes_column), settings.votes_separator)
        except ValueError as error:
            raise ValueError(f"column {settings.votes_column!r} {error}") from error
        neutral |= share is not None and share < settings.min_agreement
    if settings.confidence_column is not None and settings.min_confidence is not None:
        confidence = row.get(settings.confidence_column)
        if str(confidence).strip() not in MISSING:
            number = _number(confidence)
            if number is None:
                raise ValueError(f"column {settings.confidence_column!r} holds {_short(confidence)}, not a number")
            neutral |= number < settings.min_confidence
    return neutral


def agreement(votes: Any, separator: str = ",") -> float | None:
    """Share of the votes that the winner has, above 0 to 1; None where nobody voted.

    Args:
        votes: numbers of votes, one a class; or words, one a vote, None or blank where there was none; as a list, as JSON
            text of one, or as words in one text.
        separator: what stands between words in one text.

    Raises:
        ValueError: with the reason, when they are neither.
    """
    if _missing(votes):
        return None
    listed = _listed(votes)
    listed = listed.split(separator) if isinstance(listed, str) else listed
    if not isinstance(listed, list):
        raise ValueError(f"holds {_short(votes)}, not votes (a list of numbers, or of words)")
    given: list[Any] = [vote.strip() if isinstance(vote, str) else vote for vote in listed]
    given = [vote for vote in given if vote is not None and vote != ""]
    if all(isinstance(vote, str) for vote in given):
        given = list(Counter(given).values())
    elif not all(isinstance(vote, int | float) and not isinstance(vote, bool) and 0 <= vote < math.inf for vote in given):
        raise ValueError(f"holds {_short(votes)}; votes are numbers from 0 up, one a class, or words, one a vote")
    return max(given) / sum(given) if any(given) else None


def _listed(value: Any) -> Any:
    """A text of a list, in JSON or as Python writes it, as that list; anything else as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
        if len(value) <= LONGEST_LIST:
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                found = ast.literal_eval(value.strip())
                return found if isinstance(found, list) else value
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."


@dataclass
class Labels:
    """The labels of a dataset's rows.

    `kind` is class, classes or number; `array` has one entry a row: string, list of strings or double, null where none.
    """

    kind: str
    array: pa.Array

    def summary(self) -> dict[str, Any]:
        """Kind, number of labelled rows, and the classes with their counts or the range, as plain JSON."""
        labelled = self.array.drop_null()
        facts: dict[str, Any] = {"type": self.kind, "labelled": len(labelled)}
        if self.kind == "number":
            values = labelled.to_numpy()
            return facts | ({"lowest": float(values.min()), "highest": float(values.max())} if len(values) else {})
        counts = (labelled.flatten() if self.kind == "classes" else labelled).value_counts().to_pylist()
        found = {entry["values"]: entry["counts"] for entry in counts}
        return facts | {"classes": {name: found[name] for name in ordered(found)}}

    def strata(self) -> np.ndarray:
        """What to stratify by: the class, the first of several, or the decile of a number; -1 for none."""
        values = self.array.to_pylist()
        if self.kind == "number":
            numbers = np.array([math.nan if value is None else value for value in values])
            bounds = np.nanquantile(numbers, np.linspace(0.1, 0.9, 9)) if not np.isnan(numbers).all() else []
            return np.where(np.isnan(numbers), -1, np.searchsorted(bounds, numbers))
        names = [(value[0] if value else None) if isinstance(value, list) else value for value in values]
        index = {name: number for number, name in enumerate(ordered({name for name in names if name is not None}))}
        return np.array([-1 if name is None else index[name] for name in names])


def ordered(names: Any) -> list[str]:
    """Class names in their order: by value where all are numbers, else by letters."""
    if all(_number(name) is not None for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _number(value: Any) -> float | None:
    """A finite number, or a text of one, None for anything else; digits that are a code are no number.

    What isn't plain as a program writes numbers names something: leading zeros, underscores, exponents of whole digits, more digits
    than a number keeps.
    """
    if isinstance(value, bool) or (isinstance(value, str) and (not NUMBER.fullmatch(value) or _is_code(value))):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and (isinstance(value, float) or abs(number) <= LARGEST_EXACT) else None


def _is_code(text: str) -> bool:
    return CODED.match(text) is not None


def decide(raw: list[str | None], settings: Any, declared: bool = False) -> "Decided":
    """What the labels of a whole dataset are.

    Args:
        raw: JSON texts as `written` makes them, one a row.
        settings: `label_type` says what they are; `auto` looks.
        declared: whether the source says that they are classes.

    Raises:
        UserError: when numbers were asked for and a label is none, or lists can't be told.
    """
    counts = Counter(text for text in raw if text is not None)
    distinct, notes = {text: json.loads(text) for text in counts}, list[str]()
    if settings.label_type in ("auto", "classes"):
        distinct = _lists_in_texts(distinct, notes)
        distinct = _by_position(distinct, notes)
    kind, why = (settings.label_type, "as was asked") if settings.label_type != "auto" else _kind(distinct, declared)
    if kind in ("number", "class"):
        for text in [text for text, value in distinct.items() if _says_none(value, kind)]:
            if kind == "number" or settings.label_type == "auto":
                notes.append(
                    f"the label {distinct[text]!r} of {counts[text]:,} rows is taken as none; name it in unlabelled to say so"
                )
                del distinct[text]
    values: dict[str, Any]
    if kind == "number":
        wrong = [value for value in distinct.values() if _as_number(value) is None]
        if wrong:
            raise UserError(f"the label {short(repr(wrong[0]))} is no number; set label_type to class, or name it in unlabelled")
        values, of = {text: _as_number(value) for text, value in distinct.items()}, pa.float64()
    elif kind == "classes":
        values = {text: [_name(v) for v in (value if isinstance(value, list) else [value])] for text, value in distinct.items()}
        of = pa.list_(pa.string())
    else:
        values, of = _names(distinct, declared), pa.string()
        notes += _alike(values, counts)
    array = pa.array([None if text is None else values.get(text) for text in raw], of)
    return Decided(Labels(kind, array), why, notes)


@dataclass
class Decided:
    """Labels, why they were taken so, and what a person should know."""

    labels: Labels
    why: str
    notes: list[str]


def _kind(distinct: dict[str, Any], declared: bool) -> tuple[str, str]:
    values = list(distinct.values())
    if any(isinstance(value, list) for value in values):
        return "classes", "lists"
    if declared:
        return "class", "their source says that they are classes"
    given = [value for value in values if not _says_none(value, "number")]
    codes = [value for value in given if isinstance(value, str) and NUMBER.fullmatch(value) and _is_code(value)]
    numbers = [_number(value) for value in given]
    if codes and len(codes) + sum(number is not None for number in numbers) == len(given):
        return "class", f"digits that are codes, such as {codes[0]!r}"
    if None in numbers or not given:
        return "class", "words"
    whole = all(number == int(number) for number in numbers if number is not None)
    different = len(set(numbers))
    if whole and different <= MOST_WHOLE_NUMBERS:
        return "class", f"{different} different whole numbers"
    return (
        "number",
        f"{different:,} different {'whole numbers' if whole else 'numbers'}; set label_type to class where they name classes",
    )


def _as_number(value: Any) -> float | None:
    """A number where numbers were asked for: codes are read as well."""
    number = _number(value)
    if number is None and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
    return number if number is not None and math.isfinite(number) else None


def _says_none(value: Any, kind: str) -> bool:
    """Whether a word says that there is no label: any such word among numbers, among classes one that names nothing else."""
    return isinstance(value, str) and value in (MISSING if kind == "number" else NEVER_A_CLASS)


def _names(distinct: dict[str, Any], declared: bool) -> dict[str, str]:
    """The name of each class; whole numbers have one, however they are written, where all labels are numbers."""
    numbers = {text: _number(value) for text, value in distinct.items()}
    if not declared and all(number is not None and number.is_integer() for number in numbers.values()):
        return {text: str(int(number or 0)) for text, number in numbers.items()}
    return {text: _name(value) for text, value in distinct.items()}


def _alike(names: dict[str, str], counts: Counter[str]) -> list[str]:
    """What to say of classes that differ in nothing but case or spaces, and of written ways that were taken for one."""
    rows: Counter[str] = Counter()
    for text, name in names.items():
        rows[name] += counts[text]
    forms: dict[str, list[str]] = {}
    for name in rows:
        forms.setdefault(" ".join(name.casefold().replace("_", " ").replace("-", " ").split()), []).append(name)
    alike = [group for group in forms.values() if len(group) > 1]
    kept = [listed(f"{name!r} ({rows[name]:,})" for name in group) for group in alike[:3]]
    notes = [f"classes that look alike are kept apart: {group}; fix the labels where they mean one" for group in kept]
    absent = listed(f"{name!r} ({rows[name]:,})" for name in rows if name in MISSING)
    notes += [f"{absent} is taken as a class; name it in unlabelled where it means that there is none"] if absent else []
    ways: dict[str, list[str]] = {}
    for text, name in names.items():
        ways.setdefault(name, []).append(text)
    for name, texts in [(name, texts) for name, texts in ways.items() if len(texts) > 1][:3]:
        written = listed((f"{json.loads(text)!r} ({counts[text]:,})" for text in texts), " and ")
        notes.append(f"labels written as {written} are one class, {name}")
    return notes


def _lists_in_texts(distinct: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Labels that are texts of lists, all of them, as lists."""
    texts = [value for value in distinct.values() if value != ""]
    if not texts or not all(isinstance(value, str) and value.startswith("[") and value.endswith("]") for value in texts):
        return distinct
    found = {text: _listed(value) for text, value in distinct.items()}
    if not all(isinstance(value, list) for value in found.values()):
        return distinct
    notes.append(f"labels such as {short(texts[0])!r} are read as lists of classes")
    return found


def _by_position(distinct: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Lists of 0 and 1, all as long, as the classes whose places hold 1.

    Raises:
        UserError: when they hold shares.
    """
    lists = list(distinct.values())
    if not lists or not all(isinstance(value, list) and len(value) > 1 for value in lists) or len(set(map(len, lists))) > 1:
        return distinct
    numbers = [_number(one) for value in lists for one in value]
    if None in numbers or not all(0 <= (number or 0) <= 1 for number in numbers):
        return distinct
    if any(number not in (0, 1) for number in numbers):
        advice = "give the class itself, or 0 and 1 for those that hold"
        raise UserError(
            f"the labels are lists of shares, such as {short(json.dumps(lists[0]))}, which are not learned from; {advice}"
        )
    positions = {text: [str(place) for place, one in enumerate(value) if _number(one)] for text, value in distinct.items()}
    several = any(len(places) != 1 for places in positions.values())
    notes.append(f"labels are lists of 0 and 1, so that {len(lists[0])} classes are known by their positions from 0")
    return positions if several else {text: int(places[0]) for text, places in positions.items()}


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def pinned(text: str) -> str:
    """The path of a file with its checksum behind it, so that a setting says which content was meant.

    Args:
        text: a path, alone or as this function gives it.

    Raises:
        UserError: when there is no such file, or it doesn't fit the checksum that came with it.
    """
    path, given = unpinned(text)
    source = Source(path)
    if source.scheme != "path" or not source.path.is_file():
        raise UserError(f"{path} is no file; corrections come from a csv or jsonl file with the columns id and label")
    try:
        found = checksum(source.path)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); mend its permissions") from error
    if given and given != found:
        raise UserError(
            f"{path} has other corrections than were meant (SHA-256 {found[:8]}..., not {given[:8]}...); "
            "bring the old file back, or give the path alone to take it as it is"
        )
    return f"{path}#sha256={found}"


def unpinned(text: str) -> tuple[str, str | None]:
    """The path of a file of corrections, and its checksum where that stands behind it."""
    match = PINNED.fullmatch(text)
    return (match[1], match[2]) if match else (text, None)


Corrections = Annotated[str, AfterValidator(pinned)]
"""Path of a file of corrections; its JSON form, `PATH#sha256=...`, also says which content it had."""


def read_corrections(corrections: str) -> dict[int, Any]:
    """The label that each id in a file of corrections gets, as it is written there; of several for one id the last.

    A label in csv that a spreadsheet would compute may stand behind a `'`, as a review page and spreadsheets write it.

    Args:
        corrections: path and checksum, as `pinned` gives them.

    Raises:
        UserError: when a line can't be read, or the file isn't the one that was meant.
    """
    path, found = unpinned(corrections)[0], {}
    source, cells = Source(path), re.search(r"\.jsonl?(\.gz)?$", path, re.IGNORECASE) is None
    source.content()
    pinned(corrections)
    for record in read(source, "table", ReadFiles()):
        row = record.columns
        if row.get("id") == "id" and row.get("label") == "label":
            continue  # the header of a second file behind the first
        problem = record.problem or ("" if {"id", "label"} <= row.keys() else f"it has {listed(row)}, but not both id and label")
        if not problem and not _is_id(row["id"]):
            problem = f"{_short(row['id'])} is no id (a whole number, as in rows.parquet)"
        if problem:
            raise UserError(f"{record.place} can't be taken as a correction: {problem}; mend or remove it")
        label = row["label"]
        found[int(row["id"])] = of_cell(label) if cells and isinstance(label, str) else label
    source.check()
    return found


def _is_id(value: Any) -> bool:
    text = str(value)
    return re.fullmatch("0|[1-9][0-9]{0,18}", text) is not None and int(text) < 2**63


def correct(
    raw: list[str | None], neutral: np.ndarray, ids: np.ndarray, corrections: dict[int, Any], settings: Any
) -> tuple[list[str | None], np.ndarray]:
    """Labels and neutrality after people decided: a row with a new label has that one and is no longer neutral.

    Args:
        raw: JSON texts as `written` makes them, one a row.
        neutral: (rows,) bool.
        ids: (rows,) int64.
        corrections: new labels by id; one that means "no label", or `neutral` where no row has that label, changes nothing.
        settings: how labels are written.

    Raises:
        UserError: when a correction fits no row.
    """
    places = np.flatnonzero(np.isin(ids, np.array(list(corrections), np.int64)))
    strangers = corrections.keys() - set(ids[places].tolist())
    if strangers:
        raise UserError(
            f"{len(strangers):,} of the {len(corrections):,} corrections in {unpinned(settings.corrections)[0]} fit no row, "
            f"such as the one of id {min(strangers)}; take them out, or load what was reviewed, with the same key_column"
        )
    is_class = any('"neutral"' in text for text in set(raw) if text)
    raw, neutral = list(raw), neutral.copy()
    for place in places.tolist():
        value = _listed(corrections[int(ids[place])])
        label = written(value, settings)
        if label is not None and (is_class or value != "neutral"):
            raw[place], neutral[place] = label, False
    return raw, neutral
