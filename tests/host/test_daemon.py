"""The real daemon in its own unit, on a host that has just been installed."""

from __future__ import annotations

import pytest

from support.spark import CONTROL_SOCKET, SparkHost
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

DAEMON = "spark-modeld.service"


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    installed_host.settings('[memory]\nreserve = "256MiB"\nlarge = "16MiB"\nfloor = "128MiB"\n')
    installed_host.tiny("alpha", port=8001)
    installed_host.tiny("beta", port=8002)
    installed_host.enable()
    return installed_host


def owner(host: SparkHost) -> str:
    return host.run("stat", "-c", "%U:%G %a", CONTROL_SOCKET).stdout.strip()


def test_the_first_connection_starts_it_also_after_a_stop(host: SparkHost) -> None:
    assert host.show(DAEMON, "ActiveState") == "inactive"
    for _ in range(2):
        assert host.api("GET", "/api/status")[0] == 200
        assert host.show(DAEMON, "ActiveState") == "active"
        assert owner(host) == "root:spark-modeld 660"
        host.run("systemctl", "stop", DAEMON)
        assert owner(host) == "root:spark-modeld 660"


def test_it_runs_without_any_privilege(host: SparkHost) -> None:
    host.run("systemctl", "start", DAEMON)
    status = host.path(f"/proc/{host.show(DAEMON, 'MainPID')}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    assert set(lines["Uid"].split()) == {host.run("id", "-u", "spark-modeld").stdout.strip()}
    assert all(int(lines[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert (lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()) == ("1", "2")


def test_a_switch_from_the_operators_command_to_the_models_words(host: SparkHost) -> None:
    for model, port, other in (("alpha", 8001, "beta"), ("beta", 8002, "alpha"), ("alpha", 8001, "beta")):
        host.run("spark-modelctl", "switch", "--wait", model)
        assert host.ask(port) == sentence_of(model)
        assert host.show(f"spark-model@{other}.service", "ActiveState") == "inactive"


def test_a_start_behind_its_back_fails_with_the_reason(host: SparkHost) -> None:
    host.run("spark-modelctl", "switch", "--wait", "alpha")
    assert host.run("systemctl", "start", "spark-model@beta.service", check=False).returncode != 0
    said = host.journal("-o", "cat", "-u", "spark-model@beta.service")
    assert "refused: beta" in said
    assert "alpha" in said
