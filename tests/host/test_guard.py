"""Memory that runs out: the real daemon in its unit, real units, and a /proc/meminfo that the test writes."""

from __future__ import annotations

import re
import threading
import time
import tomllib
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.gb10 import Gb10
from support.nvml import GIB, Process
from support.serving import DAEMON, STATE, Events, Json, Serving, await_that, bad_command, bad_model, unit
from support.spark import CONTROL_SOCKET, SparkHost, quoted

pytestmark = pytest.mark.host

HOLDS = "/run/holds"
SETTINGS = """\
[memory]
reserve = "8GiB"
large = "24GiB"
floor = "3GiB"
reclaim_timeout = "1500ms"
guard_grace = "1s"
"""
ROGUE = "rogue.service"
ROGUE_RULE = """
polkit.addRule(function (action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "spark-modeld" &&
        action.lookup("unit") == "rogue.service") {
        return polkit.Result.YES;
    }
});
"""


def held(model: str, port: int, *switches: str, memory: str | None = "10GiB", extra: str = "") -> str:
    """An engine that loads for as long as HOLDS/MODEL exists; ``memory`` None declares nothing."""
    entry = bad_model(model, port, "--hold-load", f"{HOLDS}/{model}", *switches, memory=memory or "1GiB", extra=extra)
    return entry if memory else "".join(line for line in entry.splitlines(True) if not line.startswith("memory"))


@pytest.fixture(scope="module")
def gb10(installed_host: SparkHost) -> Gb10:
    host = installed_host
    host.run("mkdir", "-p", HOLDS)
    gb10 = Gb10(host)
    gb10.install()
    host.settings(SETTINGS)
    host.model("alpha", held("alpha", 9001, memory="60GiB"))
    host.model("beta", held("beta", 9002))
    host.model("vague", held("vague", 9003, memory=None))
    host.model("older", held("older", 9004, memory="4GiB", extra='role = "side"'))
    host.model("newer", held("newer", 9005, memory="4GiB", extra='role = "side"'))
    command = " ".join(bad_command("rogue", 9006))
    host.write(f"/etc/systemd/system/{ROGUE}", f"[Service]\nExecStart={command}\n")
    lines = ['engine = "openai"', 'url = "http://127.0.0.1:9006"', 'memory = "10GiB"', f"unit = {quoted(ROGUE)}"]
    host.model("rogue", "\n".join(lines))
    host.write("/etc/polkit-1/rules.d/60-rogue.rules", ROGUE_RULE)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "polkit.service")
    host.enable()
    return gb10


@pytest.fixture
def serving(gb10: Gb10, installed_host: SparkHost) -> Iterator[Serving]:
    gb10.nvml.gb10()
    gb10.available(110 * GIB)
    serving = Serving(installed_host)
    release(serving)
    installed_host.run("systemctl", "start", DAEMON)
    serving.serve(None)
    for side in ("older", "newer"):
        stop_side(serving, side)
    yield serving
    release(serving)
    gb10.available(110 * GIB)


def release(serving: Serving) -> None:
    for path in serving.host.path(HOLDS).iterdir():
        path.unlink()


def hold(serving: Serving, model: str) -> None:
    serving.host.write(f"{HOLDS}/{model}", "")


def state(serving: Serving, model: str) -> Json:
    status, answer = serving.host.api("GET", f"/api/models/{model}")
    assert status == 200, answer
    return dict(answer)


def start_side(serving: Serving, model: str) -> None:
    status, answer = serving.host.api("POST", f"/api/models/{model}/start")
    assert status == 202, answer
    await_that(lambda: state(serving, model)["state"] == "serving", f"{model} to serve")


def stop_side(serving: Serving, model: str) -> None:
    if state(serving, model)["state"] not in {"stopped", "failed"}:
        status, answer = serving.host.api("POST", f"/api/models/{model}/stop")
        assert status == 202, answer
    await_that(lambda: state(serving, model)["state"] in {"stopped", "failed"}, f"{model} to be down")


def record(serving: Serving) -> Json:
    return tomllib.loads(serving.host.path(STATE).read_text())


def metrics(serving: Serving) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample: its name, its label values in the order of their names, its value."""
    url = ["curl", "-sS", "--fail", "--unix-socket", CONTROL_SOCKET, "http://localhost/metrics"]
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(serving.host.run(*url).stdout):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def alarm(events: Events, name: str) -> Json:
    return events.until("memory", lambda data: data.get("alarm") == name)


def fall(gb10: Gb10, over: threading.Event) -> None:
    """29 to 6 GiB in two seconds, and on: as a load on a GB10 was seen to do."""
    for available in (29, 26, 22, 18, 14, 10, 6, 4, 2):
        gb10.available(available * GIB)
        if over.wait(0.25):
            return


def test_a_load_that_falls_under_the_floor_is_killed_at_once_with_its_curve(serving: Serving, gb10: Gb10) -> None:
    hold(serving, "beta")
    over = threading.Event()
    falling = threading.Thread(target=fall, args=(gb10, over))
    with Events(serving.host) as events:
        switch = serving.begin("beta")
        events.phase("beta", "warming")
        pid = serving.pid("beta")
        assert pid
        falling.start()
        try:
            told = alarm(events, "killed-loading")
        finally:
            over.set()
            falling.join()
        assert (told["model"], told["floor"]) == ("beta", 3 * GIB)
    gb10.available(110 * GIB)
    ended = serving.ended(switch)
    error = ended["error"]
    assert (ended["outcome"], error["code"], error["available"]) == ("failed", "memory-refused", 2 * GIB)
    readings = [available // GIB for _, available in error["curve"]]
    times = [at for at, _ in error["curve"]]
    assert readings[0] == 110
    assert {29, 10, 2} <= set(readings)
    assert readings == sorted(readings, reverse=True)
    assert times == sorted(set(times))
    assert (serving.active("beta"), serving.pid("beta")) in {("failed", 0), ("inactive", 0)}
    assert "killed before the machine could freeze" in serving.host.journal("-u", DAEMON, "-o", "cat")
    assert metrics(serving)["spark_modeld_model_starts_total"]["beta", "memory-refused"] >= 1


def test_after_three_loads_under_the_floor_a_person_is_waited_for(serving: Serving, gb10: Gb10) -> None:
    serving.serve("beta")
    hold(serving, "beta")
    serving.host.run("systemctl", "stop", DAEMON, unit("beta"))
    serving.host.run("systemctl", "start", "spark-modeld.socket", "spark-modeld-http.socket", DAEMON)
    for _ in range(3):
        with Events(serving.host) as events:
            await_that(lambda: state(serving, "beta")["state"] == "warming", "beta to load")
            gb10.available(2 * GIB)
            alarm(events, "killed-loading")
            gb10.available(110 * GIB)
    await_that(lambda: "waits-for-a-person" in serving.warnings(), "the daemon to wait for a person")
    assert "not started again" in str(serving.status()["slot"]["reason"])
    assert record(serving)["failures"] == {"beta": 3}
    serving.restart_daemon()
    await_that(lambda: "waits-for-a-person" in serving.warnings(), "the new daemon to remember it")
    assert serving.active("beta") != "active"
    release(serving)
    serving.serve("beta")
    assert "waits-for-a-person" not in serving.warnings()


def test_under_the_floor_side_models_go_and_what_is_desired_stays(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    start_side(serving, "older")
    start_side(serving, "newer")
    before = serving.pid("alpha"), serving.pid("newer")
    gb10.nvml.processes([Process(serving.pid("older"), 3 * GIB), Process(serving.pid("newer"), 3 * GIB)])
    with Events(serving.host) as events:
        gb10.available(2 * GIB)
        told = alarm(events, "under-floor")
        assert (told["available"], told["floor"]) == (2 * GIB, 3 * GIB)
        assert "older, newer" in told["message"]
        assert "memory-under-floor" in serving.warnings()
        assert alarm(events, "stopping")["model"] == "older"
        gb10.nvml.processes([Process(serving.pid("newer"), 3 * GIB)])
        gb10.available(6 * GIB)
        alarm(events, "over-floor")
    assert (serving.pid("alpha"), serving.pid("newer")) == before
    assert serving.slot() == ("alpha", "serving")
    await_that(lambda: state(serving, "older")["state"] == "stopped", "older to be down")
    error = state(serving, "older")["error"]
    assert (error["code"], error["guard"]) == ("memory-refused", True)
    counted = metrics(serving)
    assert counted["spark_modeld_model_stops_total"]["older", "guard"] >= 1
    assert counted["spark_modeld_memory_under_floor_seconds_total"][()] >= 1
    assert counted["spark_modeld_memory_bytes"]["available",] == 6 * GIB
    assert "is stopped: only 2.0 GiB" in serving.host.journal("-u", DAEMON, "-o", "cat")


def test_what_is_desired_is_never_stopped(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    with Events(serving.host) as events:
        gb10.available(1 * GIB)
        alarm(events, "nothing-to-stop")
    assert (serving.pid("alpha"), serving.slot()) == (before, ("alpha", "serving"))


def test_an_occupant_on_demand_goes_and_what_is_desired_comes_back(serving: Serving, gb10: Gb10) -> None:
    serving.serve("beta")
    serving.host.run("systemctl", "stop", DAEMON)
    text = serving.host.path(STATE).read_text()
    changed = re.sub(r'^desired = "beta"$', 'desired = "alpha"', text, flags=re.M)
    assert changed != text
    serving.host.path(STATE).write_text(changed)
    serving.host.run("systemctl", "start", "spark-modeld.socket", "spark-modeld-http.socket", DAEMON)
    serving.await_slot("beta", "serving")
    with Events(serving.host) as events:
        gb10.available(2 * GIB)
        assert alarm(events, "stopping")["model"] == "beta"
        events.phase("beta", "stopped")
    by_guard = await_that(
        lambda: next((s for s in serving.history() if s["requested_by"] == "guard"), None), "the guard's switch"
    )
    assert by_guard is not None
    assert (by_guard["model"], by_guard["from"], by_guard["outcome"]) == (None, "beta", "ready")
    assert "beta is stopped" in by_guard["reason"]
    assert serving.desired_on_disk() == "alpha"
    gb10.available(110 * GIB)
    serving.await_slot("alpha", "serving")


def test_a_unit_that_bypassed_us_goes_before_what_is_desired(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    with Events(serving.host) as events:
        serving.host.run("systemctl", "start", ROGUE)
        events.phase("rogue", "serving")
        assert "large-parallel" in serving.warnings()
        gb10.available(2 * GIB)
        assert alarm(events, "stopping")["model"] == "rogue"
        events.phase("rogue", "stopped")
    assert serving.host.show(ROGUE, "ActiveState") == "inactive"
    assert (serving.pid("alpha"), serving.slot()) == (before, ("alpha", "serving"))


def test_what_was_measured_is_used_next_time_and_forgotten_with_the_configuration(serving: Serving, gb10: Gb10) -> None:
    host = serving.host
    assert state(serving, "vague")["footprint"]["basis"] == "unknown"
    hold(serving, "vague")
    with Events(host) as events:
        switch = serving.begin("vague")
        events.phase("vague", "warming")
        for available in (80, 65, 70):
            gb10.available(available * GIB)
            await_that(lambda b=available: seen(serving, b * GIB), "the daemon to have read that")
        release(serving)
    assert serving.ended(switch)["outcome"] == "ready"
    measured = 45 * GIB
    assert record(serving)["measured"]["vague"]["bytes"] == measured
    footprint = state(serving, "vague")["footprint"]
    assert (footprint["basis"], footprint["bytes"]) == ("measured", measured + measured // 20)
    assert footprint["taken_at"]
    assert "45.0 GiB seen" in footprint["note"]
    serving.serve(None)
    serving.restart_daemon()
    gb10.available(50 * GIB)
    status, problem = serving.switch("vague")
    assert (status, problem["basis"], problem["needed"]) == (507, "measured", measured + measured // 20)
    host.model("vague", held("vague", 9003, "--tokens", "5", memory=None))
    serving.reload()
    assert state(serving, "vague")["footprint"]["basis"] == "unknown"
    await_that(lambda: "vague" not in record(serving).get("measured", {}), "the record to have let go of it")


def seen(serving: Serving, available: int) -> bool:
    return bool(serving.status()["memory"]["available"] == available)


def test_the_kernels_pressure_is_listened_to_from_inside_the_units_sandbox(serving: Serving) -> None:
    host = serving.host
    if not host.path("/proc/pressure/memory").exists():
        pytest.skip("this machine has no PSI in its kernel")
    pid = host.show(DAEMON, "MainPID")
    links = host.run("ls", "-l", f"/proc/{pid}/fd").stdout
    assert "/proc/pressure/memory" in links, host.journal("-u", DAEMON, "-o", "cat")


def test_two_readings_a_second_apart_are_enough_while_memory_is_short(serving: Serving, gb10: Gb10) -> None:
    """Nothing asks for a reading here but the daemon itself."""
    serving.serve("alpha")
    with Events(serving.host) as events:
        began = time.monotonic()
        gb10.available(7 * GIB)
        events.until("memory", lambda data: data.get("available") == 7 * GIB)
        gb10.available(2 * GIB)
        alarm(events, "under-floor")
    assert time.monotonic() - began < 20
