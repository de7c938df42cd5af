"""One engine's HTTP from our side: a bare TCP connect, and small requests with a deadline and limits each."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

BODY_LIMIT = 1 << 20
CONNECT_SECONDS = 2.0

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class Answer:
    """What came back: ``status`` 0 means no answer, and ``silence`` then says why ("" for a refused connection)."""

    __slots__ = ("body", "silence", "status")

    def __init__(self, status: int, body: bytes = b"", silence: str = "") -> None:
        self.status = status
        self.body = body
        self.silence = silence

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def words(self) -> str:
        """The answer in a few words, for people."""
        return f"HTTP {self.status}" if self.status else self.silence

    def document(self) -> object:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def base_url(url: str) -> str:
    """The server's root: ``url`` without a trailing slash or ``/v1``, which the paths bring along."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


class Probe:
    """Asks one engine. Use as an async context manager; everything it opened is closed when it is left.

    aiohttp carries the requests, over one kept connection. While nothing listens, ``connect`` does with a bare socket
    what costs aiohttp three times as much.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._base = base_url(url)
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._literal = _literal(self._host, self._port)
        # No redirect is followed and no proxy read from the environment: the engine is where the model says.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=_tls(parts.scheme)),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers if key is None else headers | {"Authorization": f"Bearer {key}"},
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def connect(self) -> str | None:
        """Connects and hangs up. None if something listens, else why not ("" for refused)."""
        try:
            if not self._connected_at_once():
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._connect()
        except ConnectionRefusedError:
            return ""
        except TimeoutError:
            return "no connection in time"
        except OSError as error:
            return error.strerror or type(error).__name__
        return None

    def _connected_at_once(self) -> bool:
        """Whether something listens at a literal address. OSError if not, False where that takes time to tell.

        This machine's own addresses tell at once, for a quarter of what the loop's connection and its deadline cost.
        """
        for family, kind, _, _, address in self._literal:
            with socket.socket(family, kind | socket.SOCK_NONBLOCK) as sock:
                failed = sock.connect_ex(address)
                if failed == errno.EINPROGRESS:
                    # Sent; what this machine answers itself is there already, and told by asking again.
                    failed = sock.connect_ex(address)
                if failed == errno.EALREADY:
                    return False
                if failed:
                    raise OSError(failed, os.strerror(failed))
                if sock.getsockname() == sock.getpeername():
                    raise ConnectionRefusedError  # see ``_connect``
                return True
        return False

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        failure = OSError("no address")
        for family, kind, _, _, address in self._literal or await _resolved(self._host, self._port):
            with socket.socket(family, kind) as sock:
                sock.setblocking(False)
                try:
                    await loop.sock_connect(sock, address)
                except OSError as error:
                    failure = error
                else:
                    if sock.getsockname() != sock.getpeername():
                        return
                    # Nobody listens: an ephemeral port was given to us as our own source, and we met ourselves.
                    failure = ConnectionRefusedError()
        raise failure

    async def get(self, path: str, seconds: float) -> Answer:
        """GET, with a deadline."""
        return await self._ask("GET", path, None, seconds)

    async def post(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        """POST of a JSON body, with a deadline."""
        return await self._ask("POST", path, body, seconds)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Answer:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(
                method, self._base + path, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                return Answer(response.status, await _read(response))
        except TimeoutError:
            return Answer(0, silence=f"no answer in {seconds:g} s")
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            return Answer(0, silence="" if refused else str(error.os_error))
        except (aiohttp.ClientError, OSError) as error:
            return Answer(0, silence="no HTTP" if isinstance(error, aiohttp.ClientResponseError) else "it hung up")


def _literal(host: str, port: int) -> Sequence[_Address]:
    """Where a literal address is; nothing for a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return ()


async def _resolved(host: str, port: int) -> Sequence[_Address]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut off after ``BODY_LIMIT``: what is larger is no answer to any question asked here."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > BODY_LIMIT:
            response.close()
            break
    return bytes(body[:BODY_LIMIT])


def _tls(scheme: str) -> ssl.SSLContext | bool:
    """aiohttp's own context knows no authority (``spark_modeld.lean``)."""
    return ssl.create_default_context() if scheme == "https" else True
