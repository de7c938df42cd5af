"""Many models on one server, each shown to the core as a unit of its own.

A tenant's seat (``ollama.service/llama3.2:3b``) is up while its server runs and holds the model. To start it starts the
server if that is down, and the readiness ladder then has it load the model; to stop it unloads the model and leaves the
server alone. A server that holds nothing is nobody. What the server does by itself or for other clients has no signal:
it is asked every few seconds while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.model import ActiveState, Loaded, Model, Phase, UnitStatus, seat_of
from spark_modeld.core.slot import Slot
from spark_modeld.tenancy.seats import Seat, Server

POLL_SECONDS = 2.0
FRESH_SECONDS = 0.25
LEAVING_SECONDS = 3.0
"""What ends so soon was told to go by somebody, and is on its way."""
UNLOAD_SECONDS = 10.0
"""How long an unload that was asked for is waited for until it is asked for again."""

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Tenants:
    """ports.Systemd over another one: seats are handled here, every other unit passes through.

    ``slot`` gives the slot of the moment, ``spawn`` makes a task whose bug ends the engine, ``changed`` is told when a
    server holds something else than before.
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
        self._api = outside.server
        self._clock = outside.clock
        self._slot = slot
        self._spawn = spawn
        self._changed = changed
        self._sink: ports.BusSink = _nobody
        self._plain: frozenset[str] = frozenset()
        self._servers: dict[str, Server] = {}
        self._seats: dict[str, Seat] = {}
        self._held: list[ports.BusReport] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._last = 0
        self._replies: dict[int, asyncio.Future[asyncio.Future[str] | ports.CallFailed]] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}

    def loaded(self) -> tuple[Loaded, ...]:
        """What every server that runs held when it was last asked; ``model`` is set where it is one of ours."""
        ours = {model.seat: model.id for model in self._models()}
        return tuple(
            replace(entry, model=ours.get(seat_of(server.unit, entry.name)))
            for server in self._servers.values()
            for entry in server.loaded
        )

    async def refresh(self, *, within: float = FRESH_SECONDS) -> None:
        """Asks every server that runs what it holds, unless that was done ``within`` so many seconds."""
        now = self._clock.now().mono
        late = [s for s in self._servers.values() if s.running and now - s.asked_at >= within]
        await asyncio.gather(*(self._ask(server) for server in late))

    # ports.Systemd.

    async def connect(self, sink: ports.BusSink, units: frozenset[str]) -> None:
        """See ports.Systemd. What a server holds is known before it is reported that the bus is there."""
        self._sink = sink
        self._seat(units)
        await self._systemd.connect(self._on_report, self._real())
        if self._opening is not None:
            await self._opening

    def watch(self, units: frozenset[str]) -> None:
        """See ports.Systemd."""
        new = self._seat(units)
        self._systemd.watch(self._real())
        for seat in new:
            if seat.server.status is not None:
                self._show(seat)

    def look(self, unit: str) -> None:
        """See ports.Systemd."""
        seat = self._seats.get(unit)
        if seat is None:
            self._systemd.look(unit)
        else:
            self._spawn(self._look(seat), f"look {unit}")

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        """See ports.Systemd. The server is started if it is down; whether the model loads is the ladder's to see."""
        seat = self._seats.get(unit)
        if seat is None:
            self._systemd.start(unit, token, reset=reset)
        else:
            self._begin(seat, self._start(seat, token, reset=reset))

    def stop(self, unit: str, token: int) -> None:
        """See ports.Systemd. The model is unloaded, the server stays."""
        seat = self._seats.get(unit)
        if seat is None:
            self._systemd.stop(unit, token)
        else:
            self._begin(seat, self._stop(seat, token))

    def kill(self, unit: str, token: int) -> None:
        """See ports.Systemd. A tenant that will not go is killed with its server, and with all others there."""
        seat = self._seats.get(unit)
        self._systemd.kill(unit if seat is None else seat.server.unit, token)

    async def sweep(self, model: str) -> None:
        """See ports.Systemd. Tenants have no unit that anything could escape from."""
        await self._systemd.sweep(model)

    async def processes(self, unit: str) -> frozenset[int]:
        """See ports.Systemd. A tenant has none once its server runs without it. SparkError when nobody can say."""
        seat = self._seats.get(unit)
        if seat is None:
            return await self._systemd.processes(unit)
        server = seat.server
        if not server.running:
            return await self._systemd.processes(server.unit)
        if not await self._ask(server):
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

    # Seats and servers.

    def _models(self) -> tuple[Model, ...]:
        return tuple(model for model in self._slot().house.models.values() if model.tenant)

    def _seat(self, units: frozenset[str]) -> list[Seat]:
        """Takes in which units are watched; the seats that are new."""
        self._plain = frozenset(unit for unit in units if "/" not in unit)
        new = []
        for name in sorted(units - self._plain - self._seats.keys()):
            unit = name.partition("/")[0]
            self._seats[name] = Seat(name, self._servers.setdefault(unit, Server(unit)))
            new.append(self._seats[name])
        for name in self._seats.keys() - units:
            del self._seats[name]
        for unit in self._servers.keys() - {seat.server.unit for seat in self._seats.values()}:
            self._rest(self._servers.pop(unit))
        return new

    def _real(self) -> frozenset[str]:
        return self._plain | self._servers.keys()

    def _seats_of(self, server: Server) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.server is server]

    def _tenant_of(self, server: Server) -> Model | None:
        """One of the server's models: all have its address and its key."""
        return next((m for m in self._models() if m.unit == server.unit), None)

    def _model_of(self, seat: Seat) -> Model | None:
        return next((m for m in self._models() if m.seat == seat.name), None)

    def _phase(self, seat: Seat) -> Phase | None:
        model = self._model_of(seat)
        life = self._slot().house.lives.get(model.id) if model is not None else None
        return life.phase if life is not None else None

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
            case ports.UnitChanged(unit, status) if unit in self._servers:
                self._server_changed(self._servers[unit], status)
                if unit in self._plain:
                    self._sink(report)
            case ports.JobQueued(token) | ports.CallFailed(token) if token in self._replies:
                self._answered(self._replies.pop(token), report)
            case ports.JobRemoved(job, unit, result):
                self._job_removed(report, job, unit, result)
            case _:
                self._sink(report)

    def _answered(
        self,
        reply: asyncio.Future[asyncio.Future[str] | ports.CallFailed],
        report: ports.JobQueued | ports.CallFailed,
    ) -> None:
        if isinstance(report, ports.JobQueued):
            self._jobs[report.job] = asyncio.get_running_loop().create_future()
        if not reply.done():
            reply.set_result(self._jobs[report.job] if isinstance(report, ports.JobQueued) else report)

    def _connected(self, report: ports.BusConnected, units: Mapping[str, UnitStatus]) -> None:
        for server in self._servers.values():
            server.status = units.get(server.unit)
        if not any(server.running for server in self._servers.values()):
            self._tell_connected(report)
            return
        self._held = []
        self._opening = self._spawn(self._open(report), "ask what the servers hold")

    async def _open(self, report: ports.BusConnected) -> None:
        await asyncio.gather(*(self._ask(server) for server in self._servers.values() if server.running))
        held, self._held = self._held or [], None
        self._tell_connected(report)
        for each in held:
            self._on_report(each)

    def _tell_connected(self, report: ports.BusConnected) -> None:
        seats = {}
        for seat in self._seats.values():
            seats[seat.name] = seat.shown = seat.status(self._clock.now().mono)
            seat.up = seat.shown.active is ActiveState.ACTIVE
        for server in self._servers.values():
            self._follow(server)
        plain = {unit: status for unit, status in report.units.items() if unit in self._plain}
        self._sink(ports.BusConnected(plain | seats))

    def _lost(self) -> None:
        for seat in self._seats.values():
            if seat.work is not None:
                seat.work.cancel()
            seat.work = seat.job = seat.shown = None
            seat.claimed = seat.up = False
        for server in self._servers.values():
            server.status = None
            self._rest(server)
        self._replies.clear()
        self._jobs.clear()

    def _job_removed(self, report: ports.JobRemoved, job: str, unit: str, result: str) -> None:
        ours, server = self._jobs.pop(job, None), self._servers.get(unit)
        if ours is not None:
            if not ours.done():
                ours.set_result(result)
            return
        if server is not None:
            # Somebody's own job: what comes of it is no crash.
            for seat in self._seats_of(server):
                self._sink(ports.JobRemoved(job, seat.name, result))
            if server.felled_by == job:
                server.felled_by = None
        if server is None or unit in self._plain:
            self._sink(report)

    def _server_changed(self, server: Server, status: UnitStatus) -> None:
        was_running, server.status = server.running, status
        if was_running and not server.running and status.job:
            server.felled_by = status.job
            server.fallen = frozenset(seat.name for seat in self._seats_of(server) if seat.up)
        if server.running and server.felled_by is not None:
            # systemd's restart is one job from the stop to the start: who was there before comes back with it.
            server.felled_by = None
            for seat in self._seats_of(server):
                seat.claimed = seat.claimed or seat.name in server.fallen
        self._follow(server)
        for seat in self._seats_of(server):
            self._show(seat)
        server.changed.set()
        server.changed = asyncio.Event()

    def _follow(self, server: Server) -> None:
        """Asks a server that runs now and then, and forgets what one that does not held."""
        if not server.running:
            self._rest(server)
        elif server.poll is None or server.poll.done():
            server.poll = self._spawn(self._poll(server), f"poll {server.unit}")

    def _rest(self, server: Server) -> None:
        server.loaded, server.asked_at = (), float("-inf")
        if server.poll is not None:
            server.poll.cancel()
            server.poll = None

    # What the servers say.

    async def _poll(self, server: Server) -> None:
        while True:
            await self._ask(server)
            await self._pin(server)
            await self._clock.sleep(POLL_SECONDS)

    async def _look(self, seat: Seat) -> None:
        await self._ask(seat.server)
        if seat.server.status is not None:  # else the bus is lost, and it is told when that is back
            self._show(seat, again=True)

    async def _pin(self, server: Server) -> None:
        """Keeps what serves: another client had it loaded until it is idle, or its request set an end to it."""
        ends = {
            seat_of(server.unit, entry.name)
            for entry in server.loaded
            if entry.ends_in is not None and entry.ends_in > LEAVING_SECONDS
        }
        for model in self._models():
            if model.seat in ends:
                async with server.keeping:
                    if self._stays(model):
                        await self._api.pin(model)

    def _stays(self, model: Model) -> bool:
        slot = self._slot()
        life = slot.house.lives.get(model.id)
        return life is not None and life.phase is Phase.SERVING and model.id not in slot.intruders()

    async def _ask(self, server: Server) -> bool:
        """Asks what it holds and tells what is new; False if it did not say."""
        server.asks += 1
        number, tenant = server.asks, self._tenant_of(server)
        loaded = await self._api.loaded(tenant) if tenant is not None else None
        if loaded is None or not server.running:
            return False
        if number < server.answered:
            return True  # somebody asked later and was answered sooner: what we have been told is old
        server.answered = number
        other = {entry.name for entry in loaded} != {entry.name for entry in server.loaded}
        now = server.asked_at = self._clock.now().mono
        server.loaded = loaded
        for seat in self._seats_of(server):
            seat.missing_since = None if seat.listed else now if seat.missing_since is None else seat.missing_since
            seat.claimed = seat.claimed and not seat.listed and self._phase(seat) is not Phase.SERVING
            if seat.shown is not None:
                self._show(seat)
        if other:
            self._changed()
        return True

    def _show(self, seat: Seat, *, again: bool = False) -> None:
        status = seat.status(self._clock.now().mono)
        if status == seat.shown and not again:
            return
        seat.shown = status
        if seat.job is None:
            seat.up = status.active is ActiveState.ACTIVE or (seat.up and status.active is ActiveState.DEACTIVATING)
            seat.claimed = seat.claimed and seat.up
        self._sink(ports.UnitChanged(seat.name, status))

    # Starting and stopping.

    def _begin(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        """The newest of our calls is the one that counts, as with systemd's own jobs."""
        if seat.work is not None:
            seat.work.cancel()
        if seat.job is not None:
            job, seat.job = seat.job, None
            self._sink(ports.JobRemoved(job, seat.name, "canceled"))
        seat.work = self._spawn(work, f"{seat.name}")

    def _queued(self, seat: Seat, token: int, during: ActiveState) -> str:
        self._last += 1
        seat.job, seat.during = f"{seat.name}#{self._last}", during
        self._sink(ports.JobQueued(token, seat.job))
        self._show(seat)
        return seat.job

    def _ended(self, seat: Seat, job: str, result: str) -> None:
        seat.job = None
        self._show(seat)
        self._sink(ports.JobRemoved(job, seat.name, result))

    async def _start(self, seat: Seat, token: int, *, reset: bool) -> None:
        server, done = seat.server, None
        if not server.running:
            self._last += 1
            reply = self._replies[-self._last] = asyncio.get_running_loop().create_future()
            self._systemd.start(server.unit, -self._last, reset=reset)
            answer = await reply
            if isinstance(answer, ports.CallFailed):
                self._sink(replace(answer, token=token))
                return
            done = answer
        job = self._queued(seat, token, ActiveState.ACTIVATING)
        result = "done" if done is None else await done
        if result == "done" and not server.running:
            # Either the state it left is told after the job's end, or nothing runs although the job succeeded.
            changed = server.changed
            self._systemd.look(server.unit)
            await changed.wait()
            result = "done" if server.running else "failed"
        seat.claimed, seat.missing_since = result == "done", None
        self._ended(seat, job, result)

    async def _stop(self, seat: Seat, token: int) -> None:
        job = self._queued(seat, token, ActiveState.DEACTIVATING)
        seat.claimed = seat.up = False
        model, asked_at, pause = self._model_of(seat), float("-inf"), 0.01
        while seat.server.running:
            if await self._ask(seat.server) and not seat.listed:
                break
            if model is not None and self._clock.now().mono - asked_at > UNLOAD_SECONDS:
                asked_at = self._clock.now().mono
                async with seat.server.keeping:
                    await self._api.unload(model)
                continue
            await self._clock.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        self._ended(seat, job, "done")


def _nobody(_: ports.BusReport) -> None:
    """Before ``connect``."""
