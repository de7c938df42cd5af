"""Starts that may stop nothing: of side models by hand, and of any model that systemd starts, at its unit's gate."""

from __future__ import annotations

from msgspec import Struct

from spark_modeld.core import life_event as life_of
from spark_modeld.core.appraisal import objection
from spark_modeld.core.effects import Verdict
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Role
from spark_modeld.core.planner import RISING, Planner
from spark_modeld.core.reading import Reading
from spark_modeld.core.switch import Requester
from spark_modeld.core.transaction import Transaction
from spark_modeld.core.unit import Phase


class _Ask(Struct, frozen=True):
    """A start that waits: a side model's for a reading, at the gate of a unit that goes down for its end."""

    model: str
    ask: int
    foreign: bool


class Starts:
    """Each is answered once, with a ``Verdict``. Whether anything may be started at all is its caller's to know."""

    def __init__(self, house: House, planner: Planner) -> None:
        self._house = house
        self._planner = planner
        self._asks: dict[int, _Ask] = {}
        self._restarts: list[_Ask] = []

    def begin(
        self, model: str, ask: int, now: Instant, *, requested_by: Requester, actor: str | None, foreign: bool
    ) -> None:
        """Begins what leads to the ask's verdict. SparkError when it is refused at once."""
        life, plan = self._house.lives[model], self._planner
        if (life.phase is Phase.STARTING and not life.foreign) or (not foreign and life.phase in RISING):
            # At the gate this is our own start whose mark was not there.
            self._house.effects.append(Verdict(ask, None))
            return
        if foreign and life.phase is Phase.STOPPING and life.foreign:
            self._restarts.append(_Ask(model, ask, foreign))
            return
        if not life.idle:
            detail = f"{model} is {life.phase}; try again when that is over."
            raise refuse(Code.BUSY, detail, holder=model, retry_after=5)
        if self._house.models[model].role is Role.SIDE:
            self._asks[self._house.read(model)] = _Ask(model, ask, foreign)
            return
        self._house.check_not_stuck()
        if plan.tx is not None:
            holder = plan.tx.target or plan.tx.switch.from_model
            raise refuse(Code.BUSY, "A switch is under way; try again when it has ended.", holder=holder, retry_after=5)
        self._house.pardon(model)
        switch = plan.new_switch(model, plan.standing(), now, requested_by=requested_by, actor=actor)
        plan.begin(Transaction(switch, target=model, beside=True, foreign=foreign, ask=ask))

    def taken(self, token: int, reading: Reading, now: Instant) -> bool:
        """A reading: True if a start of these waited for it, which is decided now."""
        ask = self._asks.pop(token, None)
        if ask is not None:
            self._admit(ask, reading, now)
        return ask is not None

    def go_on(self, now: Instant) -> bool:
        """`systemctl restart`: systemd asks at the gate as soon as the unit is down, before we are sure of its end."""
        waiting, self._restarts = self._restarts, []
        for ask in waiting:
            life = self._house.lives.get(ask.model)
            if life is not None and life.phase is Phase.STOPPING:
                self._restarts.append(ask)
                continue
            try:
                self.begin(
                    self._house.known(ask.model), ask.ask, now, requested_by=Requester.SYSTEMD, actor=None, foreign=True
                )
            except SparkError as error:
                self._house.effects.append(Verdict(ask.ask, error.problem))
        return len(self._restarts) < len(waiting)

    def answer_all(self, problem: Problem) -> None:
        """Tells everybody who waits for a verdict."""
        self._house.effects += [Verdict(ask.ask, problem) for ask in (*self._asks.values(), *self._restarts)]
        self._asks.clear()
        self._restarts.clear()

    def _admit(self, ask: _Ask, reading: Reading, now: Instant) -> None:
        if ask.model not in self._house.lives or not self._house.lives[ask.model].idle:
            problem: Problem | None = Problem(Code.BUSY, f"{ask.model} changed meanwhile; try again.")
        else:
            alive = self._house.alive(ask.model)
            problem = objection(ask.model, self._house.findings(ask.model)) or self._house.admit(
                ask.model, reading, staying=alive, wait=not ask.foreign
            )
        if problem is None:
            self._house.step(ask.model, life_of.GATE_PASSED if ask.foreign else life_of.START_WANTED, now)
        self._house.effects.append(Verdict(ask.ask, problem))
