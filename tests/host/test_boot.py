"""A machine that is switched on, with its driver late, and one that is switched off: nobody is there to help."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.gb10 import Gb10
from support.nvml import DRIVER_NOT_LOADED, FakeNvml
from support.serving import DAEMON, SETTINGS, Serving, await_that, bad_model, unit
from support.spark import SOCKETS, SparkHost
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

ALPHA, BETA, STUBBORN, SLOW = 8001, 8002, 8003, 8004
STOP_SECONDS = 2
DRIVER = "nvidia-persistenced.service"
FOLDER = "/etc/gb10"
COME = f"""\
# As late as can be: the model's start is asked for already.
tries=0
until systemctl list-jobs | grep -q spark-model@ || [ $tries -ge 200 ]; do
  sleep 0.1
  tries=$((tries + 1))
done
cp {FOLDER}/works {FOLDER}/new
mv {FOLDER}/new {FOLDER}/nvml
"""
LATE = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {FOLDER}/come
ExecStop=/bin/cp {FOLDER}/fails {FOLDER}/nvml
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """A GB10 whose driver takes its time, installed and configured and then switched off and on."""
    with SparkHost(disk=True) as host:
        host.install()
        host.settings(SETTINGS.replace("[slot]", '[slot]\ndefault = "alpha"'))
        host.tiny("alpha", port=ALPHA, memory="2GiB")
        host.model("beta", bad_model("beta", BETA))
        limit = f'stop_timeout = "{STOP_SECONDS}s"'
        host.model("stubborn", bad_model("stubborn", STUBBORN, "--ignore-sigterm", extra=limit))
        # As long as it may: an engine that says goodbye to somebody.
        slow = bad_model("slow", SLOW, "--stop-seconds", "3", memory="64MiB", extra='role = "side"')
        host.model("slow", slow)
        own_services_only(host)
        late_driver(host)
        host.run("systemctl", "enable", *SOCKETS, DAEMON, DRIVER)
        host.power_cycle()
        yield Serving(host)


def own_services_only(host: SparkHost) -> None:
    """It boots into multi-user.target, and brings up nothing that this machine has beside the project."""
    folder = "/etc/systemd/system"
    host.run("sh", "-c", f"rm -f {folder}/multi-user.target.wants/*")
    host.run("ln", "-sf", "/lib/systemd/system/multi-user.target", f"{folder}/default.target")
    host.run("systemctl", "mask", "getty.target")


def late_driver(host: SparkHost) -> None:
    Gb10(host, folder=FOLDER).install()
    host.write(f"{FOLDER}/come", COME)
    FakeNvml(host.path(FOLDER) / "works").gb10()
    for name in ("fails", "nvml"):
        FakeNvml(host.path(FOLDER) / name).init_fails(DRIVER_NOT_LOADED)
    host.write(f"/etc/systemd/system/{DRIVER}", LATE)


def began(host: SparkHost, name: str, prop: str) -> int:
    """When, in microseconds since boot."""
    return int(host.show(name, f"{prop}TimestampMonotonic"))


def test_the_default_comes_up_by_itself_once_the_driver_is_there(serving: Serving) -> None:
    host = serving.host
    serving.await_slot("alpha", "serving")
    assert host.ask(ALPHA) == sentence_of("alpha")
    (switch,) = serving.history()
    assert (switch["model"], switch["requested_by"], switch["outcome"]) == ("alpha", "reconcile", "ready")
    # The daemon is not kept waiting, the engine is.
    assert began(host, DAEMON, "ActiveEnter") < began(host, DRIVER, "ActiveEnter")
    assert began(host, unit("alpha"), "ExecMainStart") > began(host, DRIVER, "ActiveEnter")
    assert host.show(DAEMON, "NRestarts") == "0"


def test_a_driver_that_came_late_is_found(serving: Serving) -> None:
    def memory() -> bool:
        return serving.host.api("GET", "/api/memory")[1]["gpu"] == "NVIDIA GB10"

    await_that(memory, "the driver to be found")


def test_what_was_wanted_is_back_after_the_next_boot(serving: Serving) -> None:
    """And it was stopped the way it wants to be."""
    host = serving.host
    serving.serve("beta")
    host.power_cycle()
    serving.await_slot("beta", "serving")
    assert host.ask(BETA) == "I am beta"
    said = host.journal("-o", "cat", "-u", unit("beta"))  # of both boots: the kernel's is one
    assert "Stopped spark-model@beta.service" in said
    assert "SIGKILL" not in said


def test_a_shutdown_holds_each_model_to_its_stop_time(serving: Serving) -> None:
    """The one that ignores SIGTERM is killed when its own has passed; the one that takes its time has it."""
    host = serving.host
    serving.serve("stubborn")
    assert host.api("POST", "/api/models/slow/start")[0] == 202
    await_that(lambda: host.api("GET", "/api/models/slow")[1]["state"] == "serving", "the side model to serve")
    host.power_cycle()  # which fails after two minutes
    asked, killed = (said_at(host, "stubborn", words) for words in ("Stopping ", "Main process exited, code=killed"))
    assert killed - asked >= STOP_SECONDS
    assert "spark-model@stubborn.service has not stopped within 2 s: killed" in host.journal("-o", "cat")
    said = host.journal("-o", "cat", "-u", unit("slow"))
    assert "Stopped spark-model@slow.service" in said
    assert "SIGKILL" not in said


def said_at(host: SparkHost, model: str, words: str) -> float:
    """When systemd said this of the model's unit last, in seconds."""
    lines = host.journal("-o", "short-unix", "-u", unit(model)).splitlines()
    return float(next(line for line in reversed(lines) if words in line).split()[0])


def test_a_daemon_that_is_not_there_delays_no_shutdown(serving: Serving) -> None:
    host = serving.host
    serving.await_slot("stubborn", "serving")
    host.run("systemctl", "stop", *SOCKETS, DAEMON)
    assert serving.active("stubborn") == "active"
    host.run("systemctl", "poweroff", check=False)
    host.await_end()
