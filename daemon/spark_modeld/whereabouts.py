"""Where the daemon is reached, for the API: its own listeners, and what Tailscale makes of them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from spark_modeld.core.endpoints import Places
from spark_modeld.core.tailnet import Tailnet

_GOOD_SECONDS = 5.0


class Whereabouts:
    """``look`` (blocking, within seconds) is asked at most once in a while, and by one caller at a time.

    ``gateway`` gives the gateway's addresses as they are now, each with the port of the one model that it means.
    """

    def __init__(self, look: Callable[[], Tailnet | None]) -> None:
        self.gateway: Callable[[], Iterable[tuple[str, int | None]]] = tuple
        self._socket: str | None = None
        self._control: tuple[str, ...] = ()
        self._look = look
        self._lock = asyncio.Lock()
        self._known: tuple[float, Tailnet | None] | None = None

    def serve_control(self, listeners: Iterable[tuple[socket.socket, Any]]) -> None:
        """The control API is served here from now on."""
        names = [(sock.family, sock.getsockname()) for sock, _ in listeners]
        self._socket = next((os.fsdecode(name) for family, name in names if family == socket.AF_UNIX), None)
        self._control = tuple(_address(*name[:2]) for family, name in names if family != socket.AF_UNIX)

    async def find(self) -> tuple[Places, Tailnet | None]:
        """Where it listens now, and the tailnet as it was within the last seconds."""
        async with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > _GOOD_SECONDS:
                self._known = (time.monotonic(), await asyncio.to_thread(self._look))
            return self._places(), self._known[1]

    def _places(self) -> Places:
        doors = tuple(self.gateway())
        return Places(
            host=socket.gethostname(),
            socket=self._socket,
            control=self._control,
            gateway=tuple(address for address, port in doors if port is None),
            ports={port: tuple(a for a, of in doors if of == port) for _, port in doors if port is not None},
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
