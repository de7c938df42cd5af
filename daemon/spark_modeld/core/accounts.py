"""Memory as the house keeps account of it: the latest reading, what loads, what was measured, what is to come back."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from spark_modeld.core.admission import held_by
from spark_modeld.core.curve import Curve
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life
from spark_modeld.core.model import Footprint
from spark_modeld.core.peaks import Peaks
from spark_modeld.core.reading import Reading
from spark_modeld.core.record import Measured
from spark_modeld.core.returning import Returning
from spark_modeld.core.unit import Phase

LOADING = frozenset({Phase.STARTING, Phase.WARMING})
_LEAVING = frozenset({Phase.STOPPING, Phase.STUCK})


class About(Struct, frozen=True, kw_only=True):
    """What the accounts have to know of a life that moves.

    ``admitted``: the latest reading has just admitted it; ``quiet``: no other model loads or leaves; ``patience``:
    seconds that its memory may take to come back.
    """

    fingerprint: str | None
    context: int | None
    need: Footprint
    admitted: bool
    quiet: bool
    patience: float


class Accounts:
    """Fed with every reading and every move of a life; it decides nothing.

    ``paged_in`` is what the machine had read from its disks when a model that loads began to.
    """

    def __init__(self, measured: Mapping[str, Measured]) -> None:
        self.reading: Reading | None = None
        self.peaks = Peaks(measured)
        self.returning = Returning()
        self.curves: dict[str, Curve] = {}
        self.paged_in: dict[str, int] = {}

    def look(self, reading: Reading, now: Instant) -> None:
        """A reading, of any kind."""
        self.reading = reading
        self.peaks.look(reading)
        self.returning.look(reading.available, now)
        for curve in self.curves.values():
            curve.add(reading.taken_at.mono, reading.available)

    def moved(self, model: str, before: Life, after: Life, now: Instant, about: About) -> None:
        """One life moved on to another phase."""
        if after.alive != before.alive or after.phase in _LEAVING:
            self.peaks.disturb(model)
        if after.phase in LOADING and before.phase not in LOADING:
            self._loads(model, now, about)
        elif after.phase is Phase.SERVING and before.phase is Phase.WARMING:
            self.peaks.serves(model, now.wall)
        if after.phase not in LOADING:
            self.curves.pop(model, None)
            self.paged_in.pop(model, None)
        if after.idle or after.phase is Phase.UNKNOWN:
            self.peaks.down(model)
        if before.alive and before.phase is not Phase.UNKNOWN and (after.phase in _LEAVING or after.idle):
            self._leaves(model, after, now, about)

    def _loads(self, model: str, now: Instant, about: About) -> None:
        self.returning.up(model)
        self.curves[model] = Curve(now.mono)
        self.peaks.begin(model, about.fingerprint, about.context)
        if self.reading is not None:
            self.curves[model].add(now.mono, self.reading.available)
            if self.reading.paged_in is not None:
                self.paged_in[model] = self.reading.paged_in
            if about.admitted:
                clean = about.quiet and not self.returning.unsettled(self.reading.available)
                self.peaks.admitted(model, self.reading, clean=clean)

    def _leaves(self, model: str, after: Life, now: Instant, about: About) -> None:
        if self.reading is not None:
            held = held_by(model, self.reading)
            self.returning.begin(model, about.need.bytes if held is None else held, self.reading.available)
        if after.idle:
            self.returning.down(model, now, about.patience)
