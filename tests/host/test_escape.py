"""What leaves its unit and outlives it: known for the model's own, named, ended before anything else starts.

Of a unit of the user's own too, once root has given it a brand. And nobody else's process is ended: not a stranger's
on the model's port, and nothing while the model runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gb10 import Gb10
from support.nvml import GIB, Process
from support.serving import DAEMON, LARGE, Events, Serving, Watch, await_that, unit
from support.spark import SOCKETS, SOURCE, SparkHost, launch_entry
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

HOLDS = "/run/holds"
SETTINGS = """\
[slot]
start_timeout = "30s"
[memory]
reserve = "1GiB"
large = "1GiB"
floor = "512MiB"
"""
ALPHA, PORT = 8401, 8402
TO_A_SCOPE = "systemd-run --user --scope --quiet --unit=hideout --"
OWN, LODGER = "vllm-own.service", "vllm-lodger.service"
RULE = "/etc/polkit-1/rules.d/51-spark-modeld-own-units.rules"
TO_A_SERVICE = "systemd-run --user --quiet --wait --unit=stranger --"


def engine_command(model: str, *switches: str) -> list[str]:
    """The command line of an engine that is like vLLM."""
    program = ("/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/vendor_engine.py", "--as=vllm")
    return [*program, f"--name={model}", f"--port={PORT}", f"--holds={HOLDS}/{model}", *switches]


def vllm(model: str, *switches: str, wrapper: str = "", extra: str = "") -> str:
    """The catalog entry of a vLLM that alice runs; ``wrapper`` is what starts it."""
    engine = engine_command(model, *switches)
    command = ["/bin/sh", "-c", f'{wrapper} "$@" & wait', "serve.sh", *engine] if wrapper else engine
    environment = 'environment = { XDG_RUNTIME_DIR = "/run/user/UID" }'
    return launch_entry("vllm", PORT, command, memory=LARGE, extra=f'user = "alice"\n{extra}') + environment


@pytest.fixture(scope="module")
def gb10(installed_host: SparkHost) -> Gb10:
    gb10 = Gb10(installed_host)
    gb10.install()
    return gb10


@pytest.fixture(scope="module")
def host(installed_host: SparkHost, gb10: Gb10) -> SparkHost:
    host = installed_host
    host.run("useradd", "--create-home", "alice")
    uid = host.run("id", "-u", "alice").stdout.strip()
    host.run("loginctl", "enable-linger", "alice")
    host.run("systemctl", "start", f"user@{uid}.service")
    host.settings(SETTINGS)
    host.tiny("alpha", port=ALPHA, memory=LARGE)
    for model, entry in {
        "runaway": vllm("runaway", wrapper=TO_A_SCOPE),
        "orphan": vllm("orphan", "--fault=core-survives"),
        "elsewhere": vllm("elsewhere", wrapper=TO_A_SERVICE, extra='stop_timeout = "1s"'),
    }.items():
        host.model(model, entry.replace("UID", uid))
        host.run("mkdir", "-p", f"{HOLDS}/{model}")
    # systemd signals the shell alone, and finds its unit down with an engine in it.
    own_unit(host, "own", OWN, f"{' '.join(engine_command('own'))} & wait", "KillMode=process")
    lodging = "systemd-run --user --scope --quiet --unit=lodging -- env -i"
    engine = " ".join(engine_command("lodger"))
    own_unit(host, "lodger", LODGER, f"{lodging} {engine} & wait", f"Environment=XDG_RUNTIME_DIR=/run/user/{uid}")
    host.run("mkdir", "-p", f"{HOLDS}/lodger")
    host.run("sh", "-c", f"spark-modelctl doctor --polkit-rule >{RULE}")
    place = f"/etc/systemd/system/{LODGER}.d/50-spark-modeld.conf"
    host.run("sh", "-c", f"spark-modelctl doctor --drop-in lodger | install -D -m 644 /dev/stdin {place}")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "polkit.service")
    host.run("systemd-run", "--quiet", "--uid=alice", "--unit=bystander", "sleep", "infinity")
    host.enable()
    return host


def own_unit(host: SparkHost, model: str, name: str, script: str, extra: str) -> None:
    """A model in a unit of alice's that no launcher of ours knows."""
    service = f"[Service]\nExecStart=/bin/sh -c '{script}'\n{extra}\nUser=alice\n"
    host.write(f"/etc/systemd/system/{name}", service)
    head = f'engine = "vllm"\nurl = "http://127.0.0.1:{PORT}"\nmemory = "{LARGE}"\nstop_timeout = "1s"\n'
    host.model(model, f'{head}unit = "{name}"\n')


@pytest.fixture
def serving(host: SparkHost, gb10: Gb10) -> Iterator[Serving]:
    """The daemon with an empty slot; alice's other process is there before and after."""
    gb10.reset()
    serving = Serving(host)
    bystander = host.show("bystander.service", "MainPID")
    serving.serve(None)
    yield serving
    host.run("find", HOLDS, "-type", "f", "-delete")
    assert (host.show("bystander.service", "MainPID"), bystander == "0") == (bystander, False)


def engines(model: str) -> list[int]:
    """This machine's PIDs of a model's engine, wherever they are."""
    word = f"--name={model}".encode()
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word in words and words[0].endswith(b"python3"):
            found.append(int(pid))
    return found


def groups(pids: list[int]) -> set[str]:
    """The last names of their control groups."""
    return {Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/")[2] for pid in pids}


def told(host: SparkHost, unit_name: str, words: str) -> None:
    await_that(lambda: words in host.journal("-o", "cat", "-u", unit_name), f"{unit_name} to say {words!r}")


def sweep(model: str) -> str:
    return f"spark-model-sweep@{model}.service"


def watching(host: SparkHost, model: str, group: str) -> Watch:
    """Nobody may ever see ``alpha`` alive while there is a process of this model in this control group."""
    return Watch(host, ["alpha", model], units={model: f"../{group}"})


def test_an_engine_in_another_scope_is_named_and_ended_before_the_next_model_starts(
    serving: Serving, gb10: Gb10
) -> None:
    host = serving.host
    uid = host.run("id", "-u", "alice").stdout.strip()
    serving.ctl("switch", "runaway")
    escaped = engines("runaway")
    assert (len(escaped), groups(escaped)) == (2, {"hideout.scope"})
    gb10.nvml.processes([Process("python3", 60 * GIB)])
    held = host.api("GET", "/api/memory")[1]["processes"]
    assert [(each["model"], each["unit"]) for each in held][:2] == [("runaway", f"user@{uid}.service")] * 2
    host.write(f"{HOLDS}/runaway/stop", "")
    with watching(host, "runaway", f"user.slice/user-{uid}.slice/user@{uid}.service/app.slice/hideout.scope") as watch:
        assert len(watch.processes("runaway")) == 2
        switch = serving.begin("alpha")
        told(host, DAEMON, "which escaped from the unit into hideout.scope and is being ended")
        told(host, sweep("runaway"), f"outlived {unit('runaway')}: SIGTERM")
        assert (serving.active("runaway"), serving.active("alpha")) == ("inactive", "inactive")
        assert serving.status()["slot"]["phase"] == "stopping"
        host.path(f"{HOLDS}/runaway/stop").unlink()
        assert serving.ended(switch)["outcome"] == "ready"
    assert engines("runaway") == []
    assert host.ask(ALPHA) == sentence_of("alpha")


def test_an_engine_core_that_is_elsewhere_when_its_server_dies_is_killed_if_it_must_be(serving: Serving) -> None:
    """It ignores SIGTERM; the port is free at once, and only the memory is held."""
    host = serving.host
    serving.ctl("switch", "orphan")
    main = serving.pid("orphan")
    (core,) = (pid for pid in engines("orphan") if not Path(f"/proc/{pid}/task/{pid}/children").read_text())
    away = host.cgroup / "away"
    away.mkdir(exist_ok=True)
    (away / "cgroup.procs").write_text(f"{core}\n")
    with Events(host) as events:
        host.run("kill", "-9", str(main))
        events.until("model", lambda data: (data["id"], data["state"]) == ("orphan", "stopping"))
    with watching(host, "orphan", "away") as watch:
        assert watch.processes("orphan") == {core}
        serving.ctl("switch", "alpha")
    assert engines("orphan") == []
    said = host.journal("-o", "cat", "-u", sweep("orphan"))
    assert said.index("SIGTERM") < said.index("SIGKILL")
    away.rmdir()


def test_what_a_unit_that_is_down_still_has_in_it_is_named_and_killed(serving: Serving) -> None:
    """A unit of the user's own that ends its first process only."""
    host = serving.host
    serving.ctl("switch", "own")
    left = engines("own")
    assert (len(left), groups(left)) == (2, {OWN})
    with Watch(host, ["alpha", "own"], units={"own": OWN}):
        serving.ctl("switch", "alpha")
    assert engines("own") == []
    said = host.journal("-o", "cat", "-u", DAEMON)
    assert "own is down, but not gone: python3 (PID " in said
    assert f") in {OWN}\n" in said


def test_what_escaped_from_a_unit_of_ones_own_is_ended_wherever_it_is(serving: Serving, gb10: Gb10) -> None:
    """Its server is in a scope of alice's own systemd, with an empty environment; its core is in no unit at all."""
    host = serving.host
    serving.ctl("switch", "lodger")
    escaped = engines("lodger")
    assert (len(escaped), groups(escaped)) == (2, {"lodging.scope"})
    (core,) = (pid for pid in escaped if not Path(f"/proc/{pid}/task/{pid}/children").read_text())
    away = host.cgroup / "away"
    away.mkdir(exist_ok=True)
    (away / "cgroup.procs").write_text(f"{core}\n")
    gb10.nvml.processes([Process("python3", 60 * GIB)])
    held = host.api("GET", "/api/memory")[1]["processes"]
    assert {each["model"] for each in held if each["bytes"] == 60 * GIB} == {"lodger"}
    host.write(f"{HOLDS}/lodger/stop", "")
    uid = host.run("id", "-u", "alice").stdout.strip()
    with watching(host, "lodger", f"user.slice/user-{uid}.slice/user@{uid}.service/app.slice/lodging.scope") as watch:
        assert len(watch.processes("lodger")) == 1
        switch = serving.begin("alpha")
        # The core may have ended by the time it is told.
        told(host, DAEMON, "lodging.scope and is being ended")
        told(host, sweep("lodger"), f"outlived {LODGER}: SIGTERM")
        assert (host.show(LODGER, "ActiveState"), serving.active("alpha")) == ("inactive", "inactive")
        host.path(f"{HOLDS}/lodger/stop").unlink()
        assert serving.ended(switch)["outcome"] == "ready"
    assert engines("lodger") == []
    assert host.journal("-o", "cat", "-u", sweep("lodger")).count(f"outlived {LODGER}: SIGTERM") == 2
    assert host.ask(ALPHA) == sentence_of("alpha")
    away.rmdir()


def test_what_escaped_while_the_daemon_was_away_is_ended_when_it_is_back(serving: Serving) -> None:
    host = serving.host
    serving.ctl("switch", "runaway")
    before = engines("runaway")
    host.run("systemctl", "stop", *SOCKETS, DAEMON)
    host.run("systemctl", "stop", unit("runaway"))
    assert engines("runaway") == before
    host.run("systemctl", "start", *SOCKETS)
    serving.await_slot("runaway", "serving")
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    assert f"outlived {unit('runaway')}: SIGTERM" in host.journal("-o", "cat", "-u", sweep("runaway"))


def test_a_process_that_the_unit_never_had_is_named_and_left_alone(serving: Serving) -> None:
    """The engine is a service of alice's own manager: nothing says whose it is but that it holds the port."""
    host = serving.host
    serving.ctl("switch", "elsewhere")
    stranger = engines("elsewhere")
    assert (len(stranger), groups(stranger)) == (2, {"stranger.service"})
    switch = serving.begin("alpha")
    told(host, DAEMON, f"in stranger.service listening on port {PORT}")
    assert engines("elsewhere") == stranger
    assert serving.active("alpha") == "inactive"
    assert host.show(sweep("elsewhere"), "ExecMainStartTimestampMonotonic") == "0"
    uid = host.run("id", "-u", "alice").stdout.strip()
    host.run("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user", "stop", "stranger.service", user="alice")
    assert serving.ended(switch)["outcome"] == "ready"


def test_a_sweep_ends_nothing_of_a_model_that_runs(serving: Serving) -> None:
    """Whoever has taken over the daemon can ask for one at any time."""
    host = serving.host
    serving.ctl("switch", "runaway")
    running = engines("runaway")
    call = ("busctl", "call", "--quiet", "org.freedesktop.systemd1", "/org/freedesktop/systemd1")
    host.run(
        *call, "org.freedesktop.systemd1.Manager", "StartUnit", "ss", sweep("runaway"), "replace", user="spark-modeld"
    )
    told(host, sweep("runaway"), f"{unit('runaway')} is not down: nothing is ended")
    assert engines("runaway") == running
    assert serving.slot() == ("runaway", "serving")
