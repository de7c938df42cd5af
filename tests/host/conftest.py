"""Hosts for the tests of this layer."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from support.spark import SOURCE, SparkHost, why_not

STAND_IN = f"/usr/bin/python3 {SOURCE}/tests/support/stand_in.py"


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    if reason := why_not():
        pytest.fail(f"no throwaway host here: {reason}")


@pytest.fixture(scope="module")
def installed_host() -> Iterator[SparkHost]:
    """A host with the project installed and nothing configured, enabled or started."""
    with SparkHost() as host:
        host.install()
        yield host


@pytest.fixture(scope="module")
def stand_in_host(installed_host: SparkHost) -> SparkHost:
    """The same with its sockets on, and ``stand_in.py`` in the daemon's place, inside the daemon's own unit."""
    drop_in = f"[Service]\nExecStart=\nExecStart={shlex.join(shlex.split(STAND_IN))}\n"
    installed_host.write("/etc/systemd/system/spark-modeld.service.d/stand-in.conf", drop_in)
    installed_host.run("systemctl", "daemon-reload")
    installed_host.enable()
    return installed_host
