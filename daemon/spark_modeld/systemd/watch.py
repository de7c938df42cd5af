"""The units that are watched: where they are on the bus, and what systemd shows of them.

Lives in the GLib thread, for as long as one ``Remote`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from msgspec import Struct, field

from spark_modeld.core.unit import ActiveState, UnitStatus
from spark_modeld.ports import CallFailure
from spark_modeld.systemd.glib_thread import BusError, Cancel, Done, Reply
from spark_modeld.systemd.translate import STATUS_PROPERTIES, call_failure, unit_status, unloadable

log = structlog.get_logger(__name__)

Changed = Callable[[str, Mapping[str, Any], Sequence[str]], None]
"""What a PropertiesChanged carries: the interface, the new values, the names of those that must be read."""

_UNIT_INTERFACE = "org.freedesktop.systemd1.Unit"


class Remote(Protocol):
    """What watching needs of systemd. A call's ``done`` is not called any more once the connection has ended."""

    def call(self, member: str, signature: str, args: tuple[object, ...], done: Done) -> None:
        """Calls a method of the manager."""

    def get_all(self, path: str, names: tuple[str, ...], done: Done) -> None:
        """Reads properties of any object, in one piece."""

    def unanswered(self, error: BusError) -> None:
        """Hears of a call that got no answer; may end the watch."""

    def on_changed(self, path: str, changed: Changed) -> Cancel:
        """Calls ``changed`` at every PropertiesChanged of the unit at ``path``, whichever interface it is about."""


class _Unit(Struct, eq=False):
    name: str
    path: str | None = None
    id: str | None = None
    unsubscribe: Cancel | None = None
    reads: int = 0
    properties: dict[str, Any] = field(default_factory=dict)
    status: UnitStatus | None = None


class Watch:
    """Keeps the status of a set of units and tells every reading, in the order systemd made them."""

    def __init__(self, remote: Remote, told: Callable[[str, UnitStatus], None]) -> None:
        self._remote = remote
        self._told = told
        self._units: dict[str, _Unit] = {}

    @property
    def complete(self) -> bool:
        """Whether every unit has been read."""
        return all(unit.status is not None for unit in self._units.values())

    @property
    def statuses(self) -> dict[str, UnitStatus]:
        """The last status read of each unit."""
        return {unit.name: unit.status for unit in self._units.values() if unit.status is not None}

    def names(self, unit_id: str) -> list[str]:
        """The watched names of the unit systemd calls ``unit_id``: several where aliases are watched."""
        return [unit.name for unit in self._units.values() if unit_id in (unit.name, unit.id)]

    def replace(self, names: Iterable[str]) -> None:
        """Watches these units and no others; new ones are read."""
        wanted = set(names)
        for gone in self._units.keys() - wanted:
            self._forget(self._units.pop(gone))
        for new in sorted(wanted - self._units.keys()):
            self._units[new] = _Unit(new)
            self._load(self._units[new])

    def look(self, name: str) -> None:
        """Reads a unit anew, whatever is under way. One that is not watched is not read."""
        if name in self._units:
            self._read_now(self._units[name])

    def reload(self) -> None:
        """Finds and reads every unit again: systemd re-read its unit files, an alias may mean another unit now."""
        for unit in self._units.values():
            self._load(unit)

    def end(self) -> None:
        """Forgets everything."""
        self.replace(())

    def _forget(self, unit: _Unit) -> None:
        if unit.unsubscribe is not None:
            unit.unsubscribe()
            unit.unsubscribe = None

    def _load(self, unit: _Unit) -> None:
        def loaded(reply: Reply) -> None:
            if self._units.get(unit.name) is not unit:
                return
            if isinstance(reply, BusError):
                self._failed(unit, reply, self._load)
                return
            path = str(reply[0])
            if path != unit.path:
                self._forget(unit)
                # Subscribed before it is read, so that no change can fall between the two.
                unit.unsubscribe = self._remote.on_changed(path, lambda *change: self._changed(unit, *change))
                unit.path, unit.reads = path, 0
            self._read(unit)

        self._remote.call("LoadUnit", "(s)", (unit.name,), loaded)

    def _read(self, unit: _Unit) -> None:
        """Reads the unit, unless a read under way will show the same."""
        if unit.reads == 0:
            self._read_now(unit)

    def _changed(self, unit: _Unit, interface: str, changed: Mapping[str, Any], invalidated: Sequence[str]) -> None:
        """Takes the new values from the signal itself: reading a service costs systemd 2 ms, in the midst of a start.

        systemd sends the service's signal before the unit's, so that the pair is one consistent picture, told when
        it is complete. A change that arrives while a read is under way was made before its reply, which shows it: the
        bus keeps the order.
        """
        if unit.reads > 0:
            return
        if unit.status is None or not set(STATUS_PROPERTIES).isdisjoint(invalidated):
            self._read_now(unit)
            return
        unit.properties |= {name: changed[name] for name in STATUS_PROPERTIES if name in changed}
        if interface == _UNIT_INTERFACE:
            self._tell(unit, unit_status(unit.properties))

    def _read_now(self, unit: _Unit) -> None:
        if unit.path is None:
            return  # still being found, and read then
        path = unit.path
        unit.reads += 1

        def read(reply: Reply) -> None:
            if self._units.get(unit.name) is not unit or unit.path != path:
                return
            unit.reads -= 1
            if isinstance(reply, BusError):
                self._failed(unit, reply, self._read)
                return
            unit.id = str(reply[0].get("Id", unit.name))
            unit.properties = dict(reply[0])
            self._tell(unit, unit_status(unit.properties))

        self._remote.get_all(path, ("Id", *STATUS_PROPERTIES), read)

    def _failed(self, unit: _Unit, error: BusError, again: Callable[[_Unit], None]) -> None:
        if call_failure(error) is CallFailure.UNCLEAR:
            log.info("systemd did not say how a unit is", unit=unit.name, reason=error.message)
            self._remote.unanswered(error)
            # No busy loop: what is unclear took the whole timeout, and a lost connection ends the watch.
            if self._units.get(unit.name) is unit:
                again(unit)
            return
        log.warning("systemd cannot show a unit", unit=unit.name, error=error.name, reason=error.message)
        self._tell(unit, unloadable(error) if unit.path is None else UnitStatus(active=ActiveState.UNKNOWN))

    def _tell(self, unit: _Unit, status: UnitStatus) -> None:
        unit.status = status
        self._told(unit.name, status)
