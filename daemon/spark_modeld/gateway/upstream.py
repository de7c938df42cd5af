"""Connections to engines: opened when needed, kept for a moment, given to one request at a time."""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from typing import Protocol, cast
from urllib.parse import urlsplit

from msgspec import Struct

from spark_modeld.gateway.turn import Turn

CONNECT_SECONDS = 5.0
# Less than the shortest keep-alive of an engine (uvicorn's and llama-server's are 5 s).
_IDLE_SECONDS = 4.0
_IDLE_LIMIT = 64


class Origin(Struct, frozen=True, eq=False):
    """Where an engine listens; ``authority`` is what its Host is. There is one for each: they are told apart as such.

    ``spare``: its connections are not kept after a response. llama-server has a thread for each and few in all, so that
    an idle one holds up whoever comes next, for seconds.
    """

    host: str
    port: int
    tls: bool
    authority: bytes
    spare: bool = False

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, url: str, *, spare: bool = False) -> Origin:
        """The origin of a model's URL."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname or "", port, tls, parts.netloc.encode("ascii"), spare)


class Receiver(Protocol):
    """What a connection tells the request that has it."""

    def received(self, data: bytes) -> None:
        """Bytes of the response."""

    def lost(self) -> None:
        """The engine closed its end, or the connection broke. Told once."""

    def may_send(self, sending: bool) -> None:
        """The engine takes more, or no more for now."""


class Upstream(asyncio.Protocol):
    """One connection to an engine. ``used`` once a request was sent over it."""

    __slots__ = ("_pool", "_unsent", "idle_until", "origin", "receiver", "transport", "used")

    def __init__(self, origin: Origin, pool: Pool) -> None:
        self.origin = origin
        self._pool = pool
        self._unsent = b""
        self.receiver: Receiver | None = None
        self.transport: asyncio.Transport | None = None
        self.used = False
        self.idle_until = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        """For whoever has it; what comes unasked ends the connection."""
        if self.receiver is not None:
            self.receiver.received(data)
        else:
            self.close()

    def eof_received(self) -> bool:
        """The engine sends no more."""
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name for it
        """Gone, however."""
        self._pool.closed(self)
        self._lost()

    def pause_writing(self) -> None:
        """The engine does not keep up."""
        if self.receiver is not None:
            self.receiver.may_send(False)

    def resume_writing(self) -> None:
        """It does again."""
        if self.receiver is not None:
            self.receiver.may_send(True)

    def send(self, request: bytes) -> None:
        """Sends a request at the end of the turn, unless it is closed before."""
        self._unsent = request
        self._pool.turn.at_end(self._send)

    def close(self) -> None:
        """Ends the connection at once; its receiver is told nothing more."""
        self.receiver = None
        self._unsent = b""
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent and self.transport is not None and not self.transport.is_closing():
            self.transport.write(unsent)

    def _lost(self) -> None:
        receiver, self.receiver = self.receiver, None
        self._pool.forget(self)
        if receiver is not None:
            receiver.lost()


class Pool:
    """The connections to every engine."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._idle: dict[Origin, list[Upstream]] = {}
        self._open: set[Upstream] = set()
        self._tls: ssl.SSLContext | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def take(self, origin: Origin, now: float) -> Upstream | None:
        """A connection that was used before and is still there; None if there is none."""
        idle = self._idle.get(origin)
        while idle:
            upstream = idle.pop()
            if upstream.idle_until > now and upstream.transport is not None and not upstream.transport.is_closing():
                return upstream
            upstream.close()
        return None

    async def connect(self, origin: Origin) -> Upstream:
        """A new connection. OSError, or TimeoutError after ``CONNECT_SECONDS``."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, upstream = await loop.create_connection(
                lambda: Upstream(origin, self), origin.host, origin.port, ssl=self._context() if origin.tls else None
            )
        return upstream

    def put(self, upstream: Upstream, now: float) -> None:
        """Keeps a connection whose response is complete, or closes it."""
        upstream.receiver = None
        if upstream.origin.spare or len(self._idle.get(upstream.origin, ())) >= _IDLE_LIMIT:
            upstream.close()
            return
        idle = self._idle.setdefault(upstream.origin, [])
        upstream.used = True
        upstream.idle_until = now + _IDLE_SECONDS
        idle.append(upstream)

    def sweep(self, now: float) -> None:
        """Closes what was idle for too long."""
        for idle in list(self._idle.values()):
            for upstream in [each for each in idle if each.idle_until <= now]:
                upstream.close()

    def close(self) -> None:
        """Closes all of them."""
        for upstream in tuple(self._open):
            upstream.close()

    def opened(self, upstream: Upstream) -> None:
        """Told by a connection."""
        self._open.add(upstream)

    def closed(self, upstream: Upstream) -> None:
        """Told by a connection."""
        self._open.discard(upstream)

    def forget(self, upstream: Upstream) -> None:
        """Never to be taken again."""
        idle = self._idle.get(upstream.origin)
        if idle and upstream in idle:
            idle.remove(upstream)
        if not idle:
            self._idle.pop(upstream.origin, None)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls
