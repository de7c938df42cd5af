"""The API's two doors on a real machine, who may pass them, and what the daemon tells systemd and the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from support.scene import SETTINGS, Scene, bad_model
from support.spark import SOCKETS, SparkHost
from support.witness import DAEMON, Events, until

pytestmark = pytest.mark.host

ALPHA, BETA = 8001, 8002
TOKENS = "/etc/spark-modeld/tokens.toml"


@pytest.fixture(scope="module")
def scene(installed_host: SparkHost) -> Scene:
    host = installed_host
    host.settings(SETTINGS)
    host.model("alpha", bad_model("alpha", port=ALPHA))
    host.model("beta", bad_model("beta", port=BETA))
    host.enable()
    host.run("useradd", "--no-create-home", "--groups", "spark-modeld", "olga")
    host.run("useradd", "--no-create-home", "stranger")
    scene = Scene(host)
    scene.switch("alpha")
    return scene


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


def tcp(host: SparkHost, path: str, *headers: str, method: str = "GET", body: object = None, token: str = "") -> Answer:
    """One call on 127.0.0.1:30100."""
    sent = [*headers, *([f"Authorization: Bearer {token}"] if token else [])]
    sent += ["Content-Type: application/json"] if body is not None else []
    words = [word for header in sent for word in ("-H", header)]
    words += ["-d", json.dumps(body)] if body is not None else []
    url = f"http://127.0.0.1:30100{path}"
    said = host.run("curl", "-sS", "-X", method, "-w", "\n%{http_code}", *words, url).stdout
    content, _, status = said.rpartition("\n")
    return Answer(int(status), json.loads(content) if content.startswith("{") else content)


def add(host: SparkHost, name: str, *scopes: str) -> str:
    """A new token."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    return str(json.loads(host.run("spark-modelctl", "token", "add", "--json", *words, name).stdout)["token"])


def revoke(host: SparkHost, name: str) -> None:
    host.run("spark-modelctl", "token", "revoke", name)


def test_without_a_token_the_port_tells_nothing(scene: Scene) -> None:
    for token in ("", "smd_aaaaaaaa_" + "a" * 43, "nonsense"):
        answer = tcp(scene.host, "/api/status", token=token)
        assert (answer.status, answer.body["code"]) == (401, "not-authorized")
        assert "alpha" not in json.dumps(answer.body)
    assert tcp(scene.host, "/api/switch", method="POST", body={"model": "beta"}).status == 401
    assert tcp(scene.host, "/health") == Answer(200, {"status": "ok"})
    assert scene.slot() == ("alpha", "serving")


def test_a_token_is_good_at_once_and_useless_at_once(scene: Scene) -> None:
    host, daemon = scene.host, scene.daemon_pid()
    token = add(host, "script", "control")
    answer = tcp(host, "/api/status", token=token)
    assert (answer.status, answer.body["slot"]["model"]) == (200, "alpha")
    answer = tcp(host, "/api/switch?wait=true", method="POST", body={"model": "beta"}, token=token)
    assert (answer.status, answer.body["actor"]) == (200, "token script")
    assert tcp(host, "/api/switch?wait=true", method="POST", body={"model": "alpha"}, token=token).status == 200
    revoke(host, "script")
    assert tcp(host, "/api/status", token=token).status == 401
    assert scene.daemon_pid() == daemon


def test_to_observe_is_not_to_control(scene: Scene) -> None:
    token = add(scene.host, "dashboard", "observe")
    for path in ("/api/status", "/api/models", "/api/memory", "/api/switches"):
        assert tcp(scene.host, path, token=token).status == 200
    for method, path, body in (
        ("POST", "/api/switch", {"model": "beta"}),
        ("POST", "/api/reload", None),
        ("DELETE", "/api/switches/sw-1", None),
    ):
        answer = tcp(scene.host, path, method=method, body=body, token=token)
        assert (answer.status, answer.body["code"]) == (403, "not-authorized")
    assert scene.slot() == ("alpha", "serving")
    revoke(scene.host, "dashboard")


def test_tokens_are_kept_as_hashes_for_the_daemon_alone(scene: Scene) -> None:
    host = scene.host
    token = add(host, "kept", "control")
    try:
        assert host.run("stat", "-c", "%U:%G %a", TOKENS).stdout.strip() == "root:spark-modeld-secrets 640"
        assert token.rsplit("_", 1)[1] not in host.path(TOKENS).read_text()
        assert token not in host.run("spark-modelctl", "token", "list", "--json").stdout
        assert host.run("cat", TOKENS, user="olga", check=False).returncode != 0
        denied = host.run("spark-modelctl", "token", "add", "mine", user="olga", check=False)
        assert (denied.returncode, "root" in denied.stderr) == (1, True)
        tcp(host, "/api/status", token=token)
        tcp(host, "/api/status", token=f"{token}x")
        assert token not in host.journal()
    finally:
        revoke(host, "kept")


@pytest.mark.parametrize(
    "header",
    [
        "Host: spark.example",
        "Host: 192.168.1.7:30100",
        "Host: localhost.evil.example",
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
    ],
)
def test_other_hosts_and_origins_are_refused_before_anything_else(scene: Scene, header: str) -> None:
    token = add(scene.host, "page", "control")
    for sent in (token, ""):
        answer = tcp(scene.host, "/api/switch", header, method="POST", body={"model": "beta"}, token=sent)
        assert (answer.status, answer.body["code"]) == (403, "not-authorized")
    assert tcp(scene.host, "/health", header).status == 403
    assert scene.slot() == ("alpha", "serving")
    revoke(scene.host, "page")


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/spark-modeld", "/etc/spark-modeld/models.d", "/etc/spark-modeld/models.d/alpha.toml"),
        *("/run/spark-models", "/run/spark-models/alpha", "/run/spark-models/alpha/start"),
        *("/run/spark-models/alpha/command", "/run/spark-models/alpha/start.sig", "/usr/lib/spark-modeld/libexec"),
        *("/usr/lib/spark-modeld/libexec/launch.py", TOKENS),
    ],
)
def test_what_the_launcher_reads_is_not_the_daemons_to_write(scene: Scene, path: str) -> None:
    if path == TOKENS:
        add(scene.host, "there", "observe")
        revoke(scene.host, "there")
    assert scene.host.run("test", "-e", path, check=False).returncode == 0
    for user in ("spark-modeld", "spark-model", "olga"):
        assert scene.host.run("test", "-w", path, user=user, check=False).returncode == 1, f"{user} may write {path}"


def test_systemctl_status_names_slot_and_phase(scene: Scene) -> None:
    def text() -> str:
        return scene.host.show(DAEMON, "StatusText")

    assert text() == "alpha: serving"
    scene.hold("beta-load")
    with Events(scene.host) as events:
        switch_id = scene.begin("beta")
        events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == "warming")
        until("beta is said to be warming", lambda: text() == "beta: warming")
    scene.release()
    scene.ended(switch_id)
    scene.switch(None)
    until("the slot is said to be empty", lambda: text() == "slot empty")
    assert "slot empty" in scene.host.run("systemctl", "status", DAEMON).stdout
    scene.switch("alpha")


def test_the_journal_is_found_by_model_and_by_switch(scene: Scene) -> None:
    switch = scene.switch("beta")
    scene.switch("alpha")
    by_switch = scene.host.journal("-o", "json", f"SWITCH_ID={switch['id']}")
    lines = [json.loads(line) for line in by_switch.splitlines()]
    assert {line["MODEL"] for line in lines} == {"alpha", "beta"}
    said = [line["MESSAGE"] for line in lines if line["MODEL"] == "beta"]
    for phase in ("stopping", "starting", "warming", "ended ready"):
        assert any(phase in message for message in said), f"{phase} is not in {said}"
    by_model = scene.host.journal("-o", "cat", "MODEL=beta", "_SYSTEMD_UNIT=spark-modeld.service")
    assert set(said) <= set(by_model.splitlines())
    by_unit = scene.host.journal("-o", "json", "MODEL=beta", "UNIT=spark-model@beta.service")
    assert [json.loads(line)["MESSAGE"] for line in by_unit.splitlines()]


def test_operators_may_and_others_are_told_how(scene: Scene) -> None:
    shown = scene.host.run("spark-modelctl", "status", user="olga").stdout
    assert "alpha" in shown
    assert "serving" in shown
    assert len(shown.splitlines()) <= 24
    scene.host.run("spark-modelctl", "switch", "--wait", "beta", user="olga")
    uid = scene.host.run("id", "-u", "olga").stdout.strip()
    assert scene.host.api("GET", "/api/switches?limit=1")[1]["switches"][0]["actor"] == f"uid {uid}"
    scene.switch("alpha")
    for user in ("stranger", "spark-model"):
        refused = scene.host.run("spark-modelctl", "status", user=user, check=False)
        assert refused.returncode == 3
        assert "group spark-modeld" in refused.stderr
        assert refused.stdout == ""


def test_without_a_socket_the_command_says_what_to_start(scene: Scene) -> None:
    scene.host.run("systemctl", "stop", *SOCKETS, DAEMON)
    gone = scene.host.run("spark-modelctl", "status", check=False)
    assert (gone.returncode, "systemctl start spark-modeld.socket" in gone.stderr) == (3, True)
    scene.host.run("systemctl", "start", *SOCKETS)
    scene.serves("alpha", ALPHA)
