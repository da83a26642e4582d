"""Labels: one class, several classes, or a number; what a label column holds is decided once all of it was seen.

Classes are strings, sorted (as numbers where all of them are numbers), so that the same labels have the same order
everywhere. A row without a label has none: it is left out of supervised training, never made a class.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit.settings import UserError

MOST_WHOLE_NUMBERS = 100


def written(value: Any, settings: Any) -> str | None:
    """A raw label as JSON text, None where it means "no label"."""
    if _missing(value) or {str(value), _name(value)} & set(settings.unlabelled):
        return None
    if isinstance(value, str) and settings.label_separator:
        value = [part.strip() for part in value.split(settings.label_separator) if part.strip()]
    if isinstance(value, list):
        value = [part for part in value if not _missing(part)]
    return json.dumps(value, default=str, ensure_ascii=False)


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


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
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def decide(raw: list[str | None], settings: Any) -> Labels:
    """What the labels of a whole dataset are.

    Args:
        raw: JSON texts as `written` makes them, one a row.
        settings: `label_type` says what they are; `auto` looks.

    Raises:
        UserError: when numbers were asked for and a label is none.
    """
    distinct = {text: json.loads(text) for text in dict.fromkeys(raw) if text is not None}
    kind = settings.label_type if settings.label_type != "auto" else _kind(distinct)
    if kind == "number":
        wrong = [value for value in distinct.values() if _number(value) is None]
        if wrong:
            raise UserError(f"the label {wrong[0]!r} is no number; set label_type to class, or name it in unlabelled")
        numbers = {text: float(value) for text, value in distinct.items()}
        return Labels(kind, pa.array([None if text is None else numbers[text] for text in raw], pa.float64()))
    if kind == "classes":
        lists = {text: [_name(v) for v in (value if isinstance(value, list) else [value])] for text, value in distinct.items()}
        return Labels(kind, pa.array([None if text is None else lists[text] for text in raw], pa.list_(pa.string())))
    names = {text: _name(value) for text, value in distinct.items()}
    return Labels(kind, pa.array([None if text is None else names[text] for text in raw], pa.string()))


def _kind(distinct: dict[str, Any]) -> str:
    if any(isinstance(value, list) for value in distinct.values()):
        return "classes"
    numbers = [_number(value) for value in distinct.values() if not isinstance(value, bool)]
    if len(numbers) < len(distinct) or None in numbers:
        return "class"
    whole = all(number == int(number) for number in numbers if number is not None)
    return "class" if whole and len(numbers) <= MOST_WHOLE_NUMBERS else "number"


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
