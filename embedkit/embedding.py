"""embed: every row of a dataset becomes a vector, part by part.

A vectors artifact holds `vectors-00000.parquet` and on: `id` (int64) and `vector` (fixed-size list of float32), in the
dataset's row order; rows that can't be embedded lie in `set_aside.parquet`, `id` and `reason`. Each part depends on its rows,
the encoder and the settings alone, so that a part that is made again has the same bytes, wherever it is made. A row that the
encoder learned from with its label gets, where the encoder has folds (`crossfit`), the vector of a network that didn't see it.
"""

import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, PositiveInt

from embedkit import engines, frameworks, progress
from embedkit.artifacts import Artifact, Dataset, EncoderArtifact, Vectors
from embedkit.begun import Begun
from embedkit.crossfit import NONE, Known
from embedkit.datasets import read_rows
from embedkit.encoders import Encoder, encoder_folder
from embedkit.engines import EngineName, Precision, Way
from embedkit.feeding import Part, Supply, embedded
from embedkit.pipelines import TableFeed
from embedkit.rows import RowReader
from embedkit.settings import Settings, UserError, listed
from embedkit.stages import Draft, Facts, stage
from embedkit.vectors import Earlier, file_of, read_vectors, write_vectors

log = logging.getLogger(__name__)
MOSTLY = 0.5
"""Share of rows with an unknown value above which a note says so."""
PLAIN = Way("keras", "float32")
LEAST_ROWS = 1000
"""A dataset with fewer is embedded the plain way, without measuring."""
LEAST_SECONDS = 60
"""A job that is done in less the plain way isn't worth measuring others for."""
SAMPLE_ROWS, SAMPLE_BATCHES = 256, 8
"""What engines are measured on: rows of the first part, and batches of them."""
SET_ASIDE = "set_aside.parquet"


class Where(Settings):
    """Which rows are embedded."""

    split: Literal["train", "validation", "test"] | None = None
    """Those of one split; by default all."""
    from_id: int | None = None
    """Those with this id or a higher one."""
    to_id: int | None = None
    """Those with this id or a lower one."""


class Embed(Settings):
    """How rows become vectors."""

    engine: EngineName = "auto"
    """What runs the network. `auto` measures what there is on the dataset's own rows where a job takes longer than a minute, takes
    the fastest whose vectors agree with the encoder's canaries, and records what it measured; a short job runs in Keras."""
    precision: Precision = "auto"
    """Number type of the sums of products; `auto` is float32, or bfloat16 (on a graphics card float16 too) where that is faster and
    the vectors agree. int8 (OpenVINO) is taken only when asked for: its vectors differ."""
    rows_per_part: PositiveInt = 8192
    """Rows in one part: the unit of work that is retried and sent to other machines. A call that resumes another begins where that
    was some twenty seconds before its end, within a part too."""
    where: Where = Where()
    """Which rows, by split and id."""
    limit: PositiveInt | None = None
    """The first so many of these rows; by default all."""
    max_set_aside: float = Field(default=0.01, ge=0, le=1)
    """Share of rows that may be set aside because they can't be embedded; more of them stop the job."""


def called(names: dict[str, str], settings: Settings) -> str:
    """The name of what is made of a dataset and an encoder."""
    own = names["encoder"].startswith(names["dataset"] + "-")  # learned from this dataset, and named after it already
    name = names["encoder"] if own else f"{names['dataset']}-{names['encoder']}"
    if not isinstance(settings, Embed):
        return name
    where = settings.where
    ends = {"from": where.from_id, "to": where.to_id, "first": settings.limit}
    return "-".join([name, *filter(None, [where.split]), *(f"{side}-{end}" for side, end in ends.items() if end is not None)])


class Job(BaseModel):
    """All that a part is made from, as references that any process on any machine with the same root can open."""

    dataset: str
    encoder: str
    previous: str | None
    root: str
    draft: str
    settings: Embed
    way: Way
    total: int

    def rows(self, number: int) -> int:
        """Rows of a part."""
        return min(self.settings.rows_per_part, self.total - number * self.settings.rows_per_part)


Crew = Callable[[Job, list[int], Callable[[int], None]], Generator[int]]
Made = tuple[int, dict[str, Any]]
_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)


@contextlib.contextmanager
def crew(work: Crew) -> Iterator[None]:
    """Let others make the parts of `embed` inside the block.

    Args:
        work: makes the parts with these numbers, each by `make_parts` in whatever process, and calls the last argument with how
            many rows are done; yields the number of each part when it is there.
    """
    token = _crew.set(work)
    try:
        yield
    finally:
        _crew.reset(token)


@stage("vectors", revision=2, name=called, keras=True)
def embed(
    out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Embed = Embed(), *, previous: Vectors | None = None
) -> Facts:
    """Turn every row of a dataset into a vector.

    Args:
        dataset: images, texts or a table.
        encoder: an encoder for that kind of rows, or a fine-tuned classifier.
        previous: vectors of an earlier state of the dataset by the same encoder: rows with the same content keep theirs.
    """
    encoder_folder(encoder)
    modality, kind = encoder.detail("modality", str), dataset.manifest.kind
    if modality != kind:
        raise UserError(f"{encoder} embeds {modality}, but {dataset} holds {kind}; give it an encoder for {kind}")
    work = Work(dataset, Encoder.open(encoder), settings, previous)
    way = out.decide("engine", lambda: choose_way(work, settings, out.work))
    base = str(dataset.root)
    job = Job(
        dataset=str(dataset),
        encoder=str(encoder),
        previous=str(previous) if previous else None,
        root=base,
        draft=str(out.folder),
        settings=settings,
        way=Way(way["engine"], way["precision"]),
        total=len(work.places),
    )
    parts = [out.finished(file_of(number)) for number in range(work.parts)]
    pending = [number for number, part in enumerate(parts) if part is None]
    start, total = time.monotonic(), len(work.places)
    judge = _Judge(total, settings.max_set_aside)
    for part in parts:
        judge.see(part)
    with progress.bar(total, "rows") as advance:
        advance(total - sum(len(work.of(number)) for number in pending))
        hands = _crew.get()
        if not hands:
            work.use(job.way, out.work)
        made = _by_crew(out, hands(job, pending, advance)) if hands else _made(out, work, pending, advance)
        with contextlib.closing(made):  # whatever stops us stops its threads, or workers
            for number, part in made:
                parts[number] = part
                judge.see(part)
    there = [part for part in parts if part]
    assert len(there) == work.parts
    here, seconds = sum(len(work.of(number)) for number in pending), time.monotonic() - start
    return _facts(out, work, there, way, here / seconds)


class Work:
    """A job with its dataset and encoder open: which rows there are, and the parts they make."""

    def __init__(self, dataset: Artifact, encoder: Encoder, settings: Embed, previous: Artifact | None):
        self.encoder, self.settings, self.reader = encoder, settings, RowReader(dataset)
        self.places = _places(dataset, len(self.reader), settings)
        self.parts = -(-len(self.places) // settings.rows_per_part)
        if previous and ("int8" in (previous.manifest.details.get("precision"), settings.precision)):
            raise UserError(f"{previous} can't be mixed with int8 vectors, which differ from others; leave out previous")
        found = Earlier(previous, encoder).of if previous else None
        self.supply, self.way = Supply(encoder, self._read, found), PLAIN

    def of(self, number: int) -> Any:
        """The places of a part's rows."""
        return self.places[number * self.settings.rows_per_part : (number + 1) * self.settings.rows_per_part]

    def _read(self, number: int) -> tuple[pa.Table, Known]:
        places = np.asarray(self.of(number))
        return self.reader.contents(places), self.reader.known(places)

    def sample(self) -> list[Any]:
        """A few batches of its own rows."""
        batches = self.supply.sample(SAMPLE_ROWS)
        return batches[:: -(-len(batches) // SAMPLE_BATCHES)] if batches else []

    def use(self, way: Way, folder: Path) -> None:
        """Run the encoder in this way from here on, if its canaries agree here and now."""
        if way in (PLAIN, self.way):
            return
        sample = self.sample() if way.precision == "int8" else []
        engine = engines.build(self.encoder.model, way, sample=sample, folder=folder)
        lowest, least = self.encoder.agreement(run=engine.run), engines.least_agreement(way.precision)
        if not lowest >= least:
            raise UserError(
                f"{self.encoder.name} in {way.engine} {way.precision}, with which this job began, gives other vectors here "
                f"(agreement {lowest:.6f}, at least {least} is needed); go on where it began, or take other settings"
            )
        self.encoder.use(engine)


def _places(dataset: Artifact, rows: int, settings: Embed) -> Any:
    """The places of the rows that are to be embedded, ascending."""
    where, places = settings.where, range(rows)
    if where != Where():
        columns = read_rows(dataset, ["id", "split"])
        ids, chosen = columns["id"].to_numpy(), np.ones(rows, bool)
        if where.split is not None:
            chosen &= columns["split"].to_numpy(zero_copy_only=False) == where.split
        if where.from_id is not None:
            chosen &= ids >= where.from_id
        if where.to_id is not None:
            chosen &= ids <= where.to_id
        places = np.flatnonzero(chosen)
    places = places[: settings.limit]
    if not len(places):
        wanted = ", ".join(f"{name} {value}" for name, value in where.model_dump(exclude_none=True).items())
        raise UserError(f"{dataset} has no row with {wanted}; see its splits and ids in rows.parquet, or ask for others")
    return places


def choose_way(work: Work, settings: Embed, folder: Path) -> dict[str, Any]:
    """Which engine runs the work from here on, and what was measured of others.

    Args:
        work: what is to be embedded.
        settings: what may be chosen.
        folder: where an int8 network is kept.
    """
    options = engines.ways(settings.engine, settings.precision)
    plain: dict[str, Any] = {"engine": PLAIN.engine, "precision": PLAIN.precision}
    if options == [PLAIN]:
        return plain
    if PLAIN in options and len(work.places) < LEAST_ROWS:
        return plain | {"why": f"fewer than {LEAST_ROWS:,} rows"}
    sample = work.sample()
    if not sample:
        first = options[0]
        return {"engine": first.engine, "precision": first.precision, "why": "no row of the first part can be embedded"}
    if len(options) > 1:
        total, rows = len(work.places), sum(map(engines.count, sample))
        log.info("engine: timing the network on %s of %s rows", f"{rows:,}", f"{total:,}")
        first, once = (_seconds(work.encoder, sample) for _ in range(2))  # a first call also traces
        seconds = once / rows * total
        if PLAIN in options and seconds < LEAST_SECONDS:
            log.info("engine: keras float32, %s", _how_long(total, seconds))
            return plain | {"why": f"done in less than {LEAST_SECONDS} s"}
        names = listed(f"{way.engine} {way.precision}" for way in options)
        longest = len(options) * (first + engines.ROUNDS * max(engines.SECONDS, once) + 2 * once)
        words = "engine: with keras float32 %s; measuring %s, which takes about %.0f s"
        log.info(words, _how_long(total, seconds), names, longest)
    found, engine = engines.choose(
        work.encoder.model, options, sample, lambda engine: work.encoder.agreement(run=engine.run), folder
    )
    work.encoder.use(engine)
    work.way = Way(engine.name, engine.precision)
    rate = max(line.get("rows_per_second", 0.0) for line in found["measured"])
    if rate:
        total = len(work.places)
        log.info("engine: %s %s is the fastest, %s", engine.name, engine.precision, _how_long(total, total / rate))
    return found


def _seconds(encoder: Encoder, sample: list[Any]) -> float:
    start = time.perf_counter()
    list(map(encoder.forward, sample))
    return time.perf_counter() - start


def _how_long(rows: int, seconds: float) -> str:
    """So many rows in so long, in words."""
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{rows:,} rows in about {took}"


def make_parts(job: Job, numbers: Sequence[int], advance: Callable[[int], None] = lambda _: None) -> None:
    """Make parts of a job in this process; one that is finished is left as it is.

    Raises:
        UserError: when the job is over, as for a worker that was given up.
    """
    if not Path(job.draft).is_dir():
        raise UserError(f"{job.draft} is gone, so what it was the draft of is published or was removed; make the same call again")
    out, work = Draft(Path(job.draft)), _opened(job.model_dump_json())
    for _ in _made(out, work, [number for number in numbers if out.finished(file_of(number)) is None], advance):
        pass


_opening = threading.Lock()


def _opened(job: str) -> Work:
    with _opening:  # two threads would open it twice
        return _open(job)


@functools.lru_cache(maxsize=1)
def _open(text: str) -> Work:
    job = Job.model_validate_json(text)
    frameworks.start_keras(0)
    dataset, encoder = Artifact.open(job.dataset, job.root), Artifact.open(job.encoder, job.root)
    previous = Artifact.open(job.previous, job.root) if job.previous else None
    work = Work(dataset, Encoder.open(encoder), job.settings, previous)
    work.use(job.way, Draft(Path(job.draft)).work)
    return work


def _made(out: Draft, work: Work, numbers: Sequence[int], advance: Callable[[int], None]) -> Generator[Made]:
    """Make parts; yields the number of each, and what there is to say of it, when it is there."""
    begun = Begun(out.work / "begun", f"{work.way.engine} {work.way.precision}")
    with contextlib.closing(embedded(work.supply, numbers, advance, begun)) as parts:
        for part in parts:
            facts = out.part(file_of(part.number), lambda path, part=part: _written(path, part, work.encoder))
            begun.forget(part.number)
            yield part.number, facts


def _by_crew(out: Draft, numbers: Generator[int]) -> Generator[Made]:
    """The same of parts that others made, after their checksums matched."""
    with contextlib.closing(numbers):
        for number in numbers:
            if (part := out.finished(file_of(number))) is None:
                raise UserError(f"part {number} was made but isn't in {out.folder}; all workers need the same root")
            yield number, part


def _written(path: Any, part: Part, encoder: Encoder) -> dict[str, Any]:
    """Write a part; what there is to say of it."""
    start = time.perf_counter()
    ids, vectors, set_aside = part.rows()
    write_vectors(path, ids, vectors)
    part.spent("write", start)
    facts = {
        "rows": len(ids),
        "set_aside": set_aside,
        "equal": int((part.times - 1).clip(0).sum()),
        "kept": len(part.found),
        "seconds": {phase: round(seconds, 4) for phase, seconds in sorted(part.seconds.items())},
    }
    if isinstance(encoder.feed, TableFeed) and encoder.feed.all.embedded:
        facts |= {"unknown": dict(part.unknown), "out_of_fold": int((encoder.folds_of(part.known) != NONE).sum())}
    return facts


class _Judge:
    """Stops a job when more than a share of its rows was set aside; not while few of all `total` rows are done."""

    def __init__(self, total: int, share: float):
        self.total, self.share = total, share
        self.rows, self.aside = 0, []

    def see(self, part: dict[str, Any] | None) -> None:
        """Count a part that is there."""
        if part is None:
            return
        self.aside += part["set_aside"]
        self.rows += part["rows"] + len(part["set_aside"])
        if len(self.aside) > self.share * self.rows and self.rows >= min(self.total, LEAST_ROWS):
            row, reason = self.aside[0]
            raise UserError(
                f"{len(self.aside):,} of {self.rows:,} rows can't be embedded, more than {self.share:.0%}: row {row}: {reason}; "
                "look at such rows, check the encoder's weights, or raise max_set_aside"
            )


def _facts(out: Draft, work: Work, parts: list[dict[str, Any]], way: dict[str, Any], rate: float) -> Facts:
    aside = [line for part in parts for line in part["set_aside"]]
    rows, notes = sum(part["rows"] for part in parts), []
    if aside:
        ids, reasons = zip(*aside, strict=True)
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), "reason": pa.array(reasons)}), out / SET_ASIDE)
        notes.append(f"{len(aside):,} rows have no vector and lie in {SET_ASIDE}; the first is row {ids[0]}: {reasons[0]}")
    facts = work.encoder.facts
    phases = sorted({phase for part in parts for phase in part["seconds"]})
    details: dict[str, Any] = {"encoder": facts.identity, "modality": facts.modality, "dimension": facts.dimension}
    details |= {"normalised": facts.normalised, "parts": len(parts), "engine": way["engine"], "precision": way["precision"]}
    details |= {"set_aside": len(aside), "equal_rows": sum(part["equal"] for part in parts)}
    details |= {"kept_rows": sum(part["kept"] for part in parts)}
    if any("unknown" in part for part in parts):
        unknown = sum((Counter(part["unknown"]) for part in parts), Counter())
        columns = {name: unknown[name] for part in parts for name in part["unknown"]}
        seen = rows - details["kept_rows"]
        notes += [
            f"{count:,} of {seen:,} rows have a value of {name!r} that the encoder hardly saw; "
            "they share the vector of unknown ones"
            for name, count in columns.items()
            if count > MOSTLY * seen
        ]
        details |= {"unknown": columns, "out_of_fold": sum(part["out_of_fold"] for part in parts)}
    timings: dict[str, float] = {phase: round(sum(part["seconds"].get(phase, 0.0) for part in parts), 3) for phase in phases}
    if rate:
        timings["rows_per_second"] = round(rate, 1)
    return Facts(rows=rows, details=details, notes=notes, timings=timings)


def vectors_of_all(dataset: Artifact, encoder: Artifact) -> np.ndarray:
    """The vectors of all rows of a dataset, embedded or found; (rows, dimension) float32, in row order.

    Raises:
        UserError: when a row has none.
    """
    made = embed(dataset, encoder)
    if aside := made.detail("set_aside", int):
        raise UserError(f"{aside:,} rows of {dataset} have no vector, but all are needed; take out those in {SET_ASIDE} of {made}")
    return read_vectors(made)[1]
