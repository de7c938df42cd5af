"""Who is where: the servers of many models, the seats on them, and the models these belong to."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.core.model import Model
from spark_modeld.core.slot import Slot
from spark_modeld.core.unit import Phase
from spark_modeld.tenancy.seats import Seat, Server


class Roster:
    """``servers`` by unit and ``seats`` by name; ``plain`` are the watched units that are no seats.

    ``slot`` gives the slot of the moment.
    """

    def __init__(self, slot: Callable[[], Slot]) -> None:
        self._slot = slot
        self.plain: frozenset[str] = frozenset()
        self.servers: dict[str, Server] = {}
        self.seats: dict[str, Seat] = {}

    def take(self, units: frozenset[str]) -> tuple[list[Seat], list[Server]]:
        """Takes in which units are watched; the seats that are new, and the servers that nobody has a seat on now."""
        self.plain = frozenset(unit for unit in units if "/" not in unit)
        new = []
        for name in sorted(units - self.plain - self.seats.keys()):
            unit = name.partition("/")[0]
            self.seats[name] = Seat(name, self.servers.setdefault(unit, Server(unit)))
            new.append(self.seats[name])
        for name in self.seats.keys() - units:
            del self.seats[name]
        left = self.servers.keys() - {seat.server.unit for seat in self.seats.values()}
        return new, [self.servers.pop(unit) for unit in left]

    def units(self) -> frozenset[str]:
        """What systemd is asked to watch: the servers, and what is no seat."""
        return self.plain | self.servers.keys()

    def models(self) -> tuple[Model, ...]:
        """The models that are tenants."""
        return tuple(model for model in self._slot().house.models.values() if model.tenant)

    def seats_of(self, server: Server) -> list[Seat]:
        """The seats on this server."""
        return [seat for seat in self.seats.values() if seat.server is server]

    def tenant_of(self, server: Server) -> Model | None:
        """One of the server's models: all have its address and its key."""
        return next((m for m in self.models() if m.unit == server.unit), None)

    def model_of(self, seat: Seat) -> Model | None:
        """Whose seat it is; None once its model has left the catalog."""
        return next((m for m in self.models() if m.seat == seat.name), None)

    def phase(self, seat: Seat) -> Phase | None:
        """The phase of the model whose seat it is."""
        model = self.model_of(seat)
        life = self._slot().house.lives.get(model.id) if model is not None else None
        return life.phase if life is not None else None
