"""Many rows on many workers: the parts of `embed` as tasks, on threads, processes, or workers of Dask or Ray.

Workers share nothing but the root. Each opens the encoder once, and writes its parts into the draft that the stage, which waits
for them, publishes. A worker that dies costs the parts it was making. Where the root is an address (`s3://`, `gs://`), each machine
works on its own copies, and what is decided, finished and published lies there too.
"""

import atexit
import contextlib
import functools
import importlib
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import PositiveInt

import embedkit
from embedkit import progress
from embedkit.artifacts import Artifact, is_address
from embedkit.embedding import Embed, Job, crew, make_parts
from embedkit.engines import CORES
from embedkit.remote import Remote
from embedkit.settings import Settings, UserError
from embedkit.stages import Draft, draft_name
from embedkit.vectors import file_of
from flows import borders
from flows.lifetime import end_with_pool
from flows.server import same_server, settings_of_this_run
from flows.steps import artifact_flow, step

IN_VAIN = 3
"""Times in a row that workers may die, with no part finished in between, before the job stops."""


class Workers(Settings):
    """Who makes the parts."""

    runner: Literal["processes", "threads", "dask", "ray"] = "processes"
    """Processes or threads on this machine, workers of Dask (`pip install 'embedkit[dask]'`), here or on many, or those of a
    Ray that runs already (`[ray]`)."""
    count: PositiveInt = 1
    """How many; on a cluster that is there already, how many parts at a time."""
    cores: PositiveInt | None = None
    """Cores for each process; by default this machine's, shared evenly. Threads share all."""
    address: str | None = None
    """Of a cluster: a Dask scheduler, such as tcp://10.0.0.5:8786, or Ray's, such as ray://10.0.0.5:10001; by default workers of
    Dask are started on this machine, on loopback and behind a certificate."""


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
def make_part(number: int, job: dict[str, Any], cores: int | None, address: str | None = None) -> int:
    """Make one part of a job; its number comes back, never a vector."""
    if cores and "tensorflow" not in sys.modules:  # a fresh process, whose libraries read these when they start
        for name in (CORES, "TF_NUM_INTRAOP_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, str(cores))
    if address:
        _make_remote_part(number, Job.model_validate(job), Remote(address))
    else:
        make_parts(Job.model_validate(job), [number])
    return number


def _make_remote_part(number: int, job: Job, remote: Remote) -> None:
    """Make a part from this machine's copies of what it is made from, and send it to the root."""
    id, name = Path(job.draft).name, file_of(number)
    if remote.has_part(id, name):  # sent by a worker that died before it said so
        return
    with _copying:  # of workers that are threads one copies
        here = _copied(job.model_dump_json(), remote.address)
    make_parts(here, [number])
    draft = Draft(Path(here.draft))
    remote.send_part(id, draft, name)
    draft.receipt(name).unlink()
    (draft / name).unlink()


_copying = threading.Lock()


@functools.lru_cache(maxsize=1)
def _copied(text: str, address: str) -> Job:
    """A job as this machine's copies make it, in a draft of this process's own."""
    job, remote = Job.model_validate_json(text), Remote(address)
    fetch_inputs(remote, job.dataset, job.encoder, job.previous)
    folder = tempfile.mkdtemp(prefix="embedkit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    remote.fetch_work(Path(job.draft).name, Path(folder))
    return job.model_copy(update={"root": str(remote.root), "draft": folder})


def fetch_inputs(remote: Remote, dataset: str, encoder: str, previous: str | None) -> list[Artifact]:
    """This machine's copies of what vectors are made from, in the order given."""
    found = [remote.fetch(reference) for reference in (dataset, encoder, *([previous] if previous else []))]
    if previous:  # whose rows are known by their content
        remote.fetch(next(given.ref for given in found[-1].manifest.inputs if given.role == "dataset"))
    return found


def _runner(workers: Workers) -> TaskRunner[Any]:
    if workers.address and workers.runner not in CLUSTERS:
        raise UserError(f"address is of a cluster, but runner is {workers.runner}; set runner to dask or ray, or leave it out")
    if workers.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=workers.count)
    if workers.runner == "processes":
        return ProcessPoolTaskRunner(
            max_workers=workers.count, initializer=end_with_pool, subprocess_message_processor_factories=[settings_of_this_run()]
        )
    if workers.runner == "ray" and not workers.address:
        raise UserError(
            "no Ray is started here, since one listens on every network of this machine; give the address of one that runs, such "
            "as ray://10.0.0.5:10001, or take processes or dask"
        )
    module, name = CLUSTERS[workers.runner]
    try:
        runner = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        advice = f"run `pip install 'embedkit[{workers.runner}]'`, or take another runner"
        raise UserError(f"{workers.runner} is not installed; {advice}") from error
    if workers.address:
        return runner(address=workers.address)
    # On loopback, and only for who has the certificate that is made for it: whoever can talk to a scheduler can run code.
    own = {"host": "127.0.0.1", "n_workers": workers.count, "threads_per_worker": 1, "dashboard_address": None, "security": True}
    return runner(cluster_kwargs=own)


CLUSTERS = {"dask": ("prefect_dask.task_runners", "DaskTaskRunner"), "ray": ("prefect_ray.task_runners", "RayTaskRunner")}
"""Where Prefect's runners for clusters are."""


def _work(workers: Workers, remote: Remote | None, job: Job, pending: list[int], advance: Callable[[int], None]) -> Generator[int]:
    """Have parts made; yields the number of each when it is there."""
    left, in_vain, done, total, start = deque(pending), 0, 0, sum(map(job.rows, pending)), time.monotonic()
    if not pending:
        return
    if remote:
        remote.send_work(Path(job.draft).name)
    shown: Any = create_progress_artifact(0.0, key="parts", description=f"{total:,} rows in {len(pending):,} parts")
    while left:
        with _runner(workers) as pool:
            try:
                for number in _finished(pool, workers, remote, job, left):
                    in_vain = 0
                    if remote:
                        remote.fetch_part(Path(job.draft).name, file_of(number))
                    advance(job.rows(number))
                    yield number
                    done += job.rows(number)
                    words = progress.so_far(done, total, "rows", time.monotonic() - start)
                    update_progress_artifact(shown, round(100 * done / total, 1), description=words)
            except BrokenExecutor as error:
                in_vain += 1
                if in_vain == IN_VAIN:
                    raise UserError(
                        f"workers died {IN_VAIN} times while making parts {sorted(left)[:5]}, perhaps for want of memory; "
                        "take fewer workers, or smaller parts (rows_per_part)"
                    ) from error


def _finished(pool: TaskRunner[Any], workers: Workers, remote: Remote | None, job: Job, left: deque[int]) -> Iterator[int]:
    """Hand parts out, two for each worker at a time; yields those that are done and takes them off `left`."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting, alive = deque(left), {}
    cores = workers.cores or max(1, (os.cpu_count() or 1) // workers.count)
    given = {"job": job.model_dump(mode="json"), "cores": None if workers.runner == "threads" else cores}
    given |= {"address": remote.address if remote else None}
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


@artifact_flow
def batch_embed(
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
        root: where artifacts lie: a folder that all workers have under the same path, or an address such as s3://bucket/folder,
            from and to which everything is copied.
    """
    in_flow = FlowRunContext.get() is not None  # without one there are no tasks, and the stage makes the parts itself
    if in_flow and root:
        borders.check(root)
    remote = Remote(root) if root and is_address(root) else None
    if remote:
        inputs = map(str, fetch_inputs(remote, dataset, encoder, previous))
        dataset, encoder, previous, root = next(inputs), next(inputs), next(inputs, None), str(remote.root)
        fingerprint = embedkit.embed.fingerprint(dataset, encoder, settings, previous=previous, root=root)
        if not remote.fetch_made("vectors", fingerprint):
            remote.fetch_draft(draft_name(fingerprint))
    with contextlib.ExitStack() as stack:
        if in_flow:
            stack.enter_context(same_server())
            stack.enter_context(crew(functools.partial(_work, workers, remote)))
        artifact = step(embedkit.embed)(dataset, encoder, settings, previous=previous, name=name, root=root)
    if remote:
        remote.send(artifact)
        remote.forget_draft(draft_name(artifact.manifest.fingerprint))
    return artifact
