"""The gateway: its listeners, its clients, its limits and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

import structlog

from spark_modeld.core.unit import Phase
from spark_modeld.face import Leases, Snapshot
from spark_modeld.gateway.access import Access, TokenVerifier
from spark_modeld.gateway.connection import HEARING_SECONDS, Connection
from spark_modeld.gateway.house import House, Place
from spark_modeld.gateway.keys import Keys
from spark_modeld.gateway.listeners import Listener
from spark_modeld.gateway.record import Recorder
from spark_modeld.gateway.tally import Tally
from spark_modeld.metrics import Metrics

_LOG = structlog.get_logger(__name__)

CONNECTIONS_LIMIT = 4096
_SWEEP_SECONDS = 1.0


class Gateway:
    """Serves from ``listen`` to ``close``. To be made and used on the running loop."""

    def __init__(self, leases: Leases, tokens: TokenVerifier, metrics: Metrics, *, recorder: Recorder) -> None:
        """``recorder`` is told of every request that has ended."""
        self._loop = asyncio.get_running_loop()
        access = Access(tokens, self._loop.time)
        tally = Tally(metrics, lambda: access.failures)
        self._house = House(leases, access, tally, key=Keys().read, recorder=recorder)
        self._listeners: dict[socket.socket, Listener] = {}
        self._clients: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._draining: list[str] = []
        self._open = False

    def follow(self, snapshot: Snapshot) -> None:
        """A new snapshot: its catalog is what requests are held against from now on.

        A model that is stopped before its drain was over leaves its clients nothing to wait for; an engine might, on
        SIGTERM, go on for them until it is killed.
        """
        self._house.follow(snapshot.catalog)
        is_open = self._house.settings.auth == "none"
        if is_open and not self._open:
            _LOG.warning(
                "the gateway asks for no token (auth = none): every user and tunnel of this machine may use it"
            )
        self._open = is_open
        for model in self._draining:
            state = snapshot.models.get(model)
            if state is not None and state.phase is Phase.STOPPING:
                for client in tuple(self._clients):
                    client.make_way(model)
        self._draining = [model for model, state in snapshot.models.items() if state.phase is Phase.DRAINING]

    @property
    def connections(self) -> int:
        """Clients connected now."""
        return len(self._clients)

    @property
    def upstreams(self) -> int:
        """Connections to engines that are open now."""
        return self._house.pool.connections

    @property
    def held_bytes(self) -> int:
        """Bytes of request bodies that are held now."""
        return self._house.bodies_bytes

    def listen(self, sock: socket.socket, *, port: int | None = None) -> None:
        """Serves a listening socket; ``port`` if everything there is for the model with that gateway port.

        The socket is the caller's to close, after ``leave`` or ``close``.
        """
        place = Place(_is_loopback(sock), port)
        listener = Listener(sock, lambda: self._client(place), lambda: CONNECTIONS_LIMIT - len(self._clients))
        self._listeners[sock] = listener
        listener.open()

    def leave(self, sock: socket.socket) -> None:
        """Accepts no more from a socket; who is connected stays."""
        self._listeners.pop(sock).shut()

    def wind_up(self) -> None:
        """From here on every answer that begins says that it is its connection's last."""
        self._house.closing = True
        for client in tuple(self._clients):
            client.wind_up()

    async def close(self, drain_seconds: float) -> None:
        """Accepts no more, lets what is under way end (``drain_seconds``), and ends the rest with an error.

        Whoever has connected and has not asked yet is heard (1 s): a restart refuses no connection.
        """
        self.wind_up()
        listeners = tuple(self._listeners.values())
        for listener in listeners:
            listener.shut()
        await asyncio.gather(*(listener.joined() for listener in listeners))
        self._listeners.clear()
        for client in tuple(self._clients):
            client.wind_up()
        await self._empty(drain_seconds)
        for client in tuple(self._clients):
            client.abandon()
        await self._empty(HEARING_SECONDS)
        for client in tuple(self._clients):
            client.abort()
        self._house.pool.close()
        await self._empty(HEARING_SECONDS)
        self._house.turn.end()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _empty(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._clients:
                    self._emptied.clear()
                    await self._emptied.wait()

    def _client(self, place: Place) -> Connection:
        client = Connection(self._house, place, self._gone)
        self._clients.add(client)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        return client

    def _gone(self, client: Connection) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._emptied.set()
        for listener in self._listeners.values():
            if listener.full:
                listener.open()

    def _sweep(self) -> None:
        """Looks at every deadline, once a second while there is anything to look at."""
        now = self._loop.time()
        for client in [each for each in self._clients if each.deadline <= now]:
            client.overdue()
        self._house.pool.sweep(now)
        self._house.access.forget()
        busy = self._clients or self._house.pool.connections
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if busy else None


def _is_loopback(sock: socket.socket) -> bool:
    host = sock.getsockname()[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
