"""Every call of the control API, over a real unix socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.outlook import Estimate, Outlook
from spark_modeld.core.progress import LoadStep, Progress
from spark_modeld.core.reading import Loaded
from spark_modeld.core.switch import Outcome, SwitchPhase
from spark_modeld.core.unit import Phase
from spark_modeld.face import Snapshot, Warning
from support.control import Answer, Control, running
from support.fake_face import GIB, Asked, make_reading, refused

pytestmark = pytest.mark.component
ACTOR = f"uid {os.getuid()}"


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


def is_problem(answer: Answer, status: int, code: Code) -> bool:
    shown = answer.json
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status, shown["status"], shown["code"]) == (status, status, str(code)), shown
    assert {"type", "title", "detail"} <= shown.keys()
    assert shown["detail"]
    return True


async def test_health_is_ok(control: Control) -> None:
    answer = await control.call("GET", "/health")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bus": "lost"}, Code.BUS_LOST),
        ({"stopping": True}, Code.SHUTTING_DOWN),
        ({"config_problem": Problem(Code.INVALID_CONFIG, "x", {"findings": ({"file": "a"},)})}, Code.INVALID_CONFIG),
    ],
)
async def test_health_says_what_is_wrong(control: Control, changes: dict, code: Code) -> None:
    control.face.snapshot = replace(control.face.snapshot, **changes)
    assert is_problem(await control.call("GET", "/health"), 503, code)


async def test_status_has_everything(control: Control) -> None:
    control.face.snapshot = replace(control.face.snapshot, warnings=(Warning(code="w", message="look"),))
    shown = (await control.call("GET", "/api/status")).json
    assert shown["slot"]["phase"] == "serving"
    assert shown["slot"]["model"] == "qwen"
    assert shown["slot"]["unit"] == "spark-model@qwen.service"
    assert shown["slot"]["url"] == "http://127.0.0.1:30001"
    assert shown["slot"]["in_flight"] == 2
    assert shown["slot"]["since"].endswith("Z")
    assert len(shown["slot"]["since"]) == len("2026-01-01T00:00:00.000Z")
    assert (shown["desired"], shown["default"], shown["switch"], shown["queue"]) == ("qwen", "qwen", None, [])
    assert [side["model"] for side in shown["side"]] == ["embed"]
    assert shown["memory"]["reserve"] == 8 * GIB
    assert shown["memory"]["floor"] == 3 * GIB
    assert shown["bus"] == "connected"
    assert shown["warnings"] == [{"code": "w", "message": "look"}]
    assert shown["last_failure"] is None


async def test_status_of_an_empty_daemon(control: Control) -> None:
    control.face.snapshot = Snapshot()
    shown = (await control.call("GET", "/api/status")).json
    assert shown["slot"] == {
        "phase": "empty", "model": None, "unit": None, "url": None, "since": None, "in_flight": 0, "reason": None,
    }  # fmt: skip
    assert (shown["desired"], shown["default"], shown["memory"], shown["bus"]) == (None, None, None, "lost")


async def test_status_remembers_the_last_failure(control: Control) -> None:
    await control.call("POST", "/api/switch", {"model": "llama"})
    control.face.finish("s1", Outcome.ROLLED_BACK, Problem(Code.MODEL_FAILED, "it died"))
    shown = (await control.call("GET", "/api/status")).json
    assert shown["last_failure"]["id"] == "s1"
    assert shown["last_failure"]["error"]["detail"] == "it died"


async def test_a_broken_configuration_answers_status_with_its_findings(control: Control) -> None:
    findings = ({"file": "models.d/a.toml", "key": "engine", "message": "unknown engine"},)
    problem = Problem(Code.INVALID_CONFIG, "1 finding", {"findings": findings})
    control.face.snapshot = Snapshot(config_problem=problem, bus="connected")
    for path in ("/api/status", "/health", "/api/models", "/api/models/qwen"):
        answer = await control.call("GET", path)
        assert is_problem(answer, 503, Code.INVALID_CONFIG)
        assert answer.json["findings"] == list(findings)


async def test_switch_is_accepted(control: Control) -> None:
    answer = await control.call("POST", "/api/switch", {"model": "llama", "force": True})
    assert answer.status == 202
    assert answer.headers["location"] == "/api/switches/s1"
    shown = answer.json
    assert (shown["id"], shown["model"], shown["from"], shown["phase"]) == ("s1", "llama-70b", "qwen", "queued")
    assert (shown["requested_by"], shown["actor"], shown["outcome"]) == ("control", ACTOR, None)
    assert control.face.asked == [Asked("switch", "llama", ACTOR, force=True)]


async def test_a_switch_says_what_is_to_be_expected_of_it(control: Control) -> None:
    expected = Estimate(3, {SwitchPhase.STOPPING: 10.0, SwitchPhase.WARMING: 120.04})
    past = (await control.call("POST", "/api/switch", {"model": "llama"})).json
    assert [past[key] for key in ("step", "progress", "eta_s", "estimate")] == [None] * 4
    control.face.finish("s1", Outcome.CANCELLED)
    await control.call("POST", "/api/switch", {"model": "llama"})
    outlook = Outlook(Progress(LoadStep.WEIGHTS, 0.45), expected, time.time() + 60.0, 60.0)
    control.face.foresee("s2", outlook)
    seen = [
        (await control.call("GET", "/api/status")).json["switch"],
        (await control.call("GET", "/api/switches/s2")).json,
        (await control.call("GET", "/api/switches")).json["switches"][0],
    ]
    for shown in seen:
        assert (shown["step"], shown["progress"]) == ("loading weights", 0.45)
        assert shown["estimate"] == {"seconds": 130.0, "times": 3}
        assert 50.0 < shown["eta_s"] <= 60.0
    control.face.foresee("s2", replace(outlook, ready_at=time.time() - 5.0))
    assert (await control.call("GET", "/api/switches/s2")).json["eta_s"] == 0.0
    assert (await control.call("GET", "/api/switches/s1")).json["eta_s"] is None
    control.face.finish("s2", Outcome.READY)
    done = (await control.call("GET", "/api/switches/s2")).json
    assert [done[key] for key in ("step", "progress", "eta_s", "estimate")] == [None] * 4


async def test_a_model_says_how_long_it_loads_and_how_far_it_is(control: Control) -> None:
    await control.call("POST", "/api/switch", {"model": "llama"})
    for phase in (SwitchPhase.STARTING, SwitchPhase.WARMING, SwitchPhase.READY):
        control.face.advance("s1", phase)
    control.face.finish("s1", Outcome.READY)
    models = dict(control.face.snapshot.models)
    models["embed"] = replace(models["embed"], phase=Phase.WARMING, progress=Progress(LoadStep.GRAPHS))
    control.face.snapshot = replace(control.face.snapshot, models=models)
    embed, llama, _ = (await control.call("GET", "/api/models")).json["models"]
    assert (embed["step"], embed["progress"], embed["load"]) == ("capturing CUDA graphs", None, None)
    assert (llama["step"], llama["progress"], llama["load"]) == (None, None, {"seconds": 0.5, "times": 1})
    assert (await control.call("GET", "/api/models/llama-70b")).json == llama


async def test_null_empties_the_slot(control: Control) -> None:
    answer = await control.call("POST", "/api/switch", {"model": None})
    assert (answer.status, answer.json["model"]) == (202, None)
    assert control.face.asked[0].name is None


async def test_already_serving_is_no_work(control: Control) -> None:
    answer = await control.call("POST", "/api/switch", {"model": "qwen"})
    assert (answer.status, answer.json["outcome"], answer.json["noop"]) == (200, "ready", True)


@pytest.mark.parametrize("wait", ["wait=true", "wait", "wait=", "wait=30", "wait=30.5"])
async def test_waiting_ends_with_the_switch(control: Control, wait: str) -> None:
    call = asyncio.create_task(control.call("POST", f"/api/switch?{wait}", {"model": "llama"}))
    switch = await control.face.requested.get()
    assert not call.done()
    control.face.advance(switch.id, SwitchPhase.STARTING)
    control.face.finish(switch.id, Outcome.READY)
    answer = await call
    assert (answer.status, answer.json["outcome"]) == (200, "ready")
    assert answer.json["timings"] == {"queued": 0.25}


@pytest.mark.parametrize(
    ("outcome", "error", "status", "code"),
    [
        (Outcome.FAILED, Problem(Code.MEMORY_REFUSED, "no", {"needed": 5, "holders": ()}), 507, Code.MEMORY_REFUSED),
        (Outcome.ROLLED_BACK, Problem(Code.MODEL_FAILED, "no", {"unit": "u"}), 502, Code.MODEL_FAILED),
        (Outcome.ROLLED_BACK, Problem(Code.START_TIMEOUT, "no"), 504, Code.START_TIMEOUT),
        (Outcome.SUPERSEDED, None, 409, Code.SUPERSEDED),
        (Outcome.CANCELLED, None, 409, Code.CANCELLED),
    ],
)
async def test_waiting_ends_with_the_problem(
    control: Control, outcome: Outcome, error: Problem | None, status: int, code: Code
) -> None:
    call = asyncio.create_task(control.call("POST", "/api/switch?wait=true", {"model": "llama"}))
    switch = await control.face.requested.get()
    control.face.finish(switch.id, outcome, error)
    answer = await call
    assert is_problem(answer, status, code)
    assert answer.json["switch"]["id"] == switch.id
    assert answer.json["switch"]["outcome"] == str(outcome)


async def test_a_wait_that_runs_out_leaves_the_switch_alone(control: Control) -> None:
    answer = await control.call("POST", "/api/switch?wait=0", {"model": "llama"})
    assert (answer.status, answer.json["outcome"]) == (202, None)
    assert answer.headers["location"] == "/api/switches/s1"


async def test_closing_answers_those_who_wait(control: Control) -> None:
    call = asyncio.create_task(control.call("POST", "/api/switch?wait=true", {"model": "llama"}))
    switch = await control.face.requested.get()
    await control.runner.close()
    answer = await call
    assert is_problem(answer, 503, Code.SHUTTING_DOWN)
    assert answer.json["switch"]["id"] == switch.id
    assert control.face.find_switch(switch.id).outcome is None


async def test_history_and_one_and_cancel(control: Control) -> None:
    for model in ("llama", "embed"):
        await control.call("POST", "/api/switch", {"model": model})
    assert [s["id"] for s in (await control.call("GET", "/api/switches")).json["switches"]] == ["s2", "s1"]
    assert [s["id"] for s in (await control.call("GET", "/api/switches?limit=1")).json["switches"]] == ["s2"]
    assert (await control.call("GET", "/api/switches/s1")).json["model"] == "llama-70b"
    cancelled = await control.call("DELETE", "/api/switches/s2")
    assert (cancelled.status, cancelled.json["outcome"]) == (200, "cancelled")
    assert control.face.asked[-1] == Asked("cancel", "s2", ACTOR)


async def test_models(control: Control) -> None:
    shown = (await control.call("GET", "/api/models")).json["models"]
    assert [m["id"] for m in shown] == ["embed", "llama-70b", "qwen"]
    one = (await control.call("GET", "/api/models/qwen")).json
    assert one == shown[2]
    assert one["footprint"] == {"bytes": 38 * GIB, "basis": "declared", "note": None, "taken_at": None}
    assert (one["state"], one["role"], one["engine"], one["large"], one["default"]) == (
        "serving", "slot", "sglang", True, True,
    )  # fmt: skip
    assert (shown[1]["fits"], shown[1]["fit_reason"]) == (False, "needs 70 GiB")


@pytest.mark.parametrize(("verb", "state"), [("start", "starting"), ("stop", "stopping")])
async def test_side_models_start_and_stop(control: Control, verb: str, state: str) -> None:
    answer = await control.call("POST", f"/api/models/embed/{verb}")
    assert (answer.status, answer.json["id"], answer.json["state"]) == (202, "embed", state)
    assert control.face.asked == [Asked(verb, "embed", ACTOR)]


async def test_memory_is_measured_afresh(control: Control) -> None:
    shown = (await control.call("GET", "/api/memory")).json
    assert control.face.asked == [Asked("measure")]
    assert shown["source"] == "unified"
    assert shown["processes"][0] == {
        "pid": 4242, "bytes": 37 * GIB, "model": "qwen", "unit": "spark-model@qwen.service", "command": "python3",
        "user": "spark-model",
    }  # fmt: skip
    assert shown["strangers"] == [
        {"pid": 88, "bytes": 12 * GIB, "unit": "user@1000.service", "command": "llama-server", "user": "ann"}
    ]
    assert shown["huge_pages"] == {"reserved": 2 * GIB, "free": GIB, "page": 2 << 20}
    assert shown["processes"][1]["bytes"] is None
    assert {m["model"]: m["bytes"] for m in shown["models"]} == {"qwen": 37 * GIB, "embed": None}
    assert {m["model"]: m["host_bytes"] for m in shown["models"]} == {"qwen": 6 * GIB, "embed": 0}


async def test_memory_shows_what_servers_of_many_models_hold(control: Control) -> None:
    held = Loaded(unit="ollama.service", name="llava:34b", bytes=20 * GIB, gpu_bytes=19 * GIB, ends_in=240.0)
    control.face.reading = make_reading(loaded=(held, replace(held, name="qwen:latest", model="qwen", ends_in=None)))
    shown = (await control.call("GET", "/api/memory")).json
    common = {"unit": "ollama.service", "bytes": 20 * GIB, "gpu_bytes": 19 * GIB}
    assert shown["loaded"] == [
        {"name": "llava:34b", "model": None, "ends_in": 240.0, **common},
        {"name": "qwen:latest", "model": "qwen", "ends_in": None, **common},
    ]


async def test_reload(control: Control) -> None:
    answer = await control.call("POST", "/api/reload")
    assert (answer.status, answer.json) == (200, {"models": ["embed", "llama-70b", "qwen"]})


async def test_a_wrong_configuration_is_not_loaded(control: Control) -> None:
    problem = Problem(Code.INVALID_CONFIG, "bad", {"findings": ()}, 422)
    control.face.refusal = refused(Code.INTERNAL)
    control.face.refusal.problem = problem  # type: ignore[attr-defined]
    assert is_problem(await control.call("POST", "/api/reload"), 422, Code.INVALID_CONFIG)


async def test_the_gate_answers_its_own_user(control: Control) -> None:
    answer = await control.call("POST", "/api/gate/qwen")
    assert (answer.status, answer.body) == (204, b"")
    control.face.refusal = refused(Code.LARGE_PARALLEL, "qwen holds the slot")
    assert is_problem(await control.call("POST", "/api/gate/llama-70b"), 409, Code.LARGE_PARALLEL)
    assert control.face.asked == [Asked("gate", "qwen"), Asked("gate", "llama-70b")]


async def test_busy_says_when_to_come_back(control: Control) -> None:
    control.face.refusal = refused(Code.BUSY, holder="qwen", retry_after=12.3)
    answer = await control.call("POST", "/api/switch", {"model": "llama"})
    assert is_problem(answer, 503, Code.BUSY)
    assert answer.headers["retry-after"] == "13"


@pytest.mark.parametrize("path", ["/health", "/api/status", "/api/models", "/api/events", "/openapi.json"])
async def test_head_is_get_without_a_body(control: Control, path: str) -> None:
    answer = await control.call("HEAD", path)
    assert answer.status == 200
    assert answer.body == b""


async def test_one_connection_serves_many_requests(control: Control) -> None:
    reader, writer = await control.open()
    for _ in range(3):
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert await reader.readexactly(15) == b'{"status":"ok"}'
    writer.close()
    await writer.wait_closed()


async def test_a_model_may_vanish_from_the_catalog(control: Control) -> None:
    control.face.snapshot = replace(control.face.snapshot, catalog=Catalog(), slot_phase=Phase.STOPPING)
    shown = (await control.call("GET", "/api/status")).json["slot"]
    assert (shown["model"], shown["unit"], shown["phase"]) == ("qwen", None, "stopping")


async def test_metrics_are_text_that_prometheus_reads(control: Control) -> None:
    answer = await control.call("GET", "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert "spark_modeld_build_info" in names


@pytest.mark.parametrize(("token", "status"), [("smd_observe", 200), ("smd_control", 200), ("smd_inference", 403)])
async def test_metrics_over_tcp_need_a_token_that_may_look(control: Control, token: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    assert (await control.call("GET", "/metrics", headers=headers, tcp=True)).status == status
