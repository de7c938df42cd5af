"""Memory as a GB10 shows it: the daemon in its own unit over the fake NVML library, and a /proc/meminfo we write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from support.gb10 import TOTAL, Gb10
from support.nvml import Process
from support.serving import DAEMON, Events, Serving, await_that, bad_model, unit
from support.spark import SOURCE, SparkHost, launch_entry
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

GIB = 1 << 30
SETTINGS = """\
[memory]
reserve = "8GiB"
large = "24GiB"
floor = "3GiB"
reclaim_timeout = "1500ms"
"""


@pytest.fixture(scope="module")
def gb10(installed_host: SparkHost) -> Gb10:
    host = installed_host
    gb10 = Gb10(host)
    gb10.install()
    host.settings(SETTINGS)
    host.tiny("alpha", port=8001, memory="60GiB")
    host.tiny("beta", port=8002, memory="70GiB")
    host.tiny("huge", port=8003, memory="500GiB")
    host.enable()
    return gb10


@pytest.fixture
def serving(gb10: Gb10, installed_host: SparkHost) -> Iterator[Serving]:
    gb10.reset()
    serving = Serving(installed_host)
    serving.serve(None)
    # After an error the driver is opened again at a bounded rate.
    await_that(lambda: installed_host.api("GET", "/api/memory")[1]["source"] == "unified", "the driver to be back")
    yield serving
    gb10.reset()


def test_a_gb10_is_one_pool_and_its_processes_belong_to_the_model(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    gb10.nvml.processes([Process("llama-server", 55 * GIB)])
    gb10.available(50 * GIB)
    code, memory = serving.host.api("GET", "/api/memory")
    assert code == 200
    assert (memory["source"], memory["gpu"], memory["stale"]) == ("unified", "NVIDIA GB10", False)
    assert (memory["total"], memory["available"], memory["free"]) == (TOTAL, 50 * GIB, 25 * GIB)
    assert (memory["reserve"], memory["floor"]) == (8 * GIB, 3 * GIB)
    (process,) = memory["processes"]
    assert (process["model"], process["unit"], process["command"]) == ("alpha", unit("alpha"), "llama-server")
    assert (process["pid"] > 1, process["bytes"]) == (True, 55 * GIB)
    assert "NVIDIA GB10" in serving.ctl("memory") or "unified" in serving.ctl("memory")


@pytest.mark.parametrize(("shape", "source"), [("shim", "unified"), ("discrete", "discrete"), ("no_gpu", "host")])
def test_the_shape_follows_what_nvml_answers(serving: Serving, gb10: Gb10, shape: str, source: str) -> None:
    getattr(gb10.nvml, shape)()
    assert serving.host.api("GET", "/api/memory")[1]["source"] == source


def test_a_refusal_has_every_number_and_touches_nothing(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    gb10.nvml.processes([Process("llama-server", 55 * GIB), Process(1, 9 * GIB)])
    gb10.available(40 * GIB)
    status, problem = serving.switch("huge")
    assert (status, problem["code"]) == (507, "memory-refused")
    numbers = {key: problem[key] for key in ("needed", "available", "returned", "reserve")}
    assert numbers == {"needed": 500 * GIB, "available": 40 * GIB, "returned": 55 * GIB, "reserve": 8 * GIB}
    stranger = next(holder for holder in problem["holders"] if holder["model"] is None)
    assert (stranger["pid"], stranger["command"], stranger["bytes"]) == (1, "systemd", 9 * GIB)
    assert (serving.pid("alpha"), serving.slot()) == (before, ("alpha", "serving"))
    assert "500.0 GiB" in serving.ctl("switch", "huge", exit_status=4)


def test_memory_that_comes_back_late_is_waited_for(serving: Serving, gb10: Gb10) -> None:
    """The old model has stopped and the reading does not fit yet: only one that does starts the new model."""
    serving.serve("alpha")
    gb10.nvml.processes([Process("llama-server", 60 * GIB)])
    gb10.available(45 * GIB)
    with Events(serving.host) as events:
        switch = serving.begin("beta")
        events.phase("beta", "reclaiming")
        assert (serving.active("alpha"), serving.active("beta")) == ("inactive", "inactive")
        gb10.available(110 * GIB)
    ended = serving.ended(switch)
    assert ended["outcome"] == "ready"
    assert ended["timings"]["reclaiming"] > 0
    assert serving.host.ask(8002) == sentence_of("beta")


def test_memory_that_never_comes_back_fails_the_switch_and_says_who_holds_it(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    gb10.nvml.processes([Process("llama-server", 60 * GIB), Process(1, 12 * GIB)])
    gb10.available(70 * GIB - 60 * GIB + 8 * GIB)
    with Events(serving.host) as events:
        switch = serving.begin("beta")
        events.phase("beta", "failed")
        gb10.available(110 * GIB)
    ended = serving.ended(switch)
    assert (ended["outcome"], ended["error"]["code"]) == ("rolled-back", "memory-refused")
    assert (ended["error"]["available"], ended["error"]["returned"]) == (18 * GIB, 0)
    # Also what an earlier test's model owes, by a meminfo that never showed it come back.
    assert {"model": "alpha", "expected": 60 * GIB, "outstanding": 60 * GIB} in ended["error"]["returning"]
    assert [holder["pid"] for holder in ended["error"]["holders"]] == [1]
    assert serving.slot() == ("alpha", "serving")


def test_gpu_memory_that_outlives_its_unit_keeps_the_next_model_waiting(serving: Serving, gb10: Gb10) -> None:
    """A driver that still lists the stopped model's processes: its stop is not confirmed."""
    serving.serve("alpha")
    pid = serving.pid("alpha")
    gb10.nvml.processes([Process(pid, 60 * GIB)])
    await_that(lambda: serving.host.api("GET", "/api/memory")[1]["processes"], "the driver to list alpha")
    assert serving.host.api("GET", "/api/memory")[1]["processes"][0]["model"] == "alpha"
    serving.serve("beta")
    assert serving.host.ask(8002) == sentence_of("beta")


def test_a_driver_that_hangs_is_told_and_holds_nothing_up(serving: Serving, gb10: Gb10) -> None:
    gb10.nvml.hang()
    try:
        memory = serving.host.api("GET", "/api/memory")[1]
        assert (memory["stale"], memory["available"]) == (True, 110 * GIB)
        assert "gauge-stale" in serving.warnings()
        serving.serve("alpha")
    finally:
        gb10.nvml.works()
    await_that(lambda: not serving.host.api("GET", "/api/memory")[1]["stale"], "the driver to answer again")


FREEZE_SECONDS = 5.0
IMPATIENT = f"""\
{SETTINGS}[health]
stall_timeout = "2s"
[gateway]
auth = "none"
"""
HOLD = "/run/hold-load"
TALKER, LOADER = 8004, 8005


def test_a_machine_that_stood_still_goes_on_where_it_was(serving: Serving, gb10: Gb10) -> None:
    """In the midst of a load and of a stream, for longer than any deadline here; the driver is not back at once."""
    host = serving.host
    host.settings(IMPATIENT)
    sick = [*("/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/sick_engine.py", "--name=talker")]
    entry = launch_entry("vllm", TALKER, [*sick, f"--port={TALKER}"], memory="64MiB", extra='role = "side"')
    host.model("talker", entry)
    host.model("loader", bad_model("loader", LOADER, "--hold-load", HOLD, extra='start_timeout = "5s"'))
    serving.reload()
    host.write(HOLD, "")
    await_that(lambda: state(host, "talker") == "stopped", "systemd to have been asked about it")
    assert host.api("POST", "/api/models/talker/start")[0] == 202
    await_that(lambda: state(host, "talker") == "serving", "the side model to serve")
    body = {"model": "talker", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 60}
    url = "http://127.0.0.1:30101/v1/chat/completions"
    with host.popen("curl", "-sSN", "-d", json.dumps(body), url, stdout=PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith("data: ")
        with Events(host) as events:
            switch = serving.begin("loader")
            events.phase("loader", "warming")
        pids = [serving.pid("talker"), serving.pid("loader"), int(host.show(DAEMON, "MainPID"))]
        with host.frozen():
            time.sleep(FREEZE_SECONDS)
            gb10.nvml.lost()
        assert host.api("GET", "/api/memory")[1]["source"] == "host"
        host.run("rm", HOLD)
        gb10.nvml.works()
        assert serving.ended(switch)["outcome"] == "ready"
        assert client.communicate(timeout=60)[0].rstrip().endswith("data: [DONE]")
    await_that(lambda: host.api("GET", "/api/memory")[1]["source"] == "unified", "the driver to be back")
    assert [serving.pid("talker"), serving.pid("loader"), int(host.show(DAEMON, "MainPID"))] == pids
    assert serving.slot() == ("loader", "serving")
    assert state(host, "talker") == "serving"


def state(host: SparkHost, model: str) -> str:
    return str(host.api("GET", f"/api/models/{model}")[1]["state"])
