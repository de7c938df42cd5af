"""Turns the engine's values into the API's. Pure; no work that grows with anything but the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from spark_modeld.control import wire
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.endpoints import Endpoint, Places
from spark_modeld.core.errors import Problem
from spark_modeld.core.finding import Finding
from spark_modeld.core.model import Footprint, Role
from spark_modeld.core.outlook import Estimate, Outlook
from spark_modeld.core.outlook import estimate as estimate_of
from spark_modeld.core.reading import Reading
from spark_modeld.core.report import Report
from spark_modeld.core.switch import Outcome, Switch
from spark_modeld.core.tailnet import Tailnet
from spark_modeld.core.unit import LogLine, Phase
from spark_modeld.face import ModelState, Snapshot

_AT_REST = frozenset({Phase.STOPPED, Phase.FAILED, Phase.UNKNOWN})
_FAILURES = frozenset({Outcome.FAILED, Outcome.ROLLED_BACK})


def time(unix: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _time_or_none(unix: float) -> str | None:
    return time(unix) if unix > 0 else None


def _problem(problem: Problem | None) -> dict[str, Any] | None:
    return problem.as_dict() if problem is not None else None


def _findings(found: Iterable[Finding]) -> list[wire.Finding]:
    return [wire.Finding(code=f.code, level=f.level, message=f.message, hint=f.hint) for f in found]


def check(report: Report) -> wire.Check:
    """What a check found."""
    shown = msgspec.convert(report.members(), wire.Check)
    shown.footprint = _footprint(report.need)
    return shown


def _footprint(footprint: Footprint) -> wire.Footprint:
    taken_at = time(footprint.taken_at) if footprint.taken_at is not None else None
    return wire.Footprint(bytes=footprint.bytes, basis=footprint.basis, note=footprint.note or None, taken_at=taken_at)


def switch(value: Switch, snapshot: Snapshot | None = None, now: float = 0.0) -> wire.Switch:
    """One switch; of the one under way in the snapshot also what is to be expected at ``now`` (Unix seconds)."""
    rollback = value.rollback
    under_way = snapshot is not None and snapshot.switch is not None and snapshot.switch.id == value.id
    outlook = snapshot.outlook if snapshot is not None and under_way and value.outcome is None else None
    outlook = outlook or Outlook()
    return wire.Switch(
        id=value.id,
        model=value.model,
        from_model=value.from_model,
        requested_by=value.requested_by,
        actor=value.actor,
        force=value.force,
        phase=value.phase,
        started_at=time(value.started_at.wall),
        finished_at=time(value.finished_at.wall) if value.finished_at is not None else None,
        outcome=value.outcome,
        error=_problem(value.error),
        rollback=wire.RollbackState(model=rollback.model, phase=rollback.phase) if rollback is not None else None,
        reason=value.reason,
        timings={phase: round(seconds, 3) for phase, seconds in value.timings.items()},
        noop=value.noop,
        findings=_findings(value.findings),
        step=outlook.progress.step if outlook.progress is not None else None,
        progress=outlook.progress.share if outlook.progress is not None else None,
        eta_s=round(max(0.0, outlook.ready_at - now), 1) if outlook.ready_at is not None else None,
        estimate=_estimate(outlook.estimate, outlook.estimate.seconds) if outlook.estimate is not None else None,
    )


def _estimate(estimate: Estimate, seconds: float) -> wire.Estimate:
    return wire.Estimate(seconds=round(seconds, 1), times=estimate.times)


def model(state: ModelState, switches: Sequence[Switch]) -> wire.Model:
    """One model of the catalog, as it is now. ``switches`` are those known, newest first."""
    entry = state.model
    load = estimate_of(switches[::-1], entry.id, None) or state.loads
    return wire.Model(
        id=entry.id,
        aliases=list(entry.aliases),
        served_model_name=entry.served_model_name,
        engine=entry.engine,
        url=entry.url,
        unit=entry.unit,
        role=entry.role,
        on_demand=entry.on_demand,
        gateway_port=entry.gateway_port,
        default=state.default,
        state=state.phase,
        since=_time_or_none(state.since),
        in_flight=state.in_flight,
        footprint=_footprint(state.footprint),
        large=state.large,
        fits=state.fits,
        fit_reason=state.fit_reason,
        error=_problem(state.error or state.fell),
        path=entry.path,
        findings=_findings(state.findings),
        step=state.progress.step if state.progress is not None else None,
        progress=state.progress.share if state.progress is not None else None,
        load=_estimate(load, load.load_seconds) if load is not None else None,
    )


def endpoints(found: Iterable[Endpoint], places: Places, tailnet: Tailnet | None, snapshot: Snapshot) -> wire.Endpoints:
    """Every address, each with the state of the model that it means."""
    states = {model_id: state.phase for model_id, state in snapshot.models.items()}
    return wire.Endpoints(
        host=places.host,
        tailscale=wire.Tailscale(name=tailnet.name, addresses=list(tailnet.addresses)) if tailnet else None,
        endpoints=[
            wire.Endpoint(
                kind=each.kind,
                url=each.url,
                health=each.health,
                reach=each.reach,
                token=each.token,
                model=each.model,
                state=states.get(each.model) if each.model is not None else None,
                examples=list(each.examples),
            )
            for each in found
        ],
    )


def log_line(line: LogLine) -> wire.LogLine:
    """One line of a unit's journal. Its time has microseconds: whoever follows again knows what it has seen."""
    at = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return wire.LogLine(time=at, text=line.text)


def _levels(reading: Reading, catalog: Catalog) -> dict[str, Any]:
    memory = catalog.settings.memory
    return {
        "total": reading.total,
        "available": reading.available,
        "free": reading.free,
        "reserve": memory.reserve.of(reading.total),
        "floor": memory.floor.of(reading.total),
        "source": reading.source,
        "stale": reading.stale,
        "gpu": reading.gpu,
        "taken_at": time(reading.taken_at.wall),
        "notes": list(reading.notes),
    }


def _sums(amounts: Iterable[tuple[str | None, int | None]]) -> dict[str, int]:
    """Model -> bytes."""
    sums: dict[str, int] = {}
    for model_id, size in amounts:
        if model_id is not None:
            sums[model_id] = sums.get(model_id, 0) + (size or 0)
    return sums


def memory(reading: Reading, snapshot: Snapshot) -> wire.Memory:
    """A reading with its processes, and the sum per model that is alive or holds memory."""
    held = _sums((p.model, p.bytes) for p in reading.processes) | _sums((s.model, s.bytes) for s in reading.loaded)
    pages = reading.huge_pages
    alive = [
        s for s in snapshot.models.values() if s.model.id in {*held, *reading.host_held} or s.phase not in _AT_REST
    ]
    return wire.Memory(
        **_levels(reading, snapshot.catalog),
        huge_pages=wire.HugePages(reserved=pages.reserved, free=pages.free, page=pages.page) if pages else None,
        processes=[
            wire.Process(pid=p.pid, bytes=p.bytes, model=p.model, unit=p.unit, command=p.command, user=p.user)
            for p in reading.processes
        ],
        strangers=[
            wire.Stranger(pid=p.pid, bytes=p.bytes, unit=p.unit, command=p.command, user=p.user)
            for p in reading.strangers
        ],
        loaded=[
            wire.Loaded(
                name=entry.name,
                unit=entry.unit,
                bytes=entry.bytes,
                gpu_bytes=entry.gpu_bytes,
                model=entry.model,
                ends_in=entry.ends_in,
            )
            for entry in reading.loaded
        ],
        models=[
            wire.ModelMemory(
                model=s.model.id,
                state=s.phase,
                bytes=held.get(s.model.id),
                host_bytes=reading.host_held.get(s.model.id, 0),
                footprint=_footprint(s.footprint),
            )
            for s in alive
        ],
    )


def _slot(snapshot: Snapshot) -> wire.Slot:
    entry = snapshot.catalog.models.get(snapshot.slot_model) if snapshot.slot_model is not None else None
    return wire.Slot(
        phase=snapshot.slot_phase if snapshot.slot_phase is not None else "empty",
        model=snapshot.slot_model,
        unit=entry.unit if entry is not None else None,
        url=entry.url if entry is not None else None,
        since=_time_or_none(snapshot.slot_since),
        in_flight=snapshot.in_flight,
        reason=snapshot.slot_reason,
    )


def _side(state: ModelState) -> wire.SideModel:
    return wire.SideModel(
        model=state.model.id,
        phase=state.phase,
        unit=state.model.unit,
        url=state.model.url,
        since=_time_or_none(state.since),
        in_flight=state.in_flight,
        error=_problem(state.error or state.fell),
    )


def status(snapshot: Snapshot, switches: Iterable[Switch], version: str, now: float) -> wire.Status:
    """The whole state, from one snapshot, at ``now`` (Unix seconds)."""
    failure = next((s for s in switches if s.outcome in _FAILURES), None)
    reading = snapshot.reading
    return wire.Status(
        slot=_slot(snapshot),
        desired=snapshot.desired or None,
        default=snapshot.catalog.settings.slot.default or None,
        switch=switch(snapshot.switch, snapshot, now) if snapshot.switch is not None else None,
        queue=[wire.Demand(model=w.model, waiters=w.waiters, since=time(w.since)) for w in snapshot.queue],
        side=[_side(s) for s in snapshot.models.values() if s.model.role is Role.SIDE and s.phase is not Phase.STOPPED],
        memory=wire.MemorySummary(**_levels(reading, snapshot.catalog)) if reading is not None else None,
        bus="connected" if snapshot.bus == "connected" else "lost",
        stopping=snapshot.stopping,
        warnings=[wire.Warning(code=w.code, message=w.message) for w in snapshot.warnings],
        last_failure=switch(failure) if failure is not None else None,
        version=version,
    )
