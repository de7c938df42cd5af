"""Listening sockets: accepts from them, and stops without losing whom the kernel has accepted already."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

_LOG = structlog.get_logger(__name__)

_AT_ONCE = 64
_OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OUT_OF_ROOM_SECONDS = 1.0


class Listener:
    """Accepts from one socket while it is open. Who connects meanwhile waits in the kernel's backlog.

    ``full``: it accepts no more because there was no room.
    """

    def __init__(self, sock: socket.socket, make: Callable[[], asyncio.Protocol], room: Callable[[], int]) -> None:
        """``room``: how many more connections there may be now."""
        self.socket = sock
        self._make = make
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[object]] = set()
        self._open = False
        self.full = False
        self._again: asyncio.TimerHandle | None = None
        sock.setblocking(False)

    def open(self) -> None:
        """Accepts from now on."""
        self.full = False
        if not self._open:
            self._open = True
            self._loop.add_reader(self.socket.fileno(), self._accept)

    def shut(self) -> None:
        """Accepts no more; the socket stays, and so does its backlog."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._open:
            self._open = False
            self._loop.remove_reader(self.socket.fileno())

    async def joined(self) -> None:
        """Returns when everybody who was accepted has a connection."""
        await asyncio.gather(*self._joining, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(min(_AT_ONCE, self._room())):
            try:
                sock, _peer = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_ROOM:
                    raise
                _LOG.warning(f"cannot accept: {error.strerror}")
                self._pause()
                return
            self._join(sock)
        if self._room() <= 0:
            self.full = True
            self.shut()

    def _join(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, sock), name="accept")
        self._joining.add(task)
        task.add_done_callback(self._has_joined)

    def _has_joined(self, task: asyncio.Task[object]) -> None:
        self._joining.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.warning(f"a connection was lost while it was accepted: {task.exception()}")

    def _pause(self) -> None:
        self.shut()
        self._again = self._loop.call_later(_OUT_OF_ROOM_SECONDS, self.open)
