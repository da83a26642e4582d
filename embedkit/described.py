"""A reader of exports that goes by `preprocessing.json` alone, as somebody who has no embedkit would write it.

It shares no code with what encoders feed their networks, so that a description which is false, or leaves something out, shows
before an export is published: the network then gives other vectors or predictions than the artifact itself.
"""

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROWS_AT_ONCE = 16
Said = dict[str, Any]
"""What `preprocessing.json` says."""
Inputs = dict[str, np.ndarray]


def outputs(folder: Path, run: Callable[[Inputs], np.ndarray], rows: list[Any]) -> np.ndarray:
    """What an exported network gives for rows, prepared as the files beside it say.

    Args:
        folder: of the export.
        run: from named arrays to the output of the network in there.
        rows: texts, (height, width, 3) uint8 pictures, or a dictionary of a value by each column's name.

    Returns:
        (rows, ...) float64.
    """
    said = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
    found = [np.asarray(run(inputs), np.float64) for inputs in prepared(said, folder, rows)]
    return np.concatenate(found)


def prepared(said: Said, folder: Path, rows: list[Any]) -> Iterator[Inputs]:
    """Rows as a network takes them, a few at a time and in their order."""
    prepare = {"texts": _texts, "images": _pictures, "table": _table}[said["modality"]]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        given = prepare(said, folder, rows[start : start + ROWS_AT_ONCE])
        yield {name: np.asarray(given[name]).astype(one["type"]) for name, one in said["inputs"].items()}


def _texts(said: Said, folder: Path, texts: list[str]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    side = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(said["maximal_length"], direction=side)
    texts = [said["prompt"] + text for text in texts]
    ids = [tokenizer.encode(text.lower() if said["lower"] else text).ids for text in texts]
    longest = max(map(len, ids))
    return {
        "token_ids": [one + [said["padding"]] * (longest - len(one)) for one in ids],
        "padding_mask": [[1] * len(one) + [0] * (longest - len(one)) for one in ids],
        "segment_ids": np.zeros((len(ids), longest)),
    }


def _pictures(said: Said, folder: Path, pictures: list[np.ndarray]) -> dict[str, Any]:
    from PIL import Image

    size = (said["width"], said["height"])
    return {"pixels": [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in pictures]}


def _table(said: Said, folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {name: np.full((len(rows), one["shape"][1]), np.nan) for name, one in said["inputs"].items()}
    for column in said["columns"]:
        numbers = _COLUMNS[column["kind"]]
        for place, row in enumerate(rows):
            found[column["input"]][place, column["at"]] = numbers(said, column, row[column["name"]])
    return found


def _numbers(said: Said, column: Said, value: float | None) -> list[float]:
    missing = value is None or not math.isfinite(value)
    x = 0.0 if value is None or missing or not column["half"] else (value - column["center"]) / column["half"]
    if column["bounded"]:
        beyond = 0.9 * max(abs(x) - 1, 0)
        x = math.copysign(0.9 * min(abs(x), 1) + (0.1 * beyond / (0.1 + beyond) if beyond < math.inf else 0.1), x)
    return [x, float(missing)] if column["gaps"] else [x]


def _category(said: Said, column: Said, value: Any) -> list[float]:
    return [float(as_text(value) == one) for one in column["values"]]


def _calendar(said: Said, column: Said, value: Any) -> list[float]:
    parts = _parts(value, column["format"])
    return [float(parts.get(part) == one) for part, values in column["parts"].items() for one in values]


def _parts(value: Any, format: str | None) -> dict[str, int]:
    if value is None:
        return {}
    moment = datetime.strptime(str(value), format) if format else datetime.fromisoformat(str(value))
    moment = moment.astimezone(UTC) if moment.tzinfo else moment
    own = {name: getattr(moment, name) for name in ("year", "month", "day", "hour")}
    return own | {"weekday": moment.weekday()}


def _embedded(said: Said, column: Said, value: Any) -> list[int]:
    text, known = as_text(value), said["vocabularies"][column["vocabulary"]]["values"]
    if text is None:
        return [column["missing"]]
    return [said["first"] + known.index(text) if text in known else said["unknown"]]


_COLUMNS: dict[str, Callable[[Said, Said, Any], list[Any]]] = {
    "numbers": _numbers,
    "category": _category,
    "calendar": _calendar,
    "embedded": _embedded,
}


def as_text(value: Any) -> str | None:
    """A value as the text that stands among `values`; None for a missing one."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 2**53:
        return str(int(value))
    if 1e-6 <= abs(value) < 1e10:
        return np.format_float_positional(value, trim="-")
    return np.format_float_scientific(value, trim="-", exp_digits=1)
