"""Where the gateway's requests are met: granted a lease at once, told to wait, granted it later, or told why not.

Nothing is started or stopped here: ``Turns`` does that for the slot, ``Beside`` for side models.
"""

from __future__ import annotations

from math import ceil

from msgspec.structs import replace

from spark_modeld.core.beside import Beside
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.demand import Demand, Demands
from spark_modeld.core.effects import Granted, Verdict, Wake
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import RESERVED_NAMES, Role
from spark_modeld.core.planner import OPERATORS, Planner
from spark_modeld.core.transaction import Stage
from spark_modeld.core.turns import Turns
from spark_modeld.core.unit import Phase

BLIND_SECONDS = 10.0
"""So long do requests wait for a system bus that was lost: it is mostly back within one."""
_REFUSED_SECONDS = 5.0
_CANCELLED_SECONDS = 30.0
_EXHAUSTED_SECONDS = 300.0
"""How long a request for a model is told the last failure instead of causing the next: after a refusal that may be
over soon, after somebody cancelled it, and after it failed so often that it is not started by itself any more."""
_CROWDED_SECONDS = 10
_UNTIL_SOMEBODY_SWITCHES = 60.0
_REFUSALS = frozenset({Code.MEMORY_REFUSED, Code.CHECK_FAILED, Code.LARGE_PARALLEL, Code.STUCK})
_COMING = frozenset({Phase.RECLAIMING, Phase.STARTING, Phase.WARMING, Phase.SERVING, Phase.UNKNOWN})


class Desk:
    """Leases and demands. A refusal at once is raised, a later one is a ``Verdict``; a lease is ``Granted``."""

    def __init__(self, house: House, planner: Planner) -> None:
        self.house = house
        self.planner = planner
        self.demands = Demands()
        self.turns = Turns(house, planner, self.demands)
        self.beside = Beside(house, planner, self.demands)
        self._refusals: dict[str, tuple[Problem, float]] = {}
        self._blind_since: float | None = None
        self._catalog: Catalog | None = None
        self._names: dict[str, str] = {}

    # Leases.

    def meant(self, name: str | None) -> str:
        """The id of the model with this name; what is in the slot, or belongs there, for None, `local`, `default`."""
        if name is None or name in RESERVED_NAMES:
            return self._local()
        catalog = self.house.catalog
        if catalog is not self._catalog:
            self._catalog = catalog
            self._names = {n: m.id for m in reversed(tuple(catalog.models.values())) for n in m.names}
            self._names |= {m: m for m in catalog.models}
        model = self._names.get(name)
        if model is None or model not in self.house.models:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {name!r} in the catalog.", model=name)
        return model

    def open(self, model: str) -> bool:
        """Whether this model serves and takes new requests."""
        life = self.house.lives.get(model)
        if life is None or life.phase is not Phase.SERVING:
            return False
        # A demand, or idle_return, is about to stop it: from its switch's beginning, and also in the moment between
        # its admission and the stop. Who comes then would be cut off by the drain's deadline.
        tx = self.planner.tx
        return (
            tx is None
            or tx.stage is Stage.RAISE
            or model != self.planner.occupant
            or model == tx.target
            or tx.switch.requested_by in OPERATORS
        )

    def lease(self, model: str) -> bool:
        """Counts a lease on a model that is open; False if it is not."""
        if not self.open(model):
            return False
        leases = self.house.leases
        leases[model] = leases.get(model, 0) + 1
        return True

    def release(self, model: str, now: Instant) -> bool:
        """Gives a lease back; True if somebody has been waiting for that."""
        left = self.house.leases.get(model, 0) - 1
        self.house.released_at[model] = now.mono
        if left > 0:
            self.house.leases[model] = left
            return False
        self.house.leases.pop(model, None)
        life = self.house.lives.get(model)
        if life is None or life.phase is Phase.DRAINING:
            return True
        return len(self.demands) > 0 and now.mono >= self.turns.stays_until(life)

    # Demands.

    def demand(self, model: str, ask: int, now: Instant, *, may_switch: bool, actor: str | None) -> None:
        """Grants a lease now or lets the request wait. SparkError when it would wait in vain."""
        if self.lease(model):
            self.house.effects.append(Granted(ask, model))
            return
        able = may_switch and self.house.models[model].on_demand
        if self._blind(now):
            raise SparkError(_bus_lost())
        refusal = self._refusal(model, now)
        if refusal is not None:
            raise SparkError(refusal)
        if not able and not self._coming(model):
            raise SparkError(self._busy(model, now))
        most = self.house.catalog.settings.gateway.max_waiting
        if len(self.demands) >= most:
            waits = "1 request waits" if most == 1 else f"{most} requests wait"
            detail = f"{waits} for models already, as many as may; try again a little later."
            raise refuse(Code.TOO_MANY_WAITING, detail, retry_after=_CROWDED_SECONDS)
        self.demands.add(Demand(ask, model, now, able, actor))
        self.turns.stay(model, now)

    def hang_up(self, ask: int) -> None:
        """This request waits no longer."""
        self.demands.leave(ask)

    def answer(self, now: Instant) -> None:
        """Answers whoever can be: it comes before every move, so that nothing can be stopped in between."""
        for model in self.house.forgiven:
            self._refusals.pop(model, None)
        self.house.forgiven.clear()
        lost, self.house.lost = self.house.lost, []
        for model, problem in lost:
            self._fail(model, problem, now)
        for model in [m for m in self._refusals if self.open(m)]:
            del self._refusals[model]
        for model in self.demands.models():
            if self.open(model):
                for demand in self.demands.take(model):
                    self.lease(model)
                    self.house.effects.append(Granted(demand.ask, model))
            elif model not in self.house.catalog.models:
                detail = f"{model} left the catalog while this request waited for it."
                self._tell(self.demands.take(model), Problem(Code.UNKNOWN_MODEL, detail, {"model": model}))
            elif (refusal := self._refusal(model, now)) is not None:
                # Who came while the bus was lost, and nobody could say whether a start was under way.
                self._tell(self.demands.take(model), refusal)
            elif not self._coming(model):
                self._tell_unable(model, now)
        if self._blind_since is not None and len(self.demands):
            self._give_up_blind(now)

    def end(self, problem: Problem) -> None:
        """Tells everybody who waits the same."""
        for model in self.demands.models():
            self._tell(self.demands.take(model), problem)

    # What happens around it.

    def bus_lost(self, now: Instant) -> None:
        """Whoever waits goes on waiting for a while: a bus that restarts is back soon."""
        if self._blind_since is None:
            self._blind_since = now.mono
        self.beside.bus_lost()

    def bus_connected(self) -> None:
        """Everything is known again."""
        self._blind_since = None

    def configured(self) -> None:
        """A new configuration: what failed may have been mended by it."""
        self._refusals.clear()

    # Inside.

    def _local(self) -> str:
        plan = self.planner
        occupant = plan.occupant
        if occupant is not None and self.open(occupant):
            return occupant
        model = (plan.tx.target if plan.tx else None) or plan.standing() or plan.wanted()
        if not model or model not in self.house.models:
            detail = "The slot is empty and no model belongs in it: name one, or switch to one."
            raise refuse(Code.UNKNOWN_MODEL, detail)
        return model

    def _coming(self, model: str) -> bool:
        """Whether this model serves soon without a demand's doing."""
        plan = self.planner
        if self.house.lives[model].phase in _COMING or (plan.tx is not None and plan.tx.target == model):
            return True
        empty = plan.tx is None and plan.standing() is None and not plan.held
        return empty and plan.wanted() == model and not self.house.exhausted(model)

    def _fail(self, model: str, problem: Problem, now: Instant) -> None:
        until = self._pause(model, problem, now)
        if until > now.mono:
            self._refusals[model] = (problem, until)
        self._tell(self.demands.take(model), _with_retry(problem, until, now))

    def _pause(self, model: str, problem: Problem, now: Instant) -> float:
        """Until when the next request for this model is told the same."""
        if self.house.exhausted(model):
            return now.mono + _EXHAUSTED_SECONDS
        until = self.house.tries(model).not_before
        if problem.code is Code.CANCELLED:
            return max(until, now.mono + _CANCELLED_SECONDS)
        if problem.code in _REFUSALS:
            return max(until, now.mono + _REFUSED_SECONDS)
        return until

    def _refusal(self, model: str, now: Instant) -> Problem | None:
        """Why a start of this model failed just now, if nobody has begun another meanwhile."""
        problem, until = self._refusals.get(model, (None, 0.0))
        tx = self.planner.tx
        under_way = not self.house.lives[model].idle or (tx is not None and tx.target == model)
        if problem is None or under_way:
            return None
        if until <= now.mono:
            del self._refusals[model]
            return None
        return _with_retry(problem, until, now)

    def _tell(self, demands: tuple[Demand, ...], problem: Problem) -> None:
        self.house.effects += [Verdict(d.ask, problem) for d in demands]

    def _tell_unable(self, model: str, now: Instant) -> None:
        unable = tuple(d for d in self.demands.of(model) if not d.able)
        for demand in unable:
            self.demands.leave(demand.ask)
        if unable:
            self._tell(unable, self._busy(model, now))

    def _busy(self, model: str, now: Instant) -> Problem:
        """Who holds the slot, since when, and when to try again."""
        standing, coming = self.planner.standing(), self.planner.tx.target if self.planner.tx else None
        if model == standing:
            taken = f"makes way for {coming}" if coming else "is being stopped"
            detail = f"{model} {taken}, and this request may not start it again."
            return Problem(Code.BUSY, detail, {"holder": coming, "retry_after": ceil(_UNTIL_SOMEBODY_SWITCHES)})
        holder = standing or coming
        if holder is None or self.house.models[model].role is Role.SIDE:
            detail = f"{model} is not running, and this request may not start it."
            return Problem(Code.BUSY, detail, {"holder": None, "retry_after": ceil(_UNTIL_SOMEBODY_SWITCHES)})
        since = self.house.lives[holder].since
        home = self.turns.home_at(now) if self.planner.wanted() == model else None
        wait = max(1.0, (now.mono + _UNTIL_SOMEBODY_SWITCHES if home is None else home) - now.mono)
        detail = (
            f"{holder} holds the slot, for {_span(now.mono - since.mono)} now, and this request may not replace it "
            f"with {model}; try again in {_span(wait)}."
        )
        return Problem(Code.BUSY, detail, {"holder": holder, "since": since.wall, "retry_after": ceil(wait)})

    def _blind(self, now: Instant) -> bool:
        return self._blind_since is not None and now.mono >= self._blind_since + BLIND_SECONDS

    def _give_up_blind(self, now: Instant) -> None:
        assert self._blind_since is not None
        if self._blind(now):
            self.end(_bus_lost())
        else:
            self.house.effects.append(Wake(self._blind_since + BLIND_SECONDS))


def _bus_lost() -> Problem:
    detail = "The connection to systemd is lost; nothing is started until it is back."
    return Problem(Code.BUS_LOST, detail, {"retry_after": ceil(BLIND_SECONDS)})


def _with_retry(problem: Problem, until: float, now: Instant) -> Problem:
    """The problem, and in how many seconds asking again is worth it."""
    return replace(problem, extra={**problem.extra, "retry_after": max(1, ceil(until - now.mono))})


def _span(seconds: float) -> str:
    """A duration for people."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
