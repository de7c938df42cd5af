"""Engines that systemd believes to be well: what the daemon sees of them while they serve, and does about it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from support.serving import LARGE, SETTINGS, Events, Serving, Watch, unit
from support.spark import SOURCE, SparkHost, launch_entry

pytestmark = pytest.mark.host

STALL = 3.0
ILLS = "/run/ills"
MODELS = {
    # model: its engine, its style, its port
    "counting": ("vllm", "vllm", 8101),
    "failing": ("sglang", "plain", 8102),
    "mute": ("openai", "plain", 8103),
}


def sick_model(model: str) -> str:
    engine, style, port = MODELS[model]
    command = [
        *("/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/sick_engine.py", f"--name={model}"),
        *(f"--port={port}", f"--style={style}", f"--ills={ILLS}/{model}"),
    ]
    return launch_entry(engine, port, command, memory=LARGE)


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    host = installed_host
    host.settings(f'{SETTINGS}\n[health]\nstall_timeout = "{STALL:g}s"\n')
    for model in MODELS:
        host.model(model, sick_model(model))
        host.run("mkdir", "-p", f"{ILLS}/{model}")
    host.enable()
    return host


@pytest.fixture
def serving(host: SparkHost) -> Iterator[Serving]:
    serving = Serving(host)
    host.run("find", ILLS, "-type", "f", "-delete")
    serving.serve(None)
    with Watch(host, MODELS):
        yield serving


@pytest.mark.parametrize(
    ("model", "ill", "result", "words"),
    [
        ("counting", "freeze", "stalled", "says that it is healthy and has generated nothing for"),
        ("failing", "fail", "stalled", "asked for one token, it answers HTTP 500"),
        ("mute", "freeze", "stalled", "says that it is healthy and has generated nothing for"),
        ("mute", "deaf", "unreachable", "Nothing listens at http://127.0.0.1:8103 any more"),
    ],
)
def test_an_engine_that_systemd_believes_in_and_that_serves_nobody_is_restarted(
    serving: Serving, model: str, ill: str, result: str, words: str
) -> None:
    serving.serve(model)
    before = serving.pid(model)
    with Events(serving.host) as events:
        serving.host.write(f"{ILLS}/{model}/{ill}", "")
        began = time.monotonic()
        told = events.until("model", lambda data: data["id"] == model and data["state"] == "stopping")
        print(f"\n{model}, {ill}: found after {time.monotonic() - began:.1f} s; {told}")
        assert serving.host.api("GET", f"/api/models/{model}")[1]["unit"] == unit(model)
        serving.host.run("rm", f"{ILLS}/{model}/{ill}")
        events.until("switch", lambda data: data["outcome"] == "ready")
    switch = serving.history()[0]
    assert (switch["model"], switch["requested_by"]) == (model, "reconcile")
    assert serving.slot() == (model, "serving")
    assert serving.pid(model) not in (0, before)
    assert serving.host.ask(MODELS[model][2], tokens=3) == f"I am {model}"
    assert words in serving.host.journal("-u", "spark-modeld.service", "-o", "cat"), result


def test_the_reason_stands_in_the_status_while_it_is_away(serving: Serving) -> None:
    host = serving.host
    serving.serve("counting")
    host.write(f"{ILLS}/counting/freeze", "")
    with Events(host) as events:
        reason = str(events.until("slot", lambda data: bool(data["reason"]))["reason"])
    assert reason.startswith("counting: Its engine says that it is healthy and has generated nothing for"), reason
    assert "has generated nothing for" in " ".join(serving.ctl("status").split())
    host.run("rm", f"{ILLS}/counting/freeze")
    serving.await_slot("counting", "serving")


@pytest.mark.parametrize(("model", "seconds"), [("counting", 3 * STALL), ("mute", 3 * STALL)])
def test_a_long_answer_on_an_engine_with_one_slot_is_no_stall(serving: Serving, model: str, seconds: float) -> None:
    """Ours waits behind it: vLLM's counters show that it moves, of the other engine nothing is seen but its client."""
    host, port = serving.host, MODELS[model][2]
    serving.serve(model)
    before = serving.pid(model)
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": int(seconds / 0.05)}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with host.popen("curl", "-sSN", "-d", json.dumps(body), url, stdout=PIPE) as client:
        text = client.communicate(timeout=60)[0]
    assert text.rstrip().endswith("data: [DONE]")
    assert serving.slot() == (model, "serving")
    assert serving.pid(model) == before


def test_an_idle_engine_is_left_alone(serving: Serving) -> None:
    """Longer than the timeout: it is asked for a token now and then, which nobody counts as use."""
    serving.serve("counting")
    before = serving.pid("counting")
    metrics = f"http://127.0.0.1:{MODELS['counting'][2]}/metrics"

    def tokens() -> str:
        lines = serving.host.run("curl", "-sS", metrics).stdout.splitlines()
        return next(line for line in lines if line.startswith("vllm:generation_tokens_total"))

    first, changes, deadline = tokens(), 0, time.monotonic() + 60
    while changes < 3 and time.monotonic() < deadline:
        now = tokens()
        first, changes = now, changes + (now != first)
    assert changes == 3
    assert serving.pid("counting") == before
    assert serving.status()["slot"]["in_flight"] == 0
