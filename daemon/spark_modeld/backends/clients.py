"""Who else is connected to a port of this machine, by the kernel's own table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ESTABLISHED = "01"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def others_connected(port: int) -> bool:
    """Whether a client other than this process is connected to ``port``. False where the kernel does not say."""
    ours = _own_sockets()
    return any(_is_other(line.split(), port, ours) for line in _lines())


def _lines() -> Iterable[str]:
    for table in _TABLES:
        with suppress(OSError):
            yield from Path(table).read_text(encoding="ascii").splitlines()[1:]


def _is_other(fields: list[str], port: int, ours: frozenset[str]) -> bool:
    """A client's end here that is not ours, or the server's end of a connection from elsewhere."""
    if len(fields) < 10 or fields[3] != _ESTABLISHED:
        return False
    (local, local_port), (remote, remote_port) = fields[1].rsplit(":", 1), fields[2].rsplit(":", 1)
    if int(remote_port, 16) == port:
        return fields[9] not in ours
    # Both ends of a connection within this machine are in the table, the client's is the one to judge.
    return int(local_port, 16) == port and local != remote


def _own_sockets() -> frozenset[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if match := _SOCKET.fullmatch(os.readlink(f"/proc/self/fd/{name}")):
                found.add(match[1])
    return frozenset(found)
