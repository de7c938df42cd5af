"""Where the gateway listens: what systemd passed, and what the configuration names beside that."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import structlog

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.settings import GatewaySettings
from spark_modeld.face import Snapshot

_LOG = structlog.get_logger(__name__)
_DEFAULT = GatewaySettings().listen


class Listening(Protocol):
    """What serves a socket."""

    def listen(self, sock: socket.socket, *, port: int | None = None) -> None:
        """Serves it; with a port, for the model that has this gateway port."""

    def leave(self, sock: socket.socket) -> None:
        """Serves it no more."""


class Doors:
    """Keeps the gateway at the addresses of the catalog that is in force; those of passed sockets never change."""

    def __init__(
        self,
        gateway: Listening,
        bind: Callable[[str], socket.socket],
        *,
        passed: Sequence[socket.socket] = (),
        ports: Mapping[int, Sequence[socket.socket]],
    ) -> None:
        """``passed`` are for every model, ``ports`` for one each. ``bind``: OSError, ValueError."""
        self._gateway = gateway
        self._bind = bind
        self._any_passed = bool(passed)
        self._taken = {_address(sock) for sock in passed} | {f"127.0.0.1:{port}" for port in ports}
        self._passed = [(_address(sock), None) for sock in passed]
        self._passed_ports = [(_address(sock), port) for port, socks in ports.items() for sock in socks]
        self._own: dict[tuple[str, int | None], socket.socket] = {}
        self._catalog: Catalog | None = None
        for sock in passed:
            gateway.listen(sock)
        for port, socks in ports.items():
            for sock in socks:
                gateway.listen(sock, port=port)

    def addresses(self) -> tuple[tuple[str, int | None], ...]:
        """Where it listens now: each address, with the port of the one model that it means, or None."""
        return (*self._passed, *self._passed_ports, *self._own)

    def follow(self, snapshot: Snapshot) -> None:
        """Binds what a new catalog names and nobody passed, and closes what it names no more.

        An address that cannot be had is a line in the log; the next reload tries again.
        """
        if snapshot.catalog is self._catalog:
            return
        self._catalog = snapshot.catalog
        wanted = dict.fromkeys(self._wanted(snapshot.catalog))
        for door in [each for each in self._own if each not in wanted]:
            sock = self._own.pop(door)
            self._gateway.leave(sock)
            sock.close()
        for door in [each for each in wanted if each not in self._own]:
            self._open(*door)

    def close(self) -> None:
        """Closes the sockets that are our own."""
        for sock in self._own.values():
            sock.close()
        self._own.clear()

    def _open(self, address: str, port: int | None) -> None:
        try:
            sock = self._bind(address)
        except (OSError, ValueError) as error:
            _LOG.error(f"the gateway cannot listen on {address}: {error}", address=address)
            return
        self._own[address, port] = sock
        self._gateway.listen(sock, port=port)

    def _wanted(self, catalog: Catalog) -> Iterator[tuple[str, int | None]]:
        listen: Iterable[str] = catalog.settings.gateway.listen
        # Whoever moved the socket unit elsewhere and configured nothing does not mean this address too.
        if not (self._any_passed and listen == _DEFAULT):
            yield from ((address, None) for address in listen if address not in self._taken)
        for model in catalog.models.values():
            if model.gateway_port is not None and f"127.0.0.1:{model.gateway_port}" not in self._taken:
                yield f"127.0.0.1:{model.gateway_port}", model.gateway_port


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
