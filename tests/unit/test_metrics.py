"""What is counted, and how it reads: parsed with Prometheus' own parser."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from spark_modeld.control.exposition import render
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Basis, EngineKind, Footprint, Launch, Model
from spark_modeld.core.reading import GpuProcess, MemorySource, Reading
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.unit import Phase
from spark_modeld.counting import Counting
from spark_modeld.face import ModelState, Snapshot, Waiting, Warning
from spark_modeld.metrics import Metrics

pytestmark = pytest.mark.unit

GIB = 1 << 30
MODEL = Model(
    id="qwen", engine=EngineKind.VLLM, url="http://127.0.0.1:1", run=Launch(("x",)), served_model_name='a "b"\\c'
)
STATE = ModelState(
    model=MODEL,
    phase=Phase.STOPPED,
    since=0.0,
    footprint=Footprint(GIB, Basis.DECLARED),
    large=False,
    fits=True,
    fit_reason=None,
    default=False,
    in_flight=3,
    error=None,
)
NOW = Instant(10.0, 1_800_000_000.0)
READING = Reading(
    total=128 * GIB,
    available=100 * GIB,
    free=50 * GIB,
    source=MemorySource.UNIFIED,
    taken_at=NOW,
    processes=(GpuProcess(7, 4 * GIB, model="qwen"), GpuProcess(8, 2 * GIB), GpuProcess(9, None)),
)

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(metrics: Metrics) -> Values:
    """Every sample: name and labels to value."""
    families = text_string_to_metric_families(render(metrics, "1.2").decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class Story:
    """Snapshots of one model, one after the other."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.snapshot = Snapshot()
        self.counting = Counting(self.metrics, lambda: self.snapshot)

    def phases(self, *phases: Phase, error: Problem | None = None) -> None:
        for phase in phases:
            states = {"qwen": replace(STATE, phase=phase, error=error)}
            self.snapshot = Snapshot(models=states, slot_model="qwen", slot_phase=phase, reading=READING)
            self.counting.see(self.snapshot)

    def values(self) -> Values:
        return parsed(self.metrics)


def starts(result: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "spark_modeld_model_starts_total", (("model", "qwen"), ("result", result))


def stops(reason: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "spark_modeld_model_stops_total", (("model", "qwen"), ("reason", reason))


def test_a_start_and_a_stop_are_counted_once() -> None:
    story = Story()
    story.phases(Phase.STOPPED, Phase.RECLAIMING, Phase.STARTING, Phase.WARMING, Phase.SERVING)
    assert story.values()[starts("ready")] == 1
    story.phases(Phase.SERVING, Phase.DRAINING, Phase.STOPPING, Phase.STOPPED, Phase.STOPPED)
    values = story.values()
    assert (values[starts("ready")], values[stops("requested")]) == (1, 1)


def test_what_went_wrong_is_the_result_and_the_reason() -> None:
    story = Story()
    story.phases(Phase.STOPPED, Phase.STARTING)
    story.phases(Phase.STOPPING, Phase.STOPPED, error=Problem(Code.MEMORY_REFUSED, "under the floor"))
    story.phases(Phase.STARTING, Phase.SERVING)
    story.phases(Phase.FAILED, error=Problem(Code.MODEL_FAILED, "it crashed"))
    story.phases(Phase.SERVING)
    story.phases(Phase.STOPPED, error=Problem(Code.MEMORY_REFUSED, "the guard", {"guard": True}))
    values = story.values()
    assert (values[starts("memory-refused")], values[stops("memory-refused")]) == (1, 1)
    assert (values[stops("model-failed")], values[stops("guard")]) == (1, 1)


def test_what_is_adopted_was_not_started_by_us() -> None:
    story = Story()
    story.phases(Phase.UNKNOWN, Phase.WARMING, Phase.SERVING, Phase.UNKNOWN, Phase.WARMING, Phase.SERVING)
    values = story.values()
    assert values[starts("adopted")] == 2
    assert starts("ready") not in values


def test_switches_are_counted_with_the_time_they_spent() -> None:
    story = Story()
    switch = Switch(
        id="sw-1",
        model="qwen",
        from_model=None,
        requested_by=Requester.CONTROL,
        actor=None,
        started_at=NOW,
        outcome=Outcome.READY,
    )
    story.counting.ended(replace(switch, timings={"starting": 2.0, "warming": 40.0}, phase=SwitchPhase.READY))
    story.counting.ended(replace(switch, timings={"starting": 0.2}, outcome=Outcome.ROLLED_BACK))
    story.counting.ended(replace(switch, noop=True))
    values = story.values()
    name = "spark_modeld_switches_total"
    assert values[name, (("outcome", "ready"), ("requested_by", "control"))] == 1
    assert values[name, (("outcome", "rolled-back"), ("requested_by", "control"))] == 1
    phase = "spark_modeld_switch_phase_seconds"
    assert values[f"{phase}_count", (("phase", "starting"),)] == 2
    assert values[f"{phase}_sum", (("phase", "starting"),)] == pytest.approx(2.2)
    assert values[f"{phase}_bucket", (("le", "0.5"), ("phase", "starting"))] == 1
    assert values[f"{phase}_bucket", (("le", "+Inf"), ("phase", "starting"))] == 2
    assert values[f"{phase}_bucket", (("le", "30"), ("phase", "warming"))] == 0


def test_the_slot_and_memory_are_shown_as_they_are() -> None:
    story = Story()
    assert story.values()["spark_modeld_memory_reading_stale", ()] == 1
    story.phases(Phase.SERVING)
    story.snapshot = replace(story.snapshot, queue=(Waiting(model="qwen", waiters=5, since=0.0),), catalog=Catalog())
    values = story.values()
    kinds = {labels[0][1]: v for (name, labels), v in values.items() if name == "spark_modeld_memory_bytes"}
    assert kinds == {
        "total": 128 * GIB,
        "available": 100 * GIB,
        "free": 50 * GIB,
        "reserve": 8 * GIB,
        "floor": 3 * GIB,
        "gpu": 6 * GIB,
        "gpu_nobodys": 2 * GIB,
    }
    assert values["spark_modeld_memory_reading_stale", ()] == 0
    assert [labels for (name, labels) in values if name == "spark_modeld_memory_source_info"] == [
        (("gpu", ""), ("source", "unified"))
    ]
    assert values["spark_modeld_slot_info", (("model", "qwen"), ("phase", "serving"))] == 1
    assert values["spark_modeld_in_flight", (("model", "qwen"),)] == 3
    assert values["spark_modeld_waiting", (("model", "qwen"),)] == 5
    assert values["spark_modeld_build_info", (("version", "1.2"),)] == 1


def test_what_belongs_in_the_slot_and_what_is_wrong_is_shown() -> None:
    story = Story()
    values = story.values()
    assert values["spark_modeld_healthy", ()] == 0
    assert [name for name, _ in values if name in {"spark_modeld_desired_info", "spark_modeld_warnings"}] == []
    told = tuple(Warning(code=code, message="") for code in ("gauge", "gauge", "stuck"))
    story.snapshot = Snapshot(desired="qwen", bus="connected", warnings=told)
    values = story.values()
    assert values["spark_modeld_healthy", ()] == 1
    assert values["spark_modeld_desired_info", (("model", "qwen"),)] == 1
    assert values["spark_modeld_warnings", (("code", "gauge"),)] == 2
    assert values["spark_modeld_warnings", (("code", "stuck"),)] == 1
    for broken in (
        replace(story.snapshot, bus="lost"),
        replace(story.snapshot, config_problem=Problem(Code.INVALID_CONFIG, "wrong")),
        replace(story.snapshot, stopping=True),
    ):
        story.snapshot = broken
        assert story.values()["spark_modeld_healthy", ()] == 0


def test_a_first_failure_is_an_increase() -> None:
    name = "spark_modeld_switches_total"
    values = Story().values()
    for outcome in Outcome:
        assert values[name, (("outcome", str(outcome)), ("requested_by", "control"))] == 0


def test_label_values_are_counted_and_escaped() -> None:
    metrics = Metrics()
    counter = metrics.counter("spark_modeld_gateway_requests_total", "Requests", ("model", "code"))
    counter.add('a "b"\\\n', "200")
    counter.add('a "b"\\\n', "200", by=2)
    labels = (("code", "200"), ("model", 'a "b"\\\n'))
    assert parsed(metrics)["spark_modeld_gateway_requests_total", labels] == 3
    with pytest.raises(ValueError, match="has the labels"):
        counter.add("one")
