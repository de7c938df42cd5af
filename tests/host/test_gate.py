"""The gate and the launcher of spark-model@.service, with a real engine and a stand-in for the daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.spark import SOCKETS, SOURCE, SparkHost
from support.tiny_models import sentence_of
from support.witness import until

pytestmark = pytest.mark.host

SLEEP = '[launch]\ncommand = ["sleep", "infinity"]\n'


@pytest.fixture(scope="module")
def host(stand_in_host: SparkHost) -> SparkHost:
    stand_in_host.tiny("alpha", port=8001)
    return stand_in_host


def start(host: SparkHost, model: str) -> bool:
    return host.run("systemctl", "start", f"spark-model@{model}.service", check=False).returncode == 0


def said(host: SparkHost, model: str) -> str:
    return host.journal("-o", "cat", "-u", f"spark-model@{model}.service")


def test_a_real_engine_runs_as_the_models_user(host: SparkHost) -> None:
    assert start(host, "alpha")
    pid = host.await_program("spark-model@alpha.service", "llama-server")
    status = dict(line.split(":", 1) for line in host.path(f"/proc/{pid}/status").read_text().splitlines())
    user = host.run("id", "-u", "spark-model").stdout.strip()
    assert set(status["Uid"].split()) == {user}
    assert status["NoNewPrivs"].strip() == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["Groups"].split() == [host.run("id", "-g", "spark-model").stdout.strip()]
    host.await_engine(8001)
    assert host.ask(8001) == sentence_of("alpha")
    host.run("systemctl", "stop", "spark-model@alpha.service")
    assert host.show("spark-model@alpha.service", "Result") == "success"


def test_an_engine_has_no_file_of_roots_and_two_filters(host: SparkHost) -> None:
    host.model("closed", SLEEP)
    assert start(host, "closed")
    pid = host.await_program("spark-model@closed.service", "sleep")
    listed = host.run("find", f"/proc/{pid}/fd", "-type", "l", "-printf", "%f %l\n").stdout
    # Its mounts are its own: seen from outside, a path may have more in front.
    files = {line.split()[0]: Path(line.split()[1]).name.split(":")[0] for line in listed.splitlines()}
    assert files == {"0": "null", "1": "socket", "2": "socket"}
    assert "\nSeccomp:\t2\n" in host.path(f"/proc/{pid}/status").read_text()
    assert host.run("readlink", f"/proc/{pid}/cwd").stdout.strip().endswith("/var/lib/spark-models")
    host.run("systemctl", "stop", "spark-model@closed.service")


def test_the_sandbox_takes_nothing_that_engines_live_on(host: SparkHost) -> None:
    """The same attempts in it, and as the same user outside."""
    command = ["/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/demanding_engine.py", "/srv/cache"]
    host.run("install", "-d", "-o", "spark-model", "/srv/cache")
    host.model("demanding", f"[launch]\ncommand = {json.dumps(command)}\n")
    free = ("--property=User=spark-model", "--property=LimitMEMLOCK=infinity", "--wait", "--pipe", "--quiet")
    outside: dict[str, Any] = json.loads(host.run("systemd-run", *free, "--", *command).stdout)
    assert start(host, "demanding")
    until("it has tried all", lambda: host.show("spark-model@demanding.service", "ActiveState") == "inactive")
    inside = json.loads(next(line for line in said(host, "demanding").splitlines() if line.startswith("{")))
    assert {name for name, answer in inside.items() if answer != outside[name] and outside[name] is True} == {
        "odd_sockets"
    }
    needed = {"compile_while_running", "run_what_was_compiled", "share_memory", "look_for_interfaces", "listen"}
    assert {name for name in inside if inside[name] is True} >= {*needed, "write_caches", "pass_memory_on"}
    refused = {"write_the_system", "set_the_clock", "sniff", "tune_the_kernel"}
    assert not {name for name in refused if inside[name] is True}


def test_a_drop_ins_variables_load_nothing_into_roots_programs(host: SparkHost) -> None:
    """What an administrator means for the engine would be a model's user's library in root's shell."""
    host.model("preloaded", SLEEP)
    drop_in = "[Service]\nEnvironment=LD_PRELOAD=/nowhere.so SEEN=yes\nExecStartPre=+/usr/bin/env\n"
    host.write("/etc/systemd/system/spark-model@preloaded.service.d/own.conf", drop_in)
    host.run("systemctl", "daemon-reload")
    assert start(host, "preloaded")
    host.run("systemctl", "stop", "spark-model@preloaded.service")
    assert "SEEN=yes" in said(host, "preloaded")
    assert "/nowhere.so" not in said(host, "preloaded")


def test_a_refusal_fails_the_start_and_is_in_the_journal(host: SparkHost) -> None:
    host.model("refused", SLEEP)
    assert not start(host, "refused")
    assert host.show("spark-model@refused.service", "ActiveState") == "failed"
    assert "refused: gemma is large too" in said(host, "refused")


@pytest.mark.parametrize("model", ["mute", "garbled"])
def test_no_answer_is_a_refusal(host: SparkHost, model: str) -> None:
    host.model(model, SLEEP)
    assert not start(host, model)
    assert "without it nothing is admitted" in said(host, model)


def test_without_the_socket_nothing_is_admitted(host: SparkHost) -> None:
    host.model("lonely", SLEEP)
    host.run("systemctl", "stop", *SOCKETS, "spark-modeld.service")
    try:
        assert not start(host, "lonely")
        assert "systemctl start spark-modeld.socket" in said(host, "lonely")
    finally:
        host.run("systemctl", "start", *SOCKETS)


def test_the_gate_starts_the_daemon(host: SparkHost) -> None:
    host.run("systemctl", "stop", "spark-modeld.service")
    host.model("sleeper", SLEEP)
    assert start(host, "sleeper")
    assert host.show("spark-modeld.service", "ActiveState") == "active"
    host.run("systemctl", "stop", "spark-model@sleeper.service")


def test_a_mark_admits_one_start(host: SparkHost) -> None:
    host.model("refused-but-marked", SLEEP)
    uptime = float(host.path("/proc/uptime").read_text().split()[0])
    host.write("/run/spark-modeld/admitted/refused-but-marked", f"{uptime + 20:.2f}\n")
    assert start(host, "refused-but-marked")
    assert not host.path("/run/spark-modeld/admitted/refused-but-marked").exists()
    host.run("systemctl", "stop", "spark-model@refused-but-marked.service")
    assert not start(host, "refused-but-marked")


def test_the_marks_folder_cannot_be_aimed_elsewhere(host: SparkHost) -> None:
    host.run("rm", "-rf", "/run/spark-modeld/admitted")
    host.write("/srv/precious/refused-victim", "9999999999\n")
    host.run("ln", "-s", "/srv/precious", "/run/spark-modeld/admitted")
    host.model("refused-victim", SLEEP)
    assert not start(host, "refused-victim")
    assert host.path("/srv/precious/refused-victim").exists()
    host.run("rm", "/run/spark-modeld/admitted")


def test_a_change_of_the_configuration_is_seen_at_the_next_start(host: SparkHost) -> None:
    host.model("changing", '[launch]\ncommand = ["sleep", "1001"]\n')
    for seconds in ("1001", "1002"):
        host.model("changing", f'[launch]\ncommand = ["sleep", "{seconds}"]\n')
        assert start(host, "changing")
        pid = host.await_program("spark-model@changing.service", "sleep")
        assert host.path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode() == seconds
        host.run("systemctl", "stop", "spark-model@changing.service")
