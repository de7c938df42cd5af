"""From a process to the model it works for: pure functions over names of units and control groups.

A process belongs to the model whose unit it runs in. A container's processes are not in the unit that started it but
in a scope of their own, ``docker-<container id>.scope``; for them the container's id says whose they are. What has left
its unit is known by the brand of the model's runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.model import Model

_CONTAINER_SCOPE = re.compile(r"(?:docker|libpod|cri-containerd|crio)-([0-9a-f]{64})\.scope")
_CONTAINER_FOLDER = re.compile(r"[0-9a-f]{64}")
_UNIT_SUFFIXES = (".service", ".scope")


def container_of(unit: str) -> str | None:
    """The container id in a scope's name, None if this unit is no container's scope."""
    match = _CONTAINER_SCOPE.fullmatch(unit)
    return match[1] if match else None


def unit_of_cgroup(text: str, *, user: bool = False) -> str | None:
    """The unit that the content of a /proc/PID/cgroup file names, by systemd's own rule; None if it names none.

    That is the first service or scope below the slices; with ``user``, the first one below ``user@UID.service``. A
    container wins over it wherever its scope hangs, and one started by docker's cgroupfs driver (``/docker/<id>``, no
    scope) is named as the scope it would have had.
    """
    names = [name.removeprefix("_") for name in _systemd_path(text).split("/") if name]
    for name in reversed(names):
        if container_of(name):
            return name
        if _CONTAINER_FOLDER.fullmatch(name):
            return f"docker-{name}.scope"
    if user:
        manager = next((i for i, name in enumerate(names) if re.fullmatch(r"user@\d+\.service", name)), None)
        if manager is None:
            return None
        names = names[manager + 1 :]
    first = next((name for name in names if not name.endswith(".slice")), "")
    return first if first.endswith(_UNIT_SUFFIXES) else None


def _systemd_path(text: str) -> str:
    """The path in systemd's own hierarchy: version 2's only one, or version 1's ``name=systemd``."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            paths[fields[1]] = fields[2]
    # On a hybrid host both are there, and systemd's units are in its named hierarchy.
    return paths.get("name=systemd", paths.get("", ""))


class Owners(Struct, frozen=True):
    """Who owns what: unit name -> model id, container id -> model id, brand -> model id."""

    units: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    containers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    brands: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(
        cls,
        models: Iterable[Model],
        containers: Mapping[str, str] | None = None,
        brands: Mapping[int, str] | None = None,
    ) -> Owners:
        """The owners a catalog makes. A unit that several models share (one server, many models) owns none of them."""
        units: dict[str, str] = {}
        of: dict[str, str] = {}
        shared: set[str] = set()
        for model in models:
            of[model.id] = model.unit
            if units.setdefault(model.unit, model.id) != model.id:
                shared.add(model.unit)
        own = {unit: model for unit, model in units.items() if unit not in shared}
        branded = {brand: model for brand, model in (brands or {}).items() if of.get(model) not in shared}
        return cls(own, containers or {}, branded)

    def model_of(self, unit: str | None, brand: int | None = None) -> str | None:
        """The id of the model that a process in this unit, or with this brand, works for; None if it is nobody's."""
        return self._of_unit(unit) or (self.brands.get(brand) if brand is not None else None)

    def _of_unit(self, unit: str | None) -> str | None:
        if unit is None:
            return None
        container = container_of(unit)
        return self.containers.get(container) if container else self.units.get(unit)
