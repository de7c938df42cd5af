"""What the core asks for. The engine runs the effects of one event in order."""

from __future__ import annotations

from dataclasses import dataclass

from spark_modeld.core.errors import Problem
from spark_modeld.core.guard import Notice
from spark_modeld.core.lifecycle import Act
from spark_modeld.core.model import Switch


@dataclass(frozen=True, slots=True)
class Do:
    """Run one act of a unit's life."""

    model: str
    act: Act
    epoch: int


@dataclass(frozen=True, slots=True)
class Arm:
    """Say ``Expired(epoch)`` to this model at ``at`` (monotonic seconds)."""

    model: str
    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class Read:
    """Take a fresh reading and hand it to ``Slot.taken`` under this token, with an inspection of ``model``."""

    token: int
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """Call ``Slot.wake`` at ``at`` (monotonic seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class Save:
    """Put the record on disk before any later effect is run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A switch has ended."""

    switch: Switch


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a start beside the slot, or at the gate: None admits it. Or why a demand gets no lease."""

    ask: int
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guard says something: it goes into the log and the event stream."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease for the demand ``ask``; it is counted already."""

    ask: int
    model: str


Effect = Do | Arm | Read | Wake | Save | Ended | Verdict | Granted | Guarded
Effects = list[Effect]
