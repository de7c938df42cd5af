"""Many models on one server, each shown to the core as a unit of its own.

A tenant's seat (``ollama.service/llama3.2:3b``) is up while its server runs and holds the model. To start it starts the
server if that is down, and the readiness ladder then has it load the model; to stop it unloads the model and leaves the
server alone. A server that holds nothing is nobody. What the server does by itself or for other clients has no signal:
it is asked every few seconds while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from spark_modeld import ports
from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.slot import Slot
from spark_modeld.core.unit import ActiveState, UnitStatus
from spark_modeld.tenancy.jobs import Jobs
from spark_modeld.tenancy.roster import Roster
from spark_modeld.tenancy.rounds import Rounds
from spark_modeld.tenancy.seats import Seat, Server, Spawn


class Tenants:
    """ports.Systemd over another one: seats are handled here, every other unit passes through.

    ``slot`` gives the slot of the moment, ``spawn`` makes a task whose bug ends the engine, ``changed`` is told when a
    server holds something else than before. ``rounds`` knows what the servers hold.
    """

    def __init__(
        self,
        outside: ports.Outside,
        *,
        slot: Callable[[], Slot],
        spawn: Spawn,
        changed: Callable[[], None],
    ) -> None:
        self._systemd = outside.systemd
        self._clock = outside.clock
        self._spawn = spawn
        self._sink: ports.BusSink = _nobody
        self._held: list[ports.BusReport] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._roster = roster = Roster(slot)
        self.rounds = Rounds(outside, roster, slot=slot, spawn=spawn, show=self._show, changed=changed)
        self._jobs = Jobs(outside, roster, self.rounds, spawn=spawn, show=self._show, tell=self._tell)

    # ports.Systemd.

    async def connect(self, sink: ports.BusSink, units: frozenset[str]) -> None:
        """See ports.Systemd. What a server holds is known before it is reported that the bus is there."""
        self._sink = sink
        self._take(units)
        await self._systemd.connect(self._on_report, self._roster.units())
        if self._opening is not None:
            await self._opening

    def watch(self, units: frozenset[str]) -> None:
        """See ports.Systemd."""
        new = self._take(units)
        self._systemd.watch(self._roster.units())
        for seat in new:
            if seat.server.status is not None:
                self._show(seat)

    def look(self, unit: str) -> None:
        """See ports.Systemd."""
        seat = self._roster.seats.get(unit)
        if seat is None:
            self._systemd.look(unit)
        else:
            self._spawn(self._look(seat), f"look {unit}")

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        """See ports.Systemd. The server is started if it is down; whether the model loads is the ladder's to see."""
        seat = self._roster.seats.get(unit)
        if seat is None:
            self._systemd.start(unit, token, reset=reset)
        else:
            self._jobs.start(seat, token, reset=reset)

    def stop(self, unit: str, token: int) -> None:
        """See ports.Systemd. The model is unloaded, the server stays."""
        seat = self._roster.seats.get(unit)
        if seat is None:
            self._systemd.stop(unit, token)
        else:
            self._jobs.stop(seat, token)

    def kill(self, unit: str, token: int) -> None:
        """See ports.Systemd. A tenant that will not go is killed with its server, and with all others there."""
        seat = self._roster.seats.get(unit)
        self._systemd.kill(unit if seat is None else seat.server.unit, token)

    async def sweep(self, model: str) -> None:
        """See ports.Systemd. Tenants have no unit that anything could escape from."""
        await self._systemd.sweep(model)

    async def processes(self, unit: str) -> frozenset[int]:
        """See ports.Systemd. A tenant has none once its server runs without it. SparkError when nobody can say."""
        seat = self._roster.seats.get(unit)
        if seat is None:
            return await self._systemd.processes(unit)
        server = seat.server
        if not server.running:
            return await self._systemd.processes(server.unit)
        if not await self.rounds.ask(server):
            raise refuse(Code.INTERNAL, f"{server.unit} does not say what it holds.")
        return frozenset({server.status.main_pid}) if seat.listed and server.status else frozenset()

    async def unit_of(self, pid: int) -> str | None:
        """See ports.Systemd."""
        return await self._systemd.unit_of(pid)

    async def close(self) -> None:
        """See ports.Systemd."""
        await self._systemd.close()

    async def facts(self, unit: str) -> UnitFacts:
        """See ports.Systemd."""
        return await self._systemd.facts(unit)

    def _take(self, units: frozenset[str]) -> list[Seat]:
        new, left = self._roster.take(units)
        for server in left:
            self.rounds.rest(server)
        return new

    # What systemd reports.

    def _on_report(self, report: ports.BusReport) -> None:
        if self._held is not None:
            self._held.append(report)
            return
        match report:
            case ports.BusConnected(units):
                self._connected(report, units)
            case ports.BusLost():
                self._lost()
                self._sink(report)
            case ports.UnitChanged(unit, status) if unit in self._roster.servers:
                self._server_changed(self._roster.servers[unit], status)
                if unit in self._roster.plain:
                    self._sink(report)
            case ports.JobQueued(token) | ports.CallFailed(token) if self._jobs.asked(token):
                self._jobs.answered(report)
            case ports.JobRemoved(job, unit, result):
                self._job_removed(report, job, unit, result)
            case _:
                self._sink(report)

    def _connected(self, report: ports.BusConnected, units: Mapping[str, UnitStatus]) -> None:
        for server in self._roster.servers.values():
            server.status = units.get(server.unit)
        if not any(server.running for server in self._roster.servers.values()):
            self._tell_connected(report)
            return
        self._held = []
        self._opening = self._spawn(self._open(report), "ask what the servers hold")

    async def _open(self, report: ports.BusConnected) -> None:
        await asyncio.gather(*(self.rounds.ask(server) for server in self._roster.servers.values() if server.running))
        held, self._held = self._held or [], None
        self._tell_connected(report)
        for each in held:
            self._on_report(each)

    def _tell_connected(self, report: ports.BusConnected) -> None:
        seats = {}
        for seat in self._roster.seats.values():
            seats[seat.name] = seat.shown = seat.status(self._clock.now().mono)
            seat.up = seat.shown.active is ActiveState.ACTIVE
        for server in self._roster.servers.values():
            self.rounds.follow(server)
        plain = {unit: status for unit, status in report.units.items() if unit in self._roster.plain}
        self._sink(ports.BusConnected(plain | seats))

    def _lost(self) -> None:
        for seat in self._roster.seats.values():
            if seat.work is not None:
                seat.work.cancel()
            seat.work = seat.job = seat.shown = None
            seat.claimed = seat.up = False
        for server in self._roster.servers.values():
            server.status = None
            self.rounds.rest(server)
        self._jobs.forget()

    def _job_removed(self, report: ports.JobRemoved, job: str, unit: str, result: str) -> None:
        if self._jobs.ended(job, result):
            return
        server = self._roster.servers.get(unit)
        if server is not None:
            # Somebody's own job: what comes of it is no crash.
            for seat in self._roster.seats_of(server):
                self._sink(ports.JobRemoved(job, seat.name, result))
            if server.felled_by == job:
                server.felled_by = None
        if server is None or unit in self._roster.plain:
            self._sink(report)

    def _server_changed(self, server: Server, status: UnitStatus) -> None:
        was_running, server.status = server.running, status
        if was_running and not server.running and status.job:
            server.felled_by = status.job
            server.fallen = frozenset(seat.name for seat in self._roster.seats_of(server) if seat.up)
        if server.running and server.felled_by is not None:
            # systemd's restart is one job from the stop to the start: who was there before comes back with it.
            server.felled_by = None
            for seat in self._roster.seats_of(server):
                seat.claimed = seat.claimed or seat.name in server.fallen
        self.rounds.follow(server)
        for seat in self._roster.seats_of(server):
            self._show(seat)
        server.changed.set()
        server.changed = asyncio.Event()

    # What is shown of a seat.

    async def _look(self, seat: Seat) -> None:
        await self.rounds.ask(seat.server)
        if seat.server.status is not None:  # else the bus is lost, and it is told when that is back
            self._show(seat, again=True)

    def _show(self, seat: Seat, *, again: bool = False) -> None:
        status = seat.status(self._clock.now().mono)
        if status == seat.shown and not again:
            return
        seat.shown = status
        if seat.job is None:
            seat.up = status.active is ActiveState.ACTIVE or (seat.up and status.active is ActiveState.DEACTIVATING)
            seat.claimed = seat.claimed and seat.up
        self._tell(ports.UnitChanged(seat.name, status))

    def _tell(self, report: ports.BusReport) -> None:
        self._sink(report)


def _nobody(_: ports.BusReport) -> None:
    """Before ``connect``."""
