"""embed: every row of a dataset becomes a vector, part by part.

A vectors artifact holds `vectors-00000.parquet` and on: `id` (int64) and `vector` (fixed-size list of float32), in the
dataset's row order. Each part depends on its rows, the encoder and the settings alone, so that a part that is made again
has the same bytes. A row that the encoder learned from with its label gets, where the encoder has folds (`crossfit`), the
vector of a network that didn't see it.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveInt

from embedkit import progress
from embedkit.artifacts import Artifact, Dataset, EncoderArtifact
from embedkit.crossfit import NONE, Known
from embedkit.datasets import read_contents, read_rows
from embedkit.encoders import Encoder, encoder_folder
from embedkit.engines import Precision
from embedkit.pipelines import TableFeed
from embedkit.settings import Settings, UserError
from embedkit.stages import Draft, Facts, stage

MOSTLY = 0.5
"""Share of rows with an unknown value above which a note says so."""


class Embed(Settings):
    """How rows become vectors."""

    precision: Precision = "auto"
    """Number type of the forward pass; float32 is the only one so far, and what `auto` comes to."""
    rows_per_part: PositiveInt = 8192
    """Rows in one part: the unit of work that is retried, resumed and sent to other machines."""


def called(names: dict[str, str], settings: Settings) -> str:
    """The name of what is made of a dataset and an encoder."""
    own = names["encoder"].startswith(names["dataset"] + "-")  # learned from this dataset, and named after it already
    return names["encoder"] if own else f"{names['dataset']}-{names['encoder']}"


@stage("vectors", revision=1, name=called, keras=True)
def embed(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Embed = Embed()) -> Facts:
    """Turn every row of a dataset into a vector.

    Args:
        dataset: images, texts or a table.
        encoder: an encoder for that kind of rows, or a fine-tuned classifier.
    """
    encoder_folder(encoder)
    modality, kind = encoder.manifest.details["modality"], dataset.manifest.kind
    if modality != kind:
        raise UserError(f"{encoder} embeds {modality}, but {dataset} holds {kind}; give it an encoder for {kind}")
    out.decide("precision", lambda: "float32" if settings.precision == "auto" else settings.precision)
    loaded = Encoder.open(encoder)
    known = Known.of(read_rows(dataset, ["id", "content"]))
    ids = known.ids
    starts, parts = range(0, len(ids), settings.rows_per_part), []
    with progress.bar(len(ids), "rows") as advance:
        for number, start in enumerate(starts):
            stop = min(start + settings.rows_per_part, len(ids))

            def write(path: Any, start: int = start, stop: int = stop) -> dict[str, Any]:
                rows = loaded.feed.rows(read_contents(dataset, start, stop))
                these = known.take(slice(start, stop))
                write_vectors(path, these.ids, loaded.encode(rows, these))
                return _noted(loaded, rows, these)

            parts.append(out.part(f"vectors-{number:05d}.parquet", write))
            advance(stop - start)
    facts = loaded.facts
    details = {"encoder": facts.identity, "modality": modality, "dimension": facts.dimension, "normalised": facts.normalised}
    more, notes = _said(parts, len(ids))
    return Facts(rows=len(ids), details=details | {"parts": len(starts)} | more, notes=notes)


def _noted(loaded: Encoder, rows: Any, known: Known) -> dict[str, Any]:
    """Of rows of a table with embedded columns: values without a vector of their own, and rows that were learned from."""
    if not isinstance(loaded.feed, TableFeed) or not loaded.feed.all.embedded:
        return {}
    unknown = Counter()
    for _, inputs in loaded.feed.batches(rows):
        unknown.update(loaded.feed.unknown(inputs))
    out_of_fold = int((loaded.folds.of(known) != NONE).sum()) if loaded.folds else 0
    return {"unknown": dict(unknown), "out_of_fold": out_of_fold}


def _said(parts: list[dict[str, Any]], rows: int) -> tuple[dict[str, Any], list[str]]:
    """What the parts noted, together, and what of it a user should know."""
    if not any(parts):
        return {}, []
    unknown = sum((Counter(part["unknown"]) for part in parts), Counter())
    columns = {name: unknown[name] for part in parts for name in part["unknown"]}
    notes = [
        f"{count:,} of {rows:,} rows have a value of {name!r} that the encoder hardly saw; they share the vector of unknown ones"
        for name, count in columns.items()
        if count > MOSTLY * rows
    ]
    return {"unknown": columns, "out_of_fold": sum(part["out_of_fold"] for part in parts)}, notes


def write_vectors(path: Any, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Write one part.

    Args:
        path: where to.
        ids: (rows,) int64.
        vectors: (rows, dimension) float32.

    Raises:
        UserError: when a vector is not finite, naming its row.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(f"the vector of row {ids[broken[0]]} is not finite; look at that row, or check the encoder's weights")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    # Vectors don't compress, and dictionaries of floats only cost time.
    pq.write_table(pa.table({"id": ids, "vector": column}), path, compression="none", use_dictionary=False)


def read_vectors(vectors: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """All vectors of an artifact.

    Returns:
        (rows,) int64 ids and (rows, dimension) float32, in the dataset's row order.
    """
    ids, found = [], []
    for number in range(vectors.manifest.details["parts"]):
        table = pq.read_table(vectors / f"vectors-{number:05d}.parquet")
        ids.append(table["id"].to_numpy())
        found.append(table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1))
    return np.concatenate(ids), np.concatenate(found)
