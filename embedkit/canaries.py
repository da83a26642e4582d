"""Canaries: a few dozen fixed inputs that are stored with an encoder beside the vectors they had when it was made.

Whoever loads the encoder embeds some of them again. When they moved (another library version, another processor, a
damaged file), the encoder refuses to go on instead of returning wrong vectors silently. Those of a table are made up from
what its columns take, so that no row of the data lies in an encoder.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import weights
from embedkit.features import Columns

LEAST_AGREEMENT = 0.9999
CHECKED_ON_LOADING = 8

TEXTS = (
    "A quiet film about an old man and the sea.",
    "it 's a charming and often affecting journey .",
    "How far is it from Denver to Aspen ?",
    "My card was declined twice, what should I do?",
    "Wall St. bears claw back into the black as oil falls below $48.50 a barrel.",
    "def mean(values): return sum(values) / len(values)",
    "The quick brown fox jumps over the lazy dog",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "Naïve café owners in Zürich don't résumé façades.",
    "Der Fuchs springt über den faulen Hund.",
    "Il pleut sur la ville, et je n'ai pas de parapluie.",
    "素早い茶色の狐が怠け者の犬を飛び越える。",
    "Быстрая лиса прыгает через ленивую собаку.",
    "الثعلب البني السريع",
    "🦊 jumps over 🐶!!! #fox @dog",
    "3.14159265358979 2,718,281 1e-9 0x7fff 50%",
    "no punctuation at all in this rather ordinary line of words",
    "?",
    "a",
    "yes yes yes yes yes yes yes yes yes yes",
    "https://example.org/a/b?c=d&e=f#g",
    "line one\nline two\ttabbed",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "She said: \"I'd rather not.\" (And she didn't.)",
    "word " * 40,
    "Vectors that were equal yesterday should be equal tomorrow. " * 12,
    "one two three four five six seven eight nine ten " * 60,
    "The patient presented with acute chest pain radiating to the left arm.",
    "Section 12(b) shall survive the termination of this Agreement.",
    "E = mc²; ∑ xᵢ ≤ ∞",
    "not good at all",
    "not bad at all",
)


def pictures() -> np.ndarray:
    """(24, 48, 64, 3) uint8: flat colours, gradients, stripes, noise, blobs; small, and resized like any picture."""
    height, width = 48, 64
    rows, columns = np.mgrid[0:height, 0:width]
    random = np.random.Generator(np.random.PCG64(7))
    found = [np.full((height, width, 3), level) for level in (0, 128, 255)]
    found += [np.broadcast_to(np.eye(3)[channel] * 255, (height, width, 3)) for channel in range(3)]
    ramps = (rows / (height - 1), columns / (width - 1), (rows + columns) / (height + width - 2))
    found += [np.repeat(ramp[..., None] * 255, 3, axis=2) for ramp in ramps]
    found += [np.stack([rows * 5, columns * 4, 255 - rows * 5], axis=2), np.stack([columns * 4, rows * 5, columns * 2], axis=2)]
    found += [np.repeat(((rows // n + columns // n) % 2)[..., None] * 255, 3, axis=2) for n in (2, 4, 8, 16)]
    for _ in range(9):
        y, x, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(6, 24)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))
        found.append(blob[..., None] * random.uniform(40, 255, 3) + random.uniform(0, 40, (height, width, 3)))
    return np.stack(found).clip(0, 255).astype(np.uint8)


def table_rows(columns: Columns) -> list[dict[str, Any]]:
    """32 rows: numbers within their ranges and as far again outside, words that are known and not, and an eighth missing."""
    random = np.random.Generator(np.random.PCG64(7))
    drawn = random.random((32, len(columns.columns), 2)).tolist()
    return [
        {
            column.name: None if chance < 1 / 8 else columns.example(column, place)
            for column, (chance, place) in zip(columns.columns, line, strict=True)
        }
        for line in drawn
    ]


def inputs(modality: str, preprocessing: str | None = None) -> Sequence[Any]:
    """The canaries of a modality, as rows that its encoders take; for tables those that fit the text of `columns.json`."""
    if modality == "table":
        return table_rows(Columns.model_validate_json(preprocessing or ""))
    return list(TEXTS) if modality == "texts" else list(pictures())


def save(path: Path, modality: str, vectors: np.ndarray, preprocessing: str | None = None) -> None:
    """Write canaries and their vectors; text is stored as fixed-width Unicode, so that nothing needs unpickling."""
    rows = inputs(modality, preprocessing)
    stored: Any = {"rows": np.array([json.dumps(row) for row in rows])} if modality == "table" else {"inputs": np.array(rows)}
    np.savez(path, **stored, vectors=vectors.astype(np.float32))


def load(path: Path) -> tuple[list[Any], np.ndarray]:
    """The stored inputs, as rows, and their vectors.

    Raises:
        UserError: when there are none, or too few, or they aren't rows and finite vectors; a check of nothing is none.
    """
    with weights.foreign(f"{path} holds no canaries that could be checked", "make its artifact again"):
        with zipfile.ZipFile(path) as packed:
            if any(member.compress_type != zipfile.ZIP_STORED for member in packed.infolist()):
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as stored:
            vectors, table = stored["vectors"], "rows" in stored.files
            given = stored["rows" if table else "inputs"]
            rows: list[Any] = given.tolist() if given.dtype.kind == "U" else [*given]
            rows = [json.loads(row) for row in rows] if table else rows
        if vectors.ndim != 2 or len(rows) != len(vectors) or len(rows) < CHECKED_ON_LOADING:
            raise ValueError(f"{len(rows)} rows, vectors of shape {vectors.shape}, but at least {CHECKED_ON_LOADING} are needed")
        if vectors.dtype != np.float32 or not np.isfinite(vectors).all():
            raise ValueError("its vectors are not finite numbers")
        if not all(isinstance(row, str | dict) or _is_picture(row) for row in rows):
            raise ValueError("its rows are neither texts, pictures nor rows of a table")
    return rows, vectors


def _is_picture(row: Any) -> bool:
    return isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.shape[2:] == (3,)


def agreement(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How well vectors agree with their references: the cosine for vectors of length 1, and for others a like measure.

    It is 1 - |a - b|² / (2 |b|²), so that a changed length counts too, which the cosine would not see.

    Args:
        vectors: (rows, dimension) float.
        reference: (rows, dimension) float.

    Returns:
        (rows,) float64, 1 where equal.
    """
    squared = np.square(np.float64(vectors) - np.float64(reference)).sum(axis=1)
    length = np.square(np.float64(reference)).sum(axis=1)
    return np.where(squared == 0, 1.0, 1 - squared / np.maximum(2 * length, 1e-12))
