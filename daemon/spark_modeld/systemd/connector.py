"""Keeps a session with systemd alive: connects, waits for systemd's name, connects again. Lives in the GLib thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from spark_modeld.ports import BusLost, BusReport
from spark_modeld.systemd.glib_thread import BusError, Call, Cancel, GLibThread, Link, Reply
from spark_modeld.systemd.session import Session

log = structlog.get_logger(__name__)

SYSTEMD = "org.freedesktop.systemd1"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
# A connection that lived this long was a good one: the next attempt is again the first.
_STABLE_SECONDS = 2.0
# A bus that our own connection has started knows systemd some moments later only.
_ARRIVAL_SECONDS = 1.0


class Connector:
    """Always connecting or connected, until ``close``. ``session`` is None unless systemd can be talked to."""

    def __init__(
        self,
        thread: GLibThread,
        report: Callable[[BusReport], None],
        *,
        address: str | None,
        user: bool,
        timeout: float,
        delays: Sequence[float],
    ) -> None:
        self._thread = thread
        self._report = report
        self._address = address
        self._user = user
        self._timeout = timeout
        self._delays = delays
        self._units: frozenset[str] = frozenset()
        self._attempt = 0
        self._opened_at = 0.0
        self._give_up_opening: Cancel | None = None
        self._give_up_waiting: Cancel | None = None
        self._link: Link | None = None
        self._session: Session | None = None
        self._owner = ""
        self._lost_told = False
        self._closed: Callable[[], None] | None = None

    @property
    def session(self) -> Session | None:
        """The session, once it has told its BusConnected."""
        return self._session if self._session is not None and self._session.connected else None

    @property
    def era(self) -> object:
        """Changes with the session, and whenever systemd reads all unit files anew; None without a session."""
        session = self.session
        return None if session is None else (session, session.reloads)

    def begin(self, units: frozenset[str]) -> None:
        """Starts connecting."""
        self._units = units
        self._connect()

    def watch(self, units: frozenset[str]) -> None:
        """Replaces the set of units watched, now and after every reconnect."""
        self._units = units
        if self._session is not None:
            self._session.watch(units)

    def close(self, closed: Callable[[], None]) -> None:
        """Disconnects for good; ``closed`` is called when that is done."""
        self._closed = closed
        if self._give_up_waiting is not None:
            self._give_up_waiting()
        link = self._drop()
        if link is not None:
            link.close(closed)
        elif self._give_up_opening is not None:
            self._give_up_opening()
        else:
            closed()

    def _connect(self) -> None:
        def opened(result: Link | BusError) -> None:
            self._give_up_opening = None
            if self._closed is not None and isinstance(result, Link):
                result.close(self._closed)
            elif self._closed is not None:
                self._closed()
            elif isinstance(result, Link):
                self._use(result)
            else:
                self._again(f"cannot connect to the bus: {result.message}")

        self._give_up_waiting = None
        self._give_up_opening = Link.open(
            self._thread, opened, address=self._address, user=self._user, timeout=self._timeout
        )

    def _use(self, link: Link) -> None:
        self._link = link
        self._opened_at = time.monotonic()
        link.on_closed(lambda reason: self._again(f"the bus connection was lost: {reason}"))
        link.subscribe(_BUS, _BUS, "NameOwnerChanged", self._owner_changed, path=_BUS_PATH, arg0=SYSTEMD)

        def owner(reply: Reply) -> None:
            if self._link is not link:
                return
            if not isinstance(reply, BusError):
                self._set_owner(str(reply[0]))
            elif reply.name is None:
                self._again(f"the bus does not answer: {reply.message}")
            elif not self._owner:
                self._thread.later(_ARRIVAL_SECONDS, absent)

        def absent() -> None:
            if self._link is link and not self._owner:
                self._lost("systemd is not on the bus")

        link.call(Call(_BUS, _BUS_PATH, f"{_BUS}.GetNameOwner", "(s)", (SYSTEMD,)), owner)

    def _owner_changed(self, _name: str, _old: str, new: str) -> None:
        self._set_owner(new)

    def _set_owner(self, owner: str) -> None:
        """Signals and calls go by systemd's unique name; when it changes, jobs may have ended unseen."""
        if owner == self._owner or self._link is None:
            return
        if self._owner:
            self._lost("systemd left the bus")
        self._owner = owner
        if owner:
            self._session = Session(self._link, owner, self._told, self._again)
            self._session.begin(self._units)

    def _told(self, report: BusReport) -> None:
        if self.session is not None:
            self._lost_told = False
        self._report(report)

    def _lost(self, reason: str) -> None:
        """Says so once per loss, then fails the calls that nobody will answer any more."""
        session, self._session, self._owner = self._session, None, ""
        if not self._lost_told:
            self._lost_told = True
            log.warning("lost systemd", reason=reason)
            self._report(BusLost(reason))
        if session is not None:
            session.end()

    def _drop(self) -> Link | None:
        link, self._link = self._link, None
        session, self._session, self._owner = self._session, None, ""
        if session is not None:
            session.end()
        return link

    def _again(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._lost(reason)
        link = self._drop()
        if link is not None:
            link.close()
            if time.monotonic() - self._opened_at > _STABLE_SECONDS:
                self._attempt = 0
        delay = self._delays[min(self._attempt, len(self._delays) - 1)]
        self._attempt += 1
        self._give_up_waiting = self._thread.later(delay, self._connect)
