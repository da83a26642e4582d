"""Many rows on many workers: the parts of `embed` as tasks, on threads, processes or Dask's workers.

Workers share nothing but the root. Each opens the encoder once, and writes its parts into the draft that the stage, which waits
for them, publishes. A worker that dies costs the parts it was making.
"""

import contextlib
import functools
import multiprocessing
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import PositiveInt

import embedkit
from embedkit.artifacts import Artifact
from embedkit.embedding import Embed, Job, crew, make_parts
from embedkit.engines import CORES
from embedkit.settings import Settings, UserError
from flows.stages import StageFlow
from flows.steps import step

IN_VAIN = 3
"""Times in a row that workers may die, with no part finished in between, before the job stops."""


class Workers(Settings):
    """Who makes the parts."""

    runner: Literal["processes", "threads", "dask"] = "processes"
    """Processes or threads on this machine, or workers of Dask (`pip install 'embedkit[dask]'`), which may be on many."""
    count: PositiveInt = 1
    """How many; of a Dask scheduler that is there already, how many parts at a time."""
    cores: PositiveInt | None = None
    """Cores for each process; by default this machine's, shared evenly. Threads share all."""
    address: str | None = None
    """Of a Dask scheduler, such as tcp://10.0.0.5:8786; by default workers are started on this machine."""


def _worth_another_try(task: Any, run: Any, state: Any) -> bool:
    """Whether a part is worth another try: not where the user has to mend something."""
    return not isinstance(state.result(raise_on_failure=False), UserError)


@task(
    task_run_name="part-{number:05d}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_worth_another_try,
)
def make_part(number: int, job: dict[str, Any], cores: int | None) -> int:
    """Make one part of a job; its number comes back, never a vector."""
    _end_with_parent()
    if cores and "tensorflow" not in sys.modules:  # a fresh process, whose libraries read these when they start
        for name in (CORES, "TF_NUM_INTRAOP_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, str(cores))
    make_parts(Job.model_validate(job), [number])
    return number


@functools.cache
def _end_with_parent() -> None:
    """Let a worker's process end when the one that started it does, however that dies; once for a process."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), name="embedkit-parent", daemon=True).start()


def _runner(workers: Workers) -> TaskRunner[Any]:
    if workers.address and workers.runner != "dask":
        raise UserError(f"address is of a Dask scheduler, but runner is {workers.runner}; set runner to dask, or leave it out")
    if workers.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=workers.count)
    if workers.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=workers.count)
    try:
        from prefect_dask.task_runners import DaskTaskRunner  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError("dask is not installed; run `pip install 'embedkit[dask]'`, or take another runner") from error
    if workers.address:
        return DaskTaskRunner(address=workers.address)
    return DaskTaskRunner(cluster_kwargs={"n_workers": workers.count, "threads_per_worker": 1, "dashboard_address": None})


def _work(workers: Workers, job: Job, pending: list[int], advance: Callable[[int], None]) -> Generator[int]:
    """Have parts made; yields the number of each when it is there."""
    left, total, in_vain = deque(pending), len(pending), 0
    if not pending:
        return
    shown: Any = create_progress_artifact(0.0, key="parts", description=f"{total:,} parts")
    while left:
        with _runner(workers) as pool:
            try:
                for number in _finished(pool, workers, job, left):
                    in_vain = 0
                    advance(job.rows(number))
                    yield number
                    update_progress_artifact(shown, round(100 * (1 - len(left) / total), 1))
            except BrokenExecutor as error:
                in_vain += 1
                if in_vain == IN_VAIN:
                    raise UserError(
                        f"workers died {IN_VAIN} times while making parts {sorted(left)[:5]}, perhaps for want of memory; "
                        "take fewer workers, or smaller parts (rows_per_part)"
                    ) from error


def _finished(pool: TaskRunner[Any], workers: Workers, job: Job, left: deque[int]) -> Iterator[int]:
    """Hand parts out, two for each worker at a time; yields those that are done and takes them off `left`."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting, alive = deque(left), {}
    cores = workers.cores or max(1, (os.cpu_count() or 1) // workers.count)
    given = {"job": job.model_dump(mode="json"), "cores": None if workers.runner == "threads" else cores}
    while waiting or alive:
        while waiting and len(alive) < 2 * workers.count:
            number = waiting.popleft()
            future = pool.submit(make_part, {"number": number, **given})
            alive[future.task_run_id] = future, number
            future.add_done_callback(done.put)
        future, number = alive.pop(done.get().task_run_id)
        future.result()  # raises what stopped it
        left.remove(number)
        yield number


def body(
    dataset: str,
    encoder: str,
    settings: Embed = Embed(),
    workers: Workers = Workers(),
    previous: str | None = None,
    name: str | None = None,
    root: str | None = None,
) -> Artifact:
    """Turn every row of a dataset into a vector, by several workers.

    Args:
        dataset: images, texts or a table.
        encoder: an encoder for that kind of rows, or a fine-tuned classifier.
        settings: how rows become vectors.
        workers: who makes the parts.
        previous: vectors of an earlier state of the dataset by the same encoder: rows with the same content keep theirs.
        name: name of the artifact, for people; by default one made of the inputs' names.
        root: where artifacts lie; all workers need it under the same path.
    """
    in_flow = FlowRunContext.get() is not None  # without one there are no tasks, and the stage makes the parts itself
    with crew(functools.partial(_work, workers)) if in_flow else contextlib.nullcontext():
        return step(embedkit.embed)(dataset, encoder, settings, previous=previous, name=name, root=root)


batch_embed = StageFlow(body, name="batch-embed", persist_result=False)
