"""`embedkit ui`: every flow, served on a Prefect server of our own, or on the one that PREFECT_API_URL names.

For work pools instead of one machine: `prefect deploy flows.stages:embed -n NAME -p POOL`, and `prefect worker start --pool POOL`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedkit.artifacts import default_root
from embedkit.settings import UserError
from flows import borders
from flows.lifetime import CHILD_OF
from flows.server import Server, answers, serving

LAST_SECONDS = 20
"""How long runs have to stop when their server has died; then they are ended."""


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
    signal.signal(signal.SIGTERM, _interrupt)
    died = threading.Event()
    with _server(port, died) as opens:
        from prefect import serve
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
            serve(*deployments, limit=1, print_starting_message=False)
        finally:
            del os.environ[CHILD_OF]
            if died.is_set():
                raise UserError("the Prefect server has ended, and the runs with it; start it and them again: they go on")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _server(port: int, died: threading.Event) -> Iterator[str]:
    """The server that is wanted, for as long as the block lasts; what to open in a browser."""
    if named := os.environ.get("PREFECT_API_URL"):
        if not answers(named):
            raise UserError(f"no Prefect server answers at {named} (PREFECT_API_URL); start it, or unset that to start one here")
        warn_if_open(named)
        yield named.removesuffix("/api")
        return
    print("starting a Prefect server", file=sys.stderr)
    with serving(port) as server:
        os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server.api, server.secret
        stopped = threading.Event()
        threading.Thread(target=_watch, args=(server, stopped, died), name="embedkit-server", daemon=True).start()
        try:
            yield server.door
        finally:
            stopped.set()
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]


def warn_if_open(api: str) -> None:
    """Say that a server takes orders from everybody, where it does."""
    if answers(api, "admin/version"):
        print(
            f"the server at {api} asks for no password: whoever reaches it, web pages included, can run commands here; give it "
            "PREFECT_SERVER_API_AUTH_STRING, or unset PREFECT_API_URL to start one that is closed",
            file=sys.stderr,
        )


def _watch(server: Server, stopped: threading.Event, died: threading.Event) -> None:
    """Stop serving when the server has ended by itself."""
    server.process.wait()
    if not stopped.is_set():
        died.set()
        os.kill(os.getpid(), signal.SIGINT)
        if not stopped.wait(LAST_SECONDS):
            print("embedkit: the Prefect server has ended, and the runs with it", file=sys.stderr)
            os._exit(1)
