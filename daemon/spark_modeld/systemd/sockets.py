"""Listening sockets: those systemd passes, told apart by name, and our own when there are none."""

from __future__ import annotations

import errno
import grp
import os
import re
import socket
import stat
from collections.abc import Mapping, MutableMapping, Sequence
from types import MappingProxyType

import structlog
from msgspec import Struct, field

log = structlog.get_logger(__name__)

CONTROL = "control"
HTTP = "http"
GATEWAY = "gateway"
DIAGNOSTICS = "diagnostics"
"""What systemd passes beside the control socket, under the same name: NETLINK_SOCK_DIAG."""

_FIRST_FD = 3
_PORT_NAME = re.compile(r"port-([0-9]{1,5})")
_BACKLOG = 1024
_SOCK_DIAG = 4
# For both families (ip(7), ipv6(7)); the socket module has no name for it.
_IP_FREEBIND = 15


class Sockets(Struct, frozen=True):
    """Listening sockets by their FileDescriptorName; there may be several of one name."""

    by_name: Mapping[str, tuple[socket.socket, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def get(self, name: str, default: Sequence[socket.socket] = ()) -> Sequence[socket.socket]:
        """Those of this name, else ``default``."""
        return self.by_name.get(name, default)

    @property
    def control(self) -> tuple[socket.socket, ...]:
        """For the control API on ``control.sock``."""
        return self.by_name.get(CONTROL, ())

    @property
    def http(self) -> tuple[socket.socket, ...]:
        """For the control API over TCP."""
        return self.by_name.get(HTTP, ())

    @property
    def gateway(self) -> tuple[socket.socket, ...]:
        """For the gateway."""
        return self.by_name.get(GATEWAY, ())

    @property
    def diagnostics(self) -> socket.socket | None:
        """To ask the kernel who listens where, by somebody who may not open such a socket."""
        return next(iter(self.by_name.get(DIAGNOSTICS, ())), None)

    @property
    def ports(self) -> Mapping[int, tuple[socket.socket, ...]]:
        """For the gateway ports that mean one model each (``port-<n>``), by port."""
        found = {name: _PORT_NAME.fullmatch(name) for name in self.by_name}
        return {int(match[1]): self.by_name[name] for name, match in found.items() if match}

    @property
    def tcp(self) -> tuple[socket.socket, ...]:
        """All that listen on TCP: the control API, the gateway and the ports of models."""
        return (*self.http, *self.gateway, *(sock for socks in self.ports.values() for sock in socks))

    def close(self) -> None:
        """Closes all of them."""
        for sockets in self.by_name.values():
            for sock in sockets:
                sock.close()


def passed(environ: MutableMapping[str, str] | None = None, *, first_fd: int = _FIRST_FD) -> Sockets:
    """Takes the sockets that systemd passed to this very process, and the variables that say so.

    Names decide, never the order: it changes when a socket unit is restarted. Descriptors of a name that means
    nothing to us, or that neither listen nor ask who listens, are closed with a warning.
    """
    environ = os.environ if environ is None else environ
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return Sockets()
    by_name: dict[str, tuple[socket.socket, ...]] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        sock = _take(first_fd + index, name)
        if sock is not None:
            name = DIAGNOSTICS if sock.family == socket.AF_NETLINK else name
            by_name[name] = (*by_name.get(name, ()), sock)
    return Sockets(MappingProxyType(by_name))


def _take(fd: int, name: str) -> socket.socket | None:
    try:
        os.set_inheritable(fd, False)
    except OSError:
        log.warning("a passed descriptor is not open", fd=fd, name=name)
        return None
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        log.warning("a passed descriptor is not a socket", fd=fd, name=name)
        return None
    known = name in (CONTROL, HTTP, GATEWAY) or _PORT_NAME.fullmatch(name)
    if not known or not (sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or _asks_who_listens(sock)):
        log.warning("closed a passed socket that is of no use", fd=fd, name=name)
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _asks_who_listens(sock: socket.socket) -> bool:
    return sock.family == socket.AF_NETLINK and sock.proto == _SOCK_DIAG


def bind_unix(where: str | os.PathLike[str], *, mode: int = 0o660, group: str | None = None) -> socket.socket:
    """Listens on the path ``where``. A socket file that nobody answers on is replaced.

    OSError: EADDRINUSE when somebody answers, EEXIST when the path is something else, EINVAL for an unknown group.
    """
    path = os.fspath(where)
    gid = -1 if group is None else _gid(group)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        # Nobody can connect before listen(), so the file's first mode does not matter.
        if gid != -1:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
        return _listen(sock)
    except BaseException:
        sock.close()
        raise


def bind_early(address: str) -> socket.socket:
    """``bind_tcp``, also to an address that this machine does not have yet (a tunnel that comes up later)."""
    return bind_tcp(address, early=True)


def bind_tcp(address: str, *, early: bool = False) -> socket.socket:
    """Listens on ``host:port``, with an IPv6 host in brackets. ValueError if it is none, OSError if it is taken."""
    host, port = split_address(address)
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, proto, _canonical, where = infos[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if early:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind(where)
        return _listen(sock)
    except BaseException:
        sock.close()
        raise


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of ``host:port``. ValueError if it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", address)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{address!r} is no address: write host:port, with an IPv6 host in brackets")
    return match[1] or match[2], int(match[3])


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {group}") from None


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "is there already, and is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise OSError(errno.EADDRINUSE, "somebody answers on it already", path)
