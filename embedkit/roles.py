"""Roles: what is made of each column of a table, found from its training rows, or as the user says.

Columns of many values that recur are embedded; words of few values, indices (whole numbers without gaps, each about as
frequent, such as months and hours) and calendar parts are one-hot; other numbers are scaled, robustly to outliers. What can't
tell anything of other rows is left out, with its reason: columns that are the same throughout, free text, and identifiers,
whose values don't recur.
"""

import fnmatch
import re
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel

from embedkit import codes
from embedkit.features import PARTS, Calendar, Category, Columns, Embedded, Numbers, Vocabulary, as_texts, calendar, moments, pc
from embedkit.settings import UserError, not_among

ONE_HOT = 10
"""Values of a column of words up to which it is one-hot, where learned vectors are to be had; above, they are learned."""
MOST_VALUES = 20
"""The same where they aren't: one with more would take as many outputs, and is what learned vectors are for."""
INDEX = (3, 32)
"""Least and most values of an index: weekdays, months, hours, days of a month."""
EVEN = 0.1
"""An index's rarest value has at least this share of the mean count; counts and ranks thin out instead."""
KEYS = ("id", "code", "zip", "zipcode", "postcode", "sku", "key")
"""Last words in the name of a column whose whole numbers are names of things."""
RECURRING = 0.1
"""Share of the training rows whose value must recur, for a column to be embedded."""
SENTENCE = 3.0
"""Words in a value, on average, from which on a column that doesn't recur is called free text."""
QUANTILES = (0.01, 0.99)
"""Of the training rows; between them lies the core of a column of numbers."""
LARGEST_DIMENSION = 50
Role = Literal["embedding", "one-hot", "number", "date", "left out"]
RULES = ("embedding", "embedding:SIZE", "one-hot", "number", "date", "date:FORMAT", "leave-out")


class Rule(NamedTuple):
    """What a user says of columns: a name or pattern, a role, and its size or format."""

    name: str
    role: Role
    argument: str | None


def parsed(text: str) -> Rule:
    """NAME=ROLE as a rule.

    Raises:
        ValueError: when it is none.
    """
    name, _, role = text.rpartition("=") if "date:" not in text else text.partition("=")
    kind, _, argument = role.partition(":")
    if not name or kind not in ("embedding", "one-hot", "number", "date", "leave-out"):
        raise ValueError(f"{text!r} is no role; give NAME=ROLE, with one of {', '.join(RULES)}")
    if argument and (kind not in ("embedding", "date") or (kind == "embedding" and not re.fullmatch("[1-9][0-9]{0,3}", argument))):
        raise ValueError(f"{text!r} is no role: {kind} takes no {argument!r}; give NAME=ROLE, with one of {', '.join(RULES)}")
    return Rule(name, "left out" if kind == "leave-out" else kind, argument or None)  # pyright: ignore[reportArgumentType]


def _checked(text: str) -> str:
    parsed(text)
    return text


RoleText = Annotated[str, AfterValidator(_checked)]


class Found(BaseModel):
    """What was made of a column, and why.

    `values` are the different ones in the training rows, `kept` those of them that have a vector of their own.
    """

    name: str
    role: Role
    reason: str
    values: int
    kept: int | None = None
    dimension: int | None = None


def dimension(values: int) -> int:
    """Numbers in the vector of one of so many values: 1.6 n^0.56 (Howard and Gugger 2020, fastai), at most 50."""
    return max(1, min(LARGEST_DIMENSION, round(1.6 * values**0.56)))


def find(
    table: pa.Table,
    rules: tuple[str, ...] = (),
    shared: tuple[str, ...] = (),
    least_count: int = 3,
    one_hot: int = ONE_HOT,
    targets: np.ndarray | None = None,
) -> tuple[Columns, list[Found]]:
    """What an encoder makes of each column, by the values of the training rows.

    Args:
        table: the training rows, typed as `load_table` types them.
        rules: NAME=ROLE; of several that fit a column the first counts, NAME may be a pattern.
        shared: names of columns that have one vocabulary, joined by commas.
        least_count: training rows that a value needs for a vector of its own.
        one_hot: values of a column of words up to which it is one-hot.
        targets: (rows, outputs) float of these rows, by which whole numbers that name things are told; None where there are none.

    Returns:
        The columns that are used, in order, and what was found of each.

    Raises:
        UserError: when a rule names no column, or a column can't have the role.
    """
    given = [parsed(rule) for rule in rules]
    for rule in given:
        if not fnmatch.filter(table.column_names, rule.name):
            raise not_among("column", rule.name, table.column_names, hint="in roles")
    together = _together(table, shared)
    columns, found, vocabularies = [], [], {}
    for name in table.column_names:
        rule = next((rule for rule in given if fnmatch.fnmatchcase(name, rule.name)), None)
        if rule is None and name in together:
            rule = Rule(name, "embedding", None)
        values = table[name]
        texts = as_texts(values)
        counts = _counts(texts)
        role, reason = (rule.role, ASKED) if rule else _role(name, values, texts, counts, least_count, one_hot, targets)
        one = Found(name=name, role=role, reason=reason, values=len(counts))
        if role == "embedding":
            group = together.get(name, (name,))
            if group not in vocabularies:
                all_texts = pa.chunked_array([chunk for each in group for chunk in as_texts(table[each]).chunks], pa.string())
                size = rule.argument if rule else None
                vocabularies[group] = _vocabulary(", ".join(group), all_texts, least_count, int(size) if size else None)
            known = vocabularies[group]
            columns.append(Embedded(name=name, vocabulary=list(vocabularies).index(group)))
            one.kept, one.dimension = len(known.values), known.dimension
        elif role != "left out":
            column = _plain(name, role, values, counts, rule.argument if rule else None)
            if isinstance(column, str):
                one.role, one.reason = "left out", column
            else:
                columns.append(column)
        found.append(one)
    return Columns(columns=columns, vocabularies=list(vocabularies.values())), found


def plain_columns(table: pa.Table) -> tuple[Columns, list[Found]]:
    """The same without anything learned: numbers in [-1, 1] by their range and one-hot words, what is neither left out."""
    columns, found = [], []
    for name in table.column_names:
        values, counts = table[name], _counts(as_texts(table[name]))
        column: Any = "moments"
        if pa.types.is_string(values.type) or pa.types.is_boolean(values.type):
            column = f"more than {MOST_VALUES} different texts"
            column = _one_hot(name, values) if len(counts) <= MOST_VALUES else column
        elif not pa.types.is_timestamp(values.type):
            column = _numbers(name, values, bounded=False)
        role = "left out" if isinstance(column, str) else "number" if isinstance(column, Numbers) else "one-hot"
        found.append(Found(name=name, role=role, reason=column if isinstance(column, str) else "", values=len(counts)))
        columns += [] if isinstance(column, str) else [column]
    return Columns(columns=columns), found


def left_out(found: list[Found]) -> str:
    """The columns that are left out, by their reason, as a phrase; empty where none is."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        if one.role == "left out":
            reasons.setdefault(one.reason, []).append(repr(one.name))
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())


SAME = "the same in all training rows"
ASKED = "as was asked"


def _together(table: pa.Table, shared: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The columns that share a vocabulary, by each of them."""
    found: dict[str, tuple[str, ...]] = {}
    for line in shared:
        group = tuple(dict.fromkeys(name.strip() for name in line.split(",") if name.strip()))
        for name in group:
            if name not in table.column_names:
                raise not_among("column", name, table.column_names, hint="in shared")
            if name in found:
                raise UserError(f"column {name!r} stands in two groups of shared; put all of them into one")
            found[name] = group
        if len(group) < 2:
            raise UserError(f"shared {line!r} names one column; give two at least, joined by commas")
    return found


def _counts(texts: pa.ChunkedArray) -> np.ndarray:
    """How often each value comes; (values,)."""
    return np.asarray(texts.drop_null().value_counts().field("counts")) if texts.null_count < len(texts) else np.empty(0, int)


def _role(
    name: str,
    values: pa.ChunkedArray,
    texts: pa.ChunkedArray,
    counts: np.ndarray,
    least_count: int,
    one_hot: int,
    targets: np.ndarray | None,
) -> tuple[Role, str]:
    """The role of a column that nothing was said of, and why."""
    if not len(counts):
        return "left out", "no value in any training row"
    if len(counts) == 1 and not texts.null_count:
        return "left out", SAME
    if pa.types.is_timestamp(values.type):
        return "date", "moments"
    words = pa.types.is_string(values.type)
    if pa.types.is_boolean(values.type) or (words and len(counts) <= one_hot):
        return "one-hot", f"{len(counts)} different values"
    whole = pa.types.is_integer(values.type)
    many = whole and len(counts) > one_hot
    key = many and re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name)[-1].lower() in KEYS
    recurring = counts[counts >= least_count].sum() / counts.sum()
    why = "texts that recur" if words else "whole numbers that name things, by the column's name"
    if many and not key and recurring >= RECURRING and targets is not None and not _is_index(values, counts):
        known = np.asarray(values.is_valid())
        key = codes.name_things(values.drop_null().to_numpy(), targets[known])
        why = "whole numbers that name things, since their order says nothing of the target"
    if not words and not key:
        if whole and _is_index(values, counts):
            return "one-hot", f"an index of {len(counts)} values"
        return "number", "numbers"
    if recurring >= RECURRING:
        return "embedding", f"{len(counts):,} different values: {why}"
    length = pc.mean(pc.count_substring(texts, " ")).as_py() + 1
    if length >= SENTENCE:
        return "left out", "free text"
    return "left out", "an identifier: nearly every row has a value of its own, which says nothing of other rows"


def _is_index(values: pa.ChunkedArray, counts: np.ndarray) -> bool:
    low, high = (bound.as_py() for bound in pc.min_max(values).values())
    least, most = INDEX
    dense = low in (0, 1) and len(counts) == high - low + 1
    return dense and least <= len(counts) <= most and counts.min() >= EVEN * counts.mean()


def _plain(name: str, role: Role, values: pa.ChunkedArray, counts: np.ndarray, argument: str | None) -> Any:
    """A column that needs no vectors, or why it is of no use.

    Raises:
        UserError: when it can't have the role that was asked for.
    """
    if role == "number":
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            raise UserError(f"column {name!r} holds {values.type}, which is no number; give it another role")
        return _numbers(name, values, bounded=True)
    if role == "one-hot" and pa.types.is_timestamp(values.type):
        raise UserError(f"column {name!r} holds moments, which are not one-hot as they are; give it {name}=date, or embedding")
    if role == "one-hot":
        return _one_hot(name, values)
    numbered = argument and pa.types.is_integer(values.type)  # such as 20260131
    if not (pa.types.is_timestamp(values.type) or pa.types.is_string(values.type) or numbered):
        raise UserError(f"column {name!r} holds {values.type}, which is no moment; give it another role")
    try:
        found = calendar(moments(values, argument))
    except pa.ArrowInvalid as error:
        form = f"as {argument!r}" if argument else "in ISO 8601"
        said = f"column {name!r} holds what is no moment written {form} ({error})"
        raise UserError(f"{said}; say how it is, such as {name}=date:%m/%d/%y, or give another role") from None
    parts = {part: sorted(set(found[part].tolist()) - {-1}) for part in PARTS}
    parts = {part: known for part, known in parts.items() if len(known) > 1}
    return Calendar(name=name, parts=parts, format=argument) if parts else SAME


def _numbers(name: str, values: pa.ChunkedArray, bounded: bool) -> Numbers | str:
    numbers = values.cast(pa.float64(), safe=False).to_numpy()
    known = numbers[np.isfinite(numbers)]
    gaps = len(known) < len(numbers)
    if not len(known) or (known.min() == known.max() and not gaps):
        return SAME
    low, high = known.min(), known.max()
    if bounded:
        inner = np.quantile(known, QUANTILES, method="nearest")
        low, high = inner if inner[0] < inner[1] else (low, high)
    return Numbers(name=name, low=low, high=high, gaps=gaps, bounded=bounded)


def _one_hot(name: str, values: pa.ChunkedArray) -> Category | str:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
    known = sorted(set(values.unique().drop_null().to_pylist()))  # 0.0 and -0.0 are one
    return Category(name=name, values=known) if len(known) + (values.null_count > 0) > 1 and known else SAME


def _vocabulary(name: str, texts: pa.ChunkedArray, least_count: int, size: int | None) -> Vocabulary:
    """The values that come often enough, the most frequent first."""
    found = texts.drop_null().value_counts()
    counts, values = np.asarray(found.field("counts")), found.field("values")
    kept = np.flatnonzero(counts >= least_count)
    names = values.take(kept).to_pylist()
    order = sorted(range(len(names)), key=lambda place: (-counts[kept[place]], names[place]))
    enough = texts.null_count >= least_count
    known = [names[place] for place in order]
    return Vocabulary(name=name, values=known, missing=enough, dimension=size or dimension(max(2, len(known))))
