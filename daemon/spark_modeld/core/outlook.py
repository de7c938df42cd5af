"""How long a switch will take, by how long the same took before.

Phases last about as long as they did: loading depends on the model that comes, draining and stopping on the one that
goes. The middle one of the last few counts, so that one load from a cold disk does not spoil the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec import Struct

from spark_modeld.core.instant import Instant
from spark_modeld.core.progress import Progress
from spark_modeld.core.switch import Outcome, Switch, SwitchPhase

LOOKED_BACK = 3
_PHASES: tuple[SwitchPhase, ...] = tuple(phase for phase in SwitchPhase if phase is not SwitchPhase.READY)
_LEAVING = (SwitchPhase.DRAINING, SwitchPhase.STOPPING)
_LOADING = (SwitchPhase.STARTING, SwitchPhase.WARMING)


class Estimate(Struct, frozen=True):
    """How long each phase takes in seconds, as the last ``times`` switches to the same model took."""

    times: int
    phases: Mapping[SwitchPhase, float]

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(self.phases.values())

    @property
    def load_seconds(self) -> float:
        """From the unit's start until the model serves."""
        return sum(self.phases.get(phase, 0.0) for phase in _LOADING)

    def left(self, phase: SwitchPhase) -> float:
        """From the beginning of this phase to the end."""
        return sum(seconds for each, seconds in self.phases.items() if _PHASES.index(each) >= _PHASES.index(phase))


class Outlook(Struct, frozen=True):
    """What is to be expected of the switch under way: how far its engine says it is, and how it went before.

    ``ready_at`` (Unix seconds) is when it should be ready, ``left`` how many seconds that is from the moment at which
    this was made; None where nobody can say. One that takes longer than it used to is expected at any moment: 0.
    """

    progress: Progress | None = None
    estimate: Estimate | None = None
    ready_at: float | None = None
    left: float | None = None


def estimate(history: Sequence[Switch], model: str | None, leaving: str | None) -> Estimate | None:
    """How long a switch to ``model`` will take where ``leaving`` has to go; None for one that was never seen to serve.

    ``history`` has the oldest first.
    """
    if model is None:
        return None
    went_well = (s for s in reversed(history) if s.model == model and s.outcome is Outcome.READY and not s.noop)
    loads = list(islice((s.timings for s in went_well if s.timings), LOOKED_BACK))
    if not loads:
        return None
    stops = [s.timings for s in reversed(history) if s.from_model == leaving and SwitchPhase.STOPPING in s.timings]
    phases: dict[SwitchPhase, float] = {
        phase: middle(each.get(phase, 0.0) for each in (stops[:LOOKED_BACK] if phase in _LEAVING else loads))
        for phase in _PHASES
    }
    return Estimate(len(loads), phases)


def outlook(switch: Switch, expected: Estimate | None, progress: Progress | None, now: Instant) -> Outlook:
    """The outlook of the switch under way. On its way back to another model nobody can say when it ends."""
    if expected is None or switch.rollback is not None or switch.outcome is not None:
        return Outlook(progress, expected)
    if switch.phase is SwitchPhase.READY:
        return Outlook(progress, expected, now.wall, 0.0)
    spent = max(0.0, now.mono - switch.phase_since)
    after = expected.left(switch.phase) - expected.phases.get(switch.phase, 0.0)
    left = max(expected.left(switch.phase) - spent, after)
    return Outlook(progress, expected, now.wall + left, left)


def middle(seconds: Iterable[float]) -> float:
    """The middle one, of an even number the shorter of the two; 0 for none."""
    found = sorted(seconds)
    return found[(len(found) - 1) // 2] if found else 0.0
