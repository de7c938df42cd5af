"""A server of many models, and each model's place on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from spark_modeld.core.model import seat_of
from spark_modeld.core.reading import Loaded
from spark_modeld.core.sighting import UNLOADED
from spark_modeld.core.unit import ActiveState, UnitStatus

MISSING_SECONDS = 6.0
"""How long a list must lack a model: it does for some seconds while the server loads it anew, with another context."""

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

_RUNNING = frozenset({ActiveState.ACTIVE, ActiveState.RELOADING})


class Server(Struct):
    """One server: what systemd shows of its unit, and what it says that it holds. ``asked_at``: when, monotonic;
    ``asks`` counts the questions, ``answered`` is the latest one that has an answer.

    ``keeping`` is held while it is told what to keep, so that an older word never comes after a newer one.
    ``felled_by`` is the job, not ours, that takes it down, ``fallen`` the seats that were up before.
    """

    unit: str
    status: UnitStatus | None = None
    loaded: tuple[Loaded, ...] = ()
    asked_at: float = float("-inf")
    asks: int = 0
    answered: int = 0
    poll: asyncio.Task[None] | None = None
    felled_by: str | None = None
    fallen: frozenset[str] = frozenset()
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def running(self) -> bool:
        """Whether systemd shows its unit up."""
        return self.status is not None and self.status.active in _RUNNING


class Seat(Struct):
    """One tenant's place. ``claimed``: it is ours and not listed yet, the ladder has it loaded.

    ``job`` is our own start or stop under way, ``during`` what is shown meanwhile. ``up`` is what was last shown.
    """

    name: str
    server: Server
    claimed: bool = False
    up: bool = False
    missing_since: float | None = None
    job: str | None = None
    during: ActiveState = ActiveState.ACTIVATING
    work: asyncio.Task[None] | None = None
    shown: UnitStatus | None = None

    @property
    def listed(self) -> bool:
        """Whether the server holds it."""
        return any(seat_of(self.server.unit, entry.name) == self.name for entry in self.server.loaded)

    def status(self, now: float) -> UnitStatus:
        """What is shown of it now (monotonic seconds)."""
        server = self.server.status or UnitStatus(active=ActiveState.INACTIVE)
        if self.job is not None:
            return replace(server, active=self.during, sub=str(self.during), job=self.job, result="success")
        if self.server.running:
            missing = now - self.missing_since if self.missing_since is not None else 0.0
            if self.claimed or self.listed or (self.up and missing < MISSING_SECONDS):
                return replace(server, active=ActiveState.ACTIVE, sub="loaded", job=None)
            return replace(
                server,
                active=ActiveState.INACTIVE,
                sub="dead",
                job=None,
                result=UNLOADED if self.up else "success",
                main_pid=0,
            )
        if self.up:  # it goes the way of its server
            return server
        return UnitStatus(active=ActiveState.INACTIVE, sub="dead", load=server.load)
