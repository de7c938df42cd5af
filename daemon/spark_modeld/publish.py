"""What the outside sees: snapshots, the event stream, and the JSON-ready values of both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from spark_modeld.core.admission import gib, strangers
from spark_modeld.core.errors import Problem
from spark_modeld.core.finding import notable
from spark_modeld.core.fits import Fits
from spark_modeld.core.guard import GuardState, Notice
from spark_modeld.core.instant import Instant
from spark_modeld.core.outlook import Outlook
from spark_modeld.core.progress import Progress
from spark_modeld.core.reading import Reading
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Switch
from spark_modeld.core.unit import Phase
from spark_modeld.face import Event, ModelState, Snapshot, Waiting, Warning

_REMEMBERED = 1024
_SUBSCRIBER_QUEUE = 256


_NO_PROGRESS: Mapping[str, Progress] = MappingProxyType({})


def snapshot_of(
    slot: Slot,
    *,
    warnings: tuple[Warning, ...],
    config_problem: Problem | None,
    progress: Mapping[str, Progress] = _NO_PROGRESS,
    outlook: Outlook | None = None,
) -> Snapshot:
    """The slot's state as one value. ``progress`` is by model, ``outlook`` that of the switch under way."""
    name, life = slot.shown()
    planner, house = slot.planner, slot.house
    # Before anybody has decided, the default belongs in the slot.
    desired = house.catalog.settings.slot.default if planner.desired is None else planner.desired
    fits = Fits(house, house.reading) if house.reading else None
    return Snapshot(
        slot_phase=life.phase if life else None,
        slot_model=name if life else None,
        slot_since=life.since.wall if life else 0.0,
        slot_reason=_in_words(planner.reason) if planner.reason else None,
        in_flight=house.leases.get(name, 0) if name else 0,
        desired=desired or None,
        switch=slot.switch,
        outlook=outlook,
        queue=tuple(Waiting(model=m, waiters=n, since=since.wall) for m, n, since in slot.waiting()),
        models={m: _model_state(slot, m, progress.get(m), fits) for m in house.catalog.models if m in house.lives},
        reading=house.reading,
        guard=slot.warden.state,
        bus="connected" if slot.connected else "lost",
        stopping=slot.stopping,
        warnings=(*warnings, *_warnings(slot)),
        catalog=house.catalog,
        config_problem=config_problem,
    )


def _in_words(problem: Problem) -> str:
    """The problem, and what its unit's log says of it."""
    reading = problem.extra.get("reading")
    return f"{problem.detail} {reading['message']}" if reading else problem.detail


def _model_state(slot: Slot, model: str, progress: Progress | None, fits: Fits | None) -> ModelState:
    house = slot.house
    life = house.lives[model]
    refusal = fits.of(model) if fits else None
    return ModelState(
        model=house.models[model],
        phase=life.phase,
        since=life.since.wall,
        footprint=house.footprint(model),
        large=house.large(model),
        fits=refusal is None if fits else None,
        fit_reason=refusal.detail if refusal else None,
        default=house.catalog.settings.slot.default == model,
        in_flight=house.leases.get(model, 0),
        error=life.problem,
        fell=house.falls.fallen.get(model),
        findings=notable(house.findings(model)),
        progress=progress,
        loads=house.loads.estimate(model),
    )


def _warnings(slot: Slot) -> list[Warning]:
    house = slot.house
    found = []
    intruders = slot.intruders()
    if intruders:
        names = ", ".join(intruders)
        detail = (
            f"{names} was started beside the slot's occupant; nothing more is started until one of them is stopped."
        )
        found.append(Warning(code="large-parallel", message=detail))
    stuck = house.stuck()
    problem = house.lives[stuck].problem if stuck else None
    if stuck and problem:
        found.append(Warning(code="stuck", message=f"{stuck}: {problem.detail}"))
    for name, life in house.lives.items():
        if life.phase is Phase.STOPPING and life.left:
            found.append(Warning(code="not-gone", message=f"{name} is down, but not gone: {life.left}"))
    reading = house.reading
    if reading:
        if reading.stale:
            found.append(Warning(code="gauge-stale", message="NVML does not answer; GPU processes are from before."))
        found += [
            Warning(
                code="stranger-loaded",
                message=f"{stranger.model} holds {gib(stranger.gives_back)}: another client had it loaded, past "
                f"admission, and it is no model of the catalog. {stranger.remedy}.",
            )
            for stranger in strangers(reading, house.catalog.settings.memory)
        ]
        found += [Warning(code="gauge", message=note) for note in reading.notes]
        reserve = house.catalog.settings.memory.reserve.of(reading.total)
        floor = house.catalog.settings.memory.floor.of(reading.total)
        guard = slot.warden.state
        if guard.under_since is not None:
            found.append(Warning(code="memory-under-floor", message=_under_floor(guard, reading.available, floor)))
        elif reading.available < reserve:
            message = f"Only {gib(reading.available)} of memory are available, less than the reserve of {gib(reserve)}."
            found.append(Warning(code="memory-under-reserve", message=message))
    for model in house.models:
        if house.awaits_driver(model) and house.lives[model].idle:
            message = f"Waiting for the NVIDIA driver, which does not answer: {_without_driver(slot, model)}."
            found.append(Warning(code="waits-for-driver", message=message))
        elif house.exhausted(model) and house.lives[model].idle:
            message = (
                f"{model} failed {house.tries(model).failures} times in a row and waits for a person to switch to it."
            )
            found.append(Warning(code="waits-for-a-person", message=message))
    for model, spec in house.models.items():
        status = house.lives[model].status
        if status and status.need_reload:
            message = (
                f"{spec.unit} changed on disk. `systemctl daemon-reload` takes GPU access from running containers."
            )
            found.append(Warning(code="need-daemon-reload", message=message))
        if model in house.catalog.models and house.catalog.models[model] is not spec:
            message = f"{model} runs with its old configuration until it is stopped."
            found.append(Warning(code="configuration-pending", message=message))
    return found


def _without_driver(slot: Slot, model: str) -> str:
    failed = f"without it {model} failed {slot.house.tries(model).failures} times in a row"
    if slot.planner.wanted() == model and not slot.planner.held:
        return f"{failed}, and is started again as soon as it is there. See: nvidia-smi"
    return f"{failed}; switch to it once nvidia-smi shows the GPU"


def _under_floor(guard: GuardState, available: int, floor: int) -> str:
    since = f"Memory is under the floor of {gib(floor)} since {rfc3339(guard.under_since or 0.0)}"
    left = f"{since}; {gib(available)} are available"
    if guard.helpless:
        return f"{left}. There is nothing that the guard may stop."
    return f"{left}. From {rfc3339(guard.next_stop or 0.0)} on, the guard stops models."


def rfc3339(wall: float) -> str:
    """Unix seconds as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def switch_data(switch: Switch, outlook: Outlook | None = None) -> dict[str, Any]:
    """A switch as the contract shows it, and what is to be expected of it."""
    return {
        "id": switch.id,
        "model": switch.model,
        "from": switch.from_model,
        "requested_by": str(switch.requested_by),
        "actor": switch.actor,
        "phase": str(switch.phase),
        "started_at": rfc3339(switch.started_at.wall),
        "finished_at": _when(switch.finished_at),
        "outcome": str(switch.outcome) if switch.outcome else None,
        "error": switch.error.as_dict() if switch.error else None,
        "rollback": {"model": switch.rollback.model, "phase": str(switch.rollback.phase)} if switch.rollback else None,
        "timings": dict(switch.timings),
        "reason": switch.reason,
        **_outlook_data(outlook),
    }


def _outlook_data(outlook: Outlook | None) -> dict[str, Any]:
    estimate = outlook.estimate if outlook else None
    left = outlook.left if outlook else None
    return {
        **_progress_data(outlook.progress if outlook else None),
        "eta_s": round(left, 1) if left is not None else None,
        "estimate": {"seconds": round(estimate.seconds, 1), "times": estimate.times} if estimate else None,
    }


def _progress_data(progress: Progress | None) -> dict[str, Any]:
    """How far a load is."""
    return {"step": str(progress.step) if progress else None, "progress": progress.share if progress else None}


def _when(instant: Instant | None) -> str | None:
    return rfc3339(instant.wall) if instant else None


def _memory_data(reading: Reading) -> dict[str, Any]:
    return {
        "total": reading.total,
        "available": reading.available,
        "source": str(reading.source),
        "stale": reading.stale,
        "taken_at": rfc3339(reading.taken_at.wall),
    }


class Events:
    """The event stream: remembers the last ``_REMEMBERED`` events; a reader that falls behind is let go."""

    def __init__(self, first_id: int) -> None:
        self._next = first_id
        self._remembered: deque[Event] = deque(maxlen=_REMEMBERED)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._closed = False

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Hands an event to every reader."""
        event = Event(self._next, kind, data)
        self._next += 1
        self._remembered.append(event)
        for queue in tuple(self._subscribers):
            if queue.qsize() < _SUBSCRIBER_QUEUE:
                queue.put_nowait(event)
            else:
                # It can come back with Last-Event-ID; waiting for it would hold everybody up.
                self._subscribers.discard(queue)
                queue.put_nowait(None)

    async def follow(self, last_id: int | None) -> AsyncIterator[Event]:
        """Remembered events after ``last_id``, then new ones, until ``close`` or until it falls behind."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        missed = [e for e in self._remembered if last_id is not None and e.id > last_id]
        if self._closed:
            queue.put_nowait(None)
        else:
            self._subscribers.add(queue)
        try:
            for event in missed:
                yield event
            while (fresh := await queue.get()) is not None:
                yield fresh
        finally:
            self._subscribers.discard(queue)

    def close(self) -> None:
        """Ends every reader's stream, also of those who come later."""
        self._closed = True
        for queue in self._subscribers:
            queue.put_nowait(None)
        self._subscribers.clear()


class Publisher:
    """Keeps the latest snapshot and tells the difference to the one before as events."""

    def __init__(self, now: Instant) -> None:
        self.snapshot = Snapshot()
        self.events = Events(int(now.wall * 1000))
        self.listeners: list[Callable[[Snapshot], None]] = []
        self.ended_listeners: list[Callable[[Switch], None]] = []

    def publish(self, snapshot: Snapshot) -> None:
        """Makes this the latest snapshot."""
        before, self.snapshot = self.snapshot, snapshot
        emit = self.events.emit
        moved = snapshot.switch != before.switch or _progress_of(snapshot) != _progress_of(before)
        if snapshot.switch and moved:
            emit("switch", switch_data(snapshot.switch, snapshot.outlook))
        if _slot_data(snapshot) != _slot_data(before):
            emit("slot", _slot_data(snapshot))
        for name, state in snapshot.models.items():
            old = before.models.get(name)
            if old is None or (old.phase, old.fell, old.progress) != (state.phase, state.fell, state.progress):
                emit("model", {"id": name, "state": str(state.phase), **_progress_data(state.progress)})
        if snapshot.reading and _worth_telling(before.reading, snapshot.reading):
            emit("memory", _memory_data(snapshot.reading))
        if snapshot.catalog is not before.catalog or snapshot.config_problem != before.config_problem:
            emit("config", {"ok": snapshot.config_problem is None, "models": sorted(snapshot.catalog.models)})
        for listener in self.listeners:
            listener(snapshot)

    def guarded(self, notice: Notice) -> None:
        """The guard said something."""
        self.events.emit(
            "memory",
            {
                "alarm": str(notice.alarm),
                "message": notice.message,
                "model": notice.model,
                "available": notice.available,
                "floor": notice.floor,
            },
        )

    def ended(self, switch: Switch) -> None:
        """A switch has ended: the last event of its story."""
        self.events.emit("switch", switch_data(switch))
        for listener in self.ended_listeners:
            listener(switch)


def _progress_of(snapshot: Snapshot) -> Progress | None:
    return snapshot.outlook.progress if snapshot.outlook else None


def _slot_data(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "phase": str(snapshot.slot_phase) if snapshot.slot_phase else "empty",
        "model": snapshot.slot_model,
        "desired": snapshot.desired,
        "reason": snapshot.slot_reason,
        "waiting": [waiting.model for waiting in snapshot.queue],
    }


def _worth_telling(before: Reading | None, after: Reading) -> bool:
    """A change a person could see: 64 MiB, or the gauge itself changed."""
    if before is None or before.stale != after.stale or before.source is not after.source:
        return True
    return abs(before.available - after.available) >= 64 << 20
