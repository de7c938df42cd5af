"""Who listens on a TCP port of this machine: the kernel's own tables, which every user may read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spark_modeld.core.appraisal import Listener
from spark_modeld.core.model import EngineKind, Model
from spark_modeld.inspection.access import user_of

_LISTEN = "0A"
_LOCAL = frozenset({"127.0.0.1", "0.0.0.0", "::"})
_V4 = "0000000000000000FFFF0000"
_LOOPBACK_6 = "00000000000000000000000001000000"


@dataclass(frozen=True, slots=True)
class Socket:
    """A listening socket: its local address as the kernel writes it, port, owner and inode."""

    address: str
    port: int
    uid: int
    inode: int

    @property
    def local(self) -> bool:
        """Whether a connection to loopback can end here."""
        address = self.address.removeprefix(_V4) if len(self.address) == 32 else self.address
        if len(address) == 32:
            return address == _LOOPBACK_6 or not address.strip("0")
        return address.endswith("7F") or not address.strip("0")


def listener(model: Model, proc: Path = Path("/proc")) -> Listener | None:
    """Who listens where this model's engine is to answer; None if nobody does, or if that is another machine's.

    A process can be named by root only; everybody else learns whose it is. Ollama is one server for many models.
    """
    host, port = model.endpoint
    if host not in _LOCAL or model.engine is EngineKind.OLLAMA:
        return None
    found = next((socket for socket in sockets(proc) if socket.port == port and socket.local), None)
    return Listener(port, f"a process of {user_of(found.uid)}") if found else None


def sockets(proc: Path) -> Iterator[Socket]:
    """Every listening TCP socket."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN:
                address, _, port = fields[1].rpartition(":")
                yield Socket(address, int(port, 16), int(fields[7]), int(fields[9]))


def listening(proc: Path = Path("/proc")) -> set[int]:
    """Every port of this machine that somebody listens on."""
    return {socket.port for socket in sockets(proc)}


def holder(port: int, proc: Path = Path("/proc")) -> str | None:
    """The process that listens on this port, as ``python3 (PID 12)``; None where it cannot be seen."""
    links = {f"socket:[{socket.inode}]" for socket in sockets(proc) if socket.port == port and socket.local}
    for process in proc.iterdir() if links else ():
        if not process.name.isdigit():
            continue
        try:
            if any(str(link.readlink()) in links for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (PID {process.name})"
        except OSError:
            continue
    return None
