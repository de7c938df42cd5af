"""The gateway in the real daemon, with real engines and real clients."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.scene import SETTINGS, Scene
from support.spark import SOURCE, TOOLS, SparkHost
from support.tiny_models import sentence_of
from support.witness import DAEMON, Guard, until

pytestmark = pytest.mark.host

QUICK = SETTINGS.replace("[slot]\n", '[slot]\nmin_residency = "50ms"\n')
ALPHA, BETA, LOOP, OWN = 8001, 8002, 8003, 31001
GATEWAY = "http://127.0.0.1:30101"
CLIENTS = f"{SOURCE}/tests/support/gateway_clients.py"
CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 20, "temperature": 0}


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Scene:
    host = installed_host
    host.settings(QUICK + '[gateway]\nloading_keepalive = "100ms"\n')
    host.tiny("alpha", port=ALPHA, extra='aliases = ["a"]')
    host.tiny("beta", port=BETA, extra=f"gateway_port = {OWN}")
    host.tiny("loop", port=LOOP, loop=True)
    host.enable()
    return Scene(host)


@pytest.fixture(scope="module")
def token(booted: Scene) -> str:
    return add_token(booted.host, "all")


def add_token(host: SparkHost, name: str, *more: str) -> str:
    answer = host.run("spark-modelctl", "token", "add", "--json", *more, name)
    return str(json.loads(answer.stdout)["token"])


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    booted.host.run("systemctl", "start", DAEMON)
    booted.reset()
    with Guard(booted.host, frozenset({"alpha", "beta", "loop"})):
        yield booted


def curl(host: SparkHost, *arguments: str, token: str = "") -> tuple[int, Any]:
    """One request: status and body, which is parsed where it is JSON."""
    auth = ("-H", f"Authorization: Bearer {token}") if token else ()
    said = host.run("curl", "-sS", "-w", "\n%{http_code}", *auth, *arguments).stdout
    body, _, code = said.rpartition("\n")
    try:
        return int(code), json.loads(body)
    except ValueError:
        return int(code), body


def chat(host: SparkHost, model: str | None, token: str, *more: str, at: str = GATEWAY) -> tuple[int, Any]:
    body = json.dumps({**CHAT, **({"model": model} if model else {})})
    return curl(
        host, "-H", "Content-Type: application/json", "-d", body, *more, f"{at}/v1/chat/completions", token=token
    )


def said(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"]).strip()


def python(host: SparkHost, *arguments: str) -> list[str]:
    return host.command("env", f"PYTHONPATH={TOOLS}", "/usr/bin/python3", CLIENTS, *arguments)


def begin_stream(host: SparkHost, token: str) -> subprocess.Popen[str]:
    """A stream that never ends by itself, and whose first piece has come."""
    body = json.dumps({**CHAT, "model": "loop", "stream": True, "max_tokens": 100000})
    process = host.popen(
        *("curl", "-sSN", "-H", f"Authorization: Bearer {token}", "-d", body, f"{GATEWAY}/v1/chat/completions"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("data: ")
    return process


def end(process: subprocess.Popen[str]) -> str:
    """What is still said until it ends."""
    said, _ = process.communicate(timeout=90)
    return said


def connections(host: SparkHost, port: int) -> int:
    """How many are established to an engine, the probes' left out."""
    shown = host.run("ss", "-Htn", "state", "established", f"dport = :{port}").stdout
    return len(shown.splitlines())


def in_flight(scene: Scene) -> int:
    return int(scene.status()["slot"]["in_flight"])


def test_strangers_stay_out(scene: Scene, token: str) -> None:
    host = scene.host
    assert curl(host, f"{GATEWAY}/health") == (200, {"status": "ok"})
    for path in ("/v1/models", "/models"):
        code, answer = curl(host, f"{GATEWAY}{path}")
        assert (code, answer["error"]["type"]) == (401, "authentication_error")
        code, answer = curl(host, f"{GATEWAY}{path}", token=token)
        assert (code, {each["id"] for each in answer["data"]}) == (200, {"alpha", "beta", "loop"})
    assert chat(host, "alpha", "smd_wrong")[0] == 401
    assert curl(host, f"{GATEWAY}/slots", token=token)[0] == 403
    control = add_token(host, "control", "--scope", "control")
    assert chat(host, "alpha", control)[0] == 403
    assert scene.slot() == (None, "empty")
    assert token not in host.journal()


def test_tokens_are_good_and_bad_at_once(scene: Scene) -> None:
    """A secret that clients have already, one with an end, one that is revoked."""
    host, secret = scene.host, "c5f1" * 8 + "0123456789abcdef"
    assert curl(host, f"{GATEWAY}/v1/models", token=secret)[0] == 401
    host.run("spark-modelctl", "token", "add", "--stdin", "--note", "from the Caddyfile", "cursor", input=f"{secret}\n")
    assert curl(host, f"{GATEWAY}/v1/models", token=secret)[0] == 200
    assert "from the Caddyfile" in host.run("spark-modelctl", "token", "list").stdout
    brief = add_token(host, "brief", "--expires", "2s")
    assert curl(host, f"{GATEWAY}/v1/models", token=brief)[0] == 200
    host.run("spark-modelctl", "token", "revoke", "cursor")
    assert curl(host, f"{GATEWAY}/v1/models", token=secret)[0] == 401
    until("the time is over", lambda: curl(host, f"{GATEWAY}/v1/models", token=brief)[0] == 401)
    assert secret not in host.journal()


def test_a_request_brings_its_model_and_then_goes_through(scene: Scene, token: str) -> None:
    for model in ("alpha", "beta", "a"):
        code, answer = chat(scene.host, model, token)
        assert (code, said(answer)) == (200, sentence_of("alpha" if model == "a" else model))
    assert scene.slot() == ("alpha", "serving")
    code, answer = chat(scene.host, None, token)
    assert said(answer) == sentence_of("alpha")


def test_a_token_that_may_not_switch_is_told_who_holds_the_slot(scene: Scene) -> None:
    still = add_token(scene.host, "still", "--no-switch")
    scene.switch("alpha")
    assert chat(scene.host, "alpha", still)[0] == 200
    code, answer = chat(scene.host, "beta", still)
    assert (code, "alpha" in answer["error"]["message"]) == (503, True)
    assert scene.slot()[0] == "alpha"


def test_a_stream_that_waits_is_told_so(scene: Scene, token: str) -> None:
    body = json.dumps({**CHAT, "model": "beta", "stream": True})
    scene.host.run("systemctl", "stop", DAEMON)
    code, text = curl(scene.host, "-N", "-d", body, f"{GATEWAY}/v1/chat/completions", token=token)
    assert code == 200
    assert text.rstrip().endswith("data: [DONE]")


def test_the_openai_client_finds_all_it_needs(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    ran = subprocess.run(python(scene.host, "sdk", token), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["models"][0] == "alpha"
    assert seen["one"] == "alpha"
    assert seen["streamed"].strip() == seen["plain"].strip() == sentence_of("alpha")
    assert seen["usage"] > 0
    assert [each.strip() for each in seen["several"]] == [sentence_of("alpha")] * 8
    assert seen["unknown"] == ["NotFoundError", 404, "model_not_found"]
    assert seen["wrong"] == ["AuthenticationError", 401, "invalid_api_key"]
    until("no lease is held", lambda: in_flight(scene) == 0)


def test_a_client_that_hangs_up_ends_the_engines_work(scene: Scene, token: str) -> None:
    scene.switch("loop")
    process = begin_stream(scene.host, token)
    assert in_flight(scene) == 1
    assert connections(scene.host, LOOP) == 1
    process.kill()
    process.communicate()
    begun = time.monotonic()
    until("the engine is let go", lambda: connections(scene.host, LOOP) == 0)
    assert time.monotonic() - begun < 5
    until("no lease is held", lambda: in_flight(scene) == 0)


def test_an_engine_that_dies_ends_the_stream_with_an_error(scene: Scene, token: str) -> None:
    scene.switch("loop")
    process = subprocess.Popen(python(scene.host, "stream", token, "loop"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "piece" in json.loads(process.stdout.readline())
    scene.host.run("systemctl", "kill", "-s", "KILL", "spark-model@loop.service")
    last = json.loads(end(process).splitlines()[-1])
    assert (last["error"], last["code"]) == ("APIError", "model_failed")
    until("no lease is held", lambda: in_flight(scene) == 0)


def test_a_restart_lets_streams_go_on_and_refuses_nobody(scene: Scene, token: str) -> None:
    scene.switch("loop")
    before = scene.daemon_pid()
    process = begin_stream(scene.host, token)
    restart = scene.host.popen("systemctl", "restart", DAEMON)
    until("it is stopping", lambda: scene.host.show(DAEMON, "ActiveState") == "deactivating")
    late = scene.host.popen("curl", "-sS", f"{GATEWAY}/health", stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline()
    assert scene.daemon_pid() == before
    process.kill()
    process.communicate()
    assert restart.wait(30) == 0
    assert json.loads(late.communicate(timeout=30)[0]) == {"status": "ok"}
    assert scene.daemon_pid() != before
    until("it serves again", lambda: scene.slot() == ("loop", "serving"))


def test_a_model_has_its_own_port(scene: Scene, token: str) -> None:
    own = f"http://127.0.0.1:{OWN}"
    code, answer = chat(scene.host, "alpha", token, at=own)
    assert (code, said(answer)) == (200, sentence_of("beta"))
    scene.host.path("/etc/spark-modeld/models.d/beta.toml").rename(scene.host.path("/root/beta.toml"))
    scene.switch(None)
    scene.reload()
    assert scene.host.run("curl", "-s", own, check=False).returncode == 7, "refused"
    scene.host.path("/root/beta.toml").rename(scene.host.path("/etc/spark-modeld/models.d/beta.toml"))
    scene.reload()
    assert chat(scene.host, None, token, at=own)[0] == 200


def test_systemd_can_hold_a_models_port(scene: Scene, token: str) -> None:
    host = scene.host
    socket = f"spark-modeld-port@{OWN}.socket"
    host.run("systemctl", "stop", DAEMON)
    host.run("systemctl", "start", socket)
    code, answer = chat(host, None, token, at=f"http://127.0.0.1:{OWN}")
    assert (code, said(answer)) == (200, sentence_of("beta"))
    assert host.show(DAEMON, "ActiveState") == "active"
    said_ = host.run("spark-modelctl", "shutdown").stdout
    assert "stopped" in said_
    assert host.show(socket, "ActiveState") == "inactive"
    assert host.run("curl", "-s", f"http://127.0.0.1:{OWN}", check=False).returncode == 7
    scene.reset()


def reach(host: SparkHost, token: str, address: str) -> str:
    """The status code that a neighbour gets from this address."""
    url = f"http://{address}:30101/v1/models"
    auth = f"Authorization: Bearer {token}"
    command = ("curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", "-H", auth, url)
    return host.run("ip", "netns", "exec", "neighbour", *command, check=False).stdout


DROP_IN = "[Service]\nIPAddressAllow=10.99.0.0/24\n"
SOCKET_DROP_IN = "[Socket]\nListenStream=10.99.0.1:30101\nFreeBind=yes\nIPAddressAllow=10.99.0.0/24\n"


@pytest.fixture
def neighbour(scene: Scene) -> Iterator[Scene]:
    """Another machine, at 10.99.0.2; ours gets 10.99.0.1 only later."""
    ip = scene.host.run
    ip("ip", "netns", "add", "neighbour")
    ip("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", "neighbour")
    ip("ip", "-n", "neighbour", "addr", "add", "10.99.0.2/24", "dev", "lan1")
    ip("ip", "-n", "neighbour", "link", "set", "lan1", "up")
    yield scene
    ip("ip", "link", "del", "lan0")
    ip("ip", "netns", "del", "neighbour")
    for path in ("/etc/systemd/system/spark-modeld.service.d", "/etc/systemd/system/spark-modeld-gateway.socket.d"):
        ip("rm", "-rf", path)
    scene.host.settings(QUICK)
    ip("systemctl", "daemon-reload")
    ip("systemctl", "stop", DAEMON, "spark-modeld-gateway.socket")
    scene.reset()


@pytest.mark.parametrize("way", ["setting", "drop-in"])
def test_a_neighbour_reaches_it_where_that_is_wanted(neighbour: Scene, token: str, way: str) -> None:
    host = neighbour.host
    host.write("/etc/systemd/system/spark-modeld.service.d/lan.conf", DROP_IN)
    if way == "setting":
        host.settings(f'{QUICK}[gateway]\nlisten = ["127.0.0.1:30101", "10.99.0.1:30101"]\n')
    else:
        host.write("/etc/systemd/system/spark-modeld-gateway.socket.d/lan.conf", SOCKET_DROP_IN)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "stop", DAEMON, "spark-modeld-gateway.socket")
    host.run("systemctl", "start", "spark-modeld-gateway.socket", DAEMON)
    host.run("ip", "addr", "add", "10.99.0.1/24", "dev", "lan0")
    host.run("ip", "link", "set", "lan0", "up")
    until("the neighbour is answered", lambda: reach(host, token, "10.99.0.1") == "200")
    assert reach(host, "smd_wrong", "10.99.0.1") == "401"
    assert curl(host, f"{GATEWAY}/v1/models", token=token)[0] == 200


def test_every_request_has_a_line_and_is_counted(scene: Scene, token: str) -> None:
    chat(scene.host, "alpha", token)
    entry = until(
        "the line is written",
        lambda: [
            json.loads(line)
            for line in scene.host.journal("-o", "json", "-n", "200", "MODEL=alpha", "STATUS=200").splitlines()
            if "COMPLETION_TOKENS" in line
        ],
    )[-1]
    assert entry["MESSAGE"] == "POST /v1/chat/completions 200"
    assert entry["ACTOR"] == "token all"
    assert float(entry["FIRST_BYTE_SECONDS"]) <= float(entry["TOTAL_SECONDS"])
    assert int(entry["COMPLETION_TOKENS"]) > 0
    assert "Who are you" not in scene.host.journal()
    text = scene.host.run("curl", "-s", "--unix-socket", "/run/spark-modeld/control.sock", "http://x/metrics").stdout
    assert 'spark_modeld_gateway_requests_total{code="200",model="alpha"}' in text
