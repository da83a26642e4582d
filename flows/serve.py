"""`embedkit ui`: every flow, served on a Prefect server of our own, or on the one that PREFECT_API_URL names.

For work pools instead of one machine: `prefect deploy flows.stages:embed -n NAME -p POOL`, and `prefect worker start --pool POOL`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from embedkit import stopping, terminal
from embedkit.artifacts import default_root
from embedkit.settings import UserError
from flows import borders
from flows.lifetime import CHILD_OF
from flows.server import answers, serving

LAST_SECONDS = 20
"""How long runs have to stop when their server has died; then they are ended."""
ENDED = "the Prefect server has ended, and the runs with it; start it and them again: they go on"


def main(port: int, root: Path | None, allow: Sequence[str] = ()) -> None:
    """Serve every flow until interrupted; one run at a time, so that runs don't share an accelerator.

    Args:
        port: of our own server, on loopback.
        root: where artifacts lie; by default $EMBEDKIT_ARTIFACTS, or artifacts/ in the working directory.
        allow: folders, and beginnings of addresses, that runs may use beside the root; by default the working directory.
    """
    if root:
        os.environ["EMBEDKIT_ARTIFACTS"] = str(root.absolute())
    default_root().mkdir(parents=True, exist_ok=True)
    allowed = borders.allow([default_root(), *(allow or [Path.cwd()])])
    with _server(port) as (opens, alive):
        from prefect.deployments.runner import EntrypointType  # pyright: ignore[reportPrivateImportUsage]

        from flows.batch_embed import batch_embed
        from flows.pipeline import pipeline
        from flows.stages import FLOWS

        module = EntrypointType.MODULE_PATH
        served = (pipeline, batch_embed, *FLOWS)
        deployments: list[Any] = [f.to_deployment("local", tags=["embedkit"], entrypoint_type=module) for f in served]
        print(f"serving {len(deployments)} flows, which may use {', '.join(allowed)}; open {opens}", file=sys.stderr)
        os.environ[CHILD_OF] = str(os.getpid())
        try:
            asyncio.run(_serve(deployments, alive))
        except KeyboardInterrupt:
            pass  # which is how serving ends
        except Exception:
            if not stopping.came:  # a library made another error of the signal
                raise
        finally:
            del os.environ[CHILD_OF]


async def _serve(deployments: Sequence[Any], alive: Callable[[], bool]) -> None:
    """Run what the server orders until a signal comes; a server that has ended by itself is an error, not an interruption."""
    from prefect.runner import Runner

    runner = Runner(limit=1)
    watching = asyncio.create_task(_watch(alive, asyncio.current_task()))
    try:
        for deployment in deployments:
            await runner.aadd_deployment(deployment)
        await runner.start()
    finally:
        watching.cancel()
        if not alive():
            raise UserError(ENDED)


async def _watch(alive: Callable[[], bool], serving: "asyncio.Task[None] | None") -> None:
    """Stop serving when the server has ended by itself; no signal is sent for that, since it would be taken for the user's."""
    while alive():
        await asyncio.sleep(1)
    if serving:
        serving.cancel()
    await asyncio.sleep(LAST_SECONDS)
    terminal.tell(f"embedkit: {ENDED}")
    os._exit(1)  # with which the runs end


@contextlib.contextmanager
def _server(port: int) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The server that is wanted, for as long as the block lasts: what to open in a browser, and whether it runs, if it is ours."""
    if named := os.environ.get("PREFECT_API_URL"):
        if not answers(named):
            raise UserError(f"no Prefect server answers at {named} (PREFECT_API_URL); start it, or unset that to start one here")
        warn_if_open(named)
        yield named.removesuffix("/api"), lambda: True
        return
    print("starting a Prefect server", file=sys.stderr)
    with serving(port) as server:
        os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server.api, server.secret
        try:
            yield server.door, lambda: server.process.poll() is None
        finally:
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]


def warn_if_open(api: str) -> None:
    """Say that a server takes orders from everybody, where it does."""
    if answers(api, "admin/version"):
        print(
            f"the server at {api} asks for no password: whoever reaches it, web pages included, can run commands here; give it "
            "PREFECT_SERVER_API_AUTH_STRING, or unset PREFECT_API_URL to start one that is closed",
            file=sys.stderr,
        )
