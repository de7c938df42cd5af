"""The daemon's own metrics: what its snapshots show now, and what has happened between two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product

from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from spark_modeld.face import ModelState, Snapshot
from spark_modeld.metrics import Labels, Metrics

_LOADING = frozenset({Phase.STARTING, Phase.WARMING})
_DOWN = frozenset({Phase.STOPPED, Phase.FAILED, Phase.RECLAIMING})
_ALIVE = frozenset(Phase) - _DOWN - {Phase.UNKNOWN}
_PREFIX = "spark_modeld_"


class Counting:
    """Counts switches, starts and stops, and shows the slot and memory. ``snapshot`` gives the latest snapshot."""

    def __init__(self, metrics: Metrics, snapshot: Callable[[], Snapshot]) -> None:
        self._latest = snapshot
        self._states: Mapping[str, ModelState] = {}
        self._adopting: set[str] = set()
        counter = metrics.counter
        self._switches = counter(
            f"{_PREFIX}switches_total", "Switches that ended, by outcome and requester", ("outcome", "requested_by")
        )
        # A counter that begins with its first failure shows Prometheus no increase.
        for labels in product(Outcome, Requester):
            self._switches.add(*map(str, labels), by=0.0)
        self._phases = metrics.histogram(
            f"{_PREFIX}switch_phase_seconds", "Seconds that switches spent in each of their phases", ("phase",)
        )
        self._starts = counter(
            f"{_PREFIX}model_starts_total",
            "Starts that ended: ready, adopted, stopped, or the code of what went wrong",
            ("model", "result"),
        )
        self._stops = counter(
            f"{_PREFIX}model_stops_total",
            "Models that went down: requested, guard, or the code of what went wrong",
            ("model", "reason"),
        )
        self._guard_actions = counter(
            f"{_PREFIX}guard_actions_total",
            "What the guard said and did: under-floor, stopping, killed-loading",
            ("action",),
        )
        self._under_floor = counter(f"{_PREFIX}memory_under_floor_seconds_total", "Seconds spent under the floor")
        gauge = metrics.gauge
        gauge(f"{_PREFIX}slot_info", "1 for what the slot shows now", ("model", "phase"), self._slot)
        gauge(
            f"{_PREFIX}desired_info",
            "1 for the model that belongs in the slot; none where it is meant to be empty",
            ("model",),
            self._desired,
        )
        gauge(f"{_PREFIX}healthy", "1 where the daemon can do its work, as GET /health says it", (), self._healthy)
        gauge(f"{_PREFIX}warnings", "Warnings that the status shows now", ("code",), self._warnings)
        gauge(
            f"{_PREFIX}memory_bytes", "The latest reading, and the levels it is held against", ("kind",), self._memory
        )
        gauge(
            f"{_PREFIX}memory_reading_stale",
            "1 while the latest reading is missing, or the driver did not answer for it",
            (),
            self._stale,
        )
        gauge(
            f"{_PREFIX}memory_source_info",
            "1 for where the latest reading came from: a GPU that is lost leaves the host's numbers",
            ("source", "gpu"),
            self._source,
        )
        gauge(f"{_PREFIX}in_flight", "Requests that hold a model", ("model",), self._in_flight)
        gauge(f"{_PREFIX}waiting", "Requests that wait for a model", ("model",), self._waiting)

    def see(self, snapshot: Snapshot) -> None:
        """A new snapshot: what each model went through since the last one."""
        for model, state in snapshot.models.items():
            before = self._states.get(model)
            if before is not None and before.phase is not state.phase:
                self._moved(model, before.phase, state)
        self._states = snapshot.models
        for action, count in snapshot.guard.actions:
            self._guard_actions.values[(action,)] = float(count)
        self._under_floor.values[()] = snapshot.guard.under_seconds

    def ended(self, switch: Switch) -> None:
        """A switch has ended."""
        if switch.outcome is None or switch.noop:
            return
        self._switches.add(str(switch.outcome), str(switch.requested_by))
        for phase, seconds in switch.timings.items():
            self._phases.observe(seconds, phase)

    def _moved(self, model: str, before: Phase, state: ModelState) -> None:
        after = state.phase
        if before is Phase.UNKNOWN:
            if after is Phase.WARMING:
                self._adopting.add(model)
            return
        if after is Phase.UNKNOWN:
            return
        if before in _LOADING and after not in _LOADING:
            adopted = model in self._adopting
            self._adopting.discard(model)
            ready = "adopted" if adopted else "ready"
            self._starts.add(model, ready if after is Phase.SERVING else _why(state, "stopped"))
        if before in _ALIVE and after in _DOWN:
            self._stops.add(model, _why(state, "requested"))

    def _slot(self) -> Mapping[Labels, float]:
        snapshot = self._latest()
        phase = str(snapshot.slot_phase) if snapshot.slot_phase else "empty"
        return {(snapshot.slot_model or "", phase): 1.0}

    def _desired(self) -> Mapping[Labels, float]:
        desired = self._latest().desired
        return {(desired,): 1.0} if desired else {}

    def _healthy(self) -> Mapping[Labels, float]:
        snapshot = self._latest()
        able = snapshot.bus == "connected" and not snapshot.stopping and snapshot.config_problem is None
        return {(): float(able)}

    def _warnings(self) -> Mapping[Labels, float]:
        return {(code,): float(n) for code, n in Counter(w.code for w in self._latest().warnings).items()}

    def _memory(self) -> Mapping[Labels, float]:
        snapshot = self._latest()
        reading = snapshot.reading
        if reading is None:
            return {}
        settings = snapshot.catalog.settings.memory
        gpu = [p.bytes for p in reading.processes if p.bytes is not None]
        strangers = [p.bytes for p in reading.processes if p.bytes is not None and p.model is None]
        return {
            ("total",): float(reading.total),
            ("available",): float(reading.available),
            ("free",): float(reading.free),
            ("reserve",): float(settings.reserve.of(reading.total)),
            ("floor",): float(settings.floor.of(reading.total)),
            ("gpu",): float(sum(gpu)),
            ("gpu_nobodys",): float(sum(strangers)),
        }

    def _stale(self) -> Mapping[Labels, float]:
        reading = self._latest().reading
        return {(): float(reading is None or reading.stale)}

    def _source(self) -> Mapping[Labels, float]:
        reading = self._latest().reading
        return {(str(reading.source), reading.gpu or ""): 1.0} if reading is not None else {}

    def _in_flight(self) -> Mapping[Labels, float]:
        return {(m,): float(state.in_flight) for m, state in self._latest().models.items()}

    def _waiting(self) -> Mapping[Labels, float]:
        snapshot = self._latest()
        waiting: dict[Labels, float] = {(m,): 0.0 for m in snapshot.models}
        for demand in snapshot.queue:
            waiting[(demand.model,)] = float(demand.waiters)
        return waiting


def _why(state: ModelState, otherwise: str) -> str:
    if state.error is None:
        return otherwise
    return "guard" if state.error.extra.get("guard") else str(state.error.code)
