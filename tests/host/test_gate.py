"""The gate and the launcher of spark-model@.service, with a real engine and a stand-in for the daemon."""

from __future__ import annotations

import pytest

from support.spark import SOCKETS, SparkHost
from support.tiny_models import sentence_of

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
