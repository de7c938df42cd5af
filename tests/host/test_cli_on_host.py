"""spark-modelctl as an operator's process against the real daemon: every command, its JSON, its exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import pytest

from spark_modeld.cli.main import cli
from support.scene import SETTINGS, Scene, bad_model
from support.shapes import differences, golden
from support.spark import SOURCE, SparkHost, quoted
from support.tiny_models import sentence_of, tiny_model
from support.witness import DAEMON, DEADLINE_SECONDS, unit, until

pytestmark = pytest.mark.host

ALPHA, BETA, SLOW, BROKEN, HUGE, SIDE, OWN = 8001, 8002, 8003, 8004, 8005, 8006, 8007
HOLDS = "/run/slow"
WITHOUT_JSON = {"completion", "install-units"}
"""A script; and what is told once."""

SLOW_MODEL = f"""\
engine = "sglang"
url = "http://127.0.0.1:{SLOW}"
memory = "64MiB"
[launch]
command = ["/usr/bin/python3", "-I", "-S", "{SOURCE}/tests/support/vendor_engine.py", "--as", "sglang",
           "--port", "{SLOW}", "--name", "slow", "--holds", "{HOLDS}"]
"""
OWN_UNIT = f"[Service]\nExecStart=/opt/llama/llama-server --model /srv/m.gguf --alias mine --port {OWN}\n"


@pytest.fixture(scope="module")
def scene(installed_host: SparkHost) -> Scene:
    host = installed_host
    host.settings(SETTINGS)
    host.model("alpha", bad_model("alpha", port=ALPHA))
    host.tiny("beta", port=BETA)
    host.model("slow", SLOW_MODEL)
    host.model("broken", bad_model("broken", "--die-after-seconds", "0.1", port=BROKEN))
    host.model("huge", bad_model("huge", port=HUGE, memory="4000GiB"))
    host.tiny("side", port=SIDE, role="side", memory="1MiB")
    host.run("mkdir", "-p", HOLDS)
    host.run("useradd", "--create-home", "--groups", "spark-modeld", "olga")
    host.run("useradd", "--no-create-home", "stranger")
    host.enable()
    return Scene(host)


def ctl(scene: Scene, *args: str, user: str | None = "olga", code: int = 0) -> subprocess.CompletedProcess[str]:
    """One command as an operator who is not root."""
    done = scene.host.run("spark-modelctl", *args, user=user, check=False)
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def shaped(text: str, command: str) -> Any:
    """The JSON in a command's output, which has the shape that it is documented with."""
    value = json.loads(text)
    assert list(differences(value, golden()[command])) == [], command
    return value


def ctl_json(scene: Scene, *args: str, shape: str = "", user: str | None = "olga", code: int = 0) -> Any:
    done = ctl(scene, *args, "--json", user=user, code=code)
    assert done.stdout, done.stderr
    return shaped(done.stdout, shape or args[0])


@contextmanager
def going_on(scene: Scene, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until it is interrupted."""
    process = scene.host.popen("setpriv", "--pdeathsig", "KILL", "spark-modelctl", *args, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@contextmanager
def deadline(what: Callable[[], str]) -> Iterator[None]:
    """AssertionError where it takes too long: also out of a read that waits for nothing."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what()}")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(int(DEADLINE_SECONDS))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def the_line(process: subprocess.Popen[str], *texts: str) -> str:
    """The next line with these in it."""
    assert process.stdout is not None
    seen: list[str] = []
    with deadline(lambda: f"a line with {texts} in {seen}"):
        for line in process.stdout:
            seen.append(line)
            if all(text in line for text in texts):
                return line
    raise AssertionError(f"it ended without {texts}: {seen}")


def test_every_command_has_its_json_written_down() -> None:
    def names(group: click.Group, before: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from names(command, f"{before}{name} ")
            else:
                yield f"{before}{name}"

    assert set(names(cli)) - WITHOUT_JSON <= golden().keys()


def test_what_serves_and_what_is_in_the_catalog(scene: Scene) -> None:
    ctl(scene, "switch", "alpha")
    status = ctl_json(scene, "status")
    assert (status["slot"]["model"], status["slot"]["phase"], status["desired"]) == ("alpha", "serving", "alpha")
    assert "alpha serving" in ctl(scene, "status").stdout
    assert {m["id"] for m in ctl_json(scene, "models")["models"]} >= {"alpha", "beta", "slow", "side"}
    assert re.search(r"^alpha +serving +slot", ctl(scene, "models").stdout, re.M)
    assert ctl_json(scene, "memory")["total"] > 0
    assert "available" in ctl(scene, "memory").stdout
    assert any(e["url"].endswith(":30101/v1") for e in ctl_json(scene, "endpoints")["endpoints"])
    assert "30101" in ctl(scene, "endpoints").stdout
    assert ctl_json(scene, "check", "beta")["ok"] is True
    assert "ready to be tried" in ctl(scene, "check", "beta").stdout
    doctor = scene.host.run("spark-modelctl", "doctor", "--json", check=False)
    assert doctor.returncode == (0 if shaped(doctor.stdout, "doctor")["ok"] else 1)


def test_a_switch_and_the_ways_it_ends(scene: Scene) -> None:
    done = ctl(scene, "switch", "beta")
    assert "warming" in done.stdout
    assert "beta serves after" in done.stdout
    assert scene.host.ask(BETA) == sentence_of("beta")
    assert ctl_json(scene, "switch", "beta")["noop"] is True
    failed = ctl_json(scene, "switch", "broken", code=1, shape="(a failure)")
    assert (failed["code"], failed["switch"]["outcome"]) == ("model-failed", "rolled-back")
    told = ctl(scene, "switch", "broken", code=1).stderr
    assert "spark-modelctl logs broken" in told
    assert ctl_json(scene, "switch", "huge", code=4, shape="(a failure)")["code"] == "memory-refused"
    assert ctl_json(scene, "switch", "nobody", code=5, shape="(a failure)")["code"] == "unknown-model"
    assert "beta serves already" in ctl(scene, "switch", "beta").stdout
    assert "Usage" in ctl(scene, "switch", code=2).stderr
    nowhere = ctl(scene, "--socket", "/nowhere", "status", "--json", code=3)
    assert shaped(nowhere.stdout, "(a failure)")["code"] == "unreachable"
    refused = ctl(scene, "status", user="stranger", code=3).stderr
    assert "adduser $USER spark-modeld" in refused


def test_the_engines_own_progress_and_when_it_should_be_ready(scene: Scene) -> None:
    host = scene.host
    host.write(f"{HOLDS}/refused", "")
    assert ctl_json(scene, "switch", "slow", "--timeout", "0.1", code=6, shape="(a failure)")["code"] == "timed-out"

    def half() -> Any:
        switch = ctl_json(scene, "status")["switch"]
        return switch if switch["progress"] == 0.5 else None

    switch = until("it says that half is loaded", half)
    assert (switch["step"], switch["estimate"]) == ("loading weights", None)
    assert "loading weights [" in ctl(scene, "status").stdout
    side = next(m for m in ctl_json(scene, "models")["models"] if m["id"] == "slow")
    assert (side["step"], side["progress"]) == ("loading weights", 0.5)
    host.run("rm", f"{HOLDS}/refused")
    assert scene.ended(switch["id"])["outcome"] == "ready"
    load = next(m for m in ctl_json(scene, "models")["models"] if m["id"] == "slow")["load"]
    assert load["times"] == 1

    ctl(scene, "switch", "beta")
    host.write(f"{HOLDS}/refused", "")
    with going_on(scene, "switch", "slow") as process:
        assert "as the last time" in the_line(process, "takes about")
        the_line(process, "loading weights 50 %")
        status = ctl_json(scene, "status")["switch"]
        assert status["estimate"]["times"] == 1
        assert 0 <= status["eta_s"] <= status["estimate"]["seconds"]
        host.run("rm", f"{HOLDS}/refused")
        the_line(process, "slow serves after")


def test_cancel_and_history(scene: Scene) -> None:
    host = scene.host
    ctl(scene, "switch", "beta")
    host.write(f"{HOLDS}/refused", "")
    begun = ctl_json(scene, "switch", "slow", "--no-wait")
    assert "is being cancelled" in ctl(scene, "cancel").stdout
    assert scene.ended(begun["id"])["outcome"] == "cancelled"
    host.run("rm", f"{HOLDS}/refused")
    assert ctl_json(scene, "cancel", begun["id"])["outcome"] == "cancelled"
    assert ctl(scene, "cancel", code=1).stderr
    newest = ctl_json(scene, "history", "-n", "3")["switches"]
    assert (len(newest), newest[0]["id"]) == (3, begun["id"])
    table = ctl(scene, "history").stdout
    assert re.search(rf"beta → slow +cancelled .* {begun['id']}", table)
    assert "rolled-back" in table
    failed = next(s for s in ctl_json(scene, "history")["switches"] if s["model"] == "broken")
    assert ctl_json(scene, "history", failed["id"], shape="history ID")["error"]["code"] == "model-failed"
    one = ctl(scene, "history", failed["id"]).stdout
    assert re.search(r"warming +[0-9.]+ s", one)
    scene.switch("beta")


def test_side_models(scene: Scene) -> None:
    assert ctl_json(scene, "start", "side")["state"] == "serving"
    assert "side serving" in ctl(scene, "status").stdout
    assert ctl_json(scene, "stop", "side")["id"] == "side"
    until("side is down", lambda: scene.host.show(unit("side"), "ActiveState") == "inactive")


def test_logs(scene: Scene) -> None:
    scene.switch("alpha")
    shown = ctl_json(scene, "logs", "alpha", "-n", "5")
    assert (shown["unit"], len(shown["lines"])) == (unit("alpha"), 5)
    assert "Started" in ctl(scene, "logs").stdout
    with going_on(scene, "logs", "-f", "alpha", "-n", "1", "--json") as process:
        shaped(the_line(process), "logs --follow")
        scene.switch("beta")
        assert "Stopp" in shaped(the_line(process, "Stopp"), "logs --follow")["text"]


def hears_of_a_reload(scene: Scene, process: subprocess.Popen[str]) -> bool:
    """Whether it has something to say, if not at once then of this."""
    scene.reload()
    return bool(select.select([process.stdout], [], [], 0.2)[0])


def test_events_go_on_over_a_restart_of_the_daemon(scene: Scene) -> None:
    with going_on(scene, "events", "--json") as process, going_on(scene, "events") as people:
        for each in (process, people):
            until("it follows", lambda each=each: hears_of_a_reload(scene, each))
        scene.switch("alpha")
        line = the_line(process, '"switch"', '"ready"')
        assert shaped(line, "events")["data"]["model"] == "alpha"
        the_line(people, "switch", "alpha  ready")
        scene.host.run("systemctl", "restart", DAEMON)
        scene.switch("beta")
        assert shaped(the_line(process, '"switch"', '"ready"'), "events")["data"]["model"] == "beta"
        the_line(people, "switch", "beta  ready")


def test_a_checkpoint_is_added_and_serves(scene: Scene) -> None:
    host = scene.host
    host.run("ln", "-s", "/opt/llama/llama-server", "/usr/local/bin/llama-server")
    gguf = f"/srv/models/{tiny_model('gamma').name}"
    # Who may not write it is shown what to write, and how.
    printed = ctl(scene, "add", gguf, "--id", "gamma")
    assert tomllib.loads(printed.stdout)["engine"] == "llama-server"
    assert f"sudo spark-modelctl add {gguf} --id gamma --write" in printed.stderr
    assert ctl(scene, "add", gguf, "--id", "gamma", "--write", code=1).stderr
    added = ctl_json(scene, "add", gguf, "--id", "gamma", "--write", user=None)
    assert (added["written"], added["reloaded"], added["check"]["ok"]) == (True, True, True)
    assert added["toml"] == printed.stdout
    file = host.path("/etc/spark-modeld/models.d/gamma.toml")
    assert (file.read_text(), file.stat().st_uid, file.stat().st_mode & 0o777) == (added["toml"], 0, 0o644)
    ctl(scene, "switch", "gamma")
    port = int(tomllib.loads(added["toml"])["url"].rpartition(":")[2])
    assert host.ask(port) == sentence_of("gamma")
    assert "there already" in ctl(scene, "add", gguf, "--id", "gamma", "--write", user=None, code=1).stderr
    scene.switch("beta")


def test_a_unit_is_added(scene: Scene) -> None:
    host = scene.host
    host.write("/etc/systemd/system/mine.service", OWN_UNIT)
    host.run("systemctl", "daemon-reload")
    shown = ctl_json(scene, "add", "mine.service")
    read = tomllib.loads(shown["toml"])
    assert (read["unit"], read["engine"], read["url"], read["served_model_name"], read["path"]) == (
        *("mine.service", "llama-server", f"http://127.0.0.1:{OWN}", "mine", "/srv/m.gguf"),
    )
    # Its checkpoint is not there, which the daemon's own check finds: it is in force, and not tried.
    added = ctl(scene, "add", "mine.service", "--write", user=None, code=1)
    assert "Mend what is wrong in it" in added.stderr
    assert "mine" in {m["id"] for m in ctl_json(scene, "models")["models"]}
    assert "no unit nobodys.service" in ctl(scene, "add", "nobodys.service", code=1).stderr
    host.run("rm", "/etc/spark-modeld/models.d/mine.toml")
    assert "mine" not in ctl_json(scene, "reload")["models"]
    host.write("/etc/spark-modeld/models.d/wrong.toml", "engine = 3\n")
    assert "wrong.toml" in ctl(scene, "reload", code=1).stderr
    host.run("rm", "/etc/spark-modeld/models.d/wrong.toml")
    ctl(scene, "reload")


def test_tokens(scene: Scene) -> None:
    made = ctl_json(scene, "token", "add", "laptop", shape="token add", user=None)
    assert made["token"].startswith("smd_")
    listed = ctl_json(scene, "token", "list", shape="token list", user=None)
    assert [each["name"] for each in listed["tokens"]] == ["laptop"]
    assert "laptop" in ctl(scene, "token", "list", user=None).stdout
    keyed = scene.host.run(
        "spark-modelctl", "connect", "curl", "--token-stdin", "--json", input=f"{made['token']}\n", check=False
    )
    assert shaped(keyed.stdout, "connect")["client"] == "curl"
    assert ctl_json(scene, "token", "revoke", "laptop", shape="token revoke", user=None)["id"] == made["id"]
    assert "as root" in ctl(scene, "token", "list", code=1).stderr


def test_the_journal_tells_the_story_of_a_switch(scene: Scene) -> None:
    host = scene.host
    scene.switch("beta")
    switch_id = scene.switch("alpha")["id"]
    host.run("journalctl", "--sync")

    def story(*matches: str) -> list[dict[str, Any]]:
        said = host.run("journalctl", "--output=json", "--boot", *matches).stdout
        return [json.loads(line) for line in said.splitlines()]

    of_switch = [entry["MESSAGE"] for entry in story(f"SWITCH_ID={switch_id}")]
    for text in (f"stopping {unit('beta')}", f"starting {unit('alpha')}", "switch to alpha: warming", "ended ready"):
        assert any(text in message for message in of_switch), (text, of_switch)
    assert [e["MESSAGE"] for e in story(f"SWITCH_ID={switch_id}", "MODEL=beta")] == [f"stopping {unit('beta')}"]
    of_model = story("MODEL=alpha")
    engine = [entry["MESSAGE"] for entry in of_model if entry.get("_SYSTEMD_UNIT") == unit("alpha")]
    assert any("alpha: " in message for message in engine), of_model
    assert DAEMON in {entry.get("_SYSTEMD_UNIT") for entry in of_model}
    # The command that history shows has all of it: what the daemon said, and what the engine did.
    command = ctl(scene, "history", switch_id).stdout.splitlines()[-1].removeprefix("the whole story: ").split()
    whole = host.run(*command, "--output=cat").stdout
    assert f"stopping {unit('beta')}" in whole
    assert engine[-1] in whole


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sw", {"switch"}),
        ("switch a", {"alpha"}),
        ("switch --fo", {"--force"}),
        ("token re", {"revoke"}),
        ("completion z", {"zsh"}),
        ("check /srv/mod", {"/srv/models"}),
    ],
)
def test_completion_in_bash_and_fish(scene: Scene, words: str, expected: set[str]) -> None:
    typed = f"spark-modelctl {words}"
    script = (
        "source /usr/share/bash-completion/completions/spark-modelctl; compopt() { :; }; "
        f"COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _spark_modelctl_completion spark-modelctl; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    in_bash = set(scene.host.run("bash", "-c", script, user="olga").stdout.split())
    in_fish = scene.host.run("fish", "-c", f"complete -C {quoted(typed)}", user="olga").stdout.splitlines()
    if "/" in words:  # bash and readline complete files themselves
        assert any(line.startswith("/srv/models") for line in in_fish), in_fish
    else:
        assert in_bash == expected
        assert {line.split("\t")[0] for line in in_fish} == expected


def test_completion_in_zsh(scene: Scene) -> None:
    """zsh completes only at a prompt, so it is given one."""
    main, other = pty.openpty()
    scene.host.write("/root/.zshrc", "PS1='> '; autoload -Uz compinit; compinit -u\n")
    command = scene.host.command("env", "-i", "HOME=/root", "TERM=dumb", "PATH=/usr/bin:/bin", "zsh", "-i")
    shell = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    try:
        read_until(main, b"> ")
        os.write(main, b"spark-modelctl switch al\t")
        read_until(main, b"switch alpha")
        os.write(main, b"\x15spark-modelctl tok\t")
        read_until(main, b"token")
    finally:
        shell.kill()
        shell.wait()
        os.close(main)


def read_until(fd: int, text: bytes) -> None:
    seen = bytearray()
    with deadline(lambda: f"no {text!r} in {bytes(seen)!r}"):
        while text not in seen:
            seen += os.read(fd, 4096)


def test_shutdown_comes_last(scene: Scene) -> None:
    assert "needs root" in ctl(scene, "shutdown", code=1).stderr
    assert "spark-modeld.service" in ctl_json(scene, "shutdown", user=None)["stopped"]
    assert scene.host.show(DAEMON, "ActiveState") == "inactive"
    assert scene.host.show(unit("alpha"), "ActiveState") == "active"
    ctl(scene, "status", code=3)
