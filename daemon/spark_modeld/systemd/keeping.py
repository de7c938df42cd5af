"""Keeps the units of our own template loaded. Lives in the GLib thread, for as long as one session does.

systemd forgets a unit that is down, and for its next start reads its files anew, and those of every unit that they
name: 6 ms of PID 1, in the midst of each switch. A reference keeps it, and ends with our connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from spark_modeld.ports import CallFailure
from spark_modeld.systemd.glib_thread import BusError, Done, Reply
from spark_modeld.systemd.translate import call_failure

log = structlog.get_logger(__name__)

_TEMPLATE = "spark-model@"

Call = Callable[[str, str, tuple[object, ...], Done], None]


class Kept:
    """The units that are kept. ``call`` calls a method of the manager."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._units: set[str] = set()
        self._asked: set[str] = set()
        self._denied = False

    def keep(self, unit: str) -> None:
        """From now on systemd keeps this unit, if it is of our template and we may ask for that."""
        if unit in self._units or self._denied or not unit.startswith(_TEMPLATE):
            return
        self._units.add(unit)
        if unit in self._asked:
            return

        def answered(reply: Reply) -> None:
            self._asked.discard(unit)
            if isinstance(reply, BusError):
                self._units.discard(unit)
                self._denied = call_failure(reply) is CallFailure.ACCESS_DENIED
                log.debug("systemd does not keep the unit loaded", unit=unit, reason=reply.message)
            elif unit not in self._units:
                self._release(unit)

        self._asked.add(unit)
        self._call("RefUnit", "(s)", (unit,), answered)

    def let_go(self, unit: str) -> None:
        """systemd may forget it: when it comes back, its files are read, also without a daemon-reload."""
        if unit in self._units:
            self._units.discard(unit)
            if unit not in self._asked:  # else when the answer is there
                self._release(unit)

    def only(self, units: Collection[str]) -> None:
        """Lets go of all others."""
        for unit in sorted(self._units.difference(units)):
            self.let_go(unit)

    def _release(self, unit: str) -> None:
        self._call("UnrefUnit", "(s)", (unit,), lambda _reply: None)
