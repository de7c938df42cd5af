"""After systemd was read, anew: what is alive is taken over, and a recorded switch goes on where it was."""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.core.effects import Ended, Save
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.planner import RISING, Planner, named
from spark_modeld.core.switch import Outcome, Switch
from spark_modeld.core.transaction import Stage, Transaction


def adopt(planner: Planner, resume: Switch | None, now: Instant) -> None:
    """What is alive is the occupant, and a recorded switch goes on where it was."""
    house = planner.house
    up = house.others(None)
    if resume is not None and resume.model is not None and resume.model not in house.models:
        detail = f"{resume.model} left the catalog while the switch to it was under way."
        error = Problem(Code.UNKNOWN_MODEL, detail, {"model": resume.model})
        ended = replace(resume, finished_at=now, outcome=Outcome.FAILED, error=error, rollback=None)
        house.effects += [Ended(ended), Save()]
        resume = None
    if resume is not None:
        _resume(planner, resume, up, now)
    elif planner.tx is not None:
        if planner.tx.stage is Stage.ADMIT:
            planner.tx.token = house.read(planner.tx.target)
    elif planner.occupant is None and up:
        planner.occupant = planner.wanted() if planner.wanted() in up else up[0]


def _resume(planner: Planner, switch: Switch, up: list[str], now: Instant) -> None:
    house = planner.house
    rolled = switch.error is not None  # on its way back, to nothing where it names no model
    target = switch.model if not rolled else switch.rollback.model if switch.rollback else None
    tx = Transaction(
        replace(switch, phase_since=now.mono),
        target=target if target in house.models else None,
        rolled=rolled,
        ending=_ending(switch),
        error=switch.error,
    )
    planner.occupant = next((m for m in (switch.from_model, *up) if m in up and m != target), None)
    planner.begin(tx)
    if target in up and planner.occupant:
        tx.overlap, tx.stage = True, Stage.RAISE
    elif target is not None and target in house.models and house.exhausted(target):
        failures = house.tries(target).failures
        detail = f"{target} is not tried again: it, or the machine while it was loading, failed {failures} times."
        tx.error = tx.error or named(Problem(Code.MODEL_FAILED, detail), target, house.models[target].unit)
        planner.turn_back(tx)
    elif rolled or (switch.from_model and _left(house, switch.from_model)):
        # It was admitted, and what it counted on may come back late: not to be asked for at once a second time.
        tx.stage = Stage.CLEAR


def _left(house: House, model: str) -> bool:
    """Whether this model is on its way out, or gone."""
    life = house.lives.get(model)
    return life is None or life.phase not in RISING


def _ending(recorded: Switch) -> Outcome | None:
    """The outcome that a recorded switch's way back was to end in, None for one that was on its way out."""
    if recorded.error is None:
        return None
    if recorded.error.code is Code.CANCELLED:
        return Outcome.CANCELLED
    return Outcome.ROLLED_BACK if recorded.rollback else Outcome.FAILED
