"""doctor on a machine where things are really broken: it names each, and the command that it prints mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.scene import Scene
from support.spark import SOURCE, TOOLS, SparkHost
from support.tiny_models import sentence_of
from support.witness import DAEMON, until

pytestmark = pytest.mark.host

ALPHA, BETA, OWN = 8001, 8002, 8003
GATEWAY = "http://127.0.0.1:30101/v1"
TOKENS = "/etc/spark-modeld/tokens.toml"
GATEWAY_SOCKET = "spark-modeld-gateway.socket"
TAILSCALE = f'#!/bin/sh\nexec /usr/bin/python3 -I -S {SOURCE}/tests/support/tailscale_stand_in.py "$@"\n'
UNIT, MASKED = "own-engine.service", "second-engine.service"
RULE = "/etc/polkit-1/rules.d/51-spark-modeld-own-units.rules"
SETTINGS = """\
[slot]
default = "alpha"
min_residency = "0s"
[memory]
reserve = "256MiB"
floor = "128MiB"
large = "1GiB"
"""
OWN_MODEL = 'engine = "openai"\nurl = "http://127.0.0.1:{port}"\nmemory = "64MiB"\nunit = "{unit}"\n'
OWN_UNIT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
Json = dict[str, Any]


class Ward(Scene):
    """The host, and what doctor says of it."""

    token = ""

    def findings(self, *, user: str | None = None) -> list[Json]:
        """All of them; the exit status is held against them."""
        done = self.host.run("spark-modelctl", "doctor", "--json", user=user, check=False)
        told = json.loads(done.stdout)
        errors = [each for each in told["findings"] if each["level"] == "error"]
        assert (done.returncode, told["ok"], done.stderr) == (1 if errors else 0, not errors, "")
        return list(told["findings"])

    def unwell(self) -> list[str]:
        """The codes of all that is not ok."""
        return [each["code"] for each in self.findings() if each["level"] != "ok"]

    def told(self, code: str, *, user: str | None = None) -> Json | None:
        """What it says of one thing, None if nothing."""
        return next((each for each in self.findings(user=user) if each["code"] == code), None)

    def await_alpha(self) -> None:
        """The default is in the slot, and answers."""
        until("alpha serves", lambda: self.slot() == ("alpha", "serving"))
        assert self.host.ask(ALPHA) == sentence_of("alpha").strip()

    def mend(self, finding: Json) -> None:
        """Runs the command that doctor printed, as root."""
        self.host.run("sh", "-c", finding["fix"])

    def ctl(self, *words: str) -> str:
        """spark-modelctl, which ends well: what it says."""
        return self.host.run("spark-modelctl", *words).stdout

    def shell(self, script: str) -> str:
        """What a shell inside says, with the client's token in its environment."""
        return self.host.run("env", f"TOKEN={self.token}", "sh", "-c", script).stdout

    def connect(self, *words: str, exit_status: int = 0, token: str | None = None) -> Json:
        """``connect`` with the token on its standard input."""
        command = ("spark-modelctl", "connect", "--json", *words)
        done = self.host.run(*command, input=f"{token or self.token}\n", check=False)
        assert done.returncode == exit_status, done.stdout + done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def ward(installed_host: SparkHost) -> Ward:
    """A sound machine: two models that say their names, a unit of one's own with its rule, a token."""
    host = installed_host
    host.settings(SETTINGS)
    host.tiny("alpha", port=ALPHA)
    host.tiny("beta", port=BETA, memory="2GiB")
    for name, unit, port in (("own", UNIT, OWN), ("second", MASKED, OWN + 1)):
        host.model(name, OWN_MODEL.format(unit=unit, port=port))
        host.write(f"/usr/lib/systemd/system/{unit}", OWN_UNIT)
    host.run("systemctl", "daemon-reload")
    place = f"install -m 644 /dev/stdin {RULE}.new && mv {RULE}.new {RULE}"
    host.run("sh", "-c", f"spark-modelctl doctor --polkit-rule | {place}")
    host.enable()
    host.run("systemctl", "enable", "--now", DAEMON)
    host.run("useradd", "--no-create-home", "stranger")
    ward = Ward(host)
    ward.token = json.loads(host.run("spark-modelctl", "token", "add", "--json", "client").stdout)["token"]
    ward.await_alpha()
    return ward


def test_on_a_sound_machine_there_is_nothing_to_mend(ward: Ward) -> None:
    assert ward.unwell() == []
    said = ward.host.run("spark-modelctl", "doctor").stdout
    assert said.rstrip().endswith("All is well.")
    assert f"lets the daemon start and stop its models and {UNIT}, {MASKED}" in said


def unruled(host: SparkHost) -> None:
    host.path(RULE).unlink()
    until("polkit has noticed", lambda: may(host, "StartUnit", UNIT) != "")


def restarting(host: SparkHost) -> None:
    host.write(f"/usr/lib/systemd/system/{UNIT}", OWN_UNIT.replace("[Install]", "Restart=always\n[Install]"))
    host.run("systemctl", "daemon-reload")


def competing(host: SparkHost) -> None:
    host.write("/usr/lib/systemd/system/ollama.service", OWN_UNIT)
    host.run("systemctl", "enable", "--now", "ollama.service")


def expired(host: SparkHost) -> None:
    host.run("spark-modelctl", "token", "add", "--expires", "1s", "short")
    until("it is over", lambda: "(over)" in host.run("spark-modelctl", "token", "list").stdout)


def squatting(host: SparkHost) -> None:
    """The gateway's port is somebody else's; its socket could not start."""
    host.run("systemctl", "stop", DAEMON, GATEWAY_SOCKET)
    listen = ("systemd-run", "--quiet", "--unit=squatter", "/usr/bin/python3", "-m", "http.server", "30101")
    host.run(*listen, "--bind", "127.0.0.1")
    until("it listens", lambda: "30101" in host.run("ss", "-ltn").stdout)


def funnelled(host: SparkHost) -> None:
    host.write("/usr/local/bin/tailscale", TAILSCALE, mode=0o755)
    host.run("tailscale", "funnel", "--bg", "--https=443", str(ALPHA))


def changed(*command: str) -> Callable[[SparkHost], None]:
    return lambda host: host.run(*command) and None


BROKEN: dict[str, Callable[[SparkHost], None]] = {
    "own-unit-without-rule": unruled,
    "restarts-itself": restarting,
    "starts-at-boot": changed("systemctl", "enable", UNIT),
    "masked": changed("systemctl", "mask", MASKED),
    "competitor": competing,
    "socket-disabled": changed("systemctl", "disable", "spark-modeld-http.socket"),
    "tokens-mode": changed("chmod", "644", TOKENS),
    "token-expired": expired,
    "config-writable": changed("chmod", "666", "/etc/spark-modeld/models.d/beta.toml"),
    "model-in-group": changed("gpasswd", "--add", "spark-model", "spark-modeld-secrets"),
    "no-journal": changed("gpasswd", "--delete", "spark-modeld", "systemd-journal"),
    "folder-owner": changed("chown", "root:root", "/run/spark-modeld"),
    "socket-mode": changed("chmod", "666", "/run/spark-modeld/control.sock"),
    "engine-handed-on": funnelled,
}


def test_what_is_broken_is_named_and_mended_by_its_command(ward: Ward) -> None:
    """One look for all of them: each is independent of the others, and so is the command that mends it."""
    for break_it in BROKEN.values():
        break_it(ward.host)
    found = {each["code"]: each for each in ward.findings() if each["level"] != "ok"}
    assert set(found) == set(BROKEN)
    for finding in found.values():
        ward.mend(finding)
    until("all is well again", lambda: ward.unwell() == [])


def test_units_that_changed_unread_and_a_socket_that_is_down(ward: Ward) -> None:
    ward.host.run("touch", "/usr/lib/systemd/system/spark-model@.service")
    ward.host.run("systemctl", "stop", DAEMON, GATEWAY_SOCKET)
    found = {each["code"]: each for each in ward.findings() if each["level"] != "ok"}
    assert set(found) == {"daemon-reload-needed", "socket-down", "daemon-asleep"}
    for code in ("daemon-reload-needed", "socket-down"):
        ward.mend(found[code])
    until("all is well again", lambda: ward.unwell() == [])
    ward.await_alpha()


def test_who_has_our_port_is_named_and_stopped(ward: Ward) -> None:
    squatting(ward.host)
    found = ward.told("port-taken")
    assert found is not None
    assert "squatter.service" in found["message"]
    ward.mend(found)
    down = ward.told("socket-down")
    assert down is not None
    ward.mend(down)
    assert ward.host.run("curl", "-sS", "http://127.0.0.1:30101/health").stdout == '{"status":"ok"}'


def test_a_wrong_file_is_told_with_file_and_key(ward: Ward) -> None:
    ward.host.settings(SETTINGS.replace("reserve", "reserv"))
    ward.host.run("systemctl", "restart", DAEMON)
    found = [each for each in ward.findings() if each["code"] == "invalid-config"]
    assert "/etc/spark-modeld/spark-modeld.toml: memory.reserv: is no known key" in found[1]["message"]
    assert "touches no model" in found[0]["message"]
    ward.host.settings(SETTINGS)
    ward.mend(found[0])
    ward.await_alpha()


def test_looking_starts_nothing(ward: Ward) -> None:
    ward.host.run("systemctl", "stop", DAEMON)
    found = ward.told("daemon-asleep")
    assert found is not None
    assert ward.host.show(DAEMON, "ActiveState") == "inactive"
    ward.mend(found)
    ward.await_alpha()


def test_without_rights_it_says_what_it_did_not_see(ward: Ward) -> None:
    found = ward.findings(user="stranger")
    hidden = {each["area"]: each["fix"] for each in found if each["level"] == "unseen"}
    assert set(hidden) == {"polkit", "daemon", "tokens"}
    assert set(hidden.values()) == {"sudo spark-modelctl doctor"}
    assert [each["fix"] for each in found if each["level"] != "ok" and each["area"] == "daemon"] == [
        "sudo spark-modelctl doctor",
        "sudo usermod -aG spark-modeld stranger",
    ]
    assert not [each for each in found if each["level"] == "error"]


def test_programs_that_hang_are_findings(ward: Ward) -> None:
    ward.host.model("boxed", 'engine = "openai"\nurl = "http://127.0.0.1:8009"\n[docker]\nimage = "x"\n')
    for name in ("docker", "tailscale"):
        ward.host.write(f"/run/slow/{name}", "#!/bin/sh\nexec sleep 600\n", mode=0o755)
    script = "PATH=/run/slow:$PATH timeout 30 spark-modelctl doctor --json"
    told = json.loads(ward.host.run("sh", "-c", script, check=False).stdout)["findings"]
    assert {"docker-hangs", "tailscale-away", "not-in-force"} <= {each["code"] for each in told}
    assert "sleep 600" not in ward.host.run("ps", "-eo", "args").stdout
    ward.host.path("/etc/spark-modeld/models.d/boxed.toml").unlink()


def may(host: SparkHost, method: str, unit: str) -> str:
    """What systemd answers the daemon's user: empty where it is allowed."""
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    arguments = ("si", unit, "10") if method == "KillUnit" else ("ss", unit, "replace")
    signature = ("ssi", unit, "all", "10") if method == "KillUnit" else arguments
    done = host.run("busctl", "call", "--quiet", *manager, method, *signature, user="spark-modeld", check=False)
    return done.stderr.strip()


def test_the_rule_allows_these_units_and_verbs_and_no_others(ward: Ward) -> None:
    host = ward.host
    host.write("/run/systemd/system/neighbour.service", OWN_UNIT)
    host.write(f"/run/systemd/system/x{UNIT}", OWN_UNIT)
    host.run("systemctl", "daemon-reload")
    assert may(host, "StartUnit", UNIT) == ""
    assert may(host, "KillUnit", UNIT) == ""
    assert may(host, "StopUnit", UNIT) == ""
    for method, unit in (
        ("RestartUnit", UNIT),
        ("ReloadUnit", UNIT),
        ("StartUnit", "neighbour.service"),
        ("StartUnit", f"x{UNIT}"),
        ("StopUnit", "dbus.service"),
        ("StopUnit", DAEMON),
    ):
        answer = may(host, method, unit)
        assert "Access denied" in answer or "nteractive authentication required" in answer, (method, unit, answer)


def test_a_unit_of_ones_own_is_switched_to_with_its_rule_and_the_message_names_it_without(ward: Ward) -> None:
    ward.host.path(RULE).unlink()
    until("polkit has noticed", lambda: may(ward.host, "StartUnit", UNIT) != "")
    code, problem = ward.host.api("POST", "/api/switch?wait=true", {"model": "own"})
    assert code == 502, problem
    assert "`spark-modelctl doctor --polkit-rule`" in problem["detail"]
    found = ward.told("own-unit-without-rule")
    assert found is not None
    ward.mend(found)
    until("polkit has noticed", lambda: ward.told("own-unit-without-rule") is None)
    ward.switch("alpha")


def test_every_example_of_endpoints_works(ward: Ward) -> None:
    ward.await_alpha()
    control = json.loads(ward.host.run("spark-modelctl", "token", "add", "--json", "--scope", "control", "c").stdout)
    shown = json.loads(ward.ctl("endpoints", "--json"))
    assert shown["tailscale"]["name"] == "spark.tail1234.ts.net"
    assert [each["url"] for each in shown["endpoints"] if each["kind"] == "gateway"] == [GATEWAY]
    tried = 0
    for each in shown["endpoints"]:
        if each["kind"] == "engine" and each["state"] != "serving":
            continue
        token = control["token"] if each["token"] == "control" else ward.token
        for example in each["examples"]:
            said = ward.host.run("env", f"TOKEN={token}", "sh", "-c", f"{example} -sS --fail-with-body").stdout
            assert isinstance(json.loads(said), dict), example
            tried += 1
    assert tried >= 5
    only = json.loads(ward.ctl("endpoints", "--json", "beta"))["endpoints"]
    assert {each["model"] for each in only} == {None, "beta"}
    said = ward.ctl("endpoints")
    assert f"{GATEWAY}  (this machine only, token with scope inference, answers)" in said
    ward.host.run("spark-modelctl", "token", "revoke", "c")


def steps(shown: Json) -> dict[str, bool | None]:
    return {each["name"]: each["ok"] for each in shown["tests"]}


def test_connect_tests_what_it_prints(ward: Ward) -> None:
    ward.await_alpha()
    shown = ward.connect("curl", "--token-stdin")
    assert steps(shown) == {
        "401 without the token": True,
        "200 with the token": True,
        "the list without /v1 too": True,
        "a model in the list": True,
        "a chat answer": True,
    }
    assert (shown["base_url"], shown["model"]) == (GATEWAY, "local")
    assert ward.token not in json.dumps(shown)
    said = json.loads(ward.shell(f"{shown['example']} -sS --fail-with-body"))
    assert said["choices"][0]["message"]["content"].strip() == sentence_of("alpha")


def test_connects_example_for_the_sdk_runs_as_it_is(ward: Ward) -> None:
    shown = ward.connect("openai", "--token-file", "-", "--model", "alpha")
    ward.host.write("/run/example.py", shown["example"])
    said = ward.shell(f"PYTHONPATH={TOOLS} /usr/bin/python3 /run/example.py")
    assert said.strip() == sentence_of("alpha")


def test_connect_switches_only_when_it_is_told_to(ward: Ward) -> None:
    shown = ward.connect("openwebui", "--token-stdin", "--model", "beta")
    assert steps(shown)["a chat answer"] is None
    assert "--switch" in shown["tests"][-1]["detail"]
    assert ward.slot() == ("alpha", "serving")
    shown = ward.connect("openwebui", "--token-stdin", "--model", "beta", "--switch")
    assert steps(shown)["a chat answer"] is True
    assert ward.slot() == ("beta", "serving")
    ward.switch("alpha")


def test_connect_says_what_is_wrong(ward: Ward) -> None:
    shown = ward.connect("curl", "--token-stdin", exit_status=1, token="smd_aaaaaaaa_" + "a" * 32)
    assert steps(shown)["200 with the token"] is False
    assert "token add" in next(each["detail"] for each in shown["tests"] if each["ok"] is False)
    shown = ward.connect("curl", "--token-stdin", "--model", "nobody", exit_status=1)
    assert steps(shown)["nobody in the list"] is False
    shown = ward.connect("curl", "--token-stdin", "--url", "http://127.0.0.1:9", exit_status=1)
    assert "refused" in shown["tests"][0]["detail"]
    shown = ward.connect("curl")
    assert set(steps(shown).values()) == {True, None}
    assert "token add" in shown["tests"][1]["detail"]


def test_cursor_gets_the_public_address_where_there_is_one(ward: Ward) -> None:
    shown = ward.connect("cursor", "--token-stdin")
    assert shown["settings"]["Override OpenAI Base URL"] == GATEWAY
    assert any("tailscale funnel --bg 30101" in note for note in shown["notes"])
    ward.host.run("tailscale", "funnel", "--bg", "--https=443", "30101")
    public = "https://spark.tail1234.ts.net"
    found = [each for each in ward.findings() if each["area"] == "tailscale"]
    assert [(each["level"], public in each["message"]) for each in found] == [("ok", True)]

    def look() -> Json | None:
        # What Tailscale says is good for some seconds.
        shown = json.loads(ward.host.run("spark-modelctl", "connect", "--json", "cursor", check=False).stdout)
        return shown if shown["reach"] == "internet" else None

    shown = until("the address is known", look)
    assert shown["settings"]["Override OpenAI Base URL"] == f"{public}/v1"
    ward.host.run("tailscale", "funnel", "--https=443", "off")


def test_an_open_gateway_is_warned_of_and_must_not_be_handed_on(ward: Ward) -> None:
    ward.host.settings(f'{SETTINGS}[gateway]\nauth = "none"\n')
    ward.reload()
    found = ward.told("open-gateway")
    assert (found or {}).get("level") == "warning"
    ward.host.run("tailscale", "serve", "--bg", "--https=443", "30101")
    handed = ward.told("open-gateway-handed-on")
    assert handed is not None
    ward.mend(handed)
    assert ward.told("open-gateway-handed-on") is None
    shown = ward.connect("curl")
    assert steps(shown)["200 without a token (auth = none)"] is True
    assert steps(shown)["a chat answer"] is True
    ward.host.settings(SETTINGS)
    ward.reload()
    assert ward.told("open-gateway") is None


def test_a_gateway_that_reaches_out_is_told(ward: Ward) -> None:
    drop_in = "[Socket]\nListenStream=0.0.0.0:30102\n"
    ward.host.write(f"/etc/systemd/system/{GATEWAY_SOCKET}.d/lan.conf", drop_in)
    ward.host.run("systemctl", "daemon-reload")
    ward.host.run("systemctl", "stop", DAEMON, GATEWAY_SOCKET)
    ward.host.run("systemctl", "start", GATEWAY_SOCKET)
    ward.host.run("systemctl", "start", DAEMON)
    codes = {each["code"] for each in ward.findings()}
    assert {"gateway-reaches-out", "packets-dropped"} <= codes
    shown = json.loads(ward.ctl("endpoints", "--json"))["endpoints"]
    assert {each["reach"] for each in shown if each["kind"] == "gateway"} == {"machine", "network"}
