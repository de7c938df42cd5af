"""An engine's face without an engine: the test says what happens, and sees what was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from spark_modeld.control import views
from spark_modeld.control.answers import encode
from spark_modeld.core.appraisal import Appraisal, Inspection
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Amount, Basis, EngineKind, Footprint, Launch, Model, Role
from spark_modeld.core.outlook import Outlook
from spark_modeld.core.progress import Progress
from spark_modeld.core.reading import GpuProcess, HostProcess, HugePages, MemorySource, Reading
from spark_modeld.core.report import Report
from spark_modeld.core.settings import Settings, SlotSettings
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.unit import LogLine, Phase
from spark_modeld.face import Event, ModelState, Snapshot

GIB = 1 << 30


def instant() -> Instant:
    """Now, on both clocks."""
    return Instant(time.monotonic(), time.time())


def make_model(model_id: str, *, aliases: tuple[str, ...] = (), role: Role = Role.SLOT, gib: int = 38) -> Model:
    return Model(
        id=model_id,
        engine=EngineKind.SGLANG,
        url="http://127.0.0.1:30001",
        run=Launch(("engine", model_id)),
        served_model_name=f"served/{model_id}",
        aliases=aliases,
        role=role,
        memory=Amount(bytes=gib * GIB),
    )


def make_reading(**changes: Any) -> Reading:
    values: dict[str, Any] = {
        "total": 128 * GIB,
        "available": 72 * GIB,
        "free": 60 * GIB,
        "source": MemorySource.UNIFIED,
        "taken_at": instant(),
        "gpu": "NVIDIA GB10",
        "huge_pages": HugePages(2 * GIB, GIB, 2 << 20),
        "processes": (
            GpuProcess(4242, 37 * GIB, "python3", "spark-model@qwen.service", "qwen", "spark-model"),
            GpuProcess(77, None, "Xorg", user="root"),
        ),
        "host_held": {"qwen": 6 * GIB},
        "strangers": (HostProcess(88, 12 * GIB, "llama-server", "user@1000.service", "ann"),),
    }
    return Reading(**{**values, **changes})


def make_state(model: Model, phase: Phase = Phase.STOPPED, **changes: Any) -> ModelState:
    values: dict[str, Any] = {
        "model": model,
        "phase": phase,
        "since": time.time() - 90,
        "footprint": Footprint(38 * GIB, Basis.DECLARED),
        "large": model.role is Role.SLOT,
        "fits": True,
        "fit_reason": None,
        "default": model.id == "qwen",
        "in_flight": 0,
        "error": None,
    }
    return ModelState(**{**values, **changes})


def make_snapshot() -> Snapshot:
    """qwen serves, llama-70b could, embed is a side model that serves."""
    qwen = make_model("qwen", aliases=("qwen3",))
    llama = make_model("llama-70b", aliases=("llama",))
    embed = make_model("embed", role=Role.SIDE, gib=2)
    return Snapshot(
        slot_phase=Phase.SERVING,
        slot_model="qwen",
        slot_since=time.time() - 90,
        in_flight=2,
        desired="qwen",
        models={
            "qwen": make_state(qwen, Phase.SERVING, in_flight=2),
            "llama-70b": make_state(llama, fits=False, fit_reason="needs 70 GiB"),
            "embed": make_state(embed, Phase.SERVING),
        },
        reading=make_reading(),
        bus="connected",
        catalog=Catalog(
            settings=Settings(slot=SlotSettings(default="qwen")),
            models={"qwen": qwen, "llama-70b": llama, "embed": embed},
        ),
    )


@dataclass(frozen=True)
class Asked:
    """One call that reached the face."""

    call: str
    name: str | None = None
    actor: str | None = None
    force: bool = False


class FakeFace:
    """Implements face.Face. ``refusal`` is raised by the next call that may refuse; ``asked`` has every call."""

    def __init__(self) -> None:
        self.snapshot = make_snapshot()
        self.asked: list[Asked] = []
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.requested: asyncio.Queue[Switch] = asyncio.Queue()
        self.refusal: Exception | None = None
        self.appraisal = Appraisal(inspection=Inspection(fingerprint="f"))
        self.readers = 0
        self.measuring: asyncio.Event | None = None
        self.reading = make_reading()
        self._switches: dict[str, Switch] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._log: list[Event] = []
        self.log_lines: list[LogLine] = []
        self._news = asyncio.Condition()
        self._counted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _ask(self, asked: Asked) -> None:
        self.asked.append(asked)
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal

    async def switch(
        self, name: str | None, *, requested_by: Requester, actor: str | None, force: bool = False
    ) -> Switch:
        self._ask(Asked("switch", name, actor, force))
        model = self.snapshot.catalog.find(name) if name is not None else None
        if name is not None and model is None:
            raise refuse(Code.UNKNOWN_MODEL, "no such model")
        wanted = model.id if model is not None else None
        switch = Switch(
            id=f"s{len(self._switches) + 1}",
            model=wanted,
            from_model=self.snapshot.slot_model,
            requested_by=requested_by,
            actor=actor,
            started_at=instant(),
            force=force,
        )
        self._ended[switch.id] = asyncio.Event()
        if wanted == self.snapshot.slot_model:
            switch = replace(switch, noop=True, phase=SwitchPhase.READY, outcome=Outcome.READY, finished_at=instant())
            self._ended[switch.id].set()
        self._put(switch)
        self.requested.put_nowait(switch)
        return switch

    def _put(self, switch: Switch) -> None:
        self._switches[switch.id] = switch
        under_way = switch if switch.outcome is None else None
        outlook = self.snapshot.outlook if under_way else None
        self.snapshot = replace(self.snapshot, switch=under_way, outlook=outlook)
        self.publish("switch", _json(switch, self.snapshot))

    def foresee(self, switch_id: str, outlook: Outlook) -> None:
        """This is to be expected of the switch from now on."""
        self.snapshot = replace(self.snapshot, outlook=outlook)
        self._put(self._switches[switch_id])

    def advance(self, switch_id: str, phase: SwitchPhase) -> None:
        """The switch reaches a phase."""
        old = self._switches[switch_id]
        self._put(replace(old, phase=phase, timings={**old.timings, old.phase: 0.25}))

    def finish(self, switch_id: str, outcome: Outcome, error: Problem | None = None) -> None:
        """The switch ends."""
        self._put(replace(self._switches[switch_id], outcome=outcome, error=error, finished_at=instant()))
        self._ended[switch_id].set()

    async def wait(self, switch_id: str, timeout: float | None) -> Switch:
        self.find_switch(switch_id)
        try:
            async with asyncio.timeout(timeout):
                await self._ended[switch_id].wait()
        except TimeoutError:
            pass
        return self._switches[switch_id]

    def find_switch(self, switch_id: str) -> Switch:
        if switch_id not in self._switches:
            raise refuse(Code.NOT_FOUND, "There is no such switch.")
        return self._switches[switch_id]

    def switches(self) -> tuple[Switch, ...]:
        return tuple(reversed(self._switches.values()))

    async def cancel(self, switch_id: str, *, actor: str | None) -> Switch:
        self._ask(Asked("cancel", switch_id, actor))
        if self.find_switch(switch_id).outcome is None:
            self.finish(switch_id, Outcome.CANCELLED)
        return self._switches[switch_id]

    async def start(self, name: str, *, actor: str | None) -> None:
        self._ask(Asked("start", name, actor))
        self._model(name, Phase.STARTING)
        self.started.put_nowait(name)

    async def stop(self, name: str, *, actor: str | None) -> None:
        self._ask(Asked("stop", name, actor))
        self._model(name, Phase.STOPPING)

    def become(self, name: str, phase: Phase, fell: Problem | None = None, *, progress: Progress | None = None) -> None:
        """The model is in this phase, and so far; it is told."""
        self._model(name, phase, fell, progress)
        self.publish("model", {"id": name, "state": str(phase)})

    def _model(self, name: str, phase: Phase, fell: Problem | None = None, progress: Progress | None = None) -> None:
        models = dict(self.snapshot.models)
        models[name] = replace(models[name], phase=phase, fell=fell, progress=progress)
        self.snapshot = replace(self.snapshot, models=models)

    async def gate(self, model_id: str) -> None:
        self._ask(Asked("gate", model_id))

    async def check(self, model_id: str) -> Report:
        self._ask(Asked("check", model_id))
        state = self.snapshot.models[model_id]
        return Report(
            model=state.model,
            appraisal=self.appraisal,
            findings=self.appraisal.findings,
            need=state.footprint,
            large=state.large,
            fits=state.fits,
            reading=make_reading(),
            reserve=8 * GIB,
        )

    async def measure(self) -> Reading:
        if self.measuring is not None:
            await self.measuring.wait()
        self._ask(Asked("measure"))
        return self.reading

    async def log(self, model_id: str, lines: int) -> tuple[LogLine, ...]:
        self._ask(Asked("log", model_id))
        return tuple(self.log_lines[len(self.log_lines) - min(lines, len(self.log_lines)) :])

    def follow_log(self, model_id: str, lines: int) -> AsyncIterator[LogLine]:
        self._ask(Asked("follow", model_id))
        return self._followed(lines)

    async def _followed(self, lines: int) -> AsyncIterator[LogLine]:
        position = max(0, len(self.log_lines) - lines)
        self._count(+1)
        try:
            while True:
                async with self._news:
                    while len(self.log_lines) <= position:
                        await self._news.wait()
                yield self.log_lines[position]
                position += 1
        finally:
            self._count(-1)

    def say(self, text: str) -> None:
        """A further line of every log."""
        self.log_lines.append(LogLine(1_790_000_000 + len(self.log_lines) / 8, text))
        self._wake_readers()

    async def reload(self) -> None:
        self._ask(Asked("reload"))

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event for every reader."""
        self._log.append(Event(len(self._log) + 1, kind, data))
        self._wake_readers()

    def _wake_readers(self) -> None:
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def events(self, last_id: int | None) -> AsyncIterator[Event]:
        position = len(self._log) if last_id is None else min(last_id, len(self._log))
        self._count(+1)
        try:
            while True:
                async with self._news:
                    while len(self._log) <= position:
                        await self._news.wait()
                yield self._log[position]
                position += 1
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.readers += change
        self._counted.set()

    async def until_readers(self, number: int) -> None:
        """Returns when so many read the events."""
        async with asyncio.timeout(10):
            while self.readers != number:
                self._counted.clear()
                await self._counted.wait()


def _json(switch: Switch, snapshot: Snapshot) -> Mapping[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(encode(views.switch(switch, snapshot, time.time())))
    return decoded


def refused(code: Code, detail: str = "because", **extra: Any) -> SparkError:
    """A refusal to put into ``FakeFace.refusal``."""
    return refuse(code, detail, **extra)
