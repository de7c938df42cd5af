"""What goes wrong with models, and what the daemon makes of it: the way back, the default, back-off, kills."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from support.serving import (
    DAEMON,
    LARGE,
    SETTINGS,
    Events,
    Json,
    Serving,
    Watch,
    await_that,
    bad_command,
    bad_model,
    unit,
)
from support.spark import SparkHost
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

GOOD = {"alpha": 8001, "beta": 8002}
MEMINFO = "/run/meminfo"
SHORT = 'start_timeout = "1500ms"'
BROKEN = {
    # model: its switches, further keys, the problem's code, words of its detail, words of its log
    "exits": (("--port-taken",), "", "model-failed", "exited|ended", "cannot listen on port"),
    "dies-loading": (
        ("--503-while-loading", "--die-after-seconds=0.3", "--exit-code=3"),
        "",
        "model-failed",
        "status 3",
        "out of luck while loading",
    ),
    "never-ready": (("--never-ready",), SHORT, "start-timeout", "1.5 s", "port 8012"),
    "wrong-name": (("--wrong-name",), "", "model-failed", "somebody-else", "wrong-name: ready"),
    "mute": (("--generation-fails",), SHORT, "start-timeout", "1.5 s", "mute: ready"),
}
STUBBORN = ("deaf", "parent")
LARGE_MODELS = (*GOOD, *BROKEN, *STUBBORN)


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    host = installed_host
    host.settings(SETTINGS)
    for model, port in GOOD.items():
        host.tiny(model, port=port, memory=LARGE)
    for port, (model, (switches, extra, *_)) in enumerate(BROKEN.items(), 8010):
        host.model(model, bad_model(model, port, *switches, extra=extra))
    host.model("deaf", bad_model("deaf", 8020, "--ignore-sigterm", extra='stop_timeout = "500ms"'))
    host.model("parent", bad_model("parent", 8021, "--fork-children=3", extra='stop_timeout = "500ms"'))
    host.enable()
    return host


@pytest.fixture
def serving(host: SparkHost) -> Iterator[Serving]:
    """The daemon with an empty slot, and nobody may ever see two large models alive."""
    serving = Serving(host)
    serving.serve(None)
    with Watch(host, LARGE_MODELS):
        yield serving


def configured(serving: Serving, settings: str) -> None:
    serving.host.settings(settings)
    serving.reload()


@pytest.mark.parametrize("model", list(BROKEN))
def test_a_model_that_fails_is_rolled_back(serving: Serving, model: str) -> None:
    _, _, code, detail, log = BROKEN[model]
    serving.serve("alpha")
    before = serving.pid("alpha")
    status, problem = serving.switch(model)
    assert (status, problem["code"]) == (504 if code == "start-timeout" else 502, code)
    assert re.search(detail, problem["detail"]), problem["detail"]
    assert problem["unit"] == unit(model)
    assert any(log in line for line in problem["log"]), problem["log"]
    switch = problem["switch"]
    assert (switch["outcome"], switch["model"], switch["from"]) == ("rolled-back", model, "alpha")
    assert switch["error"]["code"] == code
    assert serving.slot() == ("alpha", "serving")
    assert serving.host.ask(GOOD["alpha"]) == sentence_of("alpha")
    assert serving.pid("alpha") not in (0, before)
    assert serving.active(model) in ("inactive", "failed")
    assert serving.desired_on_disk() == "alpha"
    assert serving.history()[0]["id"] == switch["id"]
    # The slot's reason also says how the log reads, where that is known.
    assert detail_of(serving.status()["slot"]).startswith(problem["detail"])


def detail_of(slot: Json) -> str:
    return str(slot["reason"])


def test_the_command_tells_the_unit_and_its_last_words(serving: Serving) -> None:
    serving.serve("alpha")
    said = serving.ctl("switch", "dies-loading", exit_status=1)
    assert "out of luck while loading" in said
    assert f"last lines of {unit('dies-loading')}" in said
    assert "spark-modelctl logs dies-loading" in said
    assert "alpha was started again" in said


def test_a_side_model_that_does_not_come_up_is_told_with_its_last_words(serving: Serving) -> None:
    switches = ("--503-while-loading", "--die-after-seconds=0.3", "--exit-code=3")
    serving.host.model("frail", bad_model("frail", 8061, *switches, memory="1GiB", extra='role = "side"'))
    serving.reload()
    said = serving.ctl("start", "frail", exit_status=1)
    assert "out of luck while loading" in said
    assert f"last lines of {unit('frail')}" in said
    error = serving.host.api("GET", "/api/models/frail")[1]["error"]
    assert (error["code"], error["exit_status"]) == ("model-failed", 3)
    assert any("out of luck while loading" in line for line in error["log"])


def test_when_the_way_back_fails_too_the_default_comes(serving: Serving) -> None:
    host = serving.host
    configured(serving, SETTINGS.replace("[slot]", '[slot]\ndefault = "beta"'))
    try:
        host.model("once", bad_model("once", 8030))
        serving.reload()
        serving.serve("once")
        host.model("once", bad_model("once", 8030, "--die-after-seconds=0.1"))
        serving.reload()
        status, problem = serving.switch("dies-loading")
        assert (status, problem["code"], problem["switch"]["outcome"]) == (502, "model-failed", "rolled-back")
        assert problem["unit"] == unit("dies-loading")
        assert serving.slot() == ("beta", "serving")
        assert host.ask(GOOD["beta"]) == sentence_of("beta")
        assert serving.active("once") in ("inactive", "failed")
    finally:
        configured(serving, SETTINGS)


def test_a_desired_model_that_crashes_is_given_up_after_bounded_attempts(serving: Serving) -> None:
    host = serving.host
    host.model("crasher", bad_model("crasher", 8031))
    serving.reload()
    serving.serve("crasher")
    host.model("crasher", bad_model("crasher", 8031, "--die-after-seconds=0.1"))
    serving.reload()
    began = len(starts(serving, "crasher"))
    host.run("systemctl", "kill", "--signal=KILL", unit("crasher"))

    def tries() -> list[Json]:
        return [s for s in serving.history() if (s["requested_by"], s["model"]) == ("reconcile", "crasher")]

    await_that(lambda: "not started again" in str(serving.status()["slot"]["reason"]), "the daemon to give up")
    assert [s["outcome"] for s in tries()] == ["failed", "failed"]
    assert len(starts(serving, "crasher")) - began == 2
    # The crash was the first failure and was mended at once; the next try came after a pause, and it was the last.
    assert seconds(tries()[0]["started_at"]) - seconds(tries()[1]["finished_at"]) >= 1.9
    status = serving.status()
    assert (status["slot"]["phase"], status["desired"], status["switch"]) == ("empty", "crasher", None)
    assert re.search("crasher failed 3 times", status["slot"]["reason"])
    host.model("crasher", bad_model("crasher", 8031))
    serving.reload()
    serving.serve("crasher")
    assert host.ask(8031) == "I am crasher"


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def starts(serving: Serving, model: str) -> list[str]:
    journal = serving.host.journal("-o", "cat", "-u", unit(model))
    return [line for line in journal.splitlines() if re.match(f"Starting .*Language model {model}", line)]


def test_a_crash_of_the_serving_model_is_seen_at_once_and_mended(serving: Serving) -> None:
    host = serving.host
    serving.serve("alpha")
    before = serving.pid("alpha")
    with Events(host) as events:
        host.run("kill", "-9", str(before))
        events.phase("alpha", "failed")
        heard = time.monotonic()
        events.until("switch", lambda data: data["outcome"] == "ready")
    knew = death_told(serving, unit("alpha"))
    print(f"\nsystemd knew, then the daemon and its event's reader: {(heard - knew) * 1000:.1f} ms later")
    switch = serving.history()[0]
    assert (switch["model"], switch["requested_by"], switch["outcome"]) == ("alpha", "reconcile", "ready")
    assert serving.pid("alpha") not in (0, before)
    assert host.ask(GOOD["alpha"]) == sentence_of("alpha")
    assert serving.status()["desired"] == "alpha"
    error = host.api("GET", "/api/models/alpha")[1]["error"]
    assert (error["code"], error["result"]) == ("model-failed", "signal")
    assert error["log"]


def death_told(serving: Serving, name: str) -> float:
    """When systemd said that the unit's process was killed, in monotonic seconds."""
    lines = serving.host.journal("-o", "json", f"UNIT={name}").splitlines()
    dead = [entry for entry in map(json.loads, lines) if "code=killed, status=9" in str(entry["MESSAGE"])]
    return int(dead[-1]["_SOURCE_REALTIME_TIMESTAMP"]) / 1e6 - time.time() + time.monotonic()


def test_an_engine_that_ignores_sigterm_is_killed_and_the_next_one_starts(serving: Serving) -> None:
    serving.serve("deaf")
    switch = serving.serve("alpha")
    assert switch["timings"]["stopping"] >= 0.5
    journal = serving.host.journal("-o", "cat", "-u", unit("deaf"))
    assert "deaf: SIGTERM ignored" in journal
    assert serving.active("deaf") == "failed"
    assert serving.host.show(unit("deaf"), "Result") == "signal"
    assert serving.host.ask(GOOD["alpha"]) == sentence_of("alpha")


def test_grandchildren_go_with_their_model(serving: Serving) -> None:
    serving.serve("parent")
    with Watch(serving.host, ["parent"]) as watch:
        assert len(watch.processes("parent")) == 4
        serving.serve("alpha")
        assert not watch.processes("parent")


def test_many_quick_swaps_do_not_run_into_a_start_limit(serving: Serving) -> None:
    host = serving.host
    host.write("/etc/systemd/system/own.service", own_unit("own", 8040))
    host.write("/etc/polkit-1/rules.d/60-own.rules", OWN_RULE)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "polkit.service")
    host.model("own", 'engine = "openai"\nurl = "http://127.0.0.1:8040"\nmemory = "2GiB"\nunit = "own.service"\n')
    serving.reload()
    for _ in range(4):
        serving.serve("own")
        assert host.ask(8040) == "I am own"
        serving.serve(None)
    assert host.show("own.service", "StartLimitBurst") == "2"


OWN_RULE = """\
polkit.addRule(function (action, subject) {
    if (action.id === "org.freedesktop.systemd1.manage-units" && subject.user === "spark-modeld"
        && action.lookup("unit") === "own.service") {
        return polkit.Result.YES;
    }
});
"""


def own_unit(model: str, port: int) -> str:
    command = " ".join(bad_command(model, port))
    limit = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n"
    return f"{limit}[Service]\nExecStart={command}\nSuccessExitStatus=143\n"


def test_a_load_that_falls_under_the_floor_is_killed(serving: Serving) -> None:
    """The daemon reads a file in /proc/meminfo's place, which says what we want."""
    host = serving.host
    gib = 1 << 30

    def memory(available: int) -> None:
        lines = {"MemTotal": 128 * gib, "MemFree": available, "MemAvailable": available}
        content = "".join(f"{name}: {value >> 10} kB\n" for name, value in lines.items())
        host.write(f"{MEMINFO}.new", content)
        host.run("mv", f"{MEMINFO}.new", MEMINFO)

    host.model("hungry", bad_model("hungry", 8050, "--load-seconds=600", "--ignore-sigterm", memory="38GiB"))
    memory(100 * gib)
    host.write(
        f"/etc/systemd/system/{DAEMON}.d/meminfo.conf", f"[Service]\nEnvironment=SPARK_MODELD_MEMINFO={MEMINFO}\n"
    )
    host.run("systemctl", "daemon-reload")
    try:
        serving.restart_daemon()
        serving.serve("alpha")
        with Events(host) as events:
            switch = serving.begin("hungry")
            events.phase("hungry", "warming")
            await_that(lambda: "hungry: pid" in host.journal("-u", unit("hungry")), "the engine's first words")
            memory(100 << 20)
            events.phase("hungry", "stopping")
            # The way back waits for room, and finds it.
            events.phase("alpha", "reclaiming")
            assert serving.active("alpha") == "inactive"
            memory(100 * gib)
        ended = serving.ended(switch)
        assert (ended["outcome"], ended["error"]["code"]) == ("rolled-back", "memory-refused")
        assert (ended["error"]["available"], ended["error"]["floor"]) == (100 << 20, 128 << 20)
        assert host.show(unit("hungry"), "Result") == "signal"
        assert serving.slot() == ("alpha", "serving")
        assert host.ask(GOOD["alpha"]) == sentence_of("alpha")
    finally:
        host.run("rm", "-r", f"/etc/systemd/system/{DAEMON}.d")
        host.run("systemctl", "daemon-reload")
        serving.restart_daemon()
