"""One systemd on one connection: from subscribing, through its reports, to its end. Lives in the GLib thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from spark_modeld.core.unit import UnitStatus
from spark_modeld.ports import (
    BusConnected,
    BusReport,
    CallDone,
    CallFailed,
    HostStopping,
    JobQueued,
    JobRemoved,
    UnitChanged,
)
from spark_modeld.systemd.glib_thread import BusError, Call, Cancel, Done, Link, Reply
from spark_modeld.systemd.keeping import Kept
from spark_modeld.systemd.translate import NO_SUCH_PROCESS, NO_SUCH_UNIT, STATUS_PROPERTIES, call_failure
from spark_modeld.systemd.watch import Changed, Watch

log = structlog.get_logger(__name__)

MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"

# Every way down starts the first of these; the jobs of one transaction are announced in no order we can rely on.
_WAYS_DOWN = frozenset(
    f"{name}.target" for name in ("shutdown", "poweroff", "reboot", "soft-reboot", "halt", "kexec", "exit", "final")
)
_SIGKILL = 9
_GONE = BusError(None, "the connection to systemd was lost before it answered")

Report = Callable[[BusReport], None]


class Session:
    """What is said to and heard from the systemd that owns its name as ``owner``.

    ``failed`` is called when systemd does not answer while the session begins.
    """

    def __init__(self, link: Link, owner: str, report: Report, failed: Callable[[str], None]) -> None:
        self._link = link
        self._owner = owner
        self._report = report
        self._failed = failed
        self._watch = Watch(self, self._told)
        self._kept = Kept(self.call)
        self._subscriptions: list[Cancel] = []
        self._owed: dict[object, Done] = {}
        self._held: list[BusReport] = []
        self._asked: Counter[str] = Counter()
        self._early: list[JobRemoved] = []
        self._subscribed = False
        self._ended = False
        self._stopping = False
        self.connected = False
        self.reloads = 0

    def begin(self, units: frozenset[str]) -> None:
        """Subscribes, then reads ``units``; reports BusConnected when all of them are read."""
        for signal, fired in (
            ("JobNew", self._job_new),
            ("JobRemoved", self._job_removed),
            ("Reloading", self._reloading),
        ):
            self._subscriptions.append(self._link.subscribe(self._owner, MANAGER, signal, fired, path=MANAGER_PATH))
        self._subscribe()
        self._read_system_state()
        self._watch.replace(units)

    def end(self) -> None:
        """Forgets the session; whoever still waits for an answer gets a failure."""
        self._ended = True
        self.connected = False
        self._watch.end()
        for unsubscribe in self._subscriptions:
            unsubscribe()
        owed, self._owed = self._owed, {}
        for done in owed.values():
            done(_GONE)

    def watch(self, units: frozenset[str]) -> None:
        """Replaces the set of units watched."""
        self._watch.replace(units)
        self._kept.only(units)
        self._settle()

    def look(self, unit: str) -> None:
        """Reads a watched unit again."""
        self._watch.look(unit)

    def let_go(self, unit: str) -> None:
        """What systemd knows of the unit's files may be old: once it is down, it may forget it."""
        self._kept.let_go(unit)

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        """ResetFailedUnit, then StartUnit: a connection keeps their order, so the first is not waited for."""
        if reset:
            self.call("ResetFailedUnit", "(s)", (unit,), lambda reply: _note_reset(unit, reply))
        self._job("StartUnit", unit, token)

    def stop(self, unit: str, token: int) -> None:
        """StopUnit."""
        self._job("StopUnit", unit, token)

    def kill(self, unit: str, token: int) -> None:
        """SIGKILL to all of the unit's processes; having none left is success."""

        def done(reply: Reply) -> None:
            if isinstance(reply, BusError) and reply.name != NO_SUCH_PROCESS:
                self._call_failed(token, reply)
            else:
                self._report(CallDone(token))

        self.ask("KillUnit", "(ssi)", (unit, "all", _SIGKILL), done)

    def ask(self, member: str, signature: str, args: tuple[object, ...], done: Done) -> None:
        """Calls a method of the manager for somebody who must get an answer, even if the session ends."""
        self.call(member, signature, args, self._owe(done))

    def ask_properties(self, path: str, names: tuple[str, ...], done: Done) -> None:
        """Reads properties for somebody who must get an answer, even if the session ends."""
        self.get_all(path, names, self._owe(done))

    def call(self, member: str, signature: str, args: tuple[object, ...], done: Done) -> None:
        """Calls a method of the manager; ``done`` is dropped if the session ends before the reply."""
        call = Call(self._owner, MANAGER_PATH, f"{MANAGER}.{member}", signature, args)
        self._link.call(call, self._while_alive(done))

    def get_all(self, path: str, names: tuple[str, ...], done: Done) -> None:
        """Reads properties of any object; ``done`` is dropped if the session ends before the reply."""
        self._link.get_all(self._owner, path, names, self._while_alive(done))

    def on_changed(self, path: str, changed: Changed) -> Cancel:
        """Calls ``changed`` at every PropertiesChanged of the unit at ``path``, whichever interface it is about."""
        return self._link.follow(self._owner, path, STATUS_PROPERTIES, changed)

    def unanswered(self, error: BusError) -> None:
        """Ends a session that cannot begin, because systemd does not answer; a later silence may pass."""
        if not self.connected:
            self._failed(f"systemd does not answer: {error.message}")

    def _owe(self, done: Done) -> Done:
        ticket = object()
        self._owed[ticket] = done

        def answered(reply: Reply) -> None:
            if self._owed.pop(ticket, None) is not None:
                done(reply)

        return answered

    def _while_alive(self, done: Done) -> Done:
        def answered(reply: Reply) -> None:
            if not self._ended:
                done(reply)

        return answered

    def _job(self, member: str, unit: str, token: int) -> None:
        def done(reply: Reply) -> None:
            self._asked[unit] -= 1
            if isinstance(reply, BusError):
                self._call_failed(token, reply)
            else:
                self._report(JobQueued(token, str(reply[0])))
                if member == "StartUnit":
                    self._kept.keep(unit)
            self._release()

        self._asked[unit] += 1
        self.ask(member, "(ss)", (unit, "replace"), done)

    def _call_failed(self, token: int, error: BusError) -> None:
        self._report(CallFailed(token, call_failure(error), error.message))

    def _subscribe(self) -> None:
        def subscribed(reply: Reply) -> None:
            # A bus error here is AlreadySubscribed: after a reload nobody knows whether systemd remembers us.
            if isinstance(reply, BusError) and reply.name is None:
                self.unanswered(reply)
                return
            self._subscribed = True
            self._settle()

        self.call("Subscribe", "()", (), subscribed)

    def _read_system_state(self) -> None:
        """SystemState has no change signal: it is read when there is reason to think that it changed."""

        def read(reply: Reply) -> None:
            stopping = not isinstance(reply, BusError) and reply[0].get("SystemState") == "stopping"
            if stopping and not self._stopping:
                self._stopping = True
                self._report(HostStopping())

        self.get_all(MANAGER_PATH, ("SystemState",), read)

    def _job_new(self, _id: int, _path: str, unit: str) -> None:
        if unit in _WAYS_DOWN:
            self._read_system_state()

    def _job_removed(self, _id: int, job: str, unit: str, result: str) -> None:
        for name in self._watch.names(unit) or [unit]:
            self._early.append(JobRemoved(job, name, result))
        self._release()

    def _release(self) -> None:
        """Tells the job ends, but none of a unit that a call is under way for: it could be that call's own job."""
        early, self._early = self._early, []
        for removed in early:
            if self._asked[removed.unit] > 0:
                self._early.append(removed)
            else:
                self._tell(removed)

    def _reloading(self, active: bool) -> None:
        self.reloads += 1
        if not active:
            self._subscribe()
            self._watch.reload()

    def _told(self, unit: str, status: UnitStatus) -> None:
        if self.connected:
            self._tell(UnitChanged(unit, status))
        self._settle()

    def _tell(self, report: BusReport) -> None:
        if self.connected:
            self._report(report)
        else:
            self._held.append(report)

    def _settle(self) -> None:
        """Once everything is subscribed and read: what the session begins with, then what happened meanwhile."""
        if self.connected or self._ended or not (self._subscribed and self._watch.complete):
            return
        self.connected = True
        self._report(BusConnected(self._watch.statuses))
        held, self._held = self._held, []
        for report in held:
            self._report(report)


def _note_reset(unit: str, reply: Reply) -> None:
    if isinstance(reply, BusError) and reply.name != NO_SUCH_UNIT:
        log.warning("could not reset the unit's failures", unit=unit, error=reply.name, reason=reply.message)
