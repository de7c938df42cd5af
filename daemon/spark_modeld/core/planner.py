"""The transaction's moves: admission, clearing the slot, raising the target, the way back.

The planner is driven by its goal: whatever else is alive in the slot is stopped, then the target is raised.
That is why a switch that was interrupted anywhere (bus lost, kill -9) goes on from what systemd shows.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from spark_modeld.core import life_event as life_of
from spark_modeld.core.appraisal import objection
from spark_modeld.core.effects import Ended, Save, Verdict
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.finding import notable
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life
from spark_modeld.core.model import Role
from spark_modeld.core.reading import Reading
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.transaction import Stage, Transaction
from spark_modeld.core.unit import Phase

OPERATORS = frozenset({Requester.CONTROL, Requester.SYSTEMD})
"""Whose switches say what belongs in the slot from now on."""

RISING = frozenset({Phase.STARTING, Phase.WARMING, Phase.SERVING})
"""Of a unit that serves, or is on its way to it."""

_STOPPABLE = frozenset({Phase.SERVING, Phase.WARMING, Phase.STARTING, Phase.RECLAIMING})


class Planner:
    """At most one transaction, and what the slot is meant to hold when there is none.

    ``held``: somebody emptied the slot with systemctl, it stays so until the next switch. ``lent``: the model that came
    into the slot by a demand, for a time. ``reason`` is why the slot is not as it is desired.
    """

    def __init__(self, house: House, desired: str | None, last_good: str | None, new_id: Callable[[], str]) -> None:
        self.house = house
        self.desired = desired
        self.last_good = last_good
        self.held = False
        self.lent: str | None = None
        self.occupant: str | None = None
        self.tx: Transaction | None = None
        self.reason: Problem | None = None
        self._new_id = new_id

    # Beginning and ending.

    def new_switch(
        self,
        model: str | None,
        from_model: str | None,
        now: Instant,
        *,
        requested_by: Requester,
        actor: str | None = None,
        force: bool = False,
        reason: str | None = None,
    ) -> Switch:
        """A fresh switch in phase ``queued``."""
        return Switch(
            id=self._new_id(),
            model=model,
            from_model=from_model,
            requested_by=requested_by,
            actor=actor,
            started_at=now,
            force=force,
            phase_since=now.mono,
            reason=reason,
        )

    def begin(self, tx: Transaction) -> None:
        """Makes this the transaction under way. It is on record before anything comes of it."""
        self.tx = tx
        self.reason = None
        life = self.house.lives[tx.target] if tx.target is not None else None
        # Unknown: a model that has just come into the catalog, and that systemd has not shown yet.
        if life is not None and (life.idle or life.phase in {Phase.UNKNOWN, Phase.STOPPING}):
            tx.stage = Stage.ADMIT
            tx.token = self.house.read(tx.target)
        else:
            tx.stage = Stage.CLEAR
        if not tx.beside:
            # Also while it waits for its reading: whoever was told the switch's id may ask for it after a kill -9.
            # A start beside is no promise: gone on with, it would stop what it may not.
            self.house.effects.append(Save())

    def finish(self, tx: Transaction, outcome: Outcome, now: Instant) -> None:
        """Ends the transaction."""
        ready = outcome is Outcome.READY
        switch = replace(
            tx.at(SwitchPhase.READY, now) if ready else tx.switch,
            finished_at=now,
            outcome=outcome,
            error=None if ready else tx.error,
            timings=tx.timed(now),
            rollback=None,
        )
        if ready and switch.requested_by in OPERATORS:
            self.desired = switch.model or ""
            self.held = False
        # What may stop nothing and was not admitted says nothing of a switch, which stops what is in its way.
        declined = tx.beside and not tx.raised
        if not ready and outcome is not Outcome.SUPERSEDED and not tx.rolled and not declined:
            self._lose(tx)
        self.tx = None
        if ready:
            self.reason = Problem(Code.MEMORY_REFUSED, switch.reason, {"guard": True}) if switch.reason else None
        elif outcome is Outcome.ROLLED_BACK or self.standing() is None:
            self.reason = self.reason or tx.error
        self.house.effects += [Ended(switch), Save()]

    def answer(self, tx: Transaction, problem: Problem | None) -> None:
        """Tells whoever waits for the admission of this transaction."""
        if tx.ask is not None:
            self.house.effects.append(Verdict(tx.ask, problem))
            tx.ask = None

    def supersede(self, tx: Transaction, by: str, now: Instant) -> None:
        """A newer operator's switch takes over; the units stay as they are, the newer one goes on from there."""
        problem = Problem(Code.SUPERSEDED, f"A newer switch ({by}) took over.", {"by": by})
        self.answer(tx, problem)
        tx.error = tx.error or problem
        self.finish(tx, Outcome.SUPERSEDED, now)

    def cancel(self, tx: Transaction, now: Instant) -> None:
        """Gives the switch up; the way back is taken when the old model was already stopped."""
        problem = Problem(Code.CANCELLED, "The switch was cancelled.")
        self.answer(tx, problem)
        tx.error = problem
        if tx.switch.requested_by is Requester.RECONCILE and tx.switch.from_model is None:
            self.held = True
        standing = self.occupant
        if standing and standing != tx.target and self._keep(standing, now):
            if tx.target:
                self.house.step(tx.target, life_of.STOP_WANTED, now)
            self.finish(tx, Outcome.CANCELLED, now)
        else:
            tx.ending = Outcome.CANCELLED
            self.turn_back(tx)

    def withdraw(self, tx: Transaction, now: Instant) -> None:
        """Gives up what nobody asks for any more: no failure, and nobody is told of one."""
        told = len(self.house.lost)
        self.cancel(tx, now)
        del self.house.lost[told:]

    def adopt_request(self, tx: Transaction, requested_by: Requester, actor: str | None) -> None:
        """A person wants what a demand, or the slot itself, has begun: from now on it is that person's switch."""
        tx.switch = replace(tx.switch, requested_by=requested_by, actor=actor)
        self.house.effects.append(Save())

    def standing(self) -> str | None:
        """The occupant, if it is there to come back to."""
        return self.occupant if self.occupant and not self.house.lives[self.occupant].idle else None

    def _keep(self, model: str, now: Instant) -> bool:
        """Lets a model that serves, or still drains, serve on; False if it is past that."""
        self.house.step(model, life_of.KEEP_WANTED, now)
        return self.house.lives[model].phase in RISING

    # Admission.

    def admission(self, tx: Transaction, reading: Reading, now: Instant) -> None:
        """Decides by a fresh reading whether the switch may disturb anything at all."""
        target = tx.target
        assert target is not None
        force = tx.switch.force
        others, sides = self.house.others(target), self.house.sides()
        findings = self.house.findings(target)
        tx.switch = replace(tx.switch, findings=notable(findings))
        objected = None if force else objection(target, findings)
        if objected is not None:
            self.answer(tx, objected)
            self._refused(tx, objected, now)
            return
        # Who has nothing to lose by it waits for memory that is still coming back.
        wait = not tx.foreign and not (others and self._kept(self.standing()))
        # While it still stops, it is to give back what it holds.
        own = [target] if self.house.lives[target].phase is Phase.STOPPING else []
        refusal = self.house.admit(
            target, reading, leaving=own, staying=[*others, *sides], force=force, wait=wait and not others
        )
        if others:
            tx.overlap = refusal is None and self._can_overlap(target, others)
            if tx.beside and not tx.overlap:
                refusal = refusal or _slot_taken(target, others[0])
            elif not tx.overlap:
                refusal = self.house.admit(
                    target, reading, leaving=[*own, *others], staying=sides, force=force, wait=wait
                )
        self.answer(tx, refusal)
        if refusal is not None:
            self._refused(tx, refusal, now)
            return
        tx.stage = Stage.RAISE if tx.overlap or not others else Stage.CLEAR
        if tx.beside:
            self.house.effects.append(Save())
        if tx.foreign:
            tx.raised = True
            self.house.step(target, life_of.GATE_PASSED, now)

    def _can_overlap(self, target: str, others: list[str]) -> bool:
        """Make before break: nothing of theirs may collide, and the old one must be serving."""
        if self.house.catalog.settings.slot.overlap != "auto" or others != [self.occupant]:
            return False
        old, new = self.house.models[others[0]], self.house.models[target]
        apart = old.endpoint != new.endpoint and old.unit != new.unit
        return apart and self.house.lives[others[0]].phase is Phase.SERVING

    def _kept(self, standing: str | None) -> bool:
        """Whether the occupant serves, or could go on serving."""
        return standing is not None and self.house.lives[standing].phase in RISING | {Phase.DRAINING}

    def _refused(self, tx: Transaction, refusal: Problem, now: Instant) -> None:
        standing = self.standing()
        if tx.beside or (standing and self._keep(standing, now)):
            tx.error = refusal
            self.finish(tx, Outcome.FAILED, now)
        else:
            self._failed(tx, refusal, now)

    # Moves.

    def move(self, tx: Transaction, now: Instant) -> bool:
        """One move of the transaction under way towards its goal; False when there is nothing to do but wait."""
        match tx.stage:
            case Stage.ADMIT:
                return False
            case Stage.CLEAR:
                return self._clear(tx, now)
            case Stage.RAISE:
                return self._raise(tx, now)

    def _clear(self, tx: Transaction, now: Instant) -> bool:
        stuck = self.house.stuck()
        if stuck is not None and stuck != tx.target:
            tx.error = self.house.lives[stuck].problem
            self.finish(tx, Outcome.FAILED, now)
            return True
        others = self.house.busy_others(tx.target)
        stoppable = [m for m in others if self.house.lives[m].phase in _STOPPABLE]
        for model in stoppable:
            self.house.step(model, life_of.STOP_WANTED, now)
        if others:
            return bool(stoppable)
        if tx.target is None:
            self.occupant = None
            self.finish(tx, tx.ending or Outcome.READY, now)
        else:
            tx.stage = Stage.RAISE
        return True

    def _raise(self, tx: Transaction, now: Instant) -> bool:
        target = tx.target
        assert target is not None
        life = self.house.lives[target]
        match life.phase:
            case Phase.SERVING:
                self._ready(tx, target, now)
            case Phase.DRAINING:
                self.house.step(target, life_of.KEEP_WANTED, now)
            case Phase.STUCK:
                tx.error = tx.error or life.problem
                self.finish(tx, Outcome.FAILED, now)
            case Phase.RECLAIMING if not self._clear_for(tx, target):
                self._disturbed(tx, target, now)
            case Phase.STOPPED | Phase.FAILED if tx.raised:
                self._came_down(tx, target, life, now)
            case Phase.STOPPED | Phase.FAILED if not self._clear_for(tx, target):
                tx.overlap, tx.stage = False, Stage.CLEAR
            case Phase.STOPPED | Phase.FAILED:
                tx.raised = True
                self.house.refusals.pop(target, None)
                self.house.step(target, life_of.START_WANTED, now)
            case Phase.STARTING | Phase.WARMING:
                tx.raised = True
                return False
            case _:
                return False
        return True

    def _disturbed(self, tx: Transaction, target: str, now: Instant) -> None:
        """Another slot model came up while the target was waiting for room."""
        self.house.step(target, life_of.STOP_WANTED, now)
        if tx.beside:
            tx.error = _slot_taken(target, self.house.busy_others(target)[0])
            self.finish(tx, Outcome.FAILED, now)
        else:
            tx.raised, tx.overlap, tx.stage = False, False, Stage.CLEAR

    def _clear_for(self, tx: Transaction, target: str) -> bool:
        """Whether the target may be started now: alone, or beside the one it overlaps with, if that still serves."""
        busy = self.house.busy_others(target)
        return not busy or (tx.overlap and self._can_overlap(target, busy))

    def _ready(self, tx: Transaction, target: str, now: Instant) -> None:
        self.occupant = target
        self.last_good = target
        if tx.switch.requested_by is not Requester.GATEWAY:
            self.held = False
        if not tx.rolled:
            self.lent = target if tx.switch.requested_by is Requester.GATEWAY else None
        for model in self.house.busy_others(target):
            self.house.step(model, life_of.STOP_WANTED, now)
        self.finish(tx, tx.ending or Outcome.READY, now)

    def _came_down(self, tx: Transaction, target: str, life: Life, now: Instant) -> None:
        if self.occupant == target:
            self.occupant = None
        if life.foreign and life.problem is None:
            self.held = True
            tx.error = Problem(
                Code.MODEL_FAILED, f"{target} was stopped with systemctl while it was being switched to."
            )
            self.finish(tx, Outcome.FAILED, now)
            return
        self._failed(tx, life.problem or Problem(Code.MODEL_FAILED, f"{target} went down before it was ready."), now)

    def _failed(self, tx: Transaction, problem: Problem, now: Instant) -> None:
        """The target did not come up: the way back, unless the old model never left."""
        assert tx.target is not None
        self.house.blame(tx.target, problem, now)
        told = named(problem, tx.target, self.house.models[tx.target].unit)
        if tx.rolled:
            self.house.lost.append((tx.target, told))
        tx.error = tx.error or told
        standing = self.standing()
        if tx.overlap and standing and standing != tx.target and self.house.lives[standing].phase is Phase.SERVING:
            self.finish(tx, tx.ending or Outcome.FAILED, now)
        else:
            self.turn_back(tx)

    def turn_back(self, tx: Transaction) -> None:
        """The next model on the way back: the one that was there, then `desired`, then the default."""
        if not tx.rolled:
            tx.rolled = True
            self._lose(tx)
            tx.way_back = self._way_back(tx.switch)
        while tx.way_back:
            candidate = tx.way_back.pop(0)
            if candidate in self.house.models and not self.house.exhausted(candidate):
                tx.target, tx.stage, tx.overlap, tx.raised = candidate, Stage.CLEAR, False, False
                tx.ending = tx.ending or Outcome.ROLLED_BACK
                self.house.effects.append(Save())
                return
        if tx.ending is not Outcome.CANCELLED:
            tx.ending = Outcome.FAILED
        tx.target, tx.stage = None, Stage.CLEAR
        self.house.effects.append(Save())

    def _lose(self, tx: Transaction) -> None:
        """The switch's model does not come: for those who wait for it."""
        if tx.switch.model is not None and tx.error is not None:
            self.house.lost.append((tx.switch.model, tx.error))

    def _way_back(self, switch: Switch) -> list[str]:
        wanted = self.wanted()
        rest = [] if self.held or not wanted else [wanted, self.house.catalog.settings.slot.default]
        return list(dict.fromkeys(m for m in (switch.from_model, *rest) if m and m != switch.model))

    # What the slot is meant to hold.

    def intruders(self) -> tuple[str, ...]:
        """Slot models that are alive beside the occupant, though no switch is about them."""
        known = {self.occupant}
        if self.tx:
            known |= {self.tx.target, self.tx.switch.model, self.tx.switch.from_model}
        return tuple(m for m in self.house.slot_models() if m not in known and self.house.lives[m].phase in RISING)

    def wanted(self) -> str:
        """The id of what belongs in the slot, "" for nothing."""
        name = self.desired if self.desired is not None else self.house.catalog.settings.slot.default
        spec = self.house.catalog.find(name) if name else None
        return spec.id if spec and spec.role is Role.SLOT else ""

    def home(self) -> str | None:
        """What the slot goes back to when no demand has it; None for nothing."""
        return None if self.held else self.wanted() or None

    def give_up(self, model: str) -> None:
        """Says that this model is not tried any more, or not before the driver is there, and what went wrong last."""
        awaits = self.house.awaits_driver(model)
        told = {"given_up": model, **({"awaits": "driver"} if awaits else {})}
        if model not in self.house.models or (self.reason and dict(self.reason.extra) == told):
            return
        failures, last = self.house.tries(model).failures, f" {self.reason.detail}" if self.reason else ""
        detail = f"{model} failed {failures} times in a row and is not started again by itself; switch to it.{last}"
        if awaits:
            detail = f"Waiting for the NVIDIA driver: {model} needs it, and is started again as soon as it answers."
        self.reason = Problem(Code.MODEL_FAILED, detail, told)

    def connection_lost(self) -> None:
        """Whether the start under way ever reached systemd is unknown: what is seen later decides."""
        if self.tx:
            self.tx.raised = False
            self.answer(self.tx, Problem(Code.BUS_LOST, "The system bus was lost before it could be decided."))

    def show_phase(self, now: Instant) -> None:
        """Moves the switch's phase on to what the lives show."""
        if self.tx:
            target = self.house.lives[self.tx.target].phase if self.tx.target else None
            leaving = {self.house.lives[m].phase for m in self.house.busy_others(self.tx.target)}
            self.tx.show(target, leaving, now)


def named(problem: Problem, model: str, unit: str) -> Problem:
    """The problem with the model's name before it, and its unit."""
    detail = problem.detail if problem.detail.startswith(f"{model} ") else f"{model}: {problem.detail}"
    return replace(problem, detail=detail, extra={"model": model, "unit": unit, **problem.extra})


def _slot_taken(target: str, holder: str) -> Problem:
    detail = f"The slot is taken by {holder}, which {target} would have to replace. Switch to it instead."
    return Problem(Code.BUSY, detail, {"holder": holder, "retry_after": 5})
