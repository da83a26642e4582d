"""`embedkit ui`: a Prefect server on loopback, unless one answers already, and every flow served on it.

For work pools instead of one machine: `prefect deploy --all --prefect-file flows/prefect.yaml`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit.settings import UserError

START_SECONDS = 120


def main(port: int, root: Path | None) -> None:
    """Serve every flow until interrupted; one run at a time, so that runs don't share an accelerator."""
    if root:
        os.environ["EMBEDKIT_ARTIFACTS"] = str(root.absolute())
    api = os.environ.setdefault("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    signal.signal(signal.SIGTERM, _interrupt)
    with _server(api, port):
        from prefect import serve
        from prefect.deployments.runner import EntrypointType  # pyright: ignore[reportPrivateImportUsage]

        from flows.batch_embed import batch_embed
        from flows.pipeline import pipeline
        from flows.stages import FLOWS

        module = EntrypointType.MODULE_PATH
        served = (pipeline, batch_embed, *FLOWS)
        deployments: list[Any] = [f.to_deployment("local", tags=["embedkit"], entrypoint_type=module) for f in served]
        print(f"serving {len(deployments)} flows; open {api.removesuffix('/api')}", file=sys.stderr)
        serve(*deployments, limit=1, print_starting_message=False)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def answers(api: str) -> bool:
    """Whether a Prefect server answers at this address."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def _server(api: str, port: int) -> Iterator[None]:
    """A server for as long as the block lasts, or the one that is running already."""
    if answers(api):
        yield
        return
    if api != f"http://127.0.0.1:{port}/api":
        raise UserError(f"no Prefect server answers at {api} (PREFECT_API_URL); start it, or unset that to start one here")
    print(f"starting a Prefect server on 127.0.0.1:{port}", file=sys.stderr)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(api):
            if server.poll() is not None:
                words = (server.stderr.read() if server.stderr else "").strip().splitlines()
                raise UserError(f"the Prefect server stopped at once ({words[-1] if words else 'no message'}); try another port")
            if time.monotonic() > deadline:
                raise UserError(f"the Prefect server didn't answer within {START_SECONDS} seconds; try again, or another port")
            time.sleep(0.5)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
