"""What the core asks for. The engine runs the effects of one event in order."""

from __future__ import annotations

from msgspec import Struct

from spark_modeld.core.errors import Problem
from spark_modeld.core.guard import Notice
from spark_modeld.core.life import Act
from spark_modeld.core.switch import Switch


class Do(Struct, frozen=True):
    """Run one act of a unit's life."""

    model: str
    act: Act
    epoch: int


class Arm(Struct, frozen=True):
    """Say ``Expired(epoch)`` to this model at ``at`` (monotonic seconds)."""

    model: str
    epoch: int
    at: float


class Read(Struct, frozen=True):
    """Take a fresh reading and hand it to ``Slot.taken`` under this token, with an inspection of ``model``."""

    token: int
    model: str | None = None


class Wake(Struct, frozen=True):
    """Call ``Slot.wake`` at ``at`` (monotonic seconds)."""

    at: float


class Save(Struct, frozen=True):
    """Put the record on disk before any later effect is run."""


class Ended(Struct, frozen=True):
    """A switch has ended."""

    switch: Switch


class Verdict(Struct, frozen=True):
    """The answer to a start beside the slot, or at the gate: None admits it. Or why a demand gets no lease."""

    ask: int
    problem: Problem | None


class Guarded(Struct, frozen=True):
    """The guard says something: it goes into the log and the event stream."""

    notice: Notice


class Granted(Struct, frozen=True):
    """The lease for the demand ``ask``; it is counted already."""

    ask: int
    model: str


Effect = Do | Arm | Read | Wake | Save | Ended | Verdict | Granted | Guarded
Effects = list[Effect]
