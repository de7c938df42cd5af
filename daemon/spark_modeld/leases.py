"""The engine's side of leases and demands: who calls, who is answered, and no lease that nobody holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Model
from spark_modeld.core.slot import Slot
from spark_modeld.face import Lease, Snapshot
from spark_modeld.promises import Asks, Promises


class Leases:
    """Implements ``face.Leases`` for the engine.

    A lease is counted and given back at once, on the event loop; only what may move the slot is ``post``ed to the
    writer. ``slot`` gives the slot of the moment, ``check`` raises while nothing may be asked at all.
    """

    def __init__(
        self,
        promises: Promises,
        asks: Asks,
        *,
        slot: Callable[[], Slot],
        now: Callable[[], Instant],
        post: Callable[[Callable[[], Effects]], None],
        check: Callable[[], None],
    ) -> None:
        self.changed = False
        """Since the last ``recount``."""
        self._promises = promises
        self._asks = asks
        self._slot = slot
        self._now = now
        self._post = post
        self._check = check
        self._requests: list[Callable[[], None]] = []

    def find(self, name: str | None) -> Model:
        """See ``face.Leases``."""
        self._check()
        slot = self._slot()
        return slot.house.models[slot.desk.meant(name)]

    def lease(self, name: str | None) -> Lease | None:
        """See ``face.Leases``."""
        self._check()
        slot = self._slot()
        model = slot.lease(name)
        if model is None:
            return None
        self.changed = True
        return Lease(slot.house.models[model])

    def flows(self, lease: Lease) -> None:
        """See ``face.Leases``."""
        self._slot().house.flowed_at[lease.model.id] = self._now().mono

    def release(self, lease: Lease) -> None:
        """See ``face.Leases``."""
        self._give_back(lease.model.id)

    async def demand(self, name: str | None, *, actor: str | None, may_switch: bool) -> Lease:
        """See ``face.Leases``."""
        lease = self.lease(name)
        return lease if lease is not None else await self._wait(name, actor, may_switch)

    def granted(self, ask: int, model: str) -> None:
        """Hands over a lease that the core has counted; back it goes if nobody waits for it any more."""
        self.changed = True
        if not self._asks.keep(ask, Lease(self._slot().house.models[model])):
            self._give_back(model)

    def recount(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the leases as they are counted now."""
        self.changed = False
        leases = self._slot().house.leases
        stale = {m: s for m, s in snapshot.models.items() if s.in_flight != leases.get(m, 0)}
        if not stale:
            return snapshot
        counted = {m: replace(s, in_flight=leases.get(m, 0)) for m, s in stale.items()}
        in_flight = leases.get(snapshot.slot_model, 0) if snapshot.slot_model else 0
        return replace(snapshot, models={**snapshot.models, **counted}, in_flight=in_flight)

    def _give_back(self, model: str) -> None:
        self.changed = True
        if self._slot().release(model, self._now()):
            self._in_turn(lambda: None)

    def _in_turn(self, request: Callable[[], None]) -> None:
        """For the writer. Whatever comes before its turn is taken in one: hundreds may come, or go, at once."""
        self._requests.append(request)
        if len(self._requests) == 1:
            self._post(self._take_requests)

    def _take_requests(self) -> Effects:
        requests, self._requests = self._requests, []
        for request in requests:
            request()
        return self._slot().wake(self._now())

    async def _wait(self, name: str | None, actor: str | None, may_switch: bool) -> Lease:
        promise: asyncio.Future[Lease] = self._promises.make()
        ask = self._asks.number(promise)

        def request() -> None:
            if promise.done():
                return
            try:
                self._check()
                self._slot().demand(name, ask, self._now(), may_switch=may_switch, actor=actor)
            except SparkError as error:
                self._asks.refuse(ask, error.problem)

        self._in_turn(request)
        try:
            return await promise
        except asyncio.CancelledError:
            if promise.done() and not promise.cancelled() and promise.exception() is None:
                # Granted, and hung up before anybody could be told.
                self.release(promise.result())
            else:
                self._in_turn(lambda: self._slot().hang_up(ask))
            raise
        finally:
            self._asks.forget(ask)
