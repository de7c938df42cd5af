"""systemd's manager over D-Bus, as the engine sees it.

Everything on the bus happens in one GLib thread. Replies and signals alike leave it through the loop's
``call_soon_threadsafe``, in the order in which the bus delivered them, so that a job's end never overtakes
the answer that names the job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.errors import Code, refuse
from spark_modeld.ports import BusConnected, BusLost, BusReport, BusSink, CallFailed, CallFailure
from spark_modeld.systemd.connector import Connector
from spark_modeld.systemd.fact_book import FILE_PROPERTIES, FactBook, Question
from spark_modeld.systemd.glib_thread import BusError, Done, GLibThread, Reply
from spark_modeld.systemd.session import MANAGER_PATH, Session
from spark_modeld.systemd.translate import FACT_PROPERTIES, NO_SUCH_UNIT, call_failure, unit_facts

# Longer than the 15 s that polkit gives a rule: on a busy machine, polkit 122 was seen to answer after just that.
_TIMEOUT_SECONDS = 20.0
_NOT_CONNECTED = BusError(None, "not connected to systemd")


class Manager:
    """The Systemd port. Of use for one ``connect`` and one ``close``; what is asked before or after does nothing.

    ``user`` means the calling user's systemd; ``address`` is a D-Bus address to use instead of either well-known
    bus. ``timeout`` holds for connecting and for every call, in seconds; ``reconnect_delays`` for the attempts
    after a loss, the last one repeating.
    """

    def __init__(
        self,
        *,
        user: bool = False,
        address: str | None = None,
        timeout: float = _TIMEOUT_SECONDS,
        reconnect_delays: Sequence[float] = (0.0, 0.03, 0.1, 0.3, 1.0, 2.0),
    ) -> None:
        self._thread = GLibThread()
        self._connector = Connector(
            self._thread, self._post, address=address, user=user, timeout=timeout, delays=reconnect_delays
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sink: BusSink | None = None
        self._book = FactBook()
        self._folders: tuple[object, tuple[str, ...]] = (None, ())
        self._concluded: asyncio.Future[None] | None = None

    async def connect(self, sink: BusSink, units: frozenset[str]) -> None:
        """Returns after the first attempt, when BusConnected or BusLost has been reported."""
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._concluded = self._loop.create_future()
        self._thread.start()
        self._thread.post(self._connector.begin, units)
        await self._concluded

    def watch(self, units: frozenset[str]) -> None:
        """Replaces the set of units watched; reports UnitChanged once for each that is new."""
        self._in_thread(self._connector.watch, units)

    def look(self, unit: str) -> None:
        """Reads a watched unit again and reports UnitChanged; while the bus is lost, BusConnected will tell."""

        def run() -> None:
            if self._connector.session is not None:
                self._connector.session.look(unit)

        self._in_thread(run)

    def start(self, unit: str, token: int, *, reset: bool = True) -> None:
        """With ``reset``, ResetFailedUnit (a unit that is not loaded is no error); then StartUnit ``replace``."""
        self._command(token, lambda session: session.start(unit, token, reset=reset))

    def stop(self, unit: str, token: int) -> None:
        """StopUnit ``replace``."""
        self._command(token, lambda session: session.stop(unit, token))

    def kill(self, unit: str, token: int) -> None:
        """SIGKILL for every process of the unit."""
        self._command(token, lambda session: session.kill(unit, token))

    async def sweep(self, model: str) -> None:
        """Starts spark-model-sweep@. SparkError when systemd refuses, cannot be asked or does not answer."""
        unit = f"spark-model-sweep@{model}.service"
        reply = await self._ask(lambda session, done: session.ask("StartUnit", "(ss)", (unit, "replace"), done))
        if isinstance(reply, BusError):
            raise refuse(Code.INTERNAL, f"systemd did not start {unit}: {reply.message}")

    async def processes(self, unit: str) -> frozenset[int]:
        """The PIDs in the unit's control group now, empty for a unit that is not loaded; without that of its gate.

        SparkError ``bus-lost`` when systemd cannot be asked or does not answer.
        """
        reply = await self._ask(
            lambda session, done: session.ask("GetUnitProcesses", "(s)", (unit,), done),
        )
        if not isinstance(reply, BusError):
            found = frozenset(pid for _cgroup, pid, _command in reply[0])
            return found - await self._gate_of(unit) if found else found
        if reply.name == NO_SUCH_UNIT:
            return frozenset()
        code = Code.BUS_LOST if call_failure(reply) is CallFailure.UNCLEAR else Code.INTERNAL
        raise refuse(code, f"systemd did not list the processes of {unit}: {reply.message}")

    async def _gate_of(self, unit: str) -> frozenset[int]:
        """The process that ``ExecStartPre=`` runs at the moment: it is not the model's, which is yet to be started."""
        reply = await self._ask(lambda session, done: session.ask("GetUnit", "(s)", (unit,), done))
        if isinstance(reply, BusError):
            return frozenset()
        path = str(reply[0])
        reply = await self._ask(lambda session, done: session.ask_properties(path, ("SubState", "ControlPID"), done))
        if isinstance(reply, BusError) or reply[0].get("SubState") != "start-pre":
            return frozenset()
        return frozenset({int(reply[0].get("ControlPID", 0))})

    async def unit_of(self, pid: int) -> str | None:
        """The unit a process belongs to; None if it is gone, in none, or systemd cannot be asked."""
        reply = await self._ask(lambda session, done: session.ask("GetUnitByPID", "(u)", (pid,), done))
        if isinstance(reply, BusError):
            return None
        path = str(reply[0])
        reply = await self._ask(lambda session, done: session.ask_properties(path, ("Id",), done))
        return None if isinstance(reply, BusError) else reply[0].get("Id")

    async def facts(self, unit: str) -> UnitFacts:
        """What systemd says of a unit whether it runs or not. SparkError ``bus-lost`` when it cannot be asked."""
        era, asked_ns = self._connector.era, time.time_ns()
        if era is not None and (known := self._book.find(unit, era)) is not None:
            return known
        question = Question(unit, era, await self._unit_folders(era), asked_ns)
        self._in_thread(self._let_go, unit)
        reply = await self._ask(lambda session, done: session.ask("LoadUnit", "(s)", (unit,), done))
        if not isinstance(reply, BusError):
            path, names = str(reply[0]), (*FACT_PROPERTIES, *FILE_PROPERTIES)
            reply = await self._ask(lambda session, done: session.ask_properties(path, names, done))
        if not isinstance(reply, BusError):
            facts = unit_facts(reply[0])
            self._book.keep(question, facts, reply[0])
            return facts
        failure = call_failure(reply)
        if failure is CallFailure.UNCLEAR:
            raise refuse(Code.BUS_LOST, f"systemd did not say what it knows of {unit}: {reply.message}")
        return UnitFacts(load="not-found" if failure is CallFailure.NO_SUCH_UNIT else "error")

    def _let_go(self, unit: str) -> None:
        """In the GLib thread. What is read next has to be the unit's files as they are now."""
        if self._connector.session is not None:
            self._connector.session.let_go(unit)

    async def _unit_folders(self, era: object) -> tuple[str, ...]:
        """Where systemd looks for units, asked once an era."""
        if self._folders[0] != era:
            reply = await self._ask(lambda session, done: session.ask_properties(MANAGER_PATH, ("UnitPath",), done))
            self._folders = era, () if isinstance(reply, BusError) else tuple(reply[0].get("UnitPath", ()))
        return self._folders[1]

    async def close(self) -> None:
        """Disconnects for good; no report comes after this call."""
        self._sink = None
        if self._loop is None:
            return
        loop, stopped = self._loop, asyncio.Event()

        def closed() -> None:
            self._thread.stop(lambda: loop.call_soon_threadsafe(stopped.set))

        self._thread.post(self._connector.close, closed)
        await stopped.wait()
        self._thread.join()
        self._loop = None

    def _in_thread(self, work: Callable[..., None], *args: object) -> None:
        """Outside connect and close there is no thread, and work that it never takes would keep it in memory."""
        if self._sink is not None:
            self._thread.post(work, *args)

    def _command(self, token: int, work: Callable[[Session], None]) -> None:
        def run() -> None:
            session = self._connector.session
            if session is None:
                self._post(CallFailed(token, CallFailure.UNCLEAR, _NOT_CONNECTED.message))
            else:
                work(session)

        self._in_thread(run)

    async def _ask(self, work: Callable[[Session, Done], None]) -> Reply:
        if self._sink is None:
            return _NOT_CONNECTED
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()

        def settle(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        def run() -> None:
            session = self._connector.session
            if session is None:
                loop.call_soon_threadsafe(settle, _NOT_CONNECTED)
            else:
                work(session, lambda reply: loop.call_soon_threadsafe(settle, reply))

        self._thread.post(run)
        return await answer

    def _post(self, report: BusReport) -> None:
        """Called in the GLib thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, report)

    def _deliver(self, report: BusReport) -> None:
        if self._sink is not None:
            self._sink(report)
        if isinstance(report, BusConnected | BusLost) and self._concluded is not None and not self._concluded.done():
            self._concluded.set_result(None)
