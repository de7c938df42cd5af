"""The Remains port on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping

from spark_modeld.core.model import Container, Docker, EngineKind, Model, OwnUnit
from spark_modeld.ports import Holder
from spark_modeld.remains import cgroups
from spark_modeld.remains.brands import Brands, carriers
from spark_modeld.remains.sockets import Listening, listening

_LAST = 2
"""How many of a model's containers are looked after: the one that ran, and the one before that may still be ending."""
_LOCAL = frozenset({"127.0.0.1", "0.0.0.0", "::"})
_MAPPED = bytes(10) + b"\xff\xff"


class HostRemains:
    """``containers`` gives container id -> model id, each model's latest last; ``brands`` are those of the runs.

    ``diagnostics`` is a socket to ask the kernel who listens, where none can be opened.
    """

    def __init__(
        self,
        containers: Callable[[Iterable[str]], Mapping[str, str]],
        brands: Brands,
        diagnostics: socket.socket | None = None,
    ) -> None:
        self._containers = containers
        self._brands = brands
        self._diagnostics = diagnostics

    def scopes(self, model: Model) -> tuple[str, ...]:
        """See the port."""
        if not isinstance(model.run, Docker | Container):
            return ()
        return tuple(f"docker-{container}.scope" for container in tuple(self._containers((model.id,)))[-_LAST:])

    def processes(self, scope: str) -> frozenset[int]:
        """See the port."""
        return frozenset(pid for folder in cgroups.places(scope, os.getuid()) for pid in cgroups.processes(folder))

    def escaped(self, model: Model) -> Mapping[int, str | None]:
        """See the port."""
        brand = self._brands.of(model)
        if brand is None:
            return {}
        # A service that carries the brand of a unit of the user's own was given a copy of its drop-in.
        inside = cgroups.in_service if isinstance(model.run, OwnUnit) else lambda names: model.unit in names
        groups = {pid: cgroups.of(pid) for pid in carriers(brand)}
        return {
            pid: names[-1] if names else None
            for pid, names in groups.items()
            if names is not None and not inside(names)
        }

    def listeners(self, model: Model) -> frozenset[int]:
        """See the port."""
        return frozenset(each.inode for each in self._at(model))

    def holders(self, model: Model, inodes: frozenset[int]) -> tuple[Holder, ...]:
        """See the port."""
        return tuple(_holder(each) for each in self._at(model) if each.inode in inodes)

    def named(self, pids: Iterable[int]) -> str:
        """See the port."""
        return cgroups.named(pids)

    def _at(self, model: Model) -> list[Listening]:
        host, port = model.endpoint
        # One server for many models goes on listening.
        if host not in _LOCAL or model.engine is EngineKind.OLLAMA:
            return []
        try:
            found = listening(self._diagnostics)
        except OSError:
            return []
        return [each for each in found if each.port == port and _local(each.address)]


def _local(address: bytes) -> bool:
    """Whether a connection to loopback can end here."""
    address = address.removeprefix(_MAPPED)
    if not any(address):
        return True
    return address[0] == 127 if len(address) == 4 else address == socket.inet_pton(socket.AF_INET6, "::1")


def _holder(found: Listening) -> Holder:
    folder = cgroups.find(found.cgroup) if found.cgroup is not None else None
    inside = cgroups.processes(folder) if folder is not None else []
    # In a session are many; whoever opened the socket is most likely among those who own it.
    pids = [pid for pid in inside if cgroups.owner(pid) == found.uid] or inside
    who = cgroups.named(pids) if pids else f"a process of {cgroups.user(found.uid)}"
    return Holder(who, folder.name if folder is not None and folder != cgroups.ROOT else None)
