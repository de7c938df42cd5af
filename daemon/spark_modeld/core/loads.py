"""How long models took to load beside the slot: no switch is on record that would tell. Forgotten with the daemon."""

from __future__ import annotations

from spark_modeld.core.accounts import LOADING
from spark_modeld.core.instant import Instant
from spark_modeld.core.outlook import LOOKED_BACK, Estimate, middle
from spark_modeld.core.switch import SwitchPhase
from spark_modeld.core.unit import Phase


class Loads:
    """The last few loads of each model that went well."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._took: dict[str, tuple[float, ...]] = {}

    def moved(self, model: str, after: Phase, now: Instant) -> None:
        """Its life has entered another phase."""
        if after is Phase.STARTING:
            self._began[model] = now.mono
        elif after not in LOADING and (began := self._began.pop(model, None)) is not None and after is Phase.SERVING:
            self._took[model] = (*self._took.get(model, ()), now.mono - began)[-LOOKED_BACK:]

    def estimate(self, model: str) -> Estimate | None:
        """How long the next one takes, from the unit's start; None for a model that was never seen to load."""
        took = self._took.get(model)
        return Estimate(len(took), {SwitchPhase.WARMING: middle(took)}) if took else None

    def forget(self, model: str) -> None:
        """It has left the catalog."""
        self._began.pop(model, None)
        self._took.pop(model, None)
