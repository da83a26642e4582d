"""One flow body for two worlds: inside a flow run a stage is a Prefect task, outside it is the plain stage.

Prefect's cache is off, since it doesn't look at files; the artifacts are the cache. Tasks pass references, never data, and
are called directly, because only in the flow's main thread does a cancellation reach them in time to save.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from embedkit.artifacts import Artifact
from embedkit.escaping import plain
from embedkit.reports import markdown
from embedkit.stages import Stage
from flows import borders
from flows.server import some_server


class ArtifactFlow(Flow[Any, Any]):
    """A flow that may be called with artifacts, and is recorded with their references: a run can be repeated from the UI.

    Where no Prefect server is named, one of our own runs until the process ends.
    """

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the flow."""
        with contextlib.nullcontext() if FlowRunContext.get() else some_server():
            return super().__call__(*map(reference, arguments), **{name: reference(value) for name, value in named.items()})


def artifact_flow(function: Callable[..., Any]) -> ArtifactFlow:
    """A function as a flow of its name, which a deployment finds again as the attribute of that name in the function's module."""
    return ArtifactFlow(function, name=function.__name__.replace("_", "-"), persist_result=False)


def step(stage: Stage) -> Callable[..., Artifact]:
    """The stage itself, or, inside a flow run, a task that runs it and shows its artifact in the UI."""

    def run(*arguments: Any, root: Path | str | None = None, **named: Any) -> Artifact:
        if FlowRunContext.get() is None:
            return stage(*arguments, root=root, **named)
        borders.check_call(stage, arguments, named, root)
        inputs = [value for value in (*arguments, *named.values()) if isinstance(value, Artifact)]
        base = root or (inputs[0].root if inputs else None)

        @task(name=stage.__name__, task_run_name=stage.__name__, cache_policy=NO_CACHE, persist_result=False)
        def publish(arguments: list[Any], named: dict[str, Any]) -> str:
            artifact = stage(*arguments, root=base, **named)
            key = f"{artifact.manifest.kind}-{artifact.manifest.name}".lower().replace("_", "-").replace(".", "-")
            create_markdown_artifact(markdown(artifact), key=key, description=plain(artifact))
            return str(artifact)

        return Artifact.open(publish([reference(value) for value in arguments], {k: reference(v) for k, v in named.items()}), base)

    return run


def reference(value: Any) -> Any:
    """An artifact as its reference, anything else as it is."""
    return str(value) if isinstance(value, Artifact) else value
