"""The mutable side of a switch: how far it is, what its way back is, and who has failed how often."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from spark_modeld.core.errors import Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.switch import Outcome, Rollback, Switch, SwitchPhase
from spark_modeld.core.unit import Phase

HEALTHY_SECONDS = 60.0
"""A model that served this long before it crashed has not failed to start."""
_BACKOFF_SECONDS = 2.0
_BACKOFF_CAP_SECONDS = 60.0


class Stage(StrEnum):
    """What a transaction is waiting for: a reading, an empty slot, or its target."""

    ADMIT = "admit"
    CLEAR = "clear"
    RAISE = "raise"


_ORDER = {phase: n for n, phase in enumerate(SwitchPhase)}
_RAISING = {
    Phase.RECLAIMING: SwitchPhase.RECLAIMING,
    Phase.STARTING: SwitchPhase.STARTING,
    Phase.WARMING: SwitchPhase.WARMING,
}


class Transaction(Struct):
    """One switch under way.

    ``target`` is what is being raised now: the switch's model, or a model on the way back once ``rolled``.
    ``raised`` says that its start was asked for; ``ending`` is the outcome the way back will end in;
    ``beside`` that nothing may be stopped for it; ``foreign`` that systemd starts the unit, not we;
    ``ask`` is whoever waits for its admission.
    """

    switch: Switch
    target: str | None
    stage: Stage = Stage.ADMIT
    overlap: bool = False
    raised: bool = False
    rolled: bool = False
    beside: bool = False
    foreign: bool = False
    ask: int | None = None
    token: int = 0
    ending: Outcome | None = None
    error: Problem | None = None
    way_back: list[str] = field(default_factory=list)

    def show(self, target: Phase | None, leaving: set[Phase], now: Instant) -> None:
        """Moves the switch's phase on to what the lives show; it never goes back."""
        phase = self._phase(target, leaving)
        if self.rolled:
            rollback = Rollback(model=self.target, phase=phase) if self.target else None
            self.switch = replace(self.switch, rollback=rollback, error=self.error)
        elif _ORDER[phase] > _ORDER[self.switch.phase]:
            self.switch = self.at(phase, now)

    def at(self, phase: SwitchPhase, now: Instant) -> Switch:
        """The switch in this phase, the time spent in the one before added to its timings."""
        if phase is self.switch.phase:
            return self.switch
        return replace(self.switch, phase=phase, phase_since=now.mono, timings=self.timed(now))

    def timed(self, now: Instant) -> MappingProxyType[str, float]:
        """Seconds per phase, the present one up to now."""
        if self.switch.phase is SwitchPhase.READY:
            return MappingProxyType(dict(self.switch.timings))
        spent = max(0.0, now.mono - self.switch.phase_since)
        return MappingProxyType({**self.switch.timings, str(self.switch.phase): round(spent, 6)})

    def _phase(self, target: Phase | None, leaving: set[Phase]) -> SwitchPhase:
        if self.stage is Stage.ADMIT:
            return SwitchPhase.ADMITTING
        if self.stage is Stage.CLEAR:
            return SwitchPhase.DRAINING if Phase.DRAINING in leaving else SwitchPhase.STOPPING
        if self.overlap and target is Phase.RECLAIMING:
            return SwitchPhase.ADMITTING  # nothing was stopped, so nothing has to come back: it is the second look
        return _RAISING.get(target, self.switch.phase) if target else self.switch.phase


class Attempts(Struct):
    """Failed starts of one model in a row, and when the next may be tried by ourselves.

    ``refusals`` are those among them that never started anything: there was no room. ``without_driver`` are those that
    began while no driver answered, as the last start did where it is ``blind``; ``lacked_driver`` says that the driver
    is what they lacked.
    """

    failures: int = 0
    refusals: int = 0
    without_driver: int = 0
    not_before: float = 0.0
    served_since: float | None = None
    blind: bool = False
    lacked_driver: bool = False

    @property
    def starts(self) -> int:
        """Those that did start something."""
        return self.failures - self.refusals

    @property
    def lasting(self) -> int:
        """Those that count after a restart of the daemon too."""
        return self.starts - (self.without_driver if self.lacked_driver else 0)

    def fail(self, now: Instant, *, memory: bool = False, refused: bool = False) -> None:
        """A start failed or was refused, or it went down while serving.

        After want of ``memory`` there is no second try at once, as there is after any other first failure.
        """
        self.failures += 1
        self.refusals += refused
        self.without_driver += self.blind and not refused
        self.not_before = now.mono + self._delay(self.failures + memory)

    def forgive(self, *, refusals_only: bool = False) -> None:
        """Forgets the failures: somebody asked for it, it has proved itself, or there is room now."""
        self.failures = self.starts if refusals_only else 0
        self.refusals = 0
        self.not_before = 0.0
        if not refusals_only:
            self.without_driver, self.lacked_driver = 0, False

    def forgive_driver(self) -> None:
        """Forgets those for want of the driver: it is there."""
        self.failures -= self.without_driver
        self.without_driver, self.lacked_driver = 0, False
        self.not_before = 0.0

    def served(self, now: Instant, *, less: float = 0.0) -> None:
        """It leaves service; having served long enough, ``less`` so many seconds, it counts as one that starts well."""
        self.prove(now, less=less)
        self.served_since = None

    def prove(self, now: Instant, *, less: float) -> bool:
        """Whether it has just served long enough, ``less`` so many seconds, for its failures to be forgotten."""
        well = self.served_since is not None and now.mono - self.served_since - less >= HEALTHY_SECONDS
        if not well or not self.failures:
            return False
        self.forgive()
        return True

    def _delay(self, failures: int) -> float:
        """The first failure is tried again at once, each further one waits twice as long."""
        if failures <= 1:
            return 0.0
        doublings = min(failures - 2, 10)
        return float(min(_BACKOFF_SECONDS * 2**doublings, _BACKOFF_CAP_SECONDS))
