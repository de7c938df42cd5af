"""The slot as its callers see it: events and requests in, effects out.

A ``Slot`` is moved by its one caller only. It has no clock and does nothing itself: each call returns the
effects to run, in order. ``House`` holds the lives, ``Planner`` the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from spark_modeld.core import life_event as life_of
from spark_modeld.core.admission import gib
from spark_modeld.core.adoption import adopt
from spark_modeld.core.appraisal import Inspection
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.desk import Desk
from spark_modeld.core.effects import Effects, Save, Wake
from spark_modeld.core.errors import Code, Problem, refuse
from spark_modeld.core.fits import Fits
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life
from spark_modeld.core.life_event import LifeEvent
from spark_modeld.core.model import Role
from spark_modeld.core.planner import OPERATORS, Planner, named
from spark_modeld.core.reading import Reading
from spark_modeld.core.reconcile import Reconciler
from spark_modeld.core.record import Record
from spark_modeld.core.report import Report
from spark_modeld.core.starts import Starts
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.transaction import Stage, Transaction
from spark_modeld.core.unit import Phase, UnitStatus
from spark_modeld.core.warden import Warden

Seen = tuple[str, Inspection] | None
"""A model's id, and what was seen of it."""

_BACK_SOON = "The daemon is shutting down; ask again when it is back."


class Slot:
    """The serving position, its side models, and at most one switch."""

    def __init__(self, catalog: Catalog, record: Record, now: Instant, *, new_id: Callable[[], str]) -> None:
        self.house = House(catalog, record.measured, now)
        self.planner = Planner(self.house, record.desired, record.last_good, new_id)
        self.planner.lent = _lent(record)
        self.reconciler = Reconciler(self.house, self.planner)
        self.warden = Warden(self.house, self.planner, self.intruders)
        self.desk = Desk(self.house, self.planner)
        for model, failures in record.failures.items():
            self.house.tries(model).failures = failures
        self.connected = False
        self.opened = False
        self.stopping = False
        self._resume = record.switch
        self._starts = Starts(self.house, self.planner)

    # What callers may look at.

    @property
    def switch(self) -> Switch | None:
        """The switch under way."""
        return self.planner.tx.switch if self.planner.tx else None

    def fit(self, model: str, reading: Reading) -> Problem | None:
        """Advisory: what a switch to (or, for a side model, a start of) this model would be told now."""
        return Fits(self.house, reading).of(model)

    def shown(self) -> tuple[str | None, Life | None]:
        """The model that the slot shows and its life: the occupant while it lives, else what is being raised."""
        standing = self.planner.standing()
        target = self.planner.tx.target if self.planner.tx else None
        name = standing or target or self.house.stuck() or self.planner.occupant
        return name, self.house.lives.get(name) if name else None

    def intruders(self) -> tuple[str, ...]:
        """Slot models that are alive beside the occupant, though no switch is about them."""
        return self.planner.intruders()

    def waiting(self) -> tuple[tuple[str, int, Instant], ...]:
        """The models waited for, the longest wait first: how many requests, and since when the first of them."""
        demands = self.desk.demands
        return tuple((m, len(demands.of(m)), demands.of(m)[0].since) for m in demands.models())

    def record(self, history: tuple[Switch, ...], boot_id: str, before: Record) -> Record:
        """What has to survive a restart."""
        return replace(
            before,
            desired=self.planner.desired,
            last_good=self.planner.last_good,
            held_boot=boot_id if self.planner.held else "",
            switch=self.switch or self._resume,
            history=history,
            measured=dict(self.house.accounts.peaks.measured),
            failures=self.house.failures(),
            boot="" if self.stopping else boot_id,
        )

    def machine_went_down(self, now: Instant) -> None:
        """The machine itself ended while the switch on record was under way: maybe its model took it along."""
        target = self._resume and (self._resume.rollback.model if self._resume.rollback else self._resume.model)
        if target:
            self.house.tries(target).fail(now)

    # Reports.

    def unit_event(self, model: str, event: LifeEvent, now: Instant) -> Effects:
        """One event of one unit's life; a model that left the catalog meanwhile is ignored."""
        if model in self.house.lives:
            self.house.step(model, event, now)
        return self._settle(now)

    def bus_connected(
        self, shown: Mapping[str, UnitStatus], now: Instant, left: Callable[[str], bool] = lambda _: False
    ) -> Effects:
        """The bus is there: the status of each model's unit, and whether a unit that is down has left processes."""
        self.connected = True
        self.desk.bus_connected()
        for model, status in shown.items():
            if model in self.house.lives:
                self.house.step(model, life_of.Shown(status, left=left(model)), now)
        resume, self._resume = self._resume, None
        adopt(self.planner, resume, now)
        return self._settle(now)

    def open(self, now: Instant) -> Effects:
        """From here on models may be started: the daemon has told systemd that it is ready."""
        self.opened = True
        if self.planner.tx and self.planner.tx.stage is Stage.ADMIT:
            self.planner.tx.token = self.house.read(self.planner.tx.target)
        return self._settle(now)

    def bus_lost(self, now: Instant) -> Effects:
        """Nothing is known any more; nothing is started or stopped until the bus is back."""
        self.connected = False
        for model in self.house.lives:
            self.house.step(model, life_of.BUS_LOST, now)
        self.planner.connection_lost()
        self.desk.bus_lost(now)
        self._starts.answer_all(Problem(Code.BUS_LOST, "The system bus was lost before it could be decided."))
        return self._settle(now)

    def shut_down(self, now: Instant) -> Effects:
        """From here on nothing is started; a switch under way stays in the record for the next start."""
        self.stopping = True
        problem = Problem(Code.SHUTTING_DOWN, _BACK_SOON, {"retry_after": 1})
        self._starts.answer_all(problem)
        self.desk.end(problem)
        if self.planner.tx:
            self.planner.answer(self.planner.tx, problem)
        return self._settle(now)

    def taken(self, token: int, reading: Reading, now: Instant, seen: Seen = None) -> Effects:
        """The reading asked for with ``Read(token)``, and what was seen of the model it is about."""
        self.house.look(reading, now)
        self._see(seen)
        tx = self.planner.tx
        if self._starts.taken(token, reading, now):
            return self._settle(now)
        if tx and tx.stage is Stage.ADMIT and tx.token == token and self._may_start():
            self.planner.admission(tx, reading, now)
        elif self._may_start():
            self.desk.beside.taken(token, reading, now)
        return self._settle(now)

    def room(self, model: str, epoch: int, reading: Reading, now: Instant) -> Effects:
        """A reading for a model that waits for room."""
        self.house.look(reading, now)
        life, tx = self.house.lives.get(model), self.planner.tx
        if life and life.phase is Phase.RECLAIMING and life.epoch == epoch and self._may_start():
            force = bool(tx and tx.target == model and tx.switch.force)
            refusal = self.house.admit(model, reading, staying=self.house.alive(model), force=force)
            if refusal is None:
                self.house.step(model, life_of.FITS, now)
            else:
                self.house.refusals[model] = refusal
        return self._settle(now)

    def floor(self, model: str, epoch: int, reading: Reading, now: Instant) -> Effects:
        """A reading while this model loads."""
        self.house.look(reading, now)
        life = self.house.lives.get(model)
        floor = self.house.catalog.settings.memory.floor.of(reading.total)
        if life and life.epoch == epoch and reading.available < floor:
            detail = (
                f"Only {gib(reading.available)} of memory were left while {model} was loading, under the floor of "
                f"{gib(floor)}: it was killed before the machine could freeze. Lower its context or memory flags."
            )
            curve = self.house.accounts.curves.get(model)
            extra = {"available": reading.available, "floor": floor, "curve": curve.points() if curve else []}
            self.warden.killed(model, detail, reading, floor)
            self.house.step(model, life_of.UnderFloor(Problem(Code.MEMORY_REFUSED, detail, extra)), now)
        return self._settle(now)

    def observed(self, reading: Reading, now: Instant) -> Effects:
        """A reading that nobody's start waits for."""
        self.house.look(reading, now)
        if self._may_start():
            self.warden.look(reading, now)
        return self._settle(now)

    def inspected(self, model: str, seen: Inspection, reading: Reading | None = None) -> Effects:
        """What was seen of a model that nobody's start waits for, and the reading that came with it."""
        if reading is not None:
            self.house.look(reading, reading.taken_at)
        self._see((model, seen))
        return []

    def reworded(self, before: Problem | None, after: Problem | None) -> None:
        """The same problem, of which more is known now."""
        if self.planner.reason is not None and self.planner.reason == before:
            self.planner.reason = after

    def explained(self, model: str, before: Problem, after: Problem, now: Instant) -> Effects:
        """Why a model fell, of which more is known now: its unit's last words."""
        self.house.explain(model, before, after)
        if (spec := self.house.models.get(model)) is not None:
            self.reworded(named(before, model, spec.unit), named(after, model, spec.unit))
        return self._settle(now)

    def report(self, model: str, seen: Inspection, reading: Reading | None) -> Report:
        """All that a check says of this model now; what was seen of it counts from now on. SparkError if it is gone."""
        if model not in self.house.models:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {model!r} in the catalog.", model=model)
        self.inspected(model, seen, reading)
        fits = self.fit(model, reading) is None if reading else None
        return self.house.report(model, reading, fits)

    def wake(self, now: Instant) -> Effects:
        """The time asked for with ``Wake`` has come."""
        return self._settle(now)

    # Requests.

    def request(
        self, name: str | None, now: Instant, *, requested_by: Requester, actor: str | None, force: bool = False
    ) -> tuple[Switch, Effects]:
        """A switch to the model with this name, None to empty the slot. SparkError when it is refused at once."""
        self._check_may_change()
        model = None if name is None else self._slot_model(name)
        self._stop_again(now)
        self.house.check_not_stuck()
        plan, tx = self.planner, self.planner.tx
        if tx and tx.switch.model == model and tx.ending is None:
            if requested_by in OPERATORS and tx.switch.requested_by not in OPERATORS:
                plan.adopt_request(tx, requested_by, actor)
            return tx.switch, self._settle(now)
        switch = plan.new_switch(
            model,
            tx.switch.from_model if tx else plan.standing(),
            now,
            requested_by=requested_by,
            actor=actor,
            force=force,
        )
        if tx is None and self._already(model):
            return self._noop(switch, now)
        if model is not None and requested_by in OPERATORS:
            self.house.pardon(model)
        if tx:
            plan.supersede(tx, switch.id, now)
        plan.begin(Transaction(switch, target=model))
        effects = self._settle(now)
        return self.switch or switch, effects

    def cancel(self, now: Instant) -> Effects:
        """Cancels the switch under way, if there is one; the way back itself cannot be cancelled."""
        tx = self.planner.tx
        if tx is not None and tx.ending is None:
            self.planner.cancel(tx, now)
        return self._settle(now)

    def start_beside(
        self, name: str, ask: int, now: Instant, *, requested_by: Requester, actor: str | None, foreign: bool
    ) -> Effects:
        """A start that may stop nothing: the answer comes as ``Verdict(ask)``. SparkError when refused at once.

        ``foreign``: systemd starts the unit itself and asks at its gate.
        """
        self._check_may_change()
        model = self.house.known(name)
        self.desk.beside.lent.discard(model)
        self._starts.begin(model, ask, now, requested_by=requested_by, actor=actor, foreign=foreign)
        return self._settle(now)

    def stop_side(self, name: str, now: Instant) -> Effects:
        """Stops a side model. SparkError for a slot model."""
        self._check_may_change()
        model = self.house.known(name)
        if self.house.models[model].role is not Role.SIDE:
            detail = f"{model} is a slot model: empty the slot (switch to null) or switch to another one."
            raise refuse(Code.INVALID_REQUEST, detail)
        self.house.step(model, life_of.STOP_WANTED, now)
        return self._settle(now)

    def lease(self, name: str | None) -> str | None:
        """The id of the model meant, with a lease on it; None if one has to wait. SparkError ``unknown-model``.

        It changes a count and nothing else, so that no other event can come between check and count.
        """
        model = self.desk.meant(name)
        return model if self.desk.lease(model) else None

    def release(self, model: str, now: Instant) -> bool:
        """Gives one lease back. True if something may go on now: then ``wake``."""
        return self.desk.release(model, now)

    def demand(
        self, name: str | None, ask: int, now: Instant, *, may_switch: bool = True, actor: str | None = None
    ) -> None:
        """A request that needs a model: then ``wake``. The answer comes as ``Granted(ask)`` or ``Verdict(ask)``.

        SparkError when it would wait in vain.
        """
        model = self.house.known(self.desk.meant(name))
        if self.stopping:
            self._check_may_change()
        self.desk.demand(model, ask, now, may_switch=may_switch, actor=actor)

    def hang_up(self, ask: int) -> None:
        """The request ``ask`` waits no longer: then ``wake``."""
        self.desk.hang_up(ask)

    def configure(self, catalog: Catalog, now: Instant) -> Effects:
        """A new configuration. A model that is alive keeps its unit until that is down."""
        self.house.configure(catalog, now)
        self.desk.configured()
        return self._settle(now)

    # Inside.

    def _settle(self, now: Instant) -> Effects:
        """Goes on until there is nothing to do but wait, and hands the effects over."""
        moved = True
        while moved:
            self.desk.answer(now)
            moved = self.house.drain(now)
            moved = (self._may_start() and self._move(now)) or moved
            # After the planner has seen that the unit is down.
            moved = moved or self._starts.go_on(now)
        self.planner.show_phase(now)
        tx = self.planner.tx
        needed = {tx.target, tx.switch.model, *tx.way_back} if tx else set()
        self.house.follow(frozenset(m for m in needed if m), now)
        self.house.keep_measured()
        effects, self.house.effects = self.house.effects, []
        return _with_one_wake(effects)

    def _move(self, now: Instant) -> bool:
        turns, tx = self.desk.turns, self.planner.tx
        moved = self.planner.move(tx, now) if tx else self.reconciler.move(now, turns.begin)
        return moved or turns.give_up(now) or self.desk.beside.move(now)

    def _see(self, seen: Seen) -> None:
        if seen is not None and seen[0] in self.house.models:
            self.house.appraise(*seen)

    def _may_start(self) -> bool:
        return self.connected and self.opened and not self.stopping

    def _already(self, model: str | None) -> bool:
        if model is None:
            return self.planner.occupant is None and not self.house.busy_others(None)
        return model == self.planner.occupant and self.house.lives[model].phase is Phase.SERVING

    def _noop(self, switch: Switch, now: Instant) -> tuple[Switch, Effects]:
        """Already so. It still says what the operator wants from now on."""
        if switch.requested_by in OPERATORS:
            self.planner.desired = switch.model or ""
            self.planner.held = False
            self.planner.reason = None
            self.house.effects.append(Save())
        switch = replace(switch, phase=SwitchPhase.READY, finished_at=now, outcome=Outcome.READY, noop=True)
        return switch, self._settle(now)

    def _check_may_change(self) -> None:
        if self.stopping:
            raise refuse(Code.SHUTTING_DOWN, _BACK_SOON, retry_after=1)
        if not self.connected:
            raise refuse(Code.BUS_LOST, "The system bus is lost; nothing is started or stopped until it is back.")

    def _stop_again(self, now: Instant) -> None:
        """A stop that systemd denied may be allowed by now: whoever asks for a switch asks for it again."""
        stuck = self.house.stuck()
        if stuck is not None:
            self.house.step(stuck, life_of.STOP_WANTED, now)

    def _slot_model(self, name: str) -> str:
        model = self.house.known(name)
        if self.house.models[model].role is not Role.SLOT:
            detail = f"{model} is a side model: it is started and stopped beside the slot, never switched to."
            raise refuse(Code.INVALID_REQUEST, detail)
        return model


def _lent(record: Record) -> str | None:
    """Whether the last switch that went well was a demand's: then its model has the slot for a time only."""
    last = next((s for s in reversed(record.history) if s.outcome is Outcome.READY), None)
    return last.model if last is not None and last.requested_by is Requester.GATEWAY else None


def _with_one_wake(effects: Effects) -> Effects:
    """Every settling asks anew for all that has to be waited for: the earliest is enough."""
    wakes = [e.at for e in effects if isinstance(e, Wake)]
    if len(wakes) < 2:
        return effects
    return [*(e for e in effects if not isinstance(e, Wake)), Wake(min(wakes))]
