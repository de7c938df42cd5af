"""What models that went down have still to give back: a unit's end is no proof that its memory is there again."""

from __future__ import annotations

from collections.abc import Container

from msgspec import Struct
from msgspec.structs import replace

from spark_modeld.core.instant import Instant

_NOISE_BYTES = 256 << 20


class Debt(Struct, frozen=True):
    """One model's memory on its way back, in bytes.

    ``baseline`` is what was available when its stop began; ``until`` (monotonic seconds) when nobody waits for it any
    more, None while the model is still on its way down.
    """

    bytes: int
    baseline: int
    until: float | None = None


class Returning:
    """The debts, by model, oldest first."""

    def __init__(self) -> None:
        self._debts: dict[str, Debt] = {}

    def begin(self, model: str, amount: int, available: int) -> None:
        """This model's stop began, or it died: ``amount`` is to come back. The first word counts."""
        if model not in self._debts and amount > 0:
            self._debts[model] = Debt(amount, available)

    def down(self, model: str, now: Instant, patience: float) -> None:
        """Its processes are gone; ``patience`` seconds from now on the memory may still come."""
        debt = self._debts.get(model)
        if debt is not None:
            self._debts[model] = replace(debt, until=now.mono + patience)

    def up(self, model: str) -> None:
        """It runs (again)."""
        self._debts.pop(model, None)

    def look(self, available: int, now: Instant) -> None:
        """A reading: debts that are paid or too old are forgotten."""
        for model, debt in tuple(self._debts.items()):
            if debt.until is not None and (debt.until <= now.mono or self.outstanding(model, available) == 0):
                del self._debts[model]

    def outstanding(self, model: str, available: int) -> int | None:
        """Bytes this model has still to give back; None if it owes nothing. What came back pays the oldest first."""
        paid = None
        for name, debt in self._debts.items():
            paid = max(0, available - debt.baseline) if paid is None else paid
            if name == model:
                return max(0, debt.bytes - paid)
            paid = max(0, paid - debt.bytes)
        return None

    def total(self, available: int, *, without: Container[str] = ()) -> int:
        """Bytes that all of them have still to give back."""
        return sum(self.outstanding(model, available) or 0 for model in self._debts if model not in without)

    def unsettled(self, available: int) -> bool:
        """Whether a notable part of any debt is open. A debt may be a guess, and somewhat too high."""
        open_parts = ((debt, self.outstanding(model, available) or 0) for model, debt in self._debts.items())
        return any(part > debt.bytes // 8 + _NOISE_BYTES for debt, part in open_parts)

    def shown(self, available: int) -> list[dict[str, object]]:
        """Who owes what, as a problem shows it."""
        return [
            {"model": model, "expected": debt.bytes, "outstanding": owed}
            for model, debt in self._debts.items()
            if (owed := self.outstanding(model, available) or 0)
        ]
