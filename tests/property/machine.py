"""The moves Hypothesis may make in the world."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from property.world import GIB, MODELS, World, at_rest
from spark_modeld.core.life import Act

SLOT_MODELS = st.sampled_from(["alpha", "beta", "gamma", "delta"])
ANY_MODEL = st.sampled_from(list(MODELS))
ANY_UNIT = st.sampled_from([m.unit for m in MODELS.values()])
MOSTLY = st.sampled_from([True, True, True, False])
WATCHES = st.sampled_from([Act.WATCH_ROOM, Act.WATCH_GONE, Act.CLIMB, Act.WATCH_FLOOR, Act.WATCH_HEALTH])


class SlotMachine(RuleBasedStateMachine):
    """Operators, systemd, the kernel, engines and fate take turns."""

    @initialize()
    def begin(self) -> None:
        self.world = World()

    @rule(model=SLOT_MODELS, force=st.booleans())
    def switch(self, model: str, force: bool) -> None:
        self.world.request(model, force=force)

    @rule()
    def empty(self) -> None:
        self.world.request(None)

    @rule()
    def cancel(self) -> None:
        self.world.cancel()

    @rule(model=st.sampled_from(["side", "bigside", "beta"]), foreign=st.booleans())
    def start_beside(self, model: str, foreign: bool) -> None:
        self.world.start_beside(model, foreign=foreign)

    @rule(model=ANY_MODEL, give=st.booleans())
    def lease(self, model: str, give: bool) -> None:
        if give:
            self.world.lease()
        else:
            self.world.release(model)

    @rule(model=st.one_of(SLOT_MODELS, ANY_MODEL, st.none()), may_switch=MOSTLY, count=st.integers(1, 3))
    def demand(self, model: str | None, may_switch: bool, count: int) -> None:
        for _ in range(count):
            self.world.demand(model, may_switch=may_switch)

    @rule(nth=st.integers(0, 5), everybody=st.booleans())
    def hang_up(self, nth: int, everybody: bool) -> None:
        waiting = sorted(self.world.clients.waiting)
        for ask in waiting if everybody else waiting[nth : nth + 1]:
            self.world.hang_up(ask)

    @rule(nth=st.integers(0, 5), everybody=st.booleans())
    def be_through(self, nth: int, everybody: bool) -> None:
        held = sorted(self.world.clients.held)
        for ask in held if everybody else held[nth : nth + 1]:
            self.world.be_through(ask)

    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.world.deliver()

    @rule(unit=ANY_UNIT, good=MOSTLY)
    def progress(self, unit: str, good: bool) -> None:
        self.world.progress(unit, good=good)

    @rule()
    def read(self) -> None:
        self.world.read()

    @rule(model=ANY_MODEL, act=WATCHES, good=MOSTLY)
    def see(self, model: str, act: Act, good: bool) -> None:
        self.world.see(model, act, good=good)

    @rule(steps=st.integers(1, 25))
    def go_on(self, steps: int) -> None:
        """A stretch of good weather, so that long stories get somewhere."""
        for _ in range(steps):
            self.world._once()

    @rule(unit=ANY_UNIT, lingering=st.booleans())
    def crash(self, unit: str, lingering: bool) -> None:
        self.world.crash(unit, lingering=lingering)

    @rule(unit=ANY_UNIT, at_once=st.booleans())
    def stop_by_systemctl(self, unit: str, at_once: bool) -> None:
        if at_once:
            self.world.foreign_stop_at_once(unit)
        else:
            self.world.foreign_stop(unit)

    @rule()
    def start_by_systemctl(self) -> None:
        self.world.foreign_start("delta.service")

    @rule(unit=ANY_UNIT)
    def grow(self, unit: str) -> None:
        self.world.grow(unit)

    @rule(gib=st.integers(0, 120))
    def outsider(self, gib: int) -> None:
        self.world.outsider = gib * GIB

    @rule(seen=st.booleans())
    def driver(self, seen: bool) -> None:
        """Whether the driver says who holds what."""
        self.world.driver = seen

    @rule(there=st.booleans(), explained=MOSTLY)
    def come(self, there: bool, explained: bool) -> None:
        """The driver comes, or goes, after the logs of those who fell without it were read, or before."""
        for model in MODELS if explained else ():
            self.world.explain(model)
        self.world.come(there=there)

    @rule(again=st.booleans())
    def starve(self, again: bool) -> None:
        """Somebody takes all memory, and it stays so until the guard acts; then perhaps once more."""
        self.world.outsider = 120 * GIB
        for seconds in (0.0, 31.0, *((31.0,) if again else ())):
            self.world.look(seconds)

    @rule(seconds=st.sampled_from([0.0, 1.0, 31.0]))
    def look(self, seconds: float) -> None:
        self.world.look(seconds)

    @rule(unit=ANY_UNIT)
    def ignore_sigterm(self, unit: str) -> None:
        self.world.units[unit].obeys = False

    @rule()
    def fire(self) -> None:
        self.world.fire()

    @rule()
    def kill_daemon(self) -> None:
        self.world.kill_daemon()

    @rule()
    def lose_bus(self) -> None:
        self.world.lose_bus()

    @rule()
    def regain_bus(self) -> None:
        self.world.regain_bus()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.calm_down()
            at_rest(self.world)
