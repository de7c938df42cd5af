"""Between the core's models and systemd's units: which call, which job and which report belongs to whom."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld import ports
from spark_modeld.core import life_event as life_of
from spark_modeld.core.effects import Effects
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Model, OwnUnit
from spark_modeld.core.slot import Slot
from spark_modeld.core.unit import ActiveState, Phase, UnitStatus

_RUNNING = frozenset({ActiveState.ACTIVE, ActiveState.RELOADING})
_DOWN = frozenset({ActiveState.INACTIVE, ActiveState.FAILED})
_UP = frozenset({Phase.WARMING, Phase.SERVING, Phase.DRAINING})
_UP_OR_UNKNOWN = _UP | {Phase.UNKNOWN}


class Units:
    """Translates. It remembers the calls in flight, our own jobs, and units that a job of somebody else touched.

    ``escaped`` says whether there are processes that a model's unit started and did not keep.
    """

    def __init__(self, slot: Slot, systemd: ports.Systemd, *, escaped: Callable[[Model], object]) -> None:
        self._slot = slot
        self._systemd = systemd
        self._escaped = escaped
        self._calls: dict[int, tuple[str, int]] = {}
        self._kills: set[int] = set()
        self._own_jobs: set[str] = set()
        self._touched: set[str] = set()
        self._doubted: set[str] = set()
        self._watched: frozenset[str] = frozenset()
        self._last_token = 0

    def names(self) -> frozenset[str]:
        """Every unit of the catalog, and of what still runs with an older one; from now on these are watched."""
        self._watched = frozenset(m.seat for m in self._slot.house.models.values())
        return self._watched

    def follow(self) -> None:
        """Watches what the catalog names now."""
        before = self._watched
        if self.names() != before and self._slot.connected:
            self._systemd.watch(self._watched)

    def start(self, model: Model, epoch: int) -> None:
        """Starts the model's unit."""
        self._touched.discard(model.seat)
        status = self._slot.house.lives[model.id].status
        # Our template has no start limit; every call is a polkit check, in the midst of a switch.
        reset = isinstance(model.run, OwnUnit) or (status is not None and status.active is ActiveState.FAILED)
        self._systemd.start(model.seat, self._token(model.id, epoch), reset=reset)

    def stop(self, model: Model, epoch: int) -> None:
        """Stops the model's unit."""
        self._systemd.stop(model.seat, self._token(model.id, epoch))

    def kill(self, model: Model, epoch: int) -> None:
        """Kills the model's unit. What comes of it is seen by its deadline, not by the answer."""
        token = self._token(model.id, epoch)
        self._kills.add(token)
        self._systemd.kill(model.seat, token)

    def report(self, report: ports.BusReport, now: Instant) -> Effects:
        """What systemd reports, told to the core."""
        match report:
            case ports.JobQueued(token, job):
                self._own_jobs.add(job)
                called = self._calls.pop(token, None)
                if called is None:  # an answer from before the bus was lost
                    return []
                return self._slot.unit_event(called[0], life_of.JobQueued(called[1], job), now)
            case ports.CallDone(token):
                self._calls.pop(token, None)
                self._kills.discard(token)
                return []
            case ports.CallFailed():
                return self._call_failed(report, now)
            case ports.JobRemoved():
                return self._job_removed(report, now)
            case ports.UnitChanged(unit, status):
                return self._shown(unit, status, now)
            case ports.BusConnected(shown):
                by_model = {m: shown[spec.seat] for m, spec in self._slot.house.models.items() if spec.seat in shown}
                effects = self._slot.bus_connected(by_model, now, lambda model: self._left(model, by_model[model]))
                self._systemd.watch(self.names())
                return effects
            case ports.BusLost():
                self._calls.clear()
                self._own_jobs.clear()
                self._kills.clear()
                self._touched.clear()
                self._doubted.clear()
                return self._slot.bus_lost(now)
            case ports.HostStopping():
                return self._slot.shut_down(now)

    def _token(self, model: str, epoch: int) -> int:
        self._last_token += 1
        self._calls[self._last_token] = (model, epoch)
        return self._last_token

    def _models(self, unit: str) -> list[str]:
        return [m for m, spec in self._slot.house.models.items() if spec.seat == unit]

    def _call_failed(self, report: ports.CallFailed, now: Instant) -> Effects:
        called = self._calls.pop(report.token, None)
        if called is None or report.token in self._kills:
            self._kills.discard(report.token)
            return []
        failed = life_of.CallFailed(
            called[1],
            report.message,
            gone=report.failure is ports.CallFailure.NO_SUCH_UNIT,
            denied=report.failure in {ports.CallFailure.ACCESS_DENIED},
        )
        return self._slot.unit_event(called[0], failed, now)

    def _job_removed(self, report: ports.JobRemoved, now: Instant) -> Effects:
        if report.job not in self._own_jobs:
            self._touched.add(report.unit)
            return []
        self._own_jobs.discard(report.job)
        effects: Effects = []
        for model in self._models(report.unit):
            effects += self._slot.unit_event(model, life_of.JobEnded(report.job, report.result), now)
        return effects

    def _shown(self, unit: str, status: UnitStatus, now: Instant) -> Effects:
        foreign = unit in self._touched or (status.job is not None and status.job not in self._own_jobs)
        if status.active in _RUNNING:
            self._touched.discard(unit)
        elif self._doubtful(unit, status, foreign=foreign):
            self._doubted.add(unit)
            self._systemd.look(unit)
            return []
        self._doubted.discard(unit)
        effects: Effects = []
        for model in self._models(unit):
            shown = life_of.Shown(status, foreign, left=self._left(model, status))
            effects += self._slot.unit_event(model, shown, now)
        return effects

    def _left(self, model: str, status: UnitStatus) -> bool:
        """Whether a unit that went down, or is first seen so, has left processes elsewhere."""
        if status.active not in _DOWN or self._slot.house.lives[model].phase not in _UP_OR_UNKNOWN:
            return False
        return bool(self._escaped(self._slot.house.models[model]))

    def _doubtful(self, unit: str, status: UnitStatus, *, foreign: bool) -> bool:
        """Whether a clean end could still turn out to be somebody's stop.

        systemd tells the end of a job after the state it left; what is read after this has the job's end before it.
        """
        ended_well = status.active is ActiveState.INACTIVE and status.result == "success"
        if foreign or not ended_well or unit in self._doubted:
            return False
        return any(self._slot.house.lives[m].phase in _UP for m in self._models(unit))
