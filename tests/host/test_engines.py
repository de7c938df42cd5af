"""Every kind of engine switched to and from by the operator's command; engines that fail, and how that is told.

llama-server is real. SGLang, vLLM, TRT-LLM and NIM are ``vendor_engine.py``, which goes through their steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import pytest

from support.serving import DAEMON, LARGE, SETTINGS, Events, Serving, Watch, await_that, bad_model, unit
from support.spark import SOURCE, SparkHost, launch_entry
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

HOLDS = "/run/holds"
KINDS = {
    # kind: its port, and its steps until it is up
    "sglang": (8301, ("refused", "starting")),
    "vllm": (8302, ("refused",)),
    "trtllm": (8303, ("refused",)),
    "nim": (8304, ("starting",)),
}
LLAMAS = {"alpha": 8310, "left": 8311, "right": 8311}
SHORT = 'start_timeout = "1500ms"'
FAILING = {
    # model: its kind, its switches, further keys, exit status, what the command says, the code of the reading
    "scheme": ("sglang", "--dies=scheme", "", 1, "was killed by a signal", "scheme-not-found"),
    "share": ("vllm", "--dies=share", "", 1, "status 1", "memory-share-too-large"),
    "memory": ("trtllm", "--dies=memory", "", 1, "status 1", "out-of-memory"),
    "denied": ("nim", "--dies=denied", "", 1, "status 1", "permission-denied"),
    "core-dies": ("vllm", "--fault=core-dies", SHORT, 6, "Last it waited for: connection", None),
    "no-health": ("sglang", "--fault=generation-fails", SHORT, 6, "Last it waited for: health", None),
    "no-token": ("vllm", "--fault=generation-fails", SHORT, 6, "Last it waited for: first answer: HTTP 500", None),
    "no-key": ("vllm", "--api-key=sk-secret", "", 1, "wants an API key", None),
}
OTHERS = {
    "early": ("vllm", ("--fault=early",), ""),
    "no-chat": ("vllm", ("--fault=no-chat",), ""),
    "no-generation": ("vllm", ("--fault=no-generation",), ""),
    "lost-sigterm": ("vllm", ("--fault=lost-sigterm",), 'stop_timeout = "500ms"'),
    "orphan": ("vllm", ("--fault=core-survives",), 'stop_timeout = "1s"'),
    "slow-stop": ("trtllm", (), 'stop_timeout = "5min"'),
}
EVERY_LARGE = (*KINDS, *FAILING, *OTHERS, "alpha", "wrapped", "other")


def vendor(model: str, kind: str, port: int, *switches: str, extra: str = "", wrapper: str = "") -> str:
    """The catalog entry of a ``vendor_engine.py``; ``wrapper`` is a shell's command that "$@" is the engine's in."""
    command = [
        *(["/bin/sh", "-c", wrapper, "serve.sh"] if wrapper else []),
        *("/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/vendor_engine.py", f"--as={kind}"),
        *(f"--name={model}", f"--port={port}", f"--holds={HOLDS}/{model}", *switches),
    ]
    return launch_entry(kind, port, command, memory=LARGE, extra=extra)


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    host = installed_host
    host.settings(SETTINGS)
    for model, port in LLAMAS.items():
        host.tiny(model, port=port, **({"memory": LARGE} if model == "alpha" else {}))
    for kind, (port, _) in KINDS.items():
        host.model(kind, vendor(kind, kind, port))
    for port, (model, (kind, switch, extra, *_)) in enumerate(FAILING.items(), 8320):
        host.model(model, vendor(model, kind, port, switch, extra=extra))
    for port, (model, (kind, switches, extra)) in enumerate(OTHERS.items(), 8340):
        host.model(model, vendor(model, kind, port, *switches, extra=extra))
    # What people's serve scripts do: the engine in the background, in a session of its own, and no signal passed on.
    script = "trap '' TERM; setsid \"$@\" & wait"
    host.model("wrapped", vendor("wrapped", "sglang", 8350, extra='stop_timeout = "500ms"', wrapper=script))
    host.model("other", bad_model("other", 8360))
    host.run("mkdir", "-p", *(f"{HOLDS}/{model}" for model in EVERY_LARGE))
    host.enable()
    return host


@pytest.fixture
def serving(host: SparkHost) -> Iterator[Serving]:
    """The daemon with an empty slot, and nobody may ever see two large models alive."""
    serving = Serving(host)
    host.run("find", HOLDS, "-type", "f", "-delete")
    serving.serve(None)
    with Watch(host, EVERY_LARGE):
        yield serving


def hold(serving: Serving, model: str, *steps: str) -> None:
    for step in steps:
        serving.host.write(f"{HOLDS}/{model}/{step}", "")


def release(serving: Serving, model: str, step: str) -> None:
    serving.host.path(f"{HOLDS}/{model}/{step}").unlink()


def switching(serving: Serving, model: str) -> Popen[str]:
    """The operator's command, under way."""
    return serving.host.popen("spark-modelctl", "switch", model, stdout=PIPE, stderr=STDOUT)


def ended(command: Popen[str], model: str) -> None:
    said, _ = command.communicate(timeout=60)
    assert (command.returncode, f"{model} serves" in said) == (0, True), said


def await_said(serving: Serving, model: str, words: str) -> None:
    """Returns when the engine that runs now has said this."""

    def look() -> bool:
        log = serving.host.journal("-o", "cat", "-u", unit(model))
        return f"{model}: {words}" in log.rpartition(f"{model}: pid ")[2]

    await_that(look, f"{model} to say {words!r}")


def processes(serving: Serving, model: str) -> frozenset[int]:
    return Watch(serving.host, [model]).processes(model)


@pytest.mark.parametrize("kind", list(KINDS))
def test_there_step_by_step_and_back(serving: Serving, kind: str) -> None:
    port, steps = KINDS[kind]
    serving.ctl("switch", "alpha")
    hold(serving, kind, *steps)
    command = switching(serving, kind)
    for step in steps:
        await_said(serving, kind, f"step {step}" if step == "refused" else f"asked in step {step}")
        await_that(lambda: serving.status()["slot"]["phase"] == "warming", "the switch to warm")
        assert command.poll() is None
        release(serving, kind, step)
    ended(command, kind)
    assert serving.slot() == (kind, "serving")
    assert serving.host.ask(port) == f"I am {kind}"
    assert f"pid {serving.pid(kind)}" in serving.host.journal("-u", unit(kind))
    assert "alpha serves" in serving.ctl("switch", "alpha")
    assert not processes(serving, kind)
    # SGLang ends itself with SIGKILL; 143 after a requested stop is a clean end.
    end = ("failed", "signal") if kind == "sglang" else ("inactive", "success")
    assert (serving.active(kind), serving.host.show(unit(kind), "Result")) == end
    assert serving.host.ask(LLAMAS["alpha"]) == sentence_of("alpha")


def test_an_engine_of_no_known_kind_there_and_back(serving: Serving) -> None:
    serving.ctl("switch", "alpha")
    assert "other serves" in serving.ctl("switch", "other")
    assert (serving.slot(), serving.active("alpha")) == (("other", "serving"), "inactive")
    assert processes(serving, "other")
    assert "alpha serves" in serving.ctl("switch", "alpha")
    assert not processes(serving, "other")


def test_two_real_models_on_one_port(serving: Serving) -> None:
    for model in ("left", "right", "left"):
        serving.ctl("switch", model)
        assert serving.host.ask(LLAMAS[model]) == sentence_of(model)
        assert serving.pid(model) != 0
        assert serving.pid({"left": "right", "right": "left"}[model]) == 0


@pytest.mark.parametrize("model", list(FAILING))
def test_a_failure_is_told_and_read_and_rolled_back(serving: Serving, model: str) -> None:
    _, _, _, status, words, reading = FAILING[model]
    serving.ctl("switch", "alpha")
    said = serving.ctl("switch", model, exit_status=status)
    assert words in said
    assert "alpha was started again" in said
    assert serving.slot() == ("alpha", "serving")
    assert serving.host.ask(LLAMAS["alpha"]) == sentence_of("alpha")
    error = serving.history()[0]["error"]
    assert error["unit"] == unit(model)
    assert (error.get("reading") or {}).get("code") == reading
    assert len(error["log"]) <= 20
    if reading:
        assert f"what its log says: {error['reading']['message']}" in said
        assert f"| {error['reading']['line']}" in said
        assert f"what to do: {error['reading']['hint']}" in said
        assert error["reading"]["message"] in " ".join(serving.ctl("status").split())
    assert not processes(serving, model)
    assert "sk-secret" not in said


def test_health_before_it_is_usable_is_not_ready(serving: Serving) -> None:
    hold(serving, "early", "early")
    command = switching(serving, "early")
    await_said(serving, "early", "asked for a token too early")
    assert serving.slot() == ("early", "warming")
    assert command.poll() is None
    release(serving, "early", "early")
    ended(command, "early")


@pytest.mark.parametrize("model", ["no-chat", "no-generation"])
def test_a_warm_up_that_the_engine_lacks_fails_nothing(serving: Serving, model: str) -> None:
    serving.ctl("switch", model)
    assert serving.slot() == (model, "serving")


def test_a_sigterm_lost_while_it_loads_ends_in_a_kill(serving: Serving) -> None:
    hold(serving, "lost-sigterm", "refused")
    command = switching(serving, "lost-sigterm")
    await_said(serving, "lost-sigterm", "step refused")
    serving.ctl("switch", "alpha")
    assert command.wait(60) == 1
    command.communicate()
    await_said(serving, "lost-sigterm", "lost a SIGTERM")
    assert serving.host.show(unit("lost-sigterm"), "Result") == "signal"
    assert not processes(serving, "lost-sigterm")
    assert serving.host.ask(LLAMAS["alpha"]) == sentence_of("alpha")


def test_an_engine_core_that_outlives_its_server_is_gone_before_anything_starts(serving: Serving) -> None:
    """The port is free at once; what holds the memory ignores SIGTERM. The fixture watches that they never meet."""
    serving.ctl("switch", "orphan")
    both = processes(serving, "orphan")
    assert len(both) == 2
    with Events(serving.host) as events:
        serving.host.run("kill", "-9", str(serving.pid("orphan")))
        events.until("model", lambda data: data["id"] == "orphan" and data["state"] != "serving")
    serving.ctl("switch", "alpha")
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    assert serving.slot() == ("alpha", "serving")


def test_a_wrapper_scripts_grandchildren_go_with_their_model(serving: Serving) -> None:
    serving.ctl("switch", "wrapped")
    main = serving.pid("wrapped")
    assert serving.host.path(f"/proc/{main}/comm").read_text() == "sh\n"
    assert len(left := processes(serving, "wrapped")) >= 2
    assert {os.getsid(pid) for pid in left} != {os.getsid(main_on_this_machine(serving, "wrapped"))}
    serving.ctl("switch", "alpha")
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert serving.host.ask(LLAMAS["alpha"]) == sentence_of("alpha")


def main_on_this_machine(serving: Serving, model: str) -> int:
    """The unit's shell, as this machine numbers it."""
    group = serving.host.cgroup / f"spark.slice/spark-models.slice/{unit(model)}/cgroup.procs"
    pids = map(int, group.read_text().split())
    return next(pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "sh\n")


def test_an_engine_that_stops_slowly_is_waited_for(serving: Serving) -> None:
    serving.ctl("switch", "slow-stop")
    hold(serving, "slow-stop", "stop")
    command = switching(serving, "alpha")
    await_said(serving, "slow-stop", "stopping")
    await_that(lambda: serving.status()["switch"]["phase"] == "stopping", "the switch to stop what runs")
    assert serving.active("alpha") == "inactive"
    assert processes(serving, "slow-stop")
    release(serving, "slow-stop", "stop")
    ended(command, "alpha")
    await_said(serving, "slow-stop", "stopped")
    assert (serving.active("slow-stop"), serving.host.show(unit("slow-stop"), "Result")) == ("inactive", "success")


# The log.


def test_the_log_of_whatever_is_of_interest(serving: Serving) -> None:
    serving.ctl("switch", "share", exit_status=1)
    said = serving.ctl("logs", "-n", "200")
    assert "Free memory on device (31.44/47.38 GiB)" in said
    assert "Main process exited, code=exited, status=1" in said
    serving.ctl("switch", "nim")
    assert "nim: ready" in serving.ctl("logs")
    assert len(serving.ctl("logs", "share", "-n", "3").splitlines()) == 3


def test_a_log_is_followed_also_over_a_restart_and_nothing_is_left_over(serving: Serving) -> None:
    host = serving.host
    follower = host.popen("spark-modelctl", "logs", "-f", "-n", "0", "vllm", stdout=PIPE, stderr=STDOUT)
    assert follower.stdout is not None
    await_that(lambda: followers(host) == 1, "the log to be followed")
    serving.ctl("switch", "vllm")
    assert any("vllm: ready" in line for line in follower.stdout)
    host.run("systemctl", "restart", DAEMON)
    await_that(lambda: followers(host) == 1, "the log to be followed again")
    serving.ctl("switch", "--empty")
    assert any("vllm: stopped" in line for line in follower.stdout)
    inside = host.run("pgrep", "-f", "[s]park-modelctl logs|cli.main logs|ctl logs").stdout.split()
    host.run("kill", "-INT", *inside)
    follower.communicate(timeout=30)
    await_that(lambda: followers(host) == 0, "the follower's process to end")


def followers(host: SparkHost) -> int:
    """journalctl processes of the daemon."""
    pids = (host.cgroup / "system.slice" / DAEMON / "cgroup.procs").read_text().split()
    return sum(Path(f"/proc/{pid}/comm").read_text() == "journalctl\n" for pid in pids)
