"""Who listens on a TCP port of this machine, by the kernel's socket diagnostics, which every user may ask.

Unlike /proc/net/tcp they tell a socket's control group (``INET_DIAG_CGROUP_ID``, Linux 5.8), and with it the unit of
whoever opened it: an unprivileged daemon cannot look into other people's file descriptors.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct

_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_LISTEN = 1 << 10
_CGROUP_ID = 21
_HEADER = struct.Struct("=IHHII")
# struct inet_diag_msg: family state timer retrans, sport dport (big endian), src, dst, interface, cookie, expires,
# rqueue wqueue uid inode.
_MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_SECONDS = 1.0


class Listening(Struct, frozen=True):
    """A listening socket: its address (4 or 16 bytes), port, owner, inode, and control group if the kernel says."""

    address: bytes
    port: int
    uid: int
    inode: int
    cgroup: int | None = None


def listening(asked: socket.socket | None = None) -> list[Listening]:
    """Every listening TCP socket; ``asked`` is a diagnostics socket to use, for who may not open one.

    OSError where the kernel cannot be asked.
    """
    if asked is not None:
        _forget(asked)
        return list(asked_of(asked))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as own:
        return list(asked_of(own))


def _forget(asked: socket.socket) -> None:
    """Reads away what somebody before us asked and did not stay to hear: the socket outlives a daemon."""
    asked.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            asked.recv(1 << 16)


def asked_of(asked: socket.socket) -> Iterator[Listening]:
    """The same through this socket, which has nothing left to be read. OSError."""
    asked.settimeout(_SECONDS)
    for family in (socket.AF_INET, socket.AF_INET6):
        body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _LISTEN) + bytes(48)
        asked.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, family, 0) + body)
        yield from _answers(asked)


def _answers(asked: socket.socket) -> Iterator[Listening]:
    while True:
        data = asked.recv(1 << 16)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind == _DONE:
                return
            if kind == _ERROR or length < _HEADER.size:
                raise OSError("the kernel refused to list the sockets")
            if len(body) >= _MESSAGE.size:
                yield _listening(body)
            at += (length + 3) & ~3


def _listening(body: bytes) -> Listening:
    family, _, _, _, port, _, source, *_, uid, inode = _MESSAGE.unpack_from(body)
    address = source if family == socket.AF_INET6 else source[:4]
    return Listening(address, int.from_bytes(port), uid, inode, _cgroup(body[_MESSAGE.size :]))


def _cgroup(attributes: bytes) -> int | None:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            return None
        if kind == _CGROUP_ID and length == 12:
            return int.from_bytes(attributes[at + 4 : at + 12], "little")
        at += (length + 3) & ~3
    return None
