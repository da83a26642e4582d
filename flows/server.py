"""A Prefect server of our own: on loopback, behind a secret, for as long as the process that started it lives.

Prefect's server by itself answers every page and every user of the machine, and whoever may change a deployment there can run
commands. Ours takes requests to its own address alone, so that no page reaches it under a name of the page's choosing; from its own
pages alone; and with a secret alone, which is made anew at each start. It listens on a socket that its parent has bound, so that
nobody else can be the one who answers there.
"""

import atexit
import base64
import contextlib
import html
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from embedkit.settings import UserError
from flows.lifetime import end_with

HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 20
DOOR = "/embedkit"
"""The page that hands the secret to a browser: it stands behind the `#` of its address, which no browser sends anywhere."""
STORED = "prefect-password"
"""Where the pages of Prefect's UI look for the secret, in base64, in the storage that a browser keeps for each origin."""
OPEN = f"""<!doctype html><meta charset="utf-8"><title>embedkit</title>
<p>This page opens with the address that <code>embedkit ui</code> printed, its last part included.</p>
<script>
const secret = location.hash.slice(1);
if (secret) {{ localStorage.setItem("{STORED}", secret); location.replace("/"); }}
</script>
"""
HEADERS = [(b"x-frame-options", b"DENY"), (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Server:
    """A server that runs: its process, its port and its secret, which stands in no text that is made of this."""

    process: subprocess.Popen[bytes]
    port: int
    secret: str = field(repr=False)

    @property
    def api(self) -> str:
        """Address of its API."""
        return f"http://{HOST}:{self.port}/api"

    @property
    def door(self) -> str:
        """Address that opens its pages in a browser; it holds the secret."""
        return f"http://{HOST}:{self.port}{DOOR}#{base64.b64encode(self.secret.encode()).decode()}"


@contextlib.contextmanager
def serving(port: int = 0, pages: bool = True) -> Iterator[Server]:
    """A server for as long as the block lasts.

    Args:
        port: on loopback; 0 takes one that is free.
        pages: whether it shows Prefect's UI, beside its API.

    Raises:
        UserError: when the port is taken, or the server doesn't start.
    """
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        advice = "give another --port, or set PREFECT_API_URL to serve the flows on the Prefect server that answers there"
        raise UserError(f"the port {port} of {HOST} can't be used ({error}); {advice}") from error
    with listening, tempfile.TemporaryFile() as messages:
        port, secret = listening.getsockname()[1], f"embedkit:{secrets.token_urlsafe(32)}"
        environment = os.environ | {
            "PREFECT_SERVER_API_AUTH_STRING": secret,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_API_URL": f"http://{HOST}:{port}/api",
            "PREFECT_API_AUTH_STRING": secret,
            "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
            "PREFECT_UI_ENABLED": str(pages).lower(),
            "PREFECT__SERVER_FINAL": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listening.fileno()), str(port), str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            pass_fds=(listening.fileno(),),
            start_new_session=True,
        )
        try:
            listening.close()  # the server's own copy is what answers from now on
            server = Server(process, port, secret)
            _wait(server, messages)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def some_server() -> Iterator[None]:
    """The server that Prefect's settings name, or, where none is named, one of our own that this process keeps until it ends.

    Prefect's own temporary server outlives a killed process, and each worker process would start another.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    server = _kept()
    with temporary_settings({PREFECT_API_URL: server.api, PREFECT_API_AUTH_STRING: server.secret}):
        yield


@contextlib.contextmanager
def same_server() -> Iterator[None]:
    """Name the server that this run has, so that processes that are started for it use the same one."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    with get_client(sync_client=True) as client:
        address = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: address}):
        yield


def settings_of_this_run() -> Callable[[], Any]:
    """What the thread that hands on events of worker processes is to do first: take this run's settings.

    Prefect starts it with none, so that it would know of no server, and start one that outlives this process.

    Returns:
        for `ProcessPoolTaskRunner(subprocess_message_processor_factories=...)`; what it makes leaves messages as they are.
    """
    from prefect.context import SettingsContext

    settings = SettingsContext.get()

    def take() -> Any:
        if settings is not None:
            settings.model_copy().__enter__()  # until the thread ends
        return lambda message_type, message_payload: (message_type, message_payload)

    return take


_keeping = threading.Lock()
_own: list[Server] = []


def _kept() -> Server:
    with _keeping:
        if not _own or _own[-1].process.poll() is not None:
            stack = contextlib.ExitStack()
            _own.append(stack.enter_context(serving(pages=False)))
            atexit.register(stack.close)
        return _own[-1]


def _wait(server: Server, messages: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.api):
        if server.process.poll() is not None:
            messages.seek(0)
            words = messages.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"the Prefect server stopped at once ({words[-1] if words else 'no message'}); mend that and try again")
        if time.monotonic() > deadline:
            raise UserError(f"the Prefect server didn't answer within {START_SECONDS} seconds; try again on a quieter machine")
        time.sleep(0.2)


def answers(api: str, path: str = "health", secret: str | None = None) -> bool:
    """Whether a Prefect server answers at this address."""
    request = urllib.request.Request(f"{api}/{path}")
    if secret:
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


class Guard:
    """What stands before Prefect's application: other names, other pages and frames are sent away; the door is here.

    Args:
        app: Prefect's own application, which asks for the secret.
        port: where this server listens.
    """

    def __init__(self, app: App, port: int):
        self.app, self.host = app, f"{HOST}:{port}"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on (ASGI 3)."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        given: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value.decode("latin-1"))
        if given.get(b"host") != [self.host]:
            return await _answer(scope, send, 421, f"This server is http://{self.host}, and answers to no other name.")
        if any(origin != f"http://{self.host}" for origin in given.get(b"origin", [])):
            return await _answer(scope, send, 403, f"Only pages of http://{self.host} may ask here.")
        if scope["type"] == "http" and scope["path"] == DOOR:
            return await _answer(scope, send, 200, OPEN)

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, receive, framed)


async def _answer(scope: Message, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    body = (text if text.startswith("<") else f"<!doctype html><p>{html.escape(text)}</p>").encode()
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(descriptor: int, port: int, parent: int) -> None:
    """Be the server, on a socket that is bound already, until the parent ends."""
    end_with(parent)
    import uvicorn
    from prefect.server.api.server import create_app

    app: Any = Guard(create_app(final=True), port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=3))
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
