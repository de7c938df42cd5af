"""Takes this thread into a throwaway host's network, so that clients running here are clients there."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from support.host import Host

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_ESTABLISHED = "01"


@contextlib.contextmanager
def network_of(host: Host) -> Iterator[None]:
    """Every socket that this thread makes meanwhile is the host's; so are those of threads it starts."""
    # os.setns exists from Python 3.12.
    with open("/proc/thread-self/ns/net", "rb") as ours, open(f"/proc/{host.pid}/ns/net", "rb") as theirs:
        _enter(theirs.fileno())
        try:
            yield
        finally:
            _enter(ours.fileno())


def connections(port: int) -> int:
    """Connections established to this port, in the network where this thread is."""
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(1 for f in fields if f[3] == _ESTABLISHED and f[2].endswith(f":{port:04X}"))


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
