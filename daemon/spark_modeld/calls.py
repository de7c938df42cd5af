"""What the face asks of the engine. Whatever gates a change takes its turn in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import structlog

from spark_modeld.core import effects as fx
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.model import Model
from spark_modeld.core.reading import Reading
from spark_modeld.core.record import HISTORY
from spark_modeld.core.report import Report
from spark_modeld.core.switch import Requester, Switch
from spark_modeld.core.unit import LogLine
from spark_modeld.doing import Doing, Handler
from spark_modeld.face import Event, Lease, Snapshot

log = structlog.get_logger()

T = TypeVar("T")


class Calls(Doing):
    """Implements ``face.Face`` and ``face.Leases``, but for ``reload``."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot, its leases as they are counted now."""
        if self._leases.changed:
            self._publisher.snapshot = self._leases.recount(self._publisher.snapshot)
        return self._publisher.snapshot

    async def switch(
        self, name: str | None, *, requested_by: Requester, actor: str | None, force: bool = False
    ) -> Switch:
        """See ``Face``."""

        def request() -> tuple[Switch, fx.Effects]:
            self._check_configured()
            return self._slot.request(name, self._now(), requested_by=requested_by, actor=actor, force=force)

        return await self._ask(request)

    async def cancel(self, switch_id: str, *, actor: str | None) -> Switch:
        """See ``Face``."""

        def cancel() -> tuple[Switch, fx.Effects]:
            current = self._slot.switch
            if current is None or current.id != switch_id:
                return self.find_switch(switch_id), []
            log.info(f"cancel of switch {switch_id} requested", switch_id=switch_id, actor=actor or "")
            effects = self._slot.cancel(self._now())
            ended = next((e.switch for e in effects if isinstance(e, fx.Ended)), None)
            return ended or self._slot.switch or current, effects

        return await self._ask(cancel)

    async def start_beside(self, name: str, *, requested_by: Requester, actor: str | None, foreign: bool) -> None:
        """Asks for a start that may stop nothing; returns when it is admitted."""
        verdict = self._promises.make()

        def request() -> fx.Effects:
            self._check_configured()
            ask = self._asks.number(verdict)
            try:
                return self._slot.start_beside(
                    name, ask, self._now(), requested_by=requested_by, actor=actor, foreign=foreign
                )
            except SparkError:
                self._asks.forget(ask)
                raise

        self._in_turn(verdict, request)
        await verdict

    async def start(self, name: str, *, actor: str | None) -> None:
        """See ``Face``."""
        log.info(f"start of {name} requested", model=name, actor=actor or "")
        await self.start_beside(name, requested_by=Requester.CONTROL, actor=actor, foreign=False)

    async def gate(self, model_id: str) -> None:
        """See ``Face``."""
        await self.start_beside(model_id, requested_by=Requester.SYSTEMD, actor=None, foreign=True)

    async def stop(self, name: str, *, actor: str | None) -> None:
        """See ``Face``."""
        log.info(f"stop of {name} requested", model=name, actor=actor or "")

        def request() -> tuple[None, fx.Effects]:
            self._check_configured()
            return None, self._slot.stop_side(name, self._now())

        await self._ask(request)

    async def wait(self, switch_id: str, timeout: float | None) -> Switch:
        """See ``Face``."""
        waiter: asyncio.Future[Switch] = self._promises.make()

        def join() -> fx.Effects:
            self._chronicle.join(self.find_switch(switch_id), waiter)
            return []

        self._in_turn(waiter, join)
        try:
            return await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return self.find_switch(switch_id)
        finally:
            self._chronicle.leave(switch_id, waiter)

    def find_switch(self, switch_id: str) -> Switch:
        """See ``Face``."""
        found = next((s for s in self.switches() if s.id == switch_id), None)
        if found is None:
            raise refuse(Code.NOT_FOUND, f"There is no switch {switch_id!r} among the last {HISTORY}.")
        return found

    def switches(self) -> tuple[Switch, ...]:
        """See ``Face``."""
        ended = tuple(reversed(self._chronicle.history))
        return (self._slot.switch, *ended) if self._slot.switch else ended

    async def check(self, model_id: str) -> Report:
        """See ``Face``."""
        self._check_configured()
        spec = self._slot.house.models.get(model_id)
        if spec is None:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {model_id!r} in the catalog.", model=model_id)
        seen, reading = await self._appraisals.look(spec)
        return await self._ask(lambda: (self._slot.report(spec.id, seen, reading), []))

    async def measure(self) -> Reading:
        """See ``Face``."""
        reading = await self._out.gauge.read(thorough=True)
        self._post(lambda: self._observe(reading))
        return reading

    async def log(self, model_id: str, lines: int) -> tuple[LogLine, ...]:
        """See ``Face``."""
        return await self._out.journal.read(self._unit_of(model_id), lines)

    def follow_log(self, model_id: str, lines: int) -> AsyncIterator[LogLine]:
        """See ``Face``."""
        return self._out.journal.follow(self._unit_of(model_id), lines)

    def _unit_of(self, model_id: str) -> str:
        state = self.snapshot.models.get(model_id)
        if state is None:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {model_id!r}.")
        return state.model.unit

    def events(self, last_id: int | None) -> AsyncIterator[Event]:
        """See ``Face``."""
        return self._publisher.events.follow(last_id)

    def find(self, name: str | None) -> Model:
        """See ``Leases``."""
        return self._leases.find(name)

    def lease(self, name: str | None) -> Lease | None:
        """See ``Leases``."""
        return self._leases.lease(name)

    async def demand(self, name: str | None, *, actor: str | None, may_switch: bool = True) -> Lease:
        """See ``Leases``."""
        return await self._leases.demand(name, actor=actor, may_switch=may_switch)

    def release(self, lease: Lease) -> None:
        """See ``Leases``."""
        self._leases.release(lease)

    def flows(self, lease: Lease) -> None:
        """See ``Leases``."""
        self._leases.flows(lease)

    async def _ask(self, request: Callable[[], tuple[T, fx.Effects]]) -> T:
        """Runs a request in its turn; what it refuses is raised here."""
        answer: asyncio.Future[T] = self._promises.make()

        def handle() -> fx.Effects:
            result, effects = request()
            self._told_when_done.append(lambda: None if answer.done() else answer.set_result(result))
            return effects

        self._in_turn(answer, handle)
        return await answer

    def _in_turn(self, promise: asyncio.Future[Any], request: Handler) -> None:
        """Posts a request. A caller that is gone when its turn comes asks nothing; a refusal is its answer."""

        def handle() -> fx.Effects:
            if promise.done():
                return []
            try:
                return request()
            except SparkError as error:
                promise.set_exception(error)
                return []

        self._post(handle)
