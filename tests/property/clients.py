"""The gateway's clients in the world: who waits, who holds a lease, and what nobody may do to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from spark_modeld.core.errors import Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.planner import OPERATORS
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.transaction import Stage
from spark_modeld.core.turns import ABANDONED_SECONDS
from spark_modeld.core.unit import Phase

LOADING = frozenset({Phase.STARTING, Phase.WARMING})
FAILURES = frozenset({Outcome.FAILED, Outcome.ROLLED_BACK})
GIVEN_UP_SECONDS = 300.0
"""A model that is exhausted is tried for a demand no sooner after its last failure."""


@dataclass
class Clients:
    """``waiting`` asks, ``held`` leases by ask. Its methods are called by the world and raise what is wrong."""

    waiting: set[int] = field(default_factory=set)
    held: dict[int, str] = field(default_factory=dict)
    _slot: Slot = field(init=False)
    _switch: str | None = None
    _due: bool = False
    _phases: dict[str, Phase] = field(default_factory=dict)
    _alone_since: float | None = None
    _failures: dict[str, int] = field(default_factory=dict)
    _failed_at: dict[str, float] = field(default_factory=dict)
    _lost: list[Switch] = field(default_factory=list)
    _turned: set[str] = field(default_factory=set)

    def restart(self, slot: Slot, recorded: Switch | None) -> None:
        """A new daemon: connections, and with them all who waited and all leases, are gone. ``recorded`` goes on."""
        self._slot = slot
        self.waiting.clear()
        self.held.clear()
        # Failures may be on record, when they were is not: each model is tried once more.
        self._failures = {m: slot.house.tries(m).failures for m in slot.house.models}
        self._failed_at.clear()
        self._lost.clear()
        self._turned = {recorded.id} if recorded else set()
        self._switch, self._alone_since = recorded.id if recorded else None, None
        self._phases = {m: life.phase for m, life in slot.house.lives.items()}

    def leased(self, model: str) -> None:
        """Somebody came and had a lease at once."""
        tx = self._slot.planner.tx
        leaving = tx is not None and tx.stage is Stage.ADMIT and tx.target != model
        assert (
            not leaving or model != self._slot.planner.occupant or tx is None or tx.switch.requested_by in OPERATORS
        ), f"a lease on {model}, which is about to be taken away"

    def comes(self, ask: int) -> None:
        self.waiting.add(ask)

    def granted(self, ask: int, model: str) -> None:
        assert ask in self.waiting, "a lease for somebody who does not wait: told twice, or gone"
        self.waiting.discard(ask)
        self.held[ask] = model
        phase = self._slot.house.lives[model].phase
        assert phase in {Phase.SERVING, Phase.DRAINING}, f"a lease on {model}, which is {phase}"
        assert self._slot.house.leases.get(model, 0) > 0, "a lease that is not counted"

    def told(self, ask: int, problem: Problem | None) -> None:
        assert ask in self.waiting, "told twice"
        assert problem is not None
        self.waiting.discard(ask)

    def ended(self, switch: Switch, now: Instant) -> None:
        """A switch has ended."""
        if switch.requested_by is not Requester.GATEWAY:
            return
        if switch.outcome in FAILURES:
            self._lost.append(switch)
        alone = self._alone_since is not None and self._switch == switch.id
        since = self._alone_since if alone and self._alone_since is not None else now.mono
        assert switch.outcome is not Outcome.READY or now.mono - since <= ABANDONED_SECONDS, "a start for nobody"

    def look(self, slot: Slot, now: Instant) -> None:
        """The effects of one event have been run."""
        self._check_answers(slot)
        self._check_begun(slot, now)
        self._check_drains(slot)
        self._watch_abandoned(slot, now)
        for model in slot.house.models:
            failures = slot.house.tries(model).failures
            if failures > self._failures.get(model, 0):
                self._failed_at[model] = now.mono
            self._failures[model] = failures
        self._phases = {m: life.phase for m, life in slot.house.lives.items()}

    def _check_answers(self, slot: Slot) -> None:
        demands = slot.desk.demands
        for model in demands.models():
            assert not slot.desk.open(model), f"{model} serves, and somebody still waits for it"
        tx = slot.planner.tx
        if tx is not None and tx.rolled and tx.switch.id not in self._turned:
            self._turned.add(tx.switch.id)
            gateways = tx.switch.requested_by is Requester.GATEWAY and tx.switch.model is not None
            assert not gateways or not demands.of(tx.switch.model or ""), f"{tx.switch.id} failed, and nobody was told"
        for switch in self._lost:
            assert switch.model is not None
            if switch.id in self._turned:
                continue  # who has come since it failed may wait for the next one
            new = slot.planner.tx is not None and slot.planner.tx.switch.model == switch.model
            assert new or not demands.of(switch.model), f"{switch.id} failed, and nobody was told"
        self._lost.clear()
        assert {d.ask for m in demands.models() for d in demands.of(m)} == self.waiting, "who waits is not who waits"

    def _check_begun(self, slot: Slot, now: Instant) -> None:
        """A switch for a demand begins: not too early, and not too often."""
        tx = slot.planner.tx
        if tx is None or tx.switch.id == self._switch:
            return
        self._switch, self._alone_since = tx.switch.id, None
        if tx.switch.requested_by is not Requester.GATEWAY or tx.switch.started_at != now:
            return
        model, occupant = tx.switch.model, slot.planner.standing()
        assert model is not None
        first = slot.desk.demands.first(model)
        assert first is not None, "a switch that nobody asked for"
        settings = slot.house.catalog.settings.slot
        # What somebody else has started meanwhile is on its way already, and is only taken in.
        assert tx.stage is Stage.ADMIT or slot.house.lives[model].foreign, "a switch for a demand begins with admission"
        self._due = now.mono - first.since.mono >= settings.max_wait
        if occupant is not None and self._phases.get(occupant) is Phase.SERVING:
            life = slot.house.lives[occupant]
            assert now.mono - life.since.mono >= settings.min_residency, f"{occupant} has only just begun to serve"
            assert self._due or not slot.house.leases.get(occupant), f"{occupant} is in use"
        for other, life in slot.house.lives.items():
            loading = other != model and life.phase in LOADING and other in set(slot.house.slot_models())
            assert not loading or slot.desk.demands.first(other) is None, f"{other} loads, and is waited for"
        if slot.house.exhausted(model):
            since = now.mono - self._failed_at.get(model, -GIVEN_UP_SECONDS)
            assert since >= GIVEN_UP_SECONDS, f"{model} is hammered"

    def _check_drains(self, slot: Slot) -> None:
        """What a demand's switch takes the slot from is not in use, or was so for too long."""
        tx = slot.planner.tx
        if tx is None or tx.switch.requested_by is not Requester.GATEWAY or tx.overlap or tx.rolled:
            return
        for model, life in slot.house.lives.items():
            taken = self._phases.get(model) is Phase.SERVING and life.phase is Phase.DRAINING
            if taken and model == tx.switch.from_model and tx.stage is Stage.CLEAR:
                assert self._due or not slot.house.leases.get(model), f"{model} is drained under its users"

    def _watch_abandoned(self, slot: Slot, now: Instant) -> None:
        tx = slot.planner.tx
        model = tx.switch.model if tx and tx.switch.requested_by is Requester.GATEWAY and not tx.rolled else None
        if model is None or slot.desk.demands.first(model) is not None or not slot.connected:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now.mono
        else:
            unseen = slot.house.lives[model].phase is Phase.UNKNOWN
            assert unseen or now.mono - self._alone_since <= ABANDONED_SECONDS, f"{model} is started for nobody"
