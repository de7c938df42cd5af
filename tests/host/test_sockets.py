"""The sockets, around a stand-in for the daemon that runs in the daemon's own unit."""

from __future__ import annotations

import pytest

from support.spark import CONTROL_SOCKET, SparkHost

pytestmark = pytest.mark.host


def owner(host: SparkHost) -> str:
    return host.run("stat", "-c", "%U:%G %a %i", CONTROL_SOCKET).stdout.strip()


def gate(host: SparkHost, model: str) -> int:
    return host.api("POST", f"/api/gate/{model}")[0]


def test_control_socket_outlives_the_daemon_with_its_owner(stand_in_host: SparkHost) -> None:
    host = stand_in_host
    first = owner(host)
    assert first.startswith("root:spark-modeld 660 ")
    for verb in ("start", "restart", "stop", "start"):
        host.run("systemctl", verb, "spark-modeld.service")
        assert owner(host) == first, verb
    host.run("systemctl", "stop", "spark-modeld.service")
    assert host.show("spark-modeld.service", "ActiveState") == "inactive"
    assert gate(host, "alpha") == 204
    assert host.show("spark-modeld.service", "ActiveState") == "active"
    assert owner(host) == first


def test_all_sockets_are_passed_by_name(stand_in_host: SparkHost) -> None:
    stand_in_host.run("systemctl", "restart", "spark-modeld.service")
    said = stand_in_host.journal("-u", "spark-modeld.service", "-o", "cat", "-n", "20")
    passed = [line for line in said.splitlines() if line.startswith("passed:")][-1]
    assert set(passed.split()[1:]) == {"control", "http", "gateway"}


def test_only_operators_may_connect(stand_in_host: SparkHost) -> None:
    host = stand_in_host
    host.run("useradd", "-M", "-G", "spark-modeld", "olga")
    host.run("useradd", "-M", "stranger")
    call = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--unix-socket", CONTROL_SOCKET)
    url = "http://localhost/api/gate/alpha"
    assert host.run(*call, url, user="olga").stdout == "204"
    for user in ("stranger", "spark-model"):
        refused = host.run(*call, url, user=user, check=False)
        assert refused.returncode != 0, user
        assert "Couldn't connect" in refused.stderr or "ermission denied" in refused.stderr


def test_many_failed_starts_leave_the_sockets_alone(stand_in_host: SparkHost) -> None:
    host = stand_in_host
    drop_in = "/run/systemd/system/spark-modeld.service.d/zz-broken.conf"
    host.write(drop_in, "[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n")
    host.run("systemctl", "daemon-reload")
    for _ in range(8):
        assert host.run("systemctl", "restart", "spark-modeld.service", check=False).returncode != 0
    assert host.show("spark-modeld.socket", "ActiveState") == "active"
    host.path(drop_in).unlink()
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "spark-modeld.service")
    assert gate(host, "alpha") == 204
