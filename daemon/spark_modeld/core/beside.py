"""Side models on demand: started beside the slot when they fit, stopped again when nobody has used them for long."""

from __future__ import annotations

from spark_modeld.core import life_event as life_of
from spark_modeld.core.appraisal import objection
from spark_modeld.core.demand import Demands
from spark_modeld.core.effects import Wake
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Role
from spark_modeld.core.planner import Planner, named
from spark_modeld.core.reading import Reading
from spark_modeld.core.turns import ABANDONED_SECONDS
from spark_modeld.core.unit import Phase

_LOADING = frozenset({Phase.RECLAIMING, Phase.STARTING, Phase.WARMING})


class Beside:
    """``lent`` are the side models that demands started; what a person started stays."""

    def __init__(self, house: House, planner: Planner, demands: Demands) -> None:
        self.lent: set[str] = set()
        self._house = house
        self._planner = planner
        self._demands = demands
        self._reads: dict[int, str] = {}
        self._raising: dict[str, float | None] = {}
        """Being started by us, and since when nobody waits for it any more."""

    def move(self, now: Instant) -> bool:
        """One move for each side model; False when there is nothing to do but wait."""
        wanted = {m for m in self._demands.models() if self._demands.first(m) is not None}
        known = {m for m, spec in self._house.models.items() if spec.role is Role.SIDE}
        self.lent &= known
        moved = [self._follow(m, now) for m in tuple(self._raising)]
        moved += [self._raise(m, now) for m in sorted(wanted & known)]
        moved += [self._return(m, now) for m in sorted(self.lent - self._raising.keys())]
        return any(moved)

    def taken(self, token: int, reading: Reading, now: Instant) -> None:
        """The reading for a start; nothing happens if it is not ours, or no longer wanted."""
        model = self._reads.pop(token, None)
        if model is None or model not in self._house.lives or not self._house.lives[model].idle:
            return
        if self._demands.first(model) is None or self._slot_is_owed_memory():
            return
        refusal = objection(model, self._house.findings(model)) or self._house.admit(
            model, reading, staying=self._house.alive(model)
        )
        if refusal is not None:
            self._house.lost.append((model, refusal))
            return
        self._raising[model] = None
        self.lent.add(model)
        self._house.step(model, life_of.START_WANTED, now)

    def bus_lost(self) -> None:
        """Whether a start ever reached systemd is unknown: what is seen later decides.

        Readings that come meanwhile decide nothing, so they are asked for again when the bus is back.
        """
        self._raising.clear()
        self._reads.clear()

    # Inside.

    def _follow(self, model: str, now: Instant) -> bool:
        """A start of ours, on its way."""
        life = self._house.lives.get(model)
        if life is None or life.phase is Phase.SERVING:
            del self._raising[model]
            return False
        if life.idle:
            del self._raising[model]
            self.lent.discard(model)
            problem = life.problem or Problem(Code.MODEL_FAILED, f"{model} went down before it was ready.")
            self._house.blame(model, problem, now)
            self._house.lost.append((model, named(problem, model, self._house.models[model].unit)))
            return True
        if self._demands.first(model) is not None:
            self._raising[model] = None
            return False
        since = self._raising[model]
        since = self._raising[model] = now.mono if since is None else since
        if since + ABANDONED_SECONDS > now.mono:
            self._house.effects.append(Wake(since + ABANDONED_SECONDS))
            return False
        del self._raising[model]
        self._house.step(model, life_of.STOP_WANTED, now)
        return True

    def _raise(self, model: str, now: Instant) -> bool:
        life = self._house.lives[model]
        if life.phase is Phase.STUCK:
            problem = life.problem or Problem(Code.STUCK, f"{model} will not stop.")
            self._house.lost.append((model, problem))
            return True
        if life.phase is Phase.DRAINING and model in self.lent:
            self._house.step(model, life_of.KEEP_WANTED, now)
            return True
        if not life.idle or model in self._reads.values() or self._slot_is_owed_memory():
            return False
        ready_at = self._house.tries(model).not_before if not self._house.exhausted(model) else 0.0
        if ready_at > now.mono:
            self._house.effects.append(Wake(ready_at))
            return False
        self._reads[self._house.read(model)] = model
        return False

    def _slot_is_owed_memory(self) -> bool:
        """The slot's next model has not taken yet what it was, or will be, admitted for: first it, then we."""
        tx = self._planner.tx
        if tx is not None and tx.target is not None:
            return True
        return any(self._house.lives[m].phase in _LOADING for m in self._house.slot_models())

    def _return(self, model: str, now: Instant) -> bool:
        life, idle_return = self._house.lives[model], self._house.catalog.settings.slot.idle_return
        if life.idle:
            self.lent.discard(model)
        if life.phase is not Phase.SERVING or idle_return is None:
            return False
        in_use = self._house.leases.get(model)
        since = now.mono if in_use else max(life.since.mono, self._house.released_at.get(model, 0.0))
        if since + idle_return > now.mono:
            self._house.effects.append(Wake(since + idle_return))
            return False
        self._house.step(model, life_of.STOP_WANTED, now)
        return True
