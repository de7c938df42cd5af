"""The engine's public face: what the control API (and later the gateway) sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from msgspec import Struct, field

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.endpoints import Places
from spark_modeld.core.errors import Problem
from spark_modeld.core.finding import Finding
from spark_modeld.core.guard import GuardState
from spark_modeld.core.model import Footprint, Model
from spark_modeld.core.outlook import Estimate, Outlook
from spark_modeld.core.progress import Progress
from spark_modeld.core.reading import Reading
from spark_modeld.core.report import Report
from spark_modeld.core.switch import Requester, Switch
from spark_modeld.core.tailnet import Tailnet
from spark_modeld.core.unit import LogLine, Phase


class ModelState(Struct, frozen=True, kw_only=True):
    """One model as it is now. ``fits`` is None while there is no reading; ``fit_reason`` says why not.

    ``error`` is why it is being stopped or is down, ``fell`` why it went down last, also while it is up again.
    ``findings`` are the warnings and errors of the last look at it. ``progress`` is how far its engine says it is,
    ``loads`` how long its loads took beside the slot.
    """

    model: Model
    phase: Phase
    since: float
    footprint: Footprint
    large: bool
    fits: bool | None
    fit_reason: str | None
    default: bool
    in_flight: int
    error: Problem | None
    fell: Problem | None = None
    findings: tuple[Finding, ...] = ()
    progress: Progress | None = None
    loads: Estimate | None = None


class Waiting(Struct, frozen=True, kw_only=True):
    """The demands for one model: how many requests wait for it, and since when (Unix seconds) the first of them."""

    model: str
    waiters: int
    since: float


class Lease(Struct, frozen=True):
    """A request's hold on a serving model. Given back exactly once, with ``Leases.release``."""

    model: Model


class Warning(Struct, frozen=True, kw_only=True):
    """Something a person should know; it stands until it is no longer true."""

    code: str
    message: str


class Snapshot(Struct, frozen=True, kw_only=True):
    """The daemon's state, taken in one piece after an event was handled. Advisory: it gates nothing.

    ``slot_phase`` is None for an empty slot, ``desired`` None where it is meant to be empty. ``slot_since`` is Unix
    seconds. ``bus`` is "connected" or "lost".
    ``config_problem`` is set while the configuration is broken. ``outlook`` is that of ``switch``.
    """

    slot_phase: Phase | None = None
    slot_model: str | None = None
    slot_since: float = 0.0
    slot_reason: str | None = None
    in_flight: int = 0
    desired: str | None = None
    switch: Switch | None = None
    outlook: Outlook | None = None
    queue: tuple[Waiting, ...] = ()
    models: Mapping[str, ModelState] = field(default_factory=lambda: MappingProxyType({}))
    reading: Reading | None = None
    guard: GuardState = GuardState()
    bus: str = "lost"
    stopping: bool = False
    warnings: tuple[Warning, ...] = ()
    catalog: Catalog = Catalog()
    config_problem: Problem | None = None


class Event(Struct, frozen=True):
    """One line of the event stream: ``kind`` is switch, slot, memory, model or config; ``data`` is JSON-ready."""

    id: int
    kind: str
    data: Mapping[str, Any]


class Face(Protocol):
    """What the API may ask of the engine. Every method that refuses raises SparkError."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    async def switch(
        self, name: str | None, *, requested_by: Requester, actor: str | None, force: bool = False
    ) -> Switch:
        """Requests a switch to the model with this id, alias or served name; None empties the slot.

        Returns at once: a new switch, the one already under way to the same model, or one with ``noop`` set and
        outcome ``ready`` when the model already serves.
        """

    async def wait(self, switch_id: str, timeout: float | None) -> Switch:
        """The switch when it has ended, or as it is after ``timeout`` seconds. SparkError ``not-found``."""

    def find_switch(self, switch_id: str) -> Switch:
        """One switch, under way or ended. SparkError ``not-found``."""

    def switches(self) -> tuple[Switch, ...]:
        """Those that ended, newest first, after the one under way."""

    async def cancel(self, switch_id: str, *, actor: str | None) -> Switch:
        """Cancels the switch under way; one that has ended is returned as it is. SparkError ``not-found``."""

    async def start(self, name: str, *, actor: str | None) -> None:
        """Starts a model without stopping any other: a side model, or a slot model where there is room for it."""

    async def stop(self, name: str, *, actor: str | None) -> None:
        """Stops a side model."""

    async def gate(self, model_id: str) -> None:
        """Asks whether systemd may start this model's unit now. Returns if so; the refusal is the SparkError."""

    async def check(self, model_id: str) -> Report:
        """Looks at a model afresh and says everything that is to be said before it is tried.

        Bounded in time. SparkError ``unknown-model``.
        """

    async def measure(self) -> Reading:
        """A fresh reading."""

    async def log(self, model_id: str, lines: int) -> tuple[LogLine, ...]:
        """The last journal lines of this model's unit, oldest first. SparkError ``unknown-model``, ``internal``."""

    def follow_log(self, model_id: str, lines: int) -> AsyncIterator[LogLine]:
        """The same, and every further line as it is written. SparkError ``unknown-model``, ``busy``, at once."""

    async def reload(self) -> None:
        """Reads the configuration again; the old one is kept if it is wrong. SparkError ``invalid-config``, 422."""

    def events(self, last_id: int | None) -> AsyncIterator[Event]:
        """Events as they happen, after ``last_id`` when that is still remembered."""


class Leases(Protocol):
    """What the gateway may ask of the engine, besides reading the snapshot.

    Names are ids, aliases or served names; None, ``local`` and ``default`` mean the slot's occupant, else what belongs
    in the slot.
    """

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def find(self, name: str | None) -> Model:
        """The model that this name means now: one look-up, cheaper than the snapshot. SparkError ``unknown-model``."""

    def lease(self, name: str | None) -> Lease | None:
        """A lease, if the model serves and takes requests now; None if one has to wait for it (``demand``).

        Synchronous, so that nothing can happen between check and count. SparkError ``unknown-model``.
        """

    async def demand(self, name: str | None, *, actor: str | None, may_switch: bool = True) -> Lease:
        """Waits until the model serves, starting or switching to it where need be. Cancelling hangs up.

        SparkError, once to each waiter: the failed switch's own problem; ``busy`` with ``holder``, ``since`` (Unix
        seconds) and ``retry_after`` where another model holds the slot and this caller or this model may not switch;
        ``too-many-waiting`` (429) over ``gateway.max_waiting``. ``retry_after``, in whole seconds, is in ``extra``
        wherever asking again is worth it.
        """

    def flows(self, lease: Lease) -> None:
        """Bytes of a good answer have come: the model generates. Cheap; about once a second is enough."""

    def release(self, lease: Lease) -> None:
        """Gives a lease back: the response is fully relayed, or its client is gone."""


class Whereabouts(Protocol):
    """Where the daemon is reached."""

    async def find(self) -> tuple[Places, Tailnet | None]:
        """Where it listens, and the tailnet where there is one. Bounded in time."""
