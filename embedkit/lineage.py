"""Lineage: what an exported network learned from travels with it, and comes back when it is imported.

An export holds `learned.parquet` (id and content hash of every row that the artifact, or anything it was made from, learned
from), `learned_near.parquet` (sketches by which near copies of them are known) and `lineage.json`: how many rows they are, which
imported networks are among its ancestors of which nobody knows, and the checksums of all files beside it. A ledger that lies
beside other files than it was written with is not believed: then nobody knows what the network learned from.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from embedkit.artifacts import Artifact, checksum
from embedkit.leaks import LEDGER, ledgers, record_sketches, unrecorded
from embedkit.settings import listed
from embedkit.sources import Source
from embedkit.stages import Draft, write_json

ROWS, NEAR, SAID = "learned.parquet", "learned_near.parquet", "lineage.json"
WEIGHTS = (".safetensors", ".bin", ".h5", ".keras", ".npz")
"""Files that may hold a network, which an export's own ledger has to know."""


class Lineage(BaseModel):
    """What `lineage.json` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    rows: NonNegativeInt
    unrecorded: list[str]
    files: dict[str, str]


def export_lineage(out: Draft, artifact: Artifact) -> None:
    """Write beside an export what the artifact learned from, once all other files are there.

    Args:
        out: the draft of the export.
        artifact: what is exported.
    """
    rows, sketches = ledgers(artifact)
    pq.write_table(rows, out / ROWS, compression="zstd")
    if sketches is not None:
        pq.write_table(pa.table({"sketch": sketches}), out / NEAR, compression="zstd")
    files = {path.relative_to(out.files).as_posix(): checksum(path) for path in sorted(out.files.rglob("*")) if path.is_file()}
    name = f"{artifact.manifest.kind}/{artifact.manifest.name}"  # without its version, which is the time when it was made
    said = Lineage(artifact=name, rows=len(rows), unrecorded=unrecorded(artifact), files=files)
    write_json(out / SAID, said.model_dump())


def import_lineage(out: Draft, source: Source) -> tuple[dict[str, Any], list[str]]:
    """Write the ledger of a network that comes from an export, where it is one.

    Args:
        out: the draft of the encoder.
        source: where the network comes from.

    Returns:
        What the manifest's details say of it, nothing where no ledger is believed; and what should be said.
    """
    if source.scheme != "path" or not (source.path / SAID).is_file():
        return {}, []
    try:
        said, rows, sketches = _read(source)
    except (ValueError, OSError, KeyError, pa.ArrowException) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        return {}, [f"what it learned from is unknown: {SAID} of the export is not believed ({reason:.200})"]
    found: dict[str, Any] = {"unrecorded": said.unrecorded} if said.unrecorded else {}
    if len(rows) or not said.unrecorded:
        found |= {"fitted": len(rows)}
        pq.write_table(rows, out / LEDGER, compression="zstd")
        if sketches is not None:
            record_sketches(out, sketches)
    return found, []


def _read(source: Source) -> tuple[Lineage, pa.Table, pa.ChunkedArray | None]:
    """An export's ledger.

    Raises:
        ValueError: with the reason, where it is not the one that was written with the other files.
    """
    said = Lineage.model_validate_json(source.read(source.path / SAID))
    there = {path.relative_to(source.path).as_posix(): path for path in source.files()}
    for name, expected in said.files.items():
        if name not in there:
            raise ValueError(f"{name} is missing")
        if checksum(there[name]) != expected:
            raise ValueError(f"{name} is not as it was exported")
    if foreign := [name for name in there if name not in said.files and name.endswith(WEIGHTS)]:
        raise ValueError(f"it doesn't know {listed(foreign)}")
    if ROWS not in said.files:
        raise ValueError(f"it doesn't know {ROWS}")
    rows = pq.read_table(io.BytesIO(source.read(there[ROWS])))
    if rows.schema != pa.schema({"id": pa.int64(), "content": pa.int64()}) or len(rows) != said.rows:
        raise ValueError(f"{ROWS} doesn't hold {said.rows:,} ids and content hashes")
    sketches = pq.read_table(io.BytesIO(source.read(there[NEAR])))["sketch"] if NEAR in said.files else None
    return said, rows, sketches
