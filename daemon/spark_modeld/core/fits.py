"""What fits now, model by model: advice for people, over one reading. What is alive is weighed once for all of them."""

from __future__ import annotations

from functools import cached_property

from spark_modeld.core.admission import Holder
from spark_modeld.core.errors import Problem
from spark_modeld.core.house import House
from spark_modeld.core.model import Role
from spark_modeld.core.reading import Reading


class Fits:
    """Of use for as long as nothing changes in the house: for one turn."""

    def __init__(self, house: House, reading: Reading) -> None:
        self._house = house
        self._reading = reading

    def of(self, model: str) -> Problem | None:
        """What a switch to (or, for a side model, a start of) this model would be told; None for what is alive."""
        house = self._house
        if house.lives[model].alive:
            return None
        # What is not alive is not among those that leave or stay.
        if house.models[model].role is Role.SIDE:
            return house.weigh(model, self._reading, staying=(*self._slot, *self._sides))
        return house.weigh(model, self._reading, leaving=self._slot, staying=self._sides)

    @cached_property
    def _slot(self) -> tuple[Holder, ...]:
        return self._house.holders(self._house.others(None), self._reading)

    @cached_property
    def _sides(self) -> tuple[Holder, ...]:
        return self._house.holders(self._house.sides(), self._reading)
