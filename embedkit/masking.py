"""mask_texts: more texts to ask a teacher about, made from those that are there.

Words become the tokenizer's mask, and some texts become a piece of themselves (Tang et al. 2019, arXiv:1903.12136). What they
mean is for the teacher to say: they have no label.
"""

from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from embedkit import splits
from embedkit.artifacts import Texts
from embedkit.datasets import read_contents, read_rows
from embedkit.settings import Seeded, UserError
from embedkit.stages import Draft, Facts, stage

MASK = "[MASK]"


class MaskTexts(Seeded):
    """How texts are changed."""

    copies: PositiveInt = 5
    """Changed copies of each training text; of equal ones one is kept."""
    masked: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the words that are masked."""
    cut: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the copies that are a run of 1 to 5 words of their text instead of all of it."""


@stage("texts", revision=1, name="{texts}-masked")
def mask_texts(out: Draft, texts: Texts, settings: MaskTexts = MaskTexts()) -> Facts:
    """Make more texts of training texts, by masking words and cutting pieces out.

    Args:
        texts: of which the training rows are taken.
    """
    rows = read_rows(texts)
    train = np.flatnonzero(np.array(rows["split"].to_pylist()) == "train")
    if not len(train):
        raise UserError(f"{texts} has no training rows to change; load it again with another split")
    known = read_contents(texts, 0, len(rows))["text"].take(train).to_pylist()
    random = np.random.default_rng(settings.seed)
    made = dict.fromkeys(changed(text, settings, random) for text in known for _ in range(settings.copies))
    for text in (*known, ""):
        made.pop(text, None)
    if not made:
        raise UserError(f"no text of {texts} changed; raise masked, cut or copies")
    found = list(made)
    content = np.array([splits.hash64(text.encode()) for text in found], np.int64)
    table = {"id": splits.content_ids(content), "content": content, "position": np.arange(len(found))}
    table |= {"split": pa.DictionaryArray.from_arrays(np.zeros(len(found), np.int8), list(splits.SPLITS))}
    pq.write_table(pa.table({"text": pa.array(found, pa.string())}), out / "part-00000.parquet", compression="zstd")
    pq.write_table(pa.table(table), out / "rows.parquet", compression="zstd")
    details = {
        "parts": [len(found)],
        "splits": {name: len(found) if name == "train" else 0 for name in splits.SPLITS},
        "columns": {"text": "string"},
        "label": None,
        "copies": 0,
        "duplicates_across_splits": 0,
        "rejected": 0,
    }
    return Facts(rows=len(found), details=details)


def changed(text: str, settings: MaskTexts, random: np.random.Generator) -> str:
    """One text with words masked, or a piece of it."""
    words = text.split()
    if random.random() < settings.cut:
        length = int(random.integers(1, 6))
        first = int(random.integers(0, max(1, len(words) - length + 1)))
        words = words[first : first + length]
    return " ".join(MASK if random.random() < settings.masked else word for word in words)
