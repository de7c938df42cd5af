"""The units under one roof: every model's life, its leases, its footprint, and who holds memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from spark_modeld.core import life_event as life_of
from spark_modeld.core import lifecycle
from spark_modeld.core.accounts import LOADING, About, Accounts
from spark_modeld.core.admission import Holder, admit, held_by, is_large, never_started
from spark_modeld.core.appraisal import Appraisal, Inspection, appraise, port_taken
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.check import Room, memory
from spark_modeld.core.driver import Driver
from spark_modeld.core.effects import Arm, Do, Effects, Read, Save
from spark_modeld.core.errors import Code, Problem, refuse
from spark_modeld.core.falls import Falls
from spark_modeld.core.finding import Finding, sort
from spark_modeld.core.fingerprint import fingerprint
from spark_modeld.core.footprint import estimate, flags_of
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life, Limits
from spark_modeld.core.life_event import LifeEvent
from spark_modeld.core.loads import Loads
from spark_modeld.core.model import Basis, Footprint, Launch, Model, Role
from spark_modeld.core.peaks import with_margin
from spark_modeld.core.reading import Reading
from spark_modeld.core.record import Measured
from spark_modeld.core.report import Report
from spark_modeld.core.transaction import Attempts
from spark_modeld.core.unit import Phase

_HOLDING = frozenset({Phase.SERVING, Phase.DRAINING})
_MOVING = LOADING | {Phase.STOPPING, Phase.STUCK}
_ADMITTED = (life_of.FITS, life_of.GATE_PASSED)


class House:
    """Lives and what they need. It steps lives and collects their effects; it plans nothing.

    ``released_at`` is when (monotonic seconds) a lease of a model was last given back, ``flowed_at`` when bytes of a
    good answer came last; ``lost`` are starts that came
    to nothing, with the reason, for those who wait for them; ``forgiven`` models whose failures count no more.
    """

    def __init__(self, catalog: Catalog, measured: Mapping[str, Measured], now: Instant) -> None:
        self.catalog = catalog
        self.models: dict[str, Model] = dict(catalog.models)
        self.lives: dict[str, Life] = {m: Life(Phase.UNKNOWN, now) for m in self.models}
        self.leases: dict[str, int] = {}
        self.released_at: dict[str, float] = {}
        self.flowed_at: dict[str, float] = {}
        self.lost: list[tuple[str, Problem]] = []
        self.forgiven: list[str] = []
        self.appraisals: dict[str, Appraisal] = {}
        self.accounts = Accounts(measured)
        self.refusals: dict[str, Problem] = {}
        self.effects: Effects = []
        self.falls = Falls()
        self.loads = Loads()
        self._attempts: dict[str, Attempts] = {}
        self.driver = Driver(self._attempts)
        self._tokens = 0

    # Needs.

    def footprint(self, model: str) -> Footprint:
        """What this model needs: declared, else measured, else estimated, else unknown."""
        spec = self.models[model]
        if spec.memory is not None:
            return Footprint(spec.memory.of(self.reading.total if self.reading else 0), Basis.DECLARED)
        measured = self.accounts.peaks.of(model, self.fingerprint(model))
        if measured is not None:
            return with_margin(measured)
        appraisal = self.appraisals.get(model)
        if appraisal is not None and appraisal.estimate is not None:
            return appraisal.estimate.footprint
        return Footprint(0, Basis.UNKNOWN)

    def fingerprint(self, model: str) -> str | None:
        """What this model's measured footprint holds for; None while nobody has looked at the model."""
        appraisal = self.appraisals.get(model)
        return appraisal.inspection.fingerprint if appraisal is not None else None

    def large(self, model: str) -> bool:
        """Whether this model is large."""
        total = self.reading.total if self.reading else 0
        return is_large(self.footprint(model), self.catalog.settings.memory, total)

    def holders(self, models: Iterable[str], reading: Reading) -> tuple[Holder, ...]:
        """What these models hold, by this reading."""
        return tuple(self._holder(m, reading) for m in models)

    def _holder(self, model: str, reading: Reading) -> Holder:
        loading = self.lives[model].phase in LOADING
        # A server lists a model with all it will take before it has taken it.
        held = self._held(model, replace(reading, loaded=()) if loading else reading)
        return Holder(model, self.footprint(model), held, self.large(model), loading)

    def _held(self, model: str, reading: Reading) -> int | None:
        held = held_by(model, reading)
        if held is None and self.lives[model].phase is Phase.STOPPING:
            # Part of what it held may be among what is available already.
            return self.accounts.returning.outstanding(model, reading.available)
        return held

    def admit(
        self,
        model: str,
        reading: Reading,
        *,
        leaving: Iterable[str] = (),
        staying: Iterable[str],
        force: bool = False,
        wait: bool = False,
    ) -> Problem | None:
        """Whether this model fits when ``leaving`` have given their memory back and ``staying`` keep theirs.

        With ``wait`` also when those that are gone have given back the rest of theirs.
        """
        return self.weigh(
            model,
            reading,
            leaving=self.holders(leaving, reading),
            staying=self.holders(staying, reading),
            force=force,
            wait=wait,
        )

    def weigh(
        self,
        model: str,
        reading: Reading,
        *,
        leaving: tuple[Holder, ...] = (),
        staying: tuple[Holder, ...],
        force: bool = False,
        wait: bool = False,
    ) -> Problem | None:
        """``admit`` for whoever knows already what those hold."""
        returning = self.accounts.returning
        without = {holder.model for holder in leaving}
        return admit(
            model,
            self.footprint(model),
            reading,
            self.catalog.settings.memory,
            leaving=leaving,
            staying=staying,
            force=force,
            coming=returning.total(reading.available, without=without) if wait else 0,
            debts=returning.shown(reading.available),
        )

    # What is known before one is tried.

    def appraise(self, model: str, seen: Inspection) -> None:
        """Takes in what was seen of this model. One that is alive keeps the estimate that it was started with."""
        spec, reading, before = self.models[model], self.reading, self.appraisals.get(model)
        plan = None
        if before is not None and self.lives[model].alive:
            plan = before.estimate
        elif reading is not None:
            leaving = [m for m in self.slot_models() if self.lives[m].alive] if spec.role is Role.SLOT else []
            back = sum(holder.gives_back for holder in self.holders(leaving, reading))
            plan = estimate(
                spec.engine,
                seen.checkpoint,
                seen.flags,
                total=reading.total,
                available=min(reading.total, reading.available + back),
                context=spec.context,
            )
        self.appraisals[model] = appraise(spec, seen, plan)
        self.accounts.peaks.known_as(model, seen.fingerprint)

    def findings(self, model: str) -> tuple[Finding, ...]:
        """What speaks against starting this model now, memory left aside; nothing of one that was not seen yet.

        Whoever of the catalog is alive at its address leaves, or is itself. Where a tenant answers, its server listens,
        and so does a container that runs already: it is taken over.
        """
        appraisal = self.appraisals.get(model)
        if appraisal is None:
            return ()
        spec, listener = self.models[model], appraisal.inspection.listener
        if listener is None or self.at_home(spec):
            return appraisal.findings
        return sort((*appraisal.findings, port_taken(spec, listener)))

    def report(self, model: str, reading: Reading | None, fits: bool | None) -> Report:
        """All that a check says of this model, ports and memory included."""
        spec, need, settings = self.models[model], self.footprint(model), self.catalog.settings.memory
        findings = self.findings(model)
        if reading is not None:
            others = self.others(model) if spec.role is Role.SLOT else []
            own = [model] if self.lives[model].alive else []
            back, mine = (sum(h.gives_back for h in self.holders(each, reading)) for each in (others, own))
            # What it holds itself does not stand in its own way.
            there = replace(reading, available=reading.available + mine)
            room = Room(reading=there, settings=settings, need=need, returned=back)
            findings = sort((*findings, *memory(spec, room)))
        return Report(
            model=spec,
            appraisal=self.appraisals[model],
            findings=findings,
            need=need,
            large=self.large(model),
            fits=fits,
            reading=reading,
            reserve=settings.reserve.of(reading.total) if reading else 0,
        )

    def at_home(self, spec: Model) -> bool:
        """Whether a model of the catalog is alive at this one's address: itself, or one that a switch replaces."""
        return any(self.lives[m].alive for m, other in self.models.items() if other.endpoint == spec.endpoint)

    # Who is there.

    def known(self, name: str) -> str:
        """The id of the model with this name. SparkError ``unknown-model`` if there is none."""
        spec = self.catalog.find(name)
        if spec is None or spec.id not in self.models:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {name!r} in the catalog.", model=name)
        return spec.id

    def slot_models(self) -> Iterable[str]:
        """The ids of all slot models."""
        return (m for m, spec in self.models.items() if spec.role is Role.SLOT)

    def others(self, model: str | None) -> list[str]:
        """Slot models, other than this one, of which processes may exist."""
        return [m for m in self.slot_models() if m != model and self.lives[m].alive]

    def busy_others(self, model: str | None) -> list[str]:
        """Slot models, other than this one, that are not at rest."""
        return [m for m in self.slot_models() if m != model and not self.lives[m].idle]

    def sides(self) -> list[str]:
        """Side models that are alive."""
        return [m for m, spec in self.models.items() if spec.role is Role.SIDE and self.lives[m].alive]

    def alive(self, model: str) -> list[str]:
        """Every other model that is alive."""
        return [m for m in self.models if m != model and self.lives[m].alive]

    def stuck(self) -> str | None:
        """The slot model that will not stop, if there is one."""
        return next((m for m in self.slot_models() if self.lives[m].phase is Phase.STUCK), None)

    def check_not_stuck(self) -> None:
        """SparkError ``stuck`` where a slot model will not stop: nothing is started then."""
        stuck = self.stuck()
        if stuck is not None:
            problem = self.lives[stuck].problem
            detail = f"{stuck} will not stop. {problem.detail if problem else ''}".strip()
            raise refuse(Code.STUCK, detail, model=stuck, unit=self.models[stuck].unit)

    # Steps.

    @property
    def reading(self) -> Reading | None:
        """The latest reading."""
        return self.accounts.reading

    def look(self, reading: Reading, now: Instant) -> None:
        """A reading: it is the latest from here on."""
        self.accounts.look(reading, now)
        self.forgiven += self.driver.look(reading)
        # Whether it generated all that time is known that much later.
        unsure = self.catalog.settings.health.stall_timeout
        for attempts in self._attempts.values():
            if attempts.prove(now, less=unsure):
                self.effects.append(Save())

    def step(self, model: str, event: LifeEvent, now: Instant) -> None:
        """One event of one life."""
        before = self.lives[model]
        if isinstance(event, life_of.Expired) and before.phase is Phase.RECLAIMING:
            if event.epoch != before.epoch:
                return
            event = life_of.Refused(self.refusals.pop(model, _never_read(model)))
        after, acts = lifecycle.step(before, event, now, self._limits(model))
        if after.phase is not before.phase:
            after = self.falls.explained(model, before, after, self.accounts.curves.get(model))
            self.accounts.moved(model, before, after, now, self._about(model, event))
            self.falls.moved(model, before, after, now)
            self.loads.moved(model, after.phase, now)
            if after.phase is Phase.STARTING:
                self.tries(model).blind = not self.driver.there
        self.lives[model] = after
        self.effects += [Do(model, act, after.epoch) for act in acts]
        if after.deadline is not None and (after.epoch, after.deadline) != (before.epoch, before.deadline):
            self.effects.append(Arm(model, after.epoch, after.deadline))
        if after.phase in _HOLDING and before.phase not in _HOLDING:
            self.tries(model).served_since = now.mono
        elif before.phase in _HOLDING and after.phase not in _HOLDING:
            # What it stood there for without generating was no service.
            self.tries(model).served(now, less=event.seconds if isinstance(event, life_of.Stalled) else 0.0)

    def explain(self, model: str, before: Problem, after: Problem) -> None:
        """The same problem of a model that fell, of which more is known now."""
        life = self.lives.get(model)
        if life is not None and life.problem == before:
            self.lives[model] = replace(life, problem=after)
        self.falls.explain(model, before, after)
        if self.driver.heard(model, after.extra.get("reading", {})):
            self.forgiven += self.driver.look(self.reading) if self.reading else ()
            self.effects.append(Save())

    def _about(self, model: str, event: LifeEvent) -> About:
        spec = self.models[model]
        return About(
            fingerprint=self.fingerprint(model),
            context=spec.context or flags_of(spec).context,
            need=self.footprint(model),
            admitted=event in _ADMITTED,
            quiet=not any(m != model and life.phase in _MOVING for m, life in self.lives.items()),
            patience=self.catalog.settings.memory.reclaim_timeout,
        )

    def keep_measured(self) -> None:
        """What was measured goes on record, with whatever else does."""
        peaks = self.accounts.peaks
        if peaks.changed and not any(isinstance(effect, Save) for effect in self.effects):
            self.effects.append(Save())
        peaks.changed = False

    def drain(self, now: Instant) -> bool:
        """Tells every draining life without a lease so; True if there was one."""
        drained = [m for m, life in self.lives.items() if life.phase is Phase.DRAINING and not self.leases.get(m)]
        for model in drained:
            self.step(model, life_of.UNUSED, now)
        return bool(drained)

    def read(self, model: str | None) -> int:
        """Asks for a fresh reading, and for an inspection of the model it decides about; the token it comes with."""
        self._tokens += 1
        self.effects.append(Read(self._tokens, model))
        return self._tokens

    def tries(self, model: str) -> Attempts:
        """This model's failed starts."""
        return self._attempts.setdefault(model, Attempts())

    def pardon(self, model: str) -> None:
        """A person asked for this model: its failures are forgotten."""
        self.tries(model).forgive()
        self.falls.pardon(model)

    def blame(self, model: str, problem: Problem, now: Instant) -> None:
        """Its start failed, or was refused."""
        refused = never_started(problem)
        memory = refused or problem.code is Code.MEMORY_REFUSED or "curve" in problem.extra
        self.tries(model).fail(now, memory=memory, refused=refused)

    def failures(self) -> dict[str, int]:
        """Failed starts in a row, by model; refusals are none, nor are those for want of the driver."""
        return {m: tries.lasting for m, tries in self._attempts.items() if tries.lasting}

    def room_again(self, model: str) -> bool:
        """Whether it waits for a person only for want of room, and there is room now."""
        tries, reading = self.tries(model), self.reading
        if not tries.refusals or reading is None or tries.starts >= self.catalog.settings.slot.max_start_attempts:
            return False
        return self.admit(model, reading, staying=self.alive(model)) is None

    def exhausted(self, model: str) -> bool:
        """Whether it failed so often that it waits for a person."""
        return self.tries(model).failures >= self.catalog.settings.slot.max_start_attempts

    def awaits_driver(self, model: str) -> bool:
        """Whether it failed so often, and waits for the driver."""
        return self.exhausted(model) and self.tries(model).lacked_driver

    def _limits(self, model: str) -> Limits:
        spec = self.models[model]
        return Limits(
            reclaim=self.catalog.settings.memory.reclaim_timeout,
            start=spec.start_timeout,
            drain=self.catalog.settings.slot.drain_timeout,
            stop=spec.stop_timeout,
            outlives=not isinstance(spec.run, Launch) and spec.seat == spec.unit,
        )

    # Configuration.

    def configure(self, catalog: Catalog, now: Instant) -> None:
        """A new catalog; ``follow`` brings in what has to wait until a unit is down."""
        self.catalog = catalog
        for model in tuple(self.appraisals):
            if catalog.models.get(model) != self.models.get(model):
                del self.appraisals[model]
        for model, old in self.models.items():
            new = catalog.models.get(model)
            if new != old:
                self.tries(model).forgive()
            if new is None or fingerprint(new) != fingerprint(old):
                self.accounts.peaks.forget(model)
        for model in catalog.models:
            if model not in self.models:
                self.models[model] = catalog.models[model]
                self.lives[model] = Life(Phase.UNKNOWN, now)

    def follow(self, needed: frozenset[str], now: Instant) -> None:
        """Lets models at rest follow the catalog. One that is alive keeps its unit; ``needed`` ones are kept."""
        for model, old in tuple(self.models.items()):
            new, life = self.catalog.models.get(model), self.lives[model]
            at_rest = life.idle or life.phase is Phase.UNKNOWN
            if new is None:
                if at_rest and model not in needed:
                    del self.models[model], self.lives[model]
                    self.released_at.pop(model, None)
                    self.flowed_at.pop(model, None)
                    self.falls.forget(model)
                    self.loads.forget(model)
            elif new is not old and (at_rest or (new.seat == old.seat and new.role is old.role)):
                self.models[model] = new
                if new.seat != old.seat:
                    self.lives[model] = Life(Phase.UNKNOWN, now, life.epoch + 1)


def _never_read(model: str) -> Problem:
    return Problem(Code.MEMORY_REFUSED, f"No memory reading could be taken before {model} was to start.")
