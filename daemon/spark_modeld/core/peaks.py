"""Measured footprints: the most that a model was seen to take, from its start on.

Two things can be seen. What its processes hold by the driver's own attribution, at any time. And, while it loads, how
far the available memory has dropped since the reading that admitted it: that counts host memory too, which on one pool
is the same memory, but it is the model's only if nothing else started, stopped or gave memory back meanwhile. The
higher of the two is learnt, when the model serves; later on, what the driver attributes to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from spark_modeld.core.admission import gib, held_by
from spark_modeld.core.model import Basis, Footprint
from spark_modeld.core.reading import Reading
from spark_modeld.core.record import Measured

MARGIN_SHARE = 0.05
MARGIN_BYTES = 512 << 20
NOISE_BYTES = 256 << 20
"""What comes and goes on any machine."""
_NOTABLE = 1.02
_LEAST_BYTES = 16 << 20


def with_margin(measured: Measured) -> Footprint:
    """The need that a measurement stands for: the peak, and a twentieth (at least 0.5 GiB) for what it did not show."""
    margin = max(int(measured.bytes * MARGIN_SHARE), MARGIN_BYTES)
    at = f" at a context of {measured.context}" if measured.context else ""
    note = f"{gib(measured.bytes)} seen{at}, and {gib(margin)} for what was not"
    return Footprint(measured.bytes + margin, Basis.MEASURED, note, measured.taken_at)


class _Seen(Struct):
    """One life: the most that the driver attributed to it, and what it ran with. ``serves`` once it has loaded."""

    fingerprint: str | None
    context: int | None
    peak: int = 0
    serves: bool = False


class _Load(Struct):
    """One load under way: what was available when it was admitted, the least since, and what strangers held then."""

    admitted: int
    lowest: int
    strangers: int
    clean: bool


class Peaks:
    """What was measured, by model. ``changed`` says that there is something worth putting on record."""

    def __init__(self, measured: Mapping[str, Measured]) -> None:
        self.measured = dict(measured)
        self.changed = False
        self._lives: dict[str, _Seen] = {}
        self._loads: dict[str, _Load] = {}

    def of(self, model: str, fingerprint: str | None) -> Measured | None:
        """What was measured of this model as it is now, which is what ``fingerprint`` says.

        None stands for a model that nobody has looked at since the daemon started: before it is started, somebody will.
        """
        measured = self.measured.get(model)
        return measured if measured is not None and fingerprint in {None, measured.fingerprint} else None

    def known_as(self, model: str, fingerprint: str) -> None:
        """Somebody has looked at a model that came up before that."""
        seen = self._lives.get(model)
        if seen is not None and seen.fingerprint is None:
            seen.fingerprint = fingerprint

    def begin(self, model: str, fingerprint: str | None, context: int | None) -> None:
        """It is up. Until ``admitted`` says more, only what the driver attributes to it can be seen."""
        self._lives[model] = _Seen(fingerprint, context)
        self._loads.pop(model, None)

    def admitted(self, model: str, reading: Reading, *, clean: bool) -> None:
        """It is up by this reading. Not ``clean``: something else moves memory, too."""
        self._loads[model] = _Load(reading.available, reading.available, _strangers(reading), clean)

    def disturb(self, model: str) -> None:
        """This model comes up or goes down: what drops for another one cannot be told from it."""
        for other, load in self._loads.items():
            load.clean = load.clean and other == model

    def look(self, reading: Reading) -> None:
        """One reading, of any kind."""
        for load in self._loads.values():
            load.lowest = min(load.lowest, reading.available)
            rose = reading.available > load.admitted + NOISE_BYTES
            if rose or abs(_strangers(reading) - load.strangers) > NOISE_BYTES:
                load.clean = False
        for model, seen in self._lives.items():
            seen.peak = max(seen.peak, held_by(model, reading) or 0)
            if seen.serves:
                self._keep(model, seen, reading.taken_at.wall)

    def serves(self, model: str, wall: float) -> None:
        """It has loaded: what was seen until now is worth keeping."""
        load, seen = self._loads.pop(model, None), self._lives.get(model)
        if seen is None:
            return
        if load is not None and load.clean:
            seen.peak = max(seen.peak, load.admitted - load.lowest)
        seen.serves = True
        self._keep(model, seen, wall)

    def down(self, model: str) -> None:
        """It is down, or nothing is known of it."""
        self._lives.pop(model, None)
        self._loads.pop(model, None)

    def forget(self, model: str) -> None:
        """Lets go of what was measured of this model: it is another one now, or none."""
        self.changed = self.measured.pop(model, None) is not None or self.changed

    def _keep(self, model: str, seen: _Seen, wall: float) -> None:
        if seen.fingerprint is None:
            return
        known = self.of(model, seen.fingerprint)
        if seen.peak >= _LEAST_BYTES and (known is None or seen.peak > known.bytes * _NOTABLE):
            self.measured[model] = Measured(seen.peak, wall, seen.context, seen.fingerprint)
            self.changed = True


def _strangers(reading: Reading) -> int:
    return sum(p.bytes or 0 for p in reading.processes if p.model is None)
