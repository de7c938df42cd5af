"""Whose turn the slot is: when a demand gets it, when its start is given up, when the slot goes back to ``desired``."""

from __future__ import annotations

from spark_modeld.core.appraisal import objection
from spark_modeld.core.demand import Demand, Demands
from spark_modeld.core.effects import Wake
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life
from spark_modeld.core.model import Role
from spark_modeld.core.planner import Planner
from spark_modeld.core.switch import Outcome, Requester
from spark_modeld.core.transaction import Stage, Transaction
from spark_modeld.core.unit import Phase

ABANDONED_SECONDS = 2.0
"""A start that nobody waits for any more goes on for this long: a client that tries again finds it under way."""
_HOME_AGAIN_SECONDS = 60.0
"""After a return to ``desired`` came to nothing, the next one is tried no sooner."""


class Turns:
    """The oldest demand comes first. An occupant keeps the slot for ``min_residency``, and longer while it is in
    use; but nobody waits longer than ``max_wait`` for others to be through with it."""

    def __init__(self, house: House, planner: Planner, demands: Demands) -> None:
        self._house = house
        self._planner = planner
        self._demands = demands
        self._abandoned: tuple[str, float] | None = None
        self._returned: tuple[int, float] = (-1, 0.0)

    def begin(self, now: Instant) -> bool:
        """No switch is under way: begins the next one that a demand, or idle_return, is due for."""
        return self._serve_next(now) or self._go_home(now)

    def give_up(self, now: Instant) -> bool:
        """Cancels a start that nobody waits for any more."""
        tx = self._planner.tx
        if tx is None or not self._is_abandoned(tx):
            self._abandoned = None
            return False
        if self._abandoned is None or self._abandoned[0] != tx.switch.id:
            self._abandoned = (tx.switch.id, now.mono)
        following = self._next_slot_demand()
        until = self._abandoned[1] + (0.0 if following else ABANDONED_SECONDS)
        if until > now.mono:
            self._house.effects.append(Wake(until))
            return False
        self._planner.withdraw(tx, now)
        if following and self._planner.tx is tx:
            # The old model is gone already: to bring it back first would be for nobody.
            self._planner.finish(tx, Outcome.CANCELLED, now)
            self._begin(following, tx.switch.from_model, now)
        return True

    def stay(self, model: str, now: Instant) -> None:
        """Somebody wants the occupant again: a return to ``desired`` that has not stopped it yet is given up."""
        tx = self._planner.tx
        if (
            tx is not None
            and tx.switch.requested_by is Requester.RECONCILE
            and tx.switch.from_model == model
            and tx.ending is None
            and self._house.lives[model].phase in {Phase.SERVING, Phase.DRAINING}
        ):
            self._planner.withdraw(tx, now)

    def home_at(self, now: Instant) -> float | None:
        """When the slot goes back to ``desired``, if nobody uses its occupant again; None if it stays as it is."""
        plan, idle_return = self._planner, self._house.catalog.settings.slot.idle_return
        model = plan.occupant
        if model is None or plan.lent != model or idle_return is None or self._planner.home() == model:
            return None
        if self._house.leases.get(model):
            return now.mono + idle_return
        life = self._house.lives[model]
        tried_in, again_at = self._returned
        at = max(life.since.mono, self._house.released_at.get(model, 0.0)) + idle_return
        return max(at, again_at) if tried_in == life.epoch else at

    def stays_until(self, life: Life) -> float:
        """Until when a model that serves keeps the slot, used or not."""
        return life.since.mono + self._house.catalog.settings.slot.min_residency

    # Inside.

    def _serve_next(self, now: Instant) -> bool:
        plan, house = self._planner, self._house
        for demand in self._demands.heads():
            model = demand.model
            if house.models[model].role is not Role.SLOT:
                continue
            obstacle = self._obstacle()
            if obstacle is not None:
                house.lost.append((model, obstacle))
                return True
            if not house.lives[model].idle:
                continue  # on its way down, or not seen yet: a switch begun now would stop the occupant unadmitted
            ready_at = house.tries(model).not_before if not house.exhausted(model) else 0.0
            if ready_at > now.mono:
                house.effects.append(Wake(ready_at))
                continue
            free_at = self._free_at(demand, now)
            if free_at is None or free_at > now.mono:
                # Whoever comes after it has not waited longer: their time has not come either.
                if free_at is not None:
                    house.effects.append(Wake(free_at))
                return False
            self._begin(demand, plan.standing(), now)
            return True
        return False

    def _free_at(self, demand: Demand, now: Instant) -> float | None:
        """When to see whether the slot may be taken for this demand: now, or later; None while nobody can say."""
        model = self._planner.occupant
        if model is None:
            return 0.0
        life = self._house.lives[model]
        if life.phase is not Phase.SERVING or model == demand.model:
            return None  # it is on its way up: a loading model is never stopped for another
        stays_until = self.stays_until(life)
        if stays_until > now.mono or not self._house.leases.get(model):
            return stays_until
        return demand.since.mono + self._house.catalog.settings.slot.max_wait

    def _obstacle(self) -> Problem | None:
        """Why no switch can be begun until a person has done something."""
        stuck = self._house.stuck()
        if stuck is not None:
            problem = self._house.lives[stuck].problem
            detail = f"{stuck} will not stop. {problem.detail if problem else ''}".strip()
            return Problem(Code.STUCK, detail, {"model": stuck})
        intruders = self._planner.intruders()
        if intruders:
            names = ", ".join(intruders)
            detail = f"{names} was started beside the slot's occupant; nothing more is started until it is stopped."
            return Problem(Code.LARGE_PARALLEL, detail, {"holders": list(intruders)})
        return None

    def _begin(self, demand: Demand, from_model: str | None, now: Instant) -> None:
        switch = self._planner.new_switch(
            demand.model, from_model, now, requested_by=Requester.GATEWAY, actor=demand.actor
        )
        self._planner.begin(Transaction(switch, target=demand.model))

    def _next_slot_demand(self) -> Demand | None:
        heads = self._demands.heads()
        return next((d for d in heads if self._house.models[d.model].role is Role.SLOT), None)

    def _is_abandoned(self, tx: Transaction) -> bool:
        model = tx.switch.model
        if tx.switch.requested_by is not Requester.GATEWAY or tx.rolled or tx.ending is not None or model is None:
            return False
        # What serves is about to be the occupant; of what cannot be seen nobody knows how far it is.
        unstoppable = self._house.lives[model].phase in {Phase.SERVING, Phase.UNKNOWN} and tx.stage is not Stage.ADMIT
        return self._demands.first(model) is None and not unstoppable

    def _may_return(self, home: str) -> bool:
        """Whether trying is worth it; if not, the slot says why. Readings come, and with each it is asked again."""
        plan, house = self._planner, self._house
        if house.exhausted(home):
            plan.give_up(home)
            return False
        if house.reading is None:
            return True  # the switch begins with one
        refusal = objection(home, house.findings(home)) or house.admit(
            home, house.reading, leaving=house.others(home), staying=house.sides()
        )
        if refusal is not None:
            plan.reason = refusal
        return refusal is None

    def _go_home(self, now: Instant) -> bool:
        plan, house = self._planner, self._house
        at = self.home_at(now)
        model, home = plan.occupant, self._planner.home()
        if at is None or model is None or house.lives[model].phase is not Phase.SERVING:
            return False
        if self._next_slot_demand() is not None:
            return False
        if at > now.mono:
            house.effects.append(Wake(at))
            return False
        if home is not None and not self._may_return(home):
            return False
        self._returned = (house.lives[model].epoch, now.mono + _HOME_AGAIN_SECONDS)
        switch = plan.new_switch(home, model, now, requested_by=Requester.RECONCILE)
        plan.begin(Transaction(switch, target=home))
        return True
