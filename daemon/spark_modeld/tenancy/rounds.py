"""What the servers say that they hold: they are asked now and then while they run, and told to keep what serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.model import Model, seat_of
from spark_modeld.core.reading import Loaded
from spark_modeld.core.slot import Slot
from spark_modeld.core.unit import Phase
from spark_modeld.tenancy.roster import Roster
from spark_modeld.tenancy.seats import Seat, Server, Spawn

POLL_SECONDS = 2.0
FRESH_SECONDS = 0.25
LEAVING_SECONDS = 3.0
"""What ends so soon was told to go by somebody, and is on its way."""


class Rounds:
    """Asks the servers of a roster.

    ``show`` is given each seat that may look different after an answer, ``changed`` is told when a server holds
    something else than before.
    """

    def __init__(
        self,
        outside: ports.Outside,
        roster: Roster,
        *,
        slot: Callable[[], Slot],
        spawn: Spawn,
        show: Callable[[Seat], None],
        changed: Callable[[], None],
    ) -> None:
        self._api = outside.server
        self._clock = outside.clock
        self._roster = roster
        self._slot = slot
        self._spawn = spawn
        self._show = show
        self._changed = changed

    def loaded(self) -> tuple[Loaded, ...]:
        """What every server that runs held when it was last asked; ``model`` is set where it is one of ours."""
        ours = {model.seat: model.id for model in self._roster.models()}
        return tuple(
            replace(entry, model=ours.get(seat_of(server.unit, entry.name)))
            for server in self._roster.servers.values()
            for entry in server.loaded
        )

    async def refresh(self, *, within: float = FRESH_SECONDS) -> None:
        """Asks every server that runs what it holds, unless that was done ``within`` so many seconds."""
        now = self._clock.now().mono
        late = [s for s in self._roster.servers.values() if s.running and now - s.asked_at >= within]
        await asyncio.gather(*(self.ask(server) for server in late))

    def follow(self, server: Server) -> None:
        """Asks a server that runs now and then, and forgets what one that does not held."""
        if not server.running:
            self.rest(server)
        elif server.poll is None or server.poll.done():
            server.poll = self._spawn(self._poll(server), f"poll {server.unit}")

    def rest(self, server: Server) -> None:
        """What it held is forgotten, and it is not asked any more."""
        server.loaded, server.asked_at = (), float("-inf")
        if server.poll is not None:
            server.poll.cancel()
            server.poll = None

    async def ask(self, server: Server) -> bool:
        """Asks what it holds and tells what is new; False if it did not say."""
        server.asks += 1
        number, tenant = server.asks, self._roster.tenant_of(server)
        loaded = await self._api.loaded(tenant) if tenant is not None else None
        if loaded is None or not server.running:
            return False
        if number < server.answered:
            return True  # somebody asked later and was answered sooner: what we have been told is old
        server.answered = number
        other = {entry.name for entry in loaded} != {entry.name for entry in server.loaded}
        now = server.asked_at = self._clock.now().mono
        server.loaded = loaded
        for seat in self._roster.seats_of(server):
            seat.missing_since = None if seat.listed else now if seat.missing_since is None else seat.missing_since
            seat.claimed = seat.claimed and not seat.listed and self._roster.phase(seat) is not Phase.SERVING
            if seat.shown is not None:
                self._show(seat)
        if other:
            self._changed()
        return True

    async def _poll(self, server: Server) -> None:
        while True:
            await self.ask(server)
            await self._pin(server)
            await self._clock.sleep(POLL_SECONDS)

    async def _pin(self, server: Server) -> None:
        """Keeps what serves: another client had it loaded until it is idle, or its request set an end to it."""
        ends = {
            seat_of(server.unit, entry.name)
            for entry in server.loaded
            if entry.ends_in is not None and entry.ends_in > LEAVING_SECONDS
        }
        for model in self._roster.models():
            if model.seat in ends:
                async with server.keeping:
                    if self._stays(model):
                        await self._api.pin(model)

    def _stays(self, model: Model) -> bool:
        slot = self._slot()
        life = slot.house.lives.get(model.id)
        return life is not None and life.phase is Phase.SERVING and model.id not in slot.intruders()
