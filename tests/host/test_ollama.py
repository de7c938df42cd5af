"""Ollama on a host: one server in a unit of its own, several of its models in the catalog, and clients beside us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.serving import LARGE, SETTINGS, Events, Serving, Watch, await_that
from support.spark import SOURCE, SparkHost, quoted
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

UNIT = "ollama.service"
PORT = 11434
ILLS = "/run/ollama-ills"
TAGS = {"llama": "llama3.2:3b", "qwen": "qwen3", "tiny": "tiny:1b"}
ALPHA = 8001

SERVER = f"""\
[Unit]
Description=Ollama Service
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/python3 -I -S {SOURCE}/tests/support/ollama_server.py --port {PORT} --ills {ILLS} \
  --model llama3.2:3b=2048 --model qwen3=2048 --model tiny:1b=100 --model mystery:70b=4096
Restart=always
RestartSec=300ms
"""

POLKIT = f"""\
polkit.addRule(function (action, subject) {{
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "spark-modeld" &&
        action.lookup("unit") == "{UNIT}" &&
        ["start", "stop", "kill", "reset-failed"].indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
"""


def tenant(tag: str, memory: str, more: str = "") -> str:
    return (
        f'engine = "ollama"\nurl = "http://127.0.0.1:{PORT}"\nserved_model_name = "{tag}"\nmemory = "{memory}"\n'
        f'unit = "{UNIT}"\n{more}'
    )


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    host = installed_host
    host.settings(SETTINGS)
    host.write(f"/etc/systemd/system/{UNIT}", SERVER)
    host.write("/etc/polkit-1/rules.d/51-ollama.rules", POLKIT)
    host.run("mkdir", "-p", ILLS)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "polkit.service")
    host.tiny("alpha", port=ALPHA, memory=LARGE)
    host.model("llama", tenant(TAGS["llama"], LARGE))
    host.model("qwen", tenant(TAGS["qwen"], LARGE))
    host.model("tiny", tenant(TAGS["tiny"], "100MiB", 'role = "side"\n'))
    host.enable()
    return host


class Ollama(Serving):
    """The daemon, and the server as another client sees it."""

    def ask(self, path: str, body: object = None) -> Any:
        data = ["-d", json.dumps(body)] if body is not None else []
        return json.loads(self.host.run("curl", "-sS", *data, f"http://127.0.0.1:{PORT}{path}").stdout)

    def held(self) -> dict[str, str]:
        """What the server holds, and until when."""
        return {entry["name"]: entry["expires_at"] for entry in self.ask("/api/ps")["models"]}

    def server_pid(self) -> str:
        return self.host.show(UNIT, "MainPID")

    def client(self, tag: str, **more: object) -> None:
        """Another client's request for a model."""
        said = self.ask("/api/generate", {"model": tag, "prompt": "Hi", "stream": False, **more})
        assert said["done"], said

    def says(self, tag: str) -> None:
        """The server's OpenAI side answers as this model."""
        said = self.ask("/v1/chat/completions", {"model": tag, "messages": [{"role": "user", "content": "Hi"}]})
        assert said["choices"][0]["message"]["content"].startswith(f"I am {tag}")


@pytest.fixture
def ollama(host: SparkHost) -> Iterator[Ollama]:
    """The server up and empty, the slot empty."""
    ollama = Ollama(host)
    host.run("find", ILLS, "-type", "f", "-delete")
    host.run("systemctl", "restart", UNIT)
    await_that(lambda: host.run("curl", "-sf", f"http://127.0.0.1:{PORT}/", check=False).returncode == 0, "the server")
    ollama.serve(None)
    await_that(lambda: ollama.warnings() == [], f"no warnings: {ollama.warnings()}")
    with Watch(host, ["alpha"]):
        yield ollama


def test_to_ollama_and_back_by_the_command(ollama: Ollama) -> None:
    """Two engines, two models of one server: its unit is never restarted, and what left the slot holds nothing."""
    pid = ollama.server_pid()
    assert "alpha serves after" in ollama.ctl("switch", "alpha")
    ollama.ctl("switch", "llama")
    assert ollama.slot() == ("llama", "serving")
    assert ollama.active("alpha") == "inactive"
    assert list(ollama.held()) == ["llama3.2:3b"]
    assert ollama.held()["llama3.2:3b"] > "2200", "it stays until it is told otherwise"
    ollama.says("llama3.2:3b")
    ollama.ctl("switch", "qwen")
    assert list(ollama.held()) == ["qwen3:latest"]
    ollama.says("qwen3:latest")
    assert f"http://127.0.0.1:{PORT}" in ollama.ctl("status")
    ollama.ctl("switch", "alpha")
    assert ollama.held() == {}
    assert ollama.host.ask(ALPHA) == sentence_of("alpha")
    assert ollama.server_pid() == pid
    assert (ollama.host.show(UNIT, "ActiveState"), ollama.warnings()) == ("active", [])
    ollama.ctl("switch", "qwen")
    ollama.ctl("switch", "--empty")
    assert ollama.held() == {}
    assert ollama.slot() == (None, "empty")
    assert ollama.server_pid() == pid


def test_a_server_that_is_down_is_started_and_stays(ollama: Ollama) -> None:
    ollama.host.run("systemctl", "stop", UNIT)
    ollama.serve("llama")
    assert list(ollama.held()) == ["llama3.2:3b"]
    ollama.serve("alpha")
    assert ollama.held() == {}
    assert ollama.host.show(UNIT, "ActiveState") == "active"


def test_a_side_model_beside_another_of_the_same_server(ollama: Ollama) -> None:
    ollama.serve("llama")
    ollama.ctl("start", "tiny")
    await_that(lambda: set(ollama.held()) == {"llama3.2:3b", "tiny:1b"}, "both to be held")
    assert "never run together" in ollama.ctl("start", "qwen", exit_status=4)
    ollama.serve("alpha")
    assert set(ollama.held()) == {"tiny:1b"}
    ollama.ctl("stop", "tiny")
    await_that(lambda: ollama.held() == {}, "the side model to go")


def test_what_a_client_loads_beside_the_occupant_is_reported_and_left_to_its_end(ollama: Ollama) -> None:
    ollama.serve("alpha")
    ollama.client("qwen3", keep_alive="10s")
    await_that(lambda: "large-parallel" in ollama.warnings(), "the warning")
    assert ollama.slot() == ("alpha", "serving")
    await_that(lambda: ollama.held() == {}, "Ollama to drop it by itself")
    await_that(lambda: ollama.warnings() == [], "the warning to go")
    assert ollama.slot() == ("alpha", "serving")


def test_what_a_client_loads_into_the_empty_slot_is_taken_in_and_kept(ollama: Ollama) -> None:
    ollama.client("qwen3", keep_alive="20s")
    ollama.await_slot("qwen", "serving")
    assert ollama.history()[0]["requested_by"] == "systemd"
    await_that(lambda: ollama.held()["qwen3:latest"] > "2200", "it to be kept without an end")
    ollama.client("qwen3", keep_alive="20s")
    assert ollama.held()["qwen3:latest"] < "2200"
    await_that(lambda: ollama.held()["qwen3:latest"] > "2200", "it to be kept again")


def test_a_model_nobody_knows_counts_as_a_holder_and_is_named(ollama: Ollama) -> None:
    ollama.client("mystery:70b")
    await_that(lambda: "stranger-loaded" in ollama.warnings(), "the warning")
    message = next(w["message"] for w in ollama.status()["warnings"] if w["code"] == "stranger-loaded")
    assert message.startswith("mystery:70b on ollama.service holds 4.0 GiB")
    entries = ollama.host.api("GET", "/api/memory")[1]["loaded"]
    assert [(e["name"], e["unit"], e["bytes"], e["model"]) for e in entries] == [("mystery:70b", UNIT, 4 << 30, None)]
    assert "LOADED PAST US" in ollama.ctl("memory")
    refusal = " ".join(ollama.ctl("switch", "alpha", exit_status=4).split())
    assert "mystery:70b on ollama.service (4.0 GiB), which is running" in refusal
    assert "`ollama stop mystery:70b` unloads it" in refusal
    status, problem = ollama.switch("alpha")
    assert (status, problem["code"]) == (409, "large-parallel")
    assert problem["holders"] == [{"model": "mystery:70b on ollama.service", "bytes": 4 << 30}]
    ollama.ask("/api/generate", {"model": "mystery:70b", "keep_alive": 0})
    await_that(lambda: ollama.held() == {}, "it to go")
    ollama.serve("alpha")
    await_that(lambda: ollama.warnings() == [], "the warning to go")


def test_systemctl_stop_of_the_server_empties_the_slot_and_a_restart_brings_the_model_back(ollama: Ollama) -> None:
    ollama.serve("llama")
    before = ollama.server_pid()
    with Events(ollama.host) as events:
        ollama.host.run("systemctl", "restart", UNIT)
        events.phase("llama", "warming")
    ollama.await_slot("llama", "serving")
    assert list(ollama.held()) == ["llama3.2:3b"]
    assert ollama.server_pid() not in ("0", before)
    ollama.host.run("systemctl", "stop", UNIT)
    ollama.await_slot(None, "empty")
    assert "stopped with systemctl" in str(ollama.status()["slot"]["reason"])
    assert ollama.desired_on_disk() == "llama"
    ollama.host.run("systemctl", "start", UNIT)
    ollama.serve("qwen")
    assert list(ollama.held()) == ["qwen3:latest"]


def test_a_server_that_crashes_comes_back_with_its_model(ollama: Ollama) -> None:
    ollama.serve("llama")
    with Events(ollama.host) as events:
        ollama.host.run("systemctl", "kill", "--signal=KILL", UNIT)
        events.until("slot", lambda data: "killed by a signal" in str(data["reason"]))
        events.until("switch", lambda data: data["outcome"] == "ready")
    assert ollama.slot() == ("llama", "serving")
    assert list(ollama.held()) == ["llama3.2:3b"]


def test_what_another_client_unloads_comes_back(ollama: Ollama) -> None:
    ollama.serve("llama")
    with Events(ollama.host) as events:
        ollama.ask("/api/generate", {"model": "llama3.2:3b", "keep_alive": 0})
        events.phase("llama", "failed")
        reason = events.until("slot", lambda data: bool(data["reason"]))["reason"]
        assert "another client unloaded it" in str(reason)
        events.until("switch", lambda data: data["outcome"] == "ready")
    assert list(ollama.held()) == ["llama3.2:3b"]


def test_a_model_that_will_not_go_takes_its_server_along(ollama: Ollama) -> None:
    ollama.host.model("llama", tenant(TAGS["llama"], LARGE, 'stop_timeout = "2s"\n'))
    ollama.reload()
    ollama.serve("llama")
    ollama.host.write(f"{ILLS}/stubborn", "")
    before = ollama.server_pid()
    assert ollama.serve("alpha")["timings"]["stopping"] >= 2
    assert ollama.server_pid() != before
    assert ollama.host.ask(ALPHA) == sentence_of("alpha")


def test_a_load_that_the_server_refuses_fails_the_switch_with_its_words(ollama: Ollama) -> None:
    ollama.serve("alpha")
    ollama.host.write(f"{ILLS}/fails", "")
    status, problem = ollama.switch("llama")
    assert (status, problem["code"], problem["switch"]["outcome"]) == (502, "model-failed", "rolled-back")
    assert "model requires more system memory (70.0 GiB) than is available (7.1 GiB)" in problem["detail"]
    assert ollama.slot() == ("alpha", "serving")


def test_a_server_for_one_model_comes_and_goes_with_it(ollama: Ollama) -> None:
    host, port = ollama.host, 11435
    command = ["/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/ollama_server.py", "--model", "own:1b=100"]
    words = ", ".join(map(quoted, [*command, "--port", str(port)]))
    head = f'engine = "ollama"\nurl = "http://127.0.0.1:{port}"\nserved_model_name = "own:1b"\nmemory = "{LARGE}"\n'
    host.model("own", f"{head}[launch]\ncommand = [{words}]\n")
    ollama.reload()
    ollama.serve("llama")
    ollama.serve("own")
    assert ollama.held() == {}
    assert (
        json.loads(host.run("curl", "-sS", f"http://127.0.0.1:{port}/api/ps").stdout)["models"][0]["name"] == "own:1b"
    )
    ollama.serve("llama")
    assert ollama.active("own") in ("inactive", "failed")


def test_a_model_the_server_does_not_have_is_told(ollama: Ollama) -> None:
    ollama.host.model("typo", tenant("lama3.2:3b", LARGE))
    ollama.reload()
    try:
        status, problem = ollama.switch("typo")
        assert (status, problem["code"]) == (502, "model-failed")
        assert "has no model lama3.2:3b" in problem["detail"]
    finally:
        ollama.host.run("rm", "/etc/spark-modeld/models.d/typo.toml")
        ollama.reload()


def test_the_daemon_s_restart_touches_no_model_of_the_server(ollama: Ollama) -> None:
    ollama.serve("llama")
    pid = ollama.server_pid()
    ollama.restart_daemon()
    ollama.await_slot("llama", "serving")
    assert ollama.server_pid() == pid
    assert list(ollama.held()) == ["llama3.2:3b"]
    assert ollama.history()[0]["model"] == "llama"
