"""One flow body for two worlds: inside a flow run a stage is a Prefect task, outside it is the plain stage.

Prefect's cache is off, since it doesn't look at files; the artifacts are the cache. Tasks pass references, never data, and
are called directly, because only in the flow's main thread does a cancellation reach them in time to save.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from embedkit.artifacts import Artifact
from embedkit.reports import markdown
from embedkit.stages import Stage


def step(stage: Stage) -> Callable[..., Artifact]:
    """The stage itself, or, inside a flow run, a task that runs it and shows its artifact in the UI."""

    def run(*arguments: Any, root: Path | str | None = None, **named: Any) -> Artifact:
        if FlowRunContext.get() is None:
            return stage(*arguments, root=root, **named)
        inputs = [value for value in (*arguments, *named.values()) if isinstance(value, Artifact)]
        base = root or (inputs[0].root if inputs else None)

        @task(name=stage.__name__, task_run_name=stage.__name__, cache_policy=NO_CACHE, persist_result=False)
        def publish(arguments: list[Any], named: dict[str, Any]) -> str:
            artifact = stage(*arguments, root=base, **named)
            key = f"{artifact.manifest.kind}-{artifact.manifest.name}".lower().replace("_", "-").replace(".", "-")
            create_markdown_artifact(markdown(artifact), key=key, description=str(artifact))
            return str(artifact)

        return Artifact.open(publish([reference(value) for value in arguments], {k: reference(v) for k, v in named.items()}), base)

    return run


def reference(value: Any) -> Any:
    """An artifact as its reference, anything else as it is."""
    return str(value) if isinstance(value, Artifact) else value
