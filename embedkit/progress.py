"""Progress: how far a stage is, for a person at a terminal and for a log.

At a terminal a bar on stderr; otherwise a log line at INFO about every ten seconds, which nobody sees unless logging was
set up. Never on stdout.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

log = logging.getLogger(__name__)
logging.getLogger("embedkit").addHandler(logging.NullHandler())
_stage: ContextVar[str] = ContextVar("stage", default="")
LOG_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def of(stage: str) -> Iterator[None]:
    """Name the stage whose progress is shown inside the block."""
    token = _stage.set(stage)
    try:
        yield
    finally:
        _stage.reset(token)


@contextlib.contextmanager
def bar(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress towards `total` units inside the block.

    Yields:
        A function to call with how many more units are done.
    """
    stage = _stage.get() or "embedkit"
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        name, rate = TextColumn("{task.description}", markup=False), TextColumn(unit + "{task.fields[rate]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), rate)
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task(stage, total=total, rate="")

            def show(more: int) -> None:
                shown.advance(task, more)
                speed = shown.tasks[0].speed
                shown.update(task, rate=f", {speed:,.0f}/s" if speed else "")

            yield show
        return
    done, start, spoken = 0, time.monotonic(), time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, spoken
        done += more
        now = time.monotonic()
        if now - spoken >= LOG_EVERY_SECONDS:
            spoken = now
            log.info("%s: %s", stage, so_far(done, total, unit, now - start))

    yield advance


def so_far(done: int, total: int | None, unit: str, seconds: float) -> str:
    """How far something is, how fast, and how long it will take from here at that rate."""
    rate = done / seconds if seconds else 0.0
    of_total = f" of {total:,}" if total else ""
    left = f", {(total - done) / rate:,.0f} s left" if total and rate else ""
    return f"{done:,}{of_total} {unit}, {rate:.1f} a second{left}"
