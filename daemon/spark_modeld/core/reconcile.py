"""What follows while no switch is under way: the occupant went down, somebody came in, the slot is not as desired."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.core import life_event as life_of
from spark_modeld.core.effects import Save, Wake
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.planner import RISING, Planner, named
from spark_modeld.core.switch import Requester
from spark_modeld.core.transaction import Stage, Transaction
from spark_modeld.core.unit import Phase


class Reconciler:
    """Brings what is in the slot and what is meant to be in it together, by a switch of its own where it takes one."""

    def __init__(self, house: House, planner: Planner) -> None:
        self._house = house
        self._planner = planner

    def move(self, now: Instant, begin: Callable[[Instant], bool]) -> bool:
        """One move; False when there is nothing to do but wait. ``begin`` begins what demands want."""
        ends = self._call_off(now) or self._watch_occupant(now)
        return ends or self._take_in(now) or begin(now) or self._reconcile(now)

    def _call_off(self, now: Instant) -> bool:
        """Ends what still waits for room for a switch that is over: superseded, say, by one that was cancelled."""
        waiting = [m for m in self._house.slot_models() if self._house.lives[m].phase is Phase.RECLAIMING]
        for model in waiting:
            self._house.step(model, life_of.STOP_WANTED, now)
        return bool(waiting)

    def _watch_occupant(self, now: Instant) -> bool:
        """The occupant is down and nobody of ours stopped it."""
        plan = self._planner
        if plan.occupant is None:
            return False
        life = self._house.lives.get(plan.occupant)
        if life is not None and not life.idle:
            return False
        model, plan.occupant = plan.occupant, None
        if life is not None and life.foreign:
            plan.held = True
            detail = f"{model} was stopped with systemctl; the slot stays empty until the next switch."
            plan.reason = Problem(Code.MODEL_FAILED, detail)
        elif life is not None:
            self._house.tries(model).fail(now)
            went_down = life.problem or Problem(Code.MODEL_FAILED, f"{model} went down.")
            plan.reason = named(went_down, model, self._house.models[model].unit)
        self._house.effects.append(Save())
        return True

    def _take_in(self, now: Instant) -> bool:
        """Somebody started a slot model while the slot was empty: it is a switch requested by systemd."""
        plan = self._planner
        busy = self._house.busy_others(None)
        if plan.occupant is not None or len(busy) != 1 or self._house.lives[busy[0]].phase not in RISING:
            return False
        switch = plan.new_switch(busy[0], None, now, requested_by=Requester.SYSTEMD)
        plan.tx = Transaction(switch, target=busy[0], stage=Stage.RAISE, raised=True)
        self._house.effects.append(Save())
        return True

    def _reconcile(self, now: Instant) -> bool:
        """The slot is empty and should not be."""
        plan = self._planner
        wanted = plan.wanted()
        if plan.held or plan.occupant or not wanted or self._house.busy_others(None):
            return False
        candidates = (wanted, self._house.catalog.settings.slot.default)
        model = next((m for m in candidates if m in self._house.models and not self._house.exhausted(m)), None)
        if model is None:
            model = next((m for m in candidates if m in self._house.models and self._house.room_again(m)), None)
            if model is None:
                plan.give_up(wanted)
                return False
            self._house.tries(model).forgive(refusals_only=True)
        ready_at = self._house.tries(model).not_before
        if ready_at > now.mono:
            self._house.effects.append(Wake(ready_at))
            return False
        given_up = plan.reason is not None and plan.reason.extra.get("given_up") == model
        reason = None if given_up else plan.reason
        switch = plan.new_switch(model, None, now, requested_by=Requester.RECONCILE)
        plan.begin(Transaction(switch, target=model))
        plan.reason = reason
        return True
