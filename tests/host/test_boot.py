"""A machine that is switched on, with its driver late, and one that is switched off: nobody is there to help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.gb10 import Gb10
from support.nvml import DRIVER_NOT_LOADED, FakeNvml
from support.serving import DAEMON, SETTINGS, Serving, await_that, bad_command, bad_model, unit
from support.spark import SOCKETS, SparkHost, launch_entry
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

ALPHA, BETA, STUBBORN, GAMMA = 8001, 8002, 8003, 8004
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
# An engine that is started without the driver, and says what SGLang says then.
NEEDS_IT = f"""\
#!/bin/sh
cmp -s {FOLDER}/works {FOLDER}/nvml && exec "$@"
echo "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory" >&2
exit 1
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
        # It takes its time, and longer than the other one may.
        host.model("beta", bad_model("beta", BETA, "--stop-seconds", str(STOP_SECONDS + 1)))
        limits = f'role = "side"\nstop_timeout = "{STOP_SECONDS}s"'
        host.model("stubborn", bad_model("stubborn", STUBBORN, "--ignore-sigterm", memory="64MiB", extra=limits))
        needs_it = ["/bin/sh", f"{FOLDER}/engine", *bad_command("gamma", GAMMA)]
        host.model("gamma", launch_entry("openai", GAMMA, needs_it, memory="2GiB"))
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
    host.write(f"{FOLDER}/engine", NEEDS_IT)
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
    """And it was stopped the way it wants to be, the one that ignores SIGTERM when its own stop time had passed."""
    host = serving.host
    serving.serve("beta")
    start_stubborn(serving)
    host.power_cycle()
    serving.await_slot("beta", "serving")
    assert host.ask(BETA) == "I am beta"
    said = host.journal("-o", "cat", "-u", unit("beta"))  # of both boots: the kernel's is one
    assert "Stopped spark-model@beta.service" in said
    assert "SIGKILL" not in said
    asked, killed = (said_at(host, "stubborn", words) for words in ("Stopping ", "Main process exited, code=killed"))
    assert killed - asked >= STOP_SECONDS
    assert f"{unit('stubborn')} has not stopped within {STOP_SECONDS} s: killed" in host.journal("-o", "cat")


def start_stubborn(serving: Serving) -> None:
    host = serving.host
    assert host.api("POST", "/api/models/stubborn/start")[0] == 202
    await_that(lambda: host.api("GET", "/api/models/stubborn")[1]["state"] == "serving", "the side model to serve")


def said_at(host: SparkHost, model: str, words: str) -> float:
    """When systemd said this of the model's unit, in seconds."""
    lines = host.journal("-o", "short-unix", "-u", unit(model)).splitlines()
    return float(next(line for line in lines if words in line).split()[0])


def test_a_driver_that_comes_after_all_tries_is_waited_for(serving: Serving) -> None:
    """Nothing is ordered after it: an administrator loads it by hand, or its service took three attempts."""
    host = serving.host
    host.settings(SETTINGS.replace("[slot]", '[slot]\ndefault = "gamma"'))
    serving.reload()
    serving.serve("gamma")
    host.write(f"{FOLDER}/come", "exit 0")
    host.power_cycle()

    def tries() -> list[Any]:
        """Why each of our own tries failed, the last words of the last one read."""
        mine = [s for s in serving.history() if (s["model"], s["requested_by"]) == ("gamma", "reconcile")]
        return [s["error"]["reading"]["code"] for s in mine if "reading" in (s["error"] or {})]

    await_that(lambda: len(tries()) == 3, "the tries to be over and explained")
    assert tries() == ["no-driver"] * 3
    assert "waits-for-driver" in serving.warnings()
    assert "Waiting for the NVIDIA driver" in serving.ctl("status")
    assert "Waiting for the NVIDIA driver" in host.run("spark-modelctl", "doctor", check=False).stdout
    host.run("cp", f"{FOLDER}/works", f"{FOLDER}/new")
    host.run("mv", f"{FOLDER}/new", f"{FOLDER}/nvml")
    serving.await_slot("gamma", "serving")
    switch = serving.history()[0]
    assert (switch["model"], switch["requested_by"], switch["outcome"]) == ("gamma", "reconcile", "ready")
    assert "waits-for-driver" not in serving.warnings()
    host.write(f"{FOLDER}/come", COME)


def test_a_daemon_that_is_not_there_delays_no_shutdown(serving: Serving) -> None:
    host = serving.host
    start_stubborn(serving)
    host.run("systemctl", "stop", *SOCKETS, DAEMON)
    assert serving.active("stubborn") == "active"
    host.run("systemctl", "reboot", check=False)
    host.await_end()  # which fails after two minutes
