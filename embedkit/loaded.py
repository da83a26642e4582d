"""What a load says of what it read: what each column was taken for, which values were lost, and how the splits differ."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit import columns, declarations, splits
from embedkit.labels import Labels
from embedkit.settings import listed, short


def lost_values(parts: list[dict], taken: dict[str, columns.Column]) -> list[str]:
    """What to say of values that aren't of the type which was declared."""
    notes = []
    for name, one in taken.items():
        found = [part["lost"][name] for part in parts if name in part.get("lost", {})]
        if found:
            count, kind = sum(values for values, _ in found), declarations.WORDS[one.type]
            what = "value is" if count == 1 else "values are"
            notes.append(f"column {name!r}: {count:,} {what} no {kind} and taken as missing, such as {short(found[0][1])!r}")
    return notes


def roles(
    settings: Any,
    kind: str,
    seen: list[str],
    label_column: str | None,
    schema: pa.Schema,
    label: str | None,
    content: str | None,
    taken: dict[str, columns.Column],
) -> dict[str, str]:
    """What each column of the source was taken for, and why."""
    neutral = settings.neutral
    given = {settings.key_column: "key", settings.split_column: "split"}
    given |= {settings.group_column: "group", settings.time_column: "time", neutral.column: "neutral"}
    given |= {neutral.votes_column: "votes", neutral.confidence_column: "confidence"}
    found = {}
    for name in dict.fromkeys([*seen, *taken]):
        said = [given[name]] if name in given else []
        if name == label_column and label:
            said.append(label)
        if name in taken:
            said.append(f"{declarations.WORDS[taken[name].type]} ({taken[name].why})")
        elif name == content:
            said.append(kind.removesuffix("s"))
        found[name] = ", ".join(said) or ("kept as it is" if name in schema.names else "passed over")
    return found


def unlike_splits(found: Labels, final: np.ndarray) -> list[str]:
    """What to say where the labels of one split are not those of another.

    Args:
        found: the labels.
        final: (rows,) int8, indices into SPLITS.
    """
    named, learned = found.array.to_pylist(), final == 0
    has = np.array([value is not None for value in named])
    notes = []
    for number, split in enumerate(splits.SPLITS):
        if (final == number).any() and not has[final == number].any() and has.any():
            notes.append(f"no {split} row has a label")
    if found.kind == "number":
        return notes

    def classes(row: int) -> list[str]:
        value = named[row]
        return value if isinstance(value, list) else [value]

    known = {name for row in np.flatnonzero(learned & has).tolist() for name in classes(row)}
    for number, split in enumerate(splits.SPLITS):
        rows = np.flatnonzero((final == number) & has).tolist() if number and known else []
        counts = Counter(name for row in rows for name in classes(row) if name not in known)
        if counts:
            strange = sum(any(name not in known for name in classes(row)) for row in rows)
            what = listed(f"{name!r} ({count:,})" for name, count in counts.most_common())
            notes.append(f"{strange:,} of {len(rows):,} {split} rows are of a class that no training row has: {what}")
    return notes
