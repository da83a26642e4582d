"""build_index and search: vectors become an index, a query becomes its nearest rows.

Vectors are brought to length 1 before they are indexed, so that scores are cosines, from -1 to 1, whatever the encoder.
Ids are the dataset's own, stored in the index, so that no row number can shift.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from embedkit import frameworks, indexfile, metrics
from embedkit.artifacts import Artifact, Vectors
from embedkit.datasets import fetch, read_rows
from embedkit.encoders import Encoder
from embedkit.environment import memory_bytes
from embedkit.settings import Settings, UserError
from embedkit.stages import Draft, Facts, stage
from embedkit.vectors import identity_of, read_vectors

MOST_QUERIES = 1000
MOST_NEIGHBOURS = 1_000_000
RECALL_AT = 10
TIE = 1e-5
"""Difference of two scores, for vectors of length 1, that float32 may make of one."""


class BuildIndex(Settings):
    """How vectors are indexed."""

    method: Literal["exact", "hnsw"] = "exact"
    """Compare with every vector, or walk a graph of neighbours (HNSW; Malkov and Yashunin 2016, arXiv:1603.09320)."""
    links: Annotated[int, Field(ge=2, le=indexfile.MOST_LINKS)] = 32
    """HNSW: neighbours kept per row; more finds more and takes more memory (8 bytes a link and row)."""
    effort_building: Annotated[int, Field(ge=1, le=indexfile.MOST_EFFORT)] = 200
    """HNSW: candidates looked at when a row is added."""
    effort_searching: Annotated[int, Field(ge=1, le=indexfile.MOST_EFFORT)] = 128
    """HNSW: candidates looked at in a search; more finds more and is slower."""


class Search(Settings):
    """How an index is asked."""

    k: Annotated[int, Field(ge=1, le=MOST_NEIGHBOURS)] = 10
    """How many neighbours to give for each query."""


class Neighbour(BaseModel):
    """A row that was found: its id, its cosine to the query, and its text, its path or its values."""

    id: int
    score: float
    content: str


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, those of length 0 left as they are; (rows, dimension) float32."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


@stage("index", revision=1, name="{vectors}", keras=True)
def build_index(out: Draft, vectors: Vectors, settings: BuildIndex = BuildIndex()) -> Facts:
    """Index vectors for nearest-neighbour search by cosine, and measure how many true neighbours it finds.

    Args:
        vectors: the vectors of a dataset.
    """
    import faiss

    identity, dimension = identity_of(vectors), vectors.detail("dimension", int)
    if settings.method == "hnsw":
        _refuse_too_large(vectors, dimension, settings)
    ids, rows = read_vectors(vectors)
    rows = unit_length(rows)
    if settings.method == "exact":
        inner: Any = faiss.IndexFlatIP(dimension)
    else:
        inner = faiss.IndexHNSWFlat(dimension, settings.links, faiss.METRIC_INNER_PRODUCT)
        inner.hnsw.efConstruction = settings.effort_building
        inner.hnsw.efSearch = settings.effort_searching
    index = faiss.IndexIDMap2(inner)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # several threads add in a racing order, and the graph would differ from call to call
    try:
        index.add_with_ids(rows, ids)
    finally:
        faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(out / "index.faiss"))
    queries = rows[np.random.default_rng(0).permutation(len(rows))[:MOST_QUERIES]]
    found = {"recall_at_10": recall(index, rows, ids, queries)}
    details = {"encoder": identity, "modality": vectors.detail("modality", str), "dimension": dimension}
    return Facts(rows=len(ids), metrics=found, details=details | {"method": settings.method})


def _refuse_too_large(vectors: Artifact, dimension: int, settings: BuildIndex) -> None:
    """Stop before a graph is begun that memory can't hold."""
    rows = vectors.manifest.rows or 0
    needed = rows * (8 * dimension + 8 * settings.links)  # vectors here and in the index; twice as many links on the first level
    there = memory_bytes()
    if there is not None and needed > there:
        raise UserError(
            f"{rows:,} rows with {settings.links} links each take about {needed / 1e9:,.1f} GB, but this machine has "
            f"{there / 1e9:,.1f} GB of memory; take fewer links, or method exact"
        )


def recall(index: Any, rows: np.ndarray, ids: np.ndarray, queries: np.ndarray) -> metrics.Metric:
    """Share of the true nearest rows that an index finds, per query, against exact search over the same rows.

    Of rows at one distance any will do: one that scores as the last of the true ones, or better, is found.
    """
    import faiss

    k = min(RECALL_AT, len(rows))
    exact = faiss.IndexFlatIP(rows.shape[1])
    exact.add(rows)
    true, _ = exact.search(queries, k)
    _, found = index.search(queries, k)
    order = np.argsort(ids)
    places = order[np.searchsorted(ids, found, sorter=order).clip(max=len(ids) - 1)]  # (queries, k)
    scores = np.einsum("qd,qkd->qk", queries, rows[places])
    known = found == ids[places]  # where an index finds fewer, it says -1
    return metrics.mean((known & (scores >= true[:, -1:] - TIE)).mean(axis=1))


def search(
    index: Artifact | str,
    queries: Sequence[Any] | Artifact,
    settings: Search = Search(),
    *,
    encoder: Artifact | str | None = None,
    root: Path | str | None = None,
) -> list[list[Neighbour]]:
    """Find the nearest rows of an index.

    Args:
        index: the index, or a reference to it.
        queries: rows as its encoder takes them (texts, paths of pictures, or dictionaries), or a vectors artifact.
        settings: how many neighbours.
        encoder: what to encode the queries with; by default the encoder the index was built with.
        root: where artifacts lie, for references.

    Returns:
        For each query its neighbours, the nearest first.

    Raises:
        UserError: when the queries come from another encoder than the index.
    """
    index = Artifact.open(index, root)
    if index.manifest.kind != "index":
        raise UserError(f"{index} is no index; build one with `embedkit build-index VECTORS`")
    index.check()
    frameworks.load_frameworks()  # TensorFlow before faiss: the other way round crashes on some machines
    import faiss

    vectors = index.inputs["vectors"]
    made_by = vectors.inputs["encoder"]
    ours, theirs = index.detail("encoder", str), identity_of(vectors)
    if ours != theirs:
        raise UserError(
            f"{index} says it holds vectors of an encoder whose identity is {ours:.12}, but that of {vectors}, which it was built "
            f"from, is {theirs:.12}; build it again"
        )
    if index.manifest.rows != vectors.manifest.rows:
        raise UserError(f"{index} and {vectors}, which it was built from, don't have as many rows; build it again")
    if isinstance(queries, Artifact) and queries.manifest.kind != "vectors":
        raise UserError(f"{queries} can't be searched for; give vectors, or texts or paths of pictures")
    if isinstance(queries, Artifact):
        _refuse_other(index, made_by, queries, queries.manifest.details.get("encoder"))
        rows = read_vectors(queries.check())[1]
    else:
        chosen = Artifact.open(encoder, root) if encoder else made_by
        _refuse_other(index, made_by, chosen, chosen.manifest.details.get("identity"))
        rows = Encoder.open(chosen).encode(queries)
    dimension = index.detail("dimension", int)
    if rows.shape[1:] != (dimension,):
        raise UserError(f"{index} holds vectors of {dimension:,} numbers, but the queries have {rows.shape[1]:,}; build it again")
    path = index / "index.faiss"
    ids = indexfile.check(path, str(index), dimension, index.manifest.rows or 0)
    dataset = vectors.inputs["dataset"].check()
    if not np.isin(ids, read_rows(dataset, ["id"])["id"].to_numpy()).all():
        raise UserError(f"{index} has ids that no row of {dataset} has; build it again")
    found = faiss.read_index(str(path))
    scores, ids = found.search(unit_length(rows), min(settings.k, index.manifest.rows or 0))
    lines = [zip(line.tolist(), near.tolist(), strict=True) for line, near in zip(ids, scores, strict=True)]
    reached = [[(row, score) for row, score in line if row >= 0] for line in lines]  # -1 where a graph led to no further row
    kind = dataset.manifest.kind
    shown = iter([_shown(kind, content or {}) for content in fetch(dataset, [row for line in reached for row, _ in line])])
    return [[Neighbour(id=row, score=score, content=next(shown)) for row, score in line] for line in reached]


def _shown(kind: str, content: dict[str, Any]) -> str:
    """What of a row is shown: its text, the path of its picture, or its values."""
    if kind == "table":
        return ", ".join(f"{name}={value}" for name, value in content.items() if value is not None)
    return str(content.get("text") or content.get("path") or "")


def _refuse_other(index: Artifact, made_by: Artifact, came: Artifact, identity: str | None) -> None:
    ours = index.detail("encoder", str)
    if identity != ours:
        raise UserError(
            f"{index} was built from vectors of {made_by}, but {came} "
            f"{'is another encoder' if came.manifest.kind == 'encoder' else 'was made by another encoder'}; "
            f"embed the queries with {made_by}"
        )
