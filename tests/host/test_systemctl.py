"""systemctl is an operator too: own units, stops and starts behind the daemon's back, and the end of the host."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.serving import (
    DAEMON,
    LARGE,
    SETTINGS,
    Events,
    Serving,
    Watch,
    await_that,
    bad_command,
    bad_model,
    unit,
)
from support.spark import SparkHost
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

PORTS = {"alpha": 8001, "beta": 8002, "slow": 8003, "own": 8004, "rogue": 8005, "tardy": 8006}
OWN = {"own": "my-own.service", "rogue": "my-rogue.service"}
TEMPLATE_MODELS = ("alpha", "beta", "slow", "tardy")
# What an administrator adds for units of their own: the shipped rule names the template's instances only.
RULE = """\
polkit.addRule(function (action, subject) {
    if (action.id === "org.freedesktop.systemd1.manage-units" && subject.user === "spark-modeld"
        && ["my-own.service", "my-rogue.service"].indexOf(action.lookup("unit")) >= 0) {
        return polkit.Result.YES;
    }
});
"""


def prepare(host: SparkHost) -> Serving:
    host.settings(SETTINGS)
    for model in ("alpha", "beta"):
        host.tiny(model, port=PORTS[model], memory=LARGE)
    host.model("slow", bad_model("slow", PORTS["slow"], "--load-seconds=600"))
    host.model("tardy", bad_model("tardy", PORTS["tardy"], "--stop-seconds=2"))
    for model, name in OWN.items():
        port = PORTS[model]
        host.model(model, f'engine = "openai"\nurl = "http://127.0.0.1:{port}"\nmemory = "2GiB"\nunit = "{name}"\n')
        command = " ".join(bad_command(model, port))
        host.write(f"/etc/systemd/system/{name}", f"[Service]\nExecStart={command}\nSuccessExitStatus=143\n")
    host.run("systemctl", "daemon-reload")
    host.enable()
    return Serving(host)


@pytest.fixture(scope="module")
def module_serving(installed_host: SparkHost) -> Serving:
    return prepare(installed_host)


@pytest.fixture
def empty(module_serving: Serving) -> Iterator[Serving]:
    """The daemon with an empty slot."""
    host = module_serving.host
    host.run("systemctl", "stop", *OWN.values())
    module_serving.serve(None)
    yield module_serving
    assert host.show(DAEMON, "NRestarts") == "0"


@pytest.fixture
def serving(empty: Serving) -> Iterator[Serving]:
    """The same; nobody may ever see two large models alive."""
    with Watch(empty.host, [*TEMPLATE_MODELS, *OWN], units=OWN):
        yield empty


@pytest.fixture(scope="module")
def allowed(module_serving: Serving) -> None:
    """From the first test that wants it on."""
    module_serving.host.write("/etc/polkit-1/rules.d/60-own.rules", RULE)
    module_serving.host.run("systemctl", "restart", "polkit.service")


@pytest.fixture
def not_allowed(module_serving: Serving) -> None:
    assert not module_serving.host.path("/etc/polkit-1/rules.d/60-own.rules").exists(), "this test has to come first"


def systemctl(serving: Serving, verb: str, name: str) -> bool:
    return serving.host.run("systemctl", verb, name, check=False).returncode == 0


@pytest.mark.usefixtures("not_allowed")
def test_an_own_unit_without_permission_is_refused_and_rolled_back(serving: Serving) -> None:
    serving.serve("alpha")
    status, problem = serving.switch("own")
    assert (status, problem["code"], problem["unit"]) == (502, "model-failed", OWN["own"])
    assert problem["switch"]["outcome"] == "rolled-back"
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")
    assert serving.host.show(OWN["own"], "ActiveState") == "inactive"


@pytest.mark.usefixtures("allowed")
def test_an_own_unit_is_switched_to_and_away_from(serving: Serving) -> None:
    serving.serve("alpha")
    serving.serve("own")
    assert serving.host.ask(PORTS["own"]) == "I am own"
    assert (serving.active("alpha"), serving.host.show(OWN["own"], "ActiveState")) == ("inactive", "active")
    serving.serve("alpha")
    assert serving.host.show(OWN["own"], "ActiveState") == "inactive"
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")


@pytest.mark.usefixtures("allowed")
def test_an_own_unit_started_by_systemctl_takes_the_empty_slot(serving: Serving) -> None:
    with Events(serving.host) as events:
        assert systemctl(serving, "start", OWN["own"])
        ended = events.until("switch", lambda data: data["outcome"] is not None)
    assert (ended["model"], ended["requested_by"], ended["actor"]) == ("own", "systemd", None)
    assert ended["outcome"] == "ready"
    assert serving.slot() == ("own", "serving")
    assert serving.desired_on_disk() == "own"


@pytest.mark.usefixtures("allowed")
def test_an_own_unit_started_beside_a_large_occupant_is_told_and_nothing_more_is_started(empty: Serving) -> None:
    empty.serve("alpha")
    before = empty.pid("alpha")
    with Watch(empty.host, ["alpha", "rogue"], units=OWN, expected=True) as watch:
        assert systemctl(empty, "start", OWN["rogue"])
        await_that(lambda: "large-parallel" in empty.warnings(), "the warning")
        # Also the proof that the watch over the other tests sees what it looks for.
        await_that(lambda: ("alpha", "rogue") in watch.parallel, "the watch to see both")
    assert empty.slot() == ("alpha", "serving")
    assert not systemctl(empty, "start", unit("beta"))
    status, problem = empty.host.api("POST", "/api/models/beta/start")
    assert (status, problem["code"]) == (409, "large-parallel")
    assert {holder["model"] for holder in problem["holders"]} == {"alpha", "rogue"}
    assert (empty.active("beta"), empty.pid("alpha")) == ("failed", before)
    assert empty.host.show(OWN["rogue"], "ActiveState") == "active"
    assert systemctl(empty, "stop", OWN["rogue"])
    await_that(lambda: "large-parallel" not in empty.warnings(), "the end of the warning")
    assert (empty.slot(), empty.pid("alpha")) == (("alpha", "serving"), before)


def test_a_second_large_model_by_systemctl_fails_with_the_reason(serving: Serving) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    assert not systemctl(serving, "start", unit("beta"))
    assert serving.active("beta") == "failed"
    said = serving.host.journal("-o", "cat", "-u", unit("beta"))
    assert "refused: beta (2.0 GiB) is large, and so is alpha (2.0 GiB)" in said
    assert (serving.slot(), serving.pid("alpha")) == (("alpha", "serving"), before)
    assert serving.desired_on_disk() == "alpha"
    assert serving.serve("beta")["from"] == "alpha"


def test_a_stop_by_systemctl_empties_the_slot_until_the_next_switch(serving: Serving) -> None:
    serving.serve("alpha")
    assert systemctl(serving, "stop", unit("alpha"))
    serving.await_slot(None, "empty")
    status = serving.status()
    assert (status["desired"], serving.desired_on_disk()) == ("alpha", "alpha")
    assert "systemctl" in status["slot"]["reason"]
    serving.restart_daemon()
    status = serving.status()
    assert (status["slot"]["phase"], status["switch"], status["desired"]) == ("empty", None, "alpha")
    assert serving.active("alpha") == "inactive"
    serving.serve("beta")
    assert serving.host.ask(PORTS["beta"]) == sentence_of("beta")
    assert serving.desired_on_disk() == "beta"
    # Held no longer: what crashes from here on comes back.
    with Events(serving.host) as events:
        serving.host.run("systemctl", "kill", "--signal=KILL", unit("beta"))
        assert events.until("switch", lambda data: data["outcome"] is not None)["outcome"] == "ready"
    assert serving.slot() == ("beta", "serving")


def test_a_start_by_systemctl_in_an_empty_slot_is_a_switch(serving: Serving) -> None:
    with Events(serving.host) as events:
        assert systemctl(serving, "start", unit("beta"))
        ended = events.until("switch", lambda data: data["outcome"] is not None)
    assert (ended["model"], ended["from"], ended["requested_by"]) == ("beta", None, "systemd")
    assert ended["outcome"] == "ready"
    assert serving.slot() == ("beta", "serving")
    assert serving.desired_on_disk() == "beta"
    assert serving.host.ask(PORTS["beta"]) == sentence_of("beta")
    assert serving.history()[0]["id"] == ended["id"]


def test_a_start_by_systemctl_ends_what_a_stop_by_systemctl_began(serving: Serving) -> None:
    serving.serve("alpha")
    assert systemctl(serving, "stop", unit("alpha"))
    serving.await_slot(None, "empty")
    assert systemctl(serving, "start", unit("alpha"))
    serving.await_slot("alpha", "serving")
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")
    assert serving.status()["slot"]["reason"] is None


def test_a_restart_by_systemctl_of_the_occupant(serving: Serving) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    assert systemctl(serving, "restart", unit("alpha"))
    serving.await_slot("alpha", "serving")
    assert serving.status()["slot"]["reason"] is None
    assert serving.pid("alpha") not in (0, before)
    assert serving.active("alpha") == "active"
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")
    assert serving.desired_on_disk() == "alpha"


@pytest.mark.usefixtures("allowed")
def test_a_restart_by_systemctl_of_an_own_unit(serving: Serving) -> None:
    host = serving.host
    serving.serve("own")
    before = host.show(OWN["own"], "MainPID")
    assert systemctl(serving, "restart", OWN["own"])
    serving.await_slot("own", "serving")
    assert host.show(OWN["own"], "MainPID") not in ("0", before)
    assert host.ask(PORTS["own"]) == "I am own"
    assert serving.desired_on_disk() == "own"


@pytest.mark.usefixtures("allowed")
def test_a_crash_of_an_own_unit_that_systemd_restarts_itself(serving: Serving) -> None:
    host = serving.host
    drop_in = f"/etc/systemd/system/{OWN['own']}.d/restart.conf"
    host.write(drop_in, "[Service]\nRestart=always\nRestartSec=100ms\n")
    host.run("systemctl", "daemon-reload")
    try:
        serving.serve("own")
        before = host.show(OWN["own"], "MainPID")
        with Events(host) as events:
            host.run("kill", "-9", before)
            events.phase("own", "failed")
            events.phase("own", "serving")
        serving.await_slot("own", "serving")
        assert host.show(OWN["own"], "MainPID") not in ("0", before)
        assert host.ask(PORTS["own"]) == "I am own"
        serving.serve("alpha")
        assert host.show(OWN["own"], "ActiveState") == "inactive"
    finally:
        host.run("rm", drop_in)
        host.run("systemctl", "daemon-reload")


def test_a_stop_by_systemctl_of_a_model_being_switched_to(serving: Serving) -> None:
    """Whoever stops it wants it stopped: nothing is started in its place."""
    serving.serve("alpha")
    with Events(serving.host) as events:
        switch = serving.begin("slow")
        events.phase("slow", "warming")
    assert systemctl(serving, "stop", unit("slow"))
    ended = serving.ended(switch)
    assert (ended["outcome"], ended["error"]["code"]) == ("failed", "model-failed")
    assert "systemctl" in ended["error"]["detail"]
    assert serving.slot()[1] == "empty"
    assert serving.desired_on_disk() == "alpha"
    assert (serving.active("alpha"), serving.active("slow")) == ("inactive", "inactive")


def test_what_changes_in_a_units_files_holds_from_its_next_switch_on_without_a_reload(serving: Serving) -> None:
    serving.serve("alpha")
    serving.serve("beta")
    loaded = serving.host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", unit("alpha")).stdout
    assert "inactive" in loaded, "systemd has forgotten the unit"
    drop_in = f"/run/systemd/system/{unit('alpha')}.d/changed.conf"
    serving.host.write(drop_in, "[Service]\nEnvironment=CHANGED=yes\n")
    serving.serve("alpha")
    assert "CHANGED=yes" in serving.host.show(unit("alpha"), "Environment")
    serving.host.path(drop_in).unlink()
    serving.serve("beta")
    serving.serve("alpha")
    assert "CHANGED=yes" not in serving.host.show(unit("alpha"), "Environment")


def test_a_bus_that_the_daemon_itself_starts(serving: Serving) -> None:
    """As after a boot at which nobody has used the bus yet: systemd comes to it a moment after the daemon."""
    host = serving.host
    host.run("systemctl", "stop", DAEMON)
    host.run("systemctl", "kill", "--signal=KILL", "dbus.service")
    serving.serve("alpha")
    assert host.ask(PORTS["alpha"]) == sentence_of("alpha")


@pytest.mark.parametrize("moment", ["stopping", "loading"])
def test_nothing_is_started_once_the_host_goes_down(moment: str) -> None:
    with SparkHost() as host:
        host.install()
        # A journal on disk, read through a handle on the root that outlasts the host.
        host.run("mkdir", "-p", "/var/log/journal")
        host.run("systemctl", "restart", "systemd-journald.service")
        serving = prepare(host)
        root = os.open(f"/proc/{host.pid}/root", os.O_PATH | os.O_DIRECTORY)
        try:
            with Watch(host, [*TEMPLATE_MODELS, *OWN], units=OWN) as watch:
                serving.serve("tardy")
                with Events(host) as events:
                    switch = serving.begin("slow" if moment == "loading" else "beta")
                    events.phase(*(("slow", "warming") if moment == "loading" else ("tardy", "stopping")))
                if moment == "loading":
                    await_that(lambda: "slow" in [model for _, model in watch.born], "the process of slow")
                went_down = time.monotonic()
                host.run("systemctl", "poweroff", check=False)
                host.await_end()
            assert [model for at, model in watch.born if at > went_down] == []
            assert {model for _, model in watch.born} == ({"tardy", "slow"} if moment == "loading" else {"tardy"})
            said = journal_of(f"/proc/self/fd/{root}/var/log/journal", root)
            state = Path(f"/proc/self/fd/{root}/var/lib/spark-modeld/state.toml").read_text()
        finally:
            os.close(root)
    begun = said.index("System is powering down.")
    assert re.findall("^Start(?:ed|ing) .*Language model.*", said[begun:], re.MULTILINE) == []
    assert [line for line in said[begun:].splitlines() if line.startswith("starting spark-model@")] == []
    assert re.search("^Stopped .*Language model tardy", said, re.MULTILINE)
    # The switch is on record, to be gone on with.
    assert switch["id"] in state


def journal_of(folder: str, handle: int) -> str:
    command = ["journalctl", "--no-pager", "-o", "cat", "-D", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True, pass_fds=[handle]).stdout
