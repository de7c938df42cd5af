"""Starting and stopping a tenant: jobs of our own, told as systemd tells of its."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.unit import ActiveState
from spark_modeld.tenancy.roster import Roster
from spark_modeld.tenancy.rounds import Rounds
from spark_modeld.tenancy.seats import Seat, Spawn

UNLOAD_SECONDS = 10.0
"""How long an unload that was asked for is waited for until it is asked for again."""


class Jobs:
    """Our starts and stops of seats. ``tell`` takes what is reported of them, ``show`` a seat that looks different."""

    def __init__(
        self,
        outside: ports.Outside,
        roster: Roster,
        rounds: Rounds,
        *,
        spawn: Spawn,
        show: Callable[[Seat], None],
        tell: ports.BusSink,
    ) -> None:
        self._systemd = outside.systemd
        self._api = outside.server
        self._clock = outside.clock
        self._roster = roster
        self._rounds = rounds
        self._spawn = spawn
        self._show = show
        self._tell = tell
        self._last = 0
        self._replies: dict[int, asyncio.Future[asyncio.Future[str] | ports.CallFailed]] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}

    def start(self, seat: Seat, token: int, *, reset: bool) -> None:
        """Starts the server if it is down; whether the model loads is the ladder's to see."""
        self._begin(seat, self._start(seat, token, reset=reset))

    def stop(self, seat: Seat, token: int) -> None:
        """Unloads the model; the server stays."""
        self._begin(seat, self._stop(seat, token))

    def asked(self, token: int) -> bool:
        """Whether it is the token of a start of a server that systemd has not answered."""
        return token in self._replies

    def answered(self, report: ports.JobQueued | ports.CallFailed) -> None:
        """systemd's answer to one that was ``asked``."""
        reply = self._replies.pop(report.token)
        if isinstance(report, ports.JobQueued):
            self._jobs[report.job] = asyncio.get_running_loop().create_future()
        if not reply.done():
            reply.set_result(self._jobs[report.job] if isinstance(report, ports.JobQueued) else report)

    def ended(self, job: str, result: str) -> bool:
        """The end of a job that started a server; False if it is not ours."""
        ours = self._jobs.pop(job, None)
        if ours is not None and not ours.done():
            ours.set_result(result)
        return ours is not None

    def forget(self) -> None:
        """The bus is lost: nothing that was asked for is answered any more."""
        self._replies.clear()
        self._jobs.clear()

    def _begin(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        """The newest of our calls is the one that counts, as with systemd's own jobs."""
        if seat.work is not None:
            seat.work.cancel()
        if seat.job is not None:
            job, seat.job = seat.job, None
            self._tell(ports.JobRemoved(job, seat.name, "canceled"))
        seat.work = self._spawn(work, f"{seat.name}")

    def _queued(self, seat: Seat, token: int, during: ActiveState) -> str:
        self._last += 1
        seat.job, seat.during = f"{seat.name}#{self._last}", during
        self._tell(ports.JobQueued(token, seat.job))
        self._show(seat)
        return seat.job

    def _ended(self, seat: Seat, job: str, result: str) -> None:
        seat.job = None
        self._show(seat)
        self._tell(ports.JobRemoved(job, seat.name, result))

    async def _start(self, seat: Seat, token: int, *, reset: bool) -> None:
        server, done = seat.server, None
        if not server.running:
            self._last += 1
            reply = self._replies[-self._last] = asyncio.get_running_loop().create_future()
            self._systemd.start(server.unit, -self._last, reset=reset)
            answer = await reply
            if isinstance(answer, ports.CallFailed):
                self._tell(replace(answer, token=token))
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
        model, asked_at, pause = self._roster.model_of(seat), float("-inf"), 0.01
        while seat.server.running:
            if await self._rounds.ask(seat.server) and not seat.listed:
                break
            if model is not None and self._clock.now().mono - asked_at > UNLOAD_SECONDS:
                asked_at = self._clock.now().mono
                async with seat.server.keeping:
                    await self._api.unload(model)
                continue
            await self._clock.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        self._ended(seat, job, "done")
