"""What all requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import Model
from spark_modeld.core.settings import GatewaySettings
from spark_modeld.core.unit import Phase
from spark_modeld.face import Leases, Snapshot
from spark_modeld.gateway.access import Access
from spark_modeld.gateway.directory import Directory
from spark_modeld.gateway.record import Record, Recorder
from spark_modeld.gateway.tally import Tally
from spark_modeld.gateway.turn import Turn
from spark_modeld.gateway.upstream import Pool

BODY_LIMIT = 64 << 20
BODIES_LIMIT = 256 << 20


class Wire(Protocol):
    """What an exchange needs of its client's connection."""

    def write(self, data: bytes) -> None:
        """Sends, sooner or later."""

    def pass_on(self, data: bytes) -> None:
        """Sends at once, after what was written."""

    def abort(self) -> None:
        """Breaks it."""

    def ended(self, keep: bool) -> None:
        """The exchange is over; ``keep``: another request may come."""


class Place(Struct, frozen=True):
    """Where a client connected: ``port`` when everything there is for one model."""

    loopback: bool
    port: int | None = None


class House:
    """One gateway's parts. ``key`` reads an engine's key: OSError, ValueError."""

    def __init__(
        self, leases: Leases, access: Access, tally: Tally, *, key: Callable[[str], str], recorder: Recorder
    ) -> None:
        self.leases = leases
        self.access = access
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.turn = Turn(self.loop)
        self.pool = Pool(self.turn)
        self._tally = tally
        self.closing = False
        self._recorder = recorder
        self._ended: list[Record] = []
        self._bodies = 0
        self.directory = Directory(leases.snapshot.catalog)

    @property
    def snapshot(self) -> Snapshot:
        """The latest."""
        return self.leases.snapshot

    def follow(self, catalog: Catalog) -> None:
        """The catalog that is in force. Told, not looked up: a snapshot costs more than a request."""
        if catalog is not self.directory.catalog:
            self.directory = Directory(catalog)

    @property
    def settings(self) -> GatewaySettings:
        """``[gateway]`` as it is in force."""
        return self.directory.catalog.settings.gateway

    def serving(self, model_id: str | None) -> Model | None:
        """This model, or the occupant, if it serves. Advisory."""
        snapshot = self.snapshot
        state = snapshot.models.get(model_id or snapshot.slot_model or "")
        return state.model if state is not None and state.phase in {Phase.SERVING, Phase.DRAINING} else None

    def hold(self, size: int) -> bool:
        """Room for so many more bytes of request bodies; False if all of them together would be too many."""
        if self._bodies + size > BODIES_LIMIT:
            return False
        self._bodies += size
        return True

    def let_go(self, size: int) -> None:
        """Gives room back."""
        self._bodies -= size

    @property
    def bodies_bytes(self) -> int:
        """Bytes of request bodies that are held now."""
        return self._bodies

    def record(self, record: Record) -> None:
        """One request has ended."""
        self._tally.add(record)
        if not self._ended:
            self.turn.after_all(self._write_down)
        self._ended.append(record)

    def _write_down(self) -> None:
        ended, self._ended = self._ended, []
        for record in ended:
            self._recorder(record)
