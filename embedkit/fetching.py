"""Fetching: pictures whose addresses rows name come over HTTP, several at a time, within bounds.

A file of rows is data from others. So its addresses may not make this machine ask its own services or those of its network: where
an address leads is looked up once, refused where that is not public (unless `private` says otherwise, which no run that is started
from the UI may say), and connected to as it was looked up, for every redirect anew. What fails in passing is tried again; what
can't be fetched is set aside by its reason. What was fetched is kept beside the draft, so that a resumed call goes on.
"""

import functools
import hashlib
import http.client
import importlib.metadata
import ipaddress
import os
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urljoin, urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from embedkit.settings import Settings
from embedkit.stages import is_kept, keep, sync

SCHEMES = ("http", "https")
REDIRECTS = 5
LONGEST_ADDRESS = 8192
"""Characters of an address; servers take about as many."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""What a server answers that may be otherwise in a while."""
LONGEST_WAIT = 30.0
"""Seconds between two attempts, whatever a server asks for."""
GIVEN_UP = 4
"""After so many attempts in a row at a host that failed without an answer, others at that host are made once."""
EMBEDDED = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "2002::/16")]
"""IPv6 networks whose addresses stand for one of IPv4, which may be anything."""


class Fetch(Settings):
    """How pictures are fetched whose addresses (http, https) rows name."""

    connections: Annotated[int, Field(ge=1, le=64)] = 8
    """How many are fetched at a time."""
    timeout: PositiveFloat = 30.0
    """Seconds that one attempt may take, from the first connection to the last byte."""
    retries: NonNegativeInt = 3
    """How often it is tried again where a server can't be reached or is overloaded, after 0.5 s, 1 s, 2 s and so on."""
    max_bytes: PositiveInt = 2**25
    """Size above which a picture is set aside; 32 MiB by default."""
    private: bool = False
    """Whether addresses of this machine and of private networks are fetched too; those are for files you trust alone."""


class Passing(Exception):
    """An attempt failed, and the next may not; `wait` are the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0, answered: bool = False):
        super().__init__(reason)
        self.wait, self.answered = wait, answered


class Fetcher:
    """Fetches pictures, for any thread.

    Args:
        settings: the bounds.
        cache: a folder that keeps what was fetched; nothing is kept without one.
    """

    def __init__(self, settings: Fetch, cache: Path | None = None):
        self.settings, self.cache = settings, cache
        self.locks = [threading.Lock() for _ in range(1024)]  # so that an address that comes twice is fetched once
        self.free = threading.BoundedSemaphore(settings.connections)
        self.failed: Counter[str] = Counter()

    def get(self, address: str) -> bytes:
        """What an address holds.

        Raises:
            ValueError: with the reason why it can't be fetched.
        """
        digest = hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()
        if self.cache is None:
            return self._tried(address)
        path = self.cache / digest[:2] / digest
        with self.locks[int(digest[:8], 16) % len(self.locks)]:
            if is_kept(path):
                return path.read_bytes()
            data = self._tried(address)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{digest}.{uuid.uuid4().hex[:12]}.unfinished")
            unfinished.write_bytes(data)
            sync(unfinished)
            os.replace(unfinished, path)
            keep(path)
        return data

    def _tried(self, address: str) -> bytes:
        host = "/".join(address.split("/", 3)[:3])[:300]
        for attempt in range(self.settings.retries + 1):
            try:
                with self.free:  # more threads may decode than fetch
                    data = self._once(address)
                self.failed[host] = 0
                return data
            except Passing as reason:
                self.failed[host] = 0 if reason.answered else self.failed[host] + 1
                if attempt == self.settings.retries or self.failed[host] > GIVEN_UP:
                    raise ValueError(f"can't be fetched ({reason})") from reason
                time.sleep(min(LONGEST_WAIT, max(reason.wait, 0.5 * 2**attempt)))
            except ValueError as reason:
                raise ValueError(f"can't be fetched ({reason})") from reason
        raise AssertionError("the last attempt raises")

    def _once(self, address: str) -> bytes:
        deadline = time.monotonic() + self.settings.timeout
        for _ in range(REDIRECTS + 1):
            answer = self._asked(address, deadline)
            if isinstance(answer, bytes):
                return answer
            address = urljoin(address, answer)
        raise ValueError(f"it leads from one address to the next, more than {REDIRECTS} times")

    def _asked(self, address: str, deadline: float) -> bytes | str:
        """What a server answers: bytes, or the address that it sends to."""
        connection, path = _connection(address, self.settings.private)
        late = threading.Event()
        connection.timeout = max(0.01, deadline - time.monotonic())

        def cut() -> None:  # a server that sends a byte a second never runs into the socket's own timeout
            late.set()
            if connection.sock is not None:
                connection.shut()

        timer = threading.Timer(max(0.01, deadline - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        too_long = f"no whole answer within {self.settings.timeout:g} s"
        try:
            agent = {"User-Agent": f"embedkit/{_version()}", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
            connection.request("GET", path, headers=agent)
            return self._answer(connection.getresponse(), late)
        except Passing as reason:
            raise Passing(too_long) if late.is_set() else reason  # noqa: B904  the same, or nothing but its consequence
        except ssl.SSLCertVerificationError as error:
            raise ValueError(f"its certificate can't be trusted: {error.verify_message}") from error
        except TimeoutError as error:
            raise Passing(too_long) from error
        except (OSError, http.client.HTTPException) as error:
            words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
            raise Passing(too_long if late.is_set() else words) from error
        finally:
            timer.cancel()
            connection.close()

    def _answer(self, response: http.client.HTTPResponse, late: threading.Event) -> bytes | str:
        status, said = response.status, f"{response.status} {response.reason}".strip()
        if 300 <= status < 400 and (target := response.headers.get("Location")):
            return target
        if status in PASSING:
            asked = response.headers.get("Retry-After", "")
            raise Passing(said, float(asked) if asked.isdecimal() else 0.0, answered=True)
        if status != 200:
            raise ValueError(said)
        most, parts, size = self.settings.max_bytes, [], 0
        length = response.headers.get("Content-Length", "")
        while size <= most and int(length if length.isdecimal() else 0) <= most and (data := response.read1(2**16)):
            parts.append(data)
            size += len(data)
        if size > most or (length.isdecimal() and int(length) > most):
            raise ValueError(f"it has more than {most:,} bytes; fetch.max_bytes bounds them")
        if late.is_set() or (length.isdecimal() and size < int(length)):
            raise Passing(f"cut off after {size:,} bytes")
        return b"".join(parts)


@functools.cache
def _version() -> str:
    return importlib.metadata.version("embedkit")


def is_address(text: Any) -> bool:
    """Whether a value is an address on the web."""
    return isinstance(text, str) and text.strip().lower().startswith(("http://", "https://"))


def is_public(address: str) -> bool:
    """Whether an IP address belongs to no private network, and not to this machine."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_global and not found.is_multicast and not any(found in net for net in EMBEDDED if net.version == found.version)


def _looked_up(host: str, port: int, private: bool) -> list[tuple[Any, ...]]:
    """Where a host is, every address of it allowed.

    Raises:
        ValueError: when it is nowhere, or where it may not be.
        Passing: when that can't be known now.
    """
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Passing(f"{host} can't be looked up now") from error
        raise ValueError(f"there is no host {host}") from error
    except (UnicodeError, OverflowError) as error:
        raise ValueError(f"{host[:60]!r} can't be a host") from error
    if not private and (inside := next((place[4][0] for place in places if not is_public(str(place[4][0]))), None)):
        raise ValueError(f"{host} is {inside}, no public address; fetch.private allows those")
    return places


class _Plain(http.client.HTTPConnection):
    """A connection to where its host was looked up to be."""

    def __init__(self, host: str, port: int, private: bool):
        super().__init__(host, port)
        self.private = private

    def connect(self) -> None:
        error: OSError | None = None
        for family, kind, protocol, _, place in _looked_up(self.host, self.port, self.private):
            made = socket.socket(family, kind, protocol)
            made.settimeout(self.timeout)
            try:
                made.connect(place)
            except OSError as failed:
                made.close()
                error = failed
                continue
            self.sock = made
            return
        raise error or OSError("no address")

    def shut(self) -> None:
        """End it from another thread."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            return


class _Safe(_Plain):
    """The same with TLS."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _connection(address: str, private: bool) -> tuple[_Plain, str]:
    """A connection for an address, not yet made, and what to ask for there."""
    if len(address) > LONGEST_ADDRESS:
        raise ValueError(f"an address of {len(address):,} characters; at most {LONGEST_ADDRESS:,} are asked for")
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"no address: {error}") from error
    if parts.scheme.lower() not in SCHEMES or not host:
        raise ValueError(f"it leads to {address[:60]!r}, and only http and https are followed")
    kind = _Safe if parts.scheme.lower() == "https" else _Plain
    path, query = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*[]"), quote(parts.query, safe="/%:=&?~+!$,;@()*[]")
    return kind(host, port or kind.default_port, private), f"{path}?{query}" if query else path
