"""Feeding: rows are read, prepared, embedded and handed on side by side, in parts.

One thread reads and prepares, one for each stream of the engine embeds, the caller writes. What waits between them is bounded, so
that memory stays flat however many rows there are. Each part is a function of its rows, the encoder and the engine alone.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from embedkit.crossfit import Known
from embedkit.encoders import Encoder
from embedkit.pipelines import ImageFeed, TableFeed

PARTS_AT_ONCE = 3
"""Parts that are begun and not yet handed on."""
WAITING_BYTES = 2**26
"""Prepared batches that wait for a stream take about so much memory."""
LOOK = 0.2
"""Seconds after which a thread that waits looks whether it is to stop."""


@dataclass
class Part:
    """Some rows on their way.

    Attributes:
        number: which part.
        known: ids and content hashes of its rows.
        first: (rows,) int, which of the different rows each is; -1 where its vector was found elsewhere.
        vectors: (different rows, dimension) float32.
        folds: (different rows,) int.
        found: (rows, dimension) float32 of those whose `first` is -1, in their order.
        bad: reasons, by different row, why it has no vector.
        unknown: how many rows have a value without a vector of its own, by embedded column.
        seconds: spent on it, by phase.
    """

    number: int
    known: Known
    first: np.ndarray
    vectors: np.ndarray
    folds: np.ndarray
    found: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock, self._waiting = threading.Lock(), 1  # one for its reader, who may still add batches
        self.times = np.bincount(self.first[self.first >= 0], minlength=len(self.vectors))

    def begun(self) -> None:
        """Note that a batch will come."""
        with self._lock:
            self._waiting += 1

    def ended(self) -> bool:
        """Note that a batch, or the reading, is over; whether that was the last of it."""
        with self._lock:
            self._waiting -= 1
            return self._waiting == 0

    def spent(self, phase: str, since: float) -> float:
        """Add the seconds since a moment to a phase; the moment now."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since
        return now

    def rows(self) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        """Ids and vectors of the rows that have one, in their order, and (id, reason) of those that have none."""
        whole = np.empty((len(self.first), self.vectors.shape[1]), np.float32)
        own = self.first >= 0
        whole[own], whole[~own] = self.vectors[self.first[own]], self.found
        reasons: list[str | None] = [self.bad.get(first) for first in self.first.tolist()]
        for row in np.flatnonzero(~np.isfinite(whole).all(axis=1)).tolist():
            reasons[row] = reasons[row] or "its vector is not finite"
        kept = np.array([reason is None for reason in reasons], bool)
        ids = self.known.ids
        return ids[kept], whole[kept], [(int(ids[row]), str(reasons[row])) for row in np.flatnonzero(~kept)]


class Supply:
    """What the parts are made of.

    Args:
        encoder: what embeds.
        read: from a part's number to its contents (an Arrow table) and which rows they are.
        found: from rows to (which of them have a vector already, those vectors): (rows,) bool and (n, dimension) float32.
    """

    def __init__(
        self,
        encoder: Encoder,
        read: Callable[[int], tuple[pa.Table, Known]],
        found: Callable[[Known], tuple[np.ndarray, np.ndarray]] | None = None,
    ):
        self.encoder, self.read, self.found = encoder, read, found

    def open(self, number: int) -> tuple[Part, Any]:
        """A part, and those of its rows that are to be embedded: each content once, as the feed takes them."""
        start = time.perf_counter()
        contents, known = self.read(number)
        folds = self.encoder.folds_of(known)
        there, vectors = self.found(known) if self.found else (np.zeros(len(known.ids), bool), None)
        places = np.flatnonzero(~there)
        # Equal rows of one fold get one vector.
        keys = np.stack([known.content[places], folds[places].astype(np.int64)], axis=1)
        _, firsts, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(firsts)  # different rows in the order in which they first come
        first = np.full(len(known.ids), -1)
        first[places] = np.argsort(order)[of.reshape(-1)]
        chosen = places[firsts[order]]
        dimension = self.encoder.facts.dimension
        none = np.empty((0, dimension), np.float32)
        part = Part(
            number,
            known,
            first,
            np.full((len(chosen), dimension), np.nan, np.float32),
            folds[chosen],
            none if vectors is None else vectors,
        )
        part.spent("read", start)
        return part, self.encoder.feed.rows(contents.take(chosen))

    def sample(self, rows: int) -> list[Any]:
        """Batches, as the network takes them, of at most so many rows of the first part, whether they have vectors or not."""
        _, given = Supply(self.encoder, self.read).open(0)
        if not len(given):
            return []
        some = np.unique(np.linspace(0, len(given) - 1, rows).astype(int)).tolist()
        chosen: Any = given.take(some) if isinstance(given, pa.Table) else [given[place] for place in some]
        return [inputs for _, inputs in self._prepared(chosen, {})]

    def _prepared(self, rows: Any, bad: dict[int, str], done: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Any]]:
        """What the feed makes of rows; of pictures that can't be read `bad` takes the reasons."""
        feed, known = self.encoder.feed, () if done is None else {*np.flatnonzero(done).tolist(), *bad}
        return feed.batches(rows, bad, known) if isinstance(feed, ImageFeed) else feed.batches(rows)

    def batches(self, part: Part, rows: Any, done: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Any]]:
        """Batches of a part's different rows; (rows,) indices into them, and what the network takes.

        Args:
            part: the part.
            rows: those that `open` gave.
            done: (different rows,) bool, which have their vectors; batches of such alone are left out.
        """
        feed = self.encoder.feed
        if not len(rows):
            return
        start = time.perf_counter()
        for indices, inputs in self._prepared(rows, part.bad, done):
            if isinstance(feed, TableFeed):
                part.unknown.update(feed.unknown(inputs, part.times[indices]))
            part.spent("prepare", start)
            if done is None or not done[indices].all():
                yield indices, inputs
            start = time.perf_counter()
        part.spent("prepare", start)


class Keeping(Protocol):
    """What keeps vectors of parts that are begun (`begun`)."""

    def restore(self, part: Part) -> np.ndarray:
        """Fill in what is kept of a part; (different rows,) bool, which have their vector now."""
        ...

    def note(self, part: Part, rows: np.ndarray) -> None:
        """Take note that these of a part's different rows are embedded."""
        ...

    def save(self) -> None:
        """Keep what was noted."""
        ...


def embedded(
    supply: Supply, numbers: Sequence[int], advance: Callable[[int], None] = lambda _: None, begun: Keeping | None = None
) -> Generator[Part]:
    """Embed parts, several batches at a time.

    Args:
        supply: what they are made of.
        numbers: which parts.
        advance: called with how many more rows are done, by any thread.
        begun: keeps what is done of a part, for a call that resumes this one.

    Yields:
        Each part when all its batches are embedded, in whatever order that happens.
    """
    line = _Line(supply, numbers, advance, begun)
    threads = [threading.Thread(target=line.read, name="embedkit-read", daemon=True)]
    threads += [threading.Thread(target=line.embed, name="embedkit-embed", daemon=True) for _ in range(line.streams)]
    for thread in threads:
        thread.start()
    try:
        for _ in numbers:
            part = line.finished.get()
            if isinstance(part, BaseException):
                raise part
            yield part
            line.room.release()
    finally:
        line.stopped.set()
        for thread in threads:
            thread.join()
        if begun:
            begun.save()


class _Line:
    """What the threads of `embedded` share."""

    def __init__(self, supply: Supply, numbers: Sequence[int], advance: Callable[[int], None], begun: Keeping | None):
        self.supply, self.numbers, self.advance, self.begun = supply, numbers, advance, begun
        self.streams = supply.encoder.streams
        self.batches: queue.Queue[tuple[Part, np.ndarray, Any] | None] = queue.Queue(2 * self.streams)
        self.finished: queue.SimpleQueue[Part | BaseException] = queue.SimpleQueue()
        self.room, self.stopped = threading.Semaphore(PARTS_AT_ONCE), threading.Event()

    def read(self) -> None:
        """Read and prepare all parts, for the streams; the body of one thread."""
        try:
            for number in self.numbers:
                while not self.room.acquire(timeout=LOOK):
                    if self.stopped.is_set():
                        return
                part, rows = self.supply.open(number)
                done = self.begun.restore(part) if self.begun else np.zeros(len(part.vectors), bool)
                self.advance(int((part.first < 0).sum() + part.times[done].sum()))
                for indices, inputs in self.supply.batches(part, rows, done):
                    part.begun()
                    size = sum(each.nbytes for each in (inputs.values() if isinstance(inputs, dict) else [inputs]))
                    self.batches.maxsize = max(2 * self.streams, WAITING_BYTES // max(1, size))
                    if not self._put((part, indices, inputs)):
                        return
                self.advance(int(part.times[[*part.bad]].sum()))
                if part.ended():
                    self.finished.put(part)
            for _ in range(self.streams):
                self._put(None)
        except BaseException as error:  # whatever it is, the caller's thread is to raise it
            self.finished.put(error)

    def _put(self, item: tuple[Part, np.ndarray, Any] | None) -> bool:
        while not self.stopped.is_set():
            try:
                self.batches.put(item, timeout=LOOK)
                return True
            except queue.Full:
                continue
        return False

    def embed(self) -> None:
        """Embed one batch after the other; the body of a stream's thread."""
        try:
            start = time.perf_counter()
            while not self.stopped.is_set():
                try:
                    item = self.batches.get(timeout=LOOK)
                except queue.Empty:
                    continue
                if item is None:
                    return
                part, indices, inputs = item
                start = part.spent("wait", start)
                part.vectors[indices] = self.supply.encoder.embedded(inputs, part.folds[indices])
                start = part.spent("forward", start)
                if self.begun:
                    self.begun.note(part, indices)
                self.advance(int(part.times[indices].sum()))
                if part.ended():
                    self.finished.put(part)
        except BaseException as error:  # as above
            self.finished.put(error)
