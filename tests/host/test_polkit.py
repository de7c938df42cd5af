"""What the daemon's user may ask of systemd."""

from __future__ import annotations

import pytest

from support.spark import SparkHost

pytestmark = pytest.mark.host

MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


def call(host: SparkHost, user: str, method: str, *arguments: str) -> str:
    """What busctl said: empty for a call that systemd took."""
    done = host.run("busctl", "call", "--quiet", *MANAGER, method, *arguments, user=user, check=False)
    return done.stderr.strip()


def refused(answer: str) -> bool:
    return "Access denied" in answer or "nteractive authentication required" in answer


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    """With a model's unit that runs without gate and launcher, and a neighbour the daemon has no business with."""
    override = "[Service]\nExecStartPre=\nExecStart=\nExecStart=/bin/sleep infinity\nUser=\n"
    installed_host.write("/run/systemd/system/spark-model@.service.d/plain.conf", override)
    for name in ("neighbour", "xspark-model@alpha"):
        installed_host.write(f"/run/systemd/system/{name}.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    installed_host.run("systemctl", "daemon-reload")
    return installed_host


def test_the_daemon_may_start_stop_kill_and_reset_models(host: SparkHost) -> None:
    unit = "spark-model@alpha.service"
    assert call(host, "spark-modeld", "StartUnit", "ss", unit, "replace") == ""
    host.run("systemctl", "start", unit)
    assert call(host, "spark-modeld", "KillUnit", "ssi", unit, "all", "10") == ""
    assert call(host, "spark-modeld", "StopUnit", "ss", unit, "replace") == ""
    host.run("systemctl", "stop", unit)
    assert not refused(call(host, "spark-modeld", "ResetFailedUnit", "s", unit))


def test_the_daemon_may_have_models_kept_loaded_and_nothing_else(host: SparkHost) -> None:
    assert call(host, "spark-modeld", "RefUnit", "s", "spark-model@alpha.service") == ""
    for other in ("neighbour.service", "spark-model-sweep@alpha.service", "dbus.service"):
        assert refused(call(host, "spark-modeld", "RefUnit", "s", other)), other


def test_the_daemon_may_have_swept_what_escaped_and_has_no_say_in_it(host: SparkHost) -> None:
    sweep = "spark-model-sweep@alpha.service"
    assert call(host, "spark-modeld", "StartUnit", "ss", sweep, "replace") == ""
    for method, arguments in (("StopUnit", ("ss", sweep, "replace")), ("KillUnit", ("ssi", sweep, "all", "9"))):
        assert refused(call(host, "spark-modeld", method, *arguments)), method
    host.run("systemctl", "start", sweep, check=False)  # joins the job, if it is still under way
    assert "run/spark-models/alpha" in host.journal("-o", "cat", "-u", sweep)
    assert host.run("test", "-w", "/run/spark-models", user="spark-modeld", check=False).returncode == 1


@pytest.mark.parametrize(
    "unit",
    [
        "neighbour.service",
        "dbus.service",
        "spark-modeld.service",
        "spark-models.slice",
        "spark-model@.Alpha.service",
        "spark-model@Alpha.service",
        "spark-model@a\\x2fb.service",
        f"spark-model@{'a' * 65}.service",
        "xspark-model@alpha.service",
        "spark-model@alpha.socket",
        "spark-model-clean@alpha.service",
        "spark-model-sweep@Alpha.service",
        "spark-model-sweep@alpha.service.socket",
    ],
)
def test_no_other_unit(host: SparkHost, unit: str) -> None:
    answer = call(host, "spark-modeld", "StartUnit", "ss", unit, "replace")
    assert refused(answer) or "not found" in answer or "is missing" in answer, answer
    if host.run("systemctl", "cat", unit, check=False).returncode == 0:
        assert refused(answer), answer


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("RestartUnit", ("ss", "spark-model@alpha.service", "replace")),
        ("ReloadUnit", ("ss", "spark-model@alpha.service", "replace")),
        ("SetUnitProperties", ("sba(sv)", "spark-model@alpha.service", "true", "1", "CPUWeight", "t", "5")),
        ("Reload", ()),
        ("Reexecute", ()),
        ("SetEnvironment", ("as", "1", "A=B")),
        ("EnableUnitFiles", ("asbb", "1", "spark-model@alpha.service", "true", "false")),
        ("StopUnit", ("ss", "dbus.service", "replace")),
        ("KillUnit", ("ssi", "dbus.service", "all", "9")),
        ("ResetFailed", ()),
    ],
)
def test_no_other_verb(host: SparkHost, method: str, arguments: tuple[str, ...]) -> None:
    host.run("systemctl", "start", "spark-model@alpha.service")
    assert refused(call(host, "spark-modeld", method, *arguments))


def test_no_transient_units(host: SparkHost) -> None:
    unit = ("spark-model@new.service", "replace", "1", "ExecStart", "a(sasb)", "1", "/bin/true", "1", "true", "false")
    assert refused(call(host, "spark-modeld", "StartTransientUnit", "ssa(sv)a(sa(sv))", *unit, "0"))


@pytest.mark.parametrize("user", ["spark-model", "nobody"])
def test_nobody_else(host: SparkHost, user: str) -> None:
    host.run("systemctl", "stop", "spark-model@alpha.service")
    drop = ("setpriv", "--reuid", user, "--clear-groups", "--")
    done = host.run(
        *drop, "busctl", "call", *MANAGER, "StartUnit", "ss", "spark-model@alpha.service", "replace", check=False
    )
    assert refused(done.stderr)
