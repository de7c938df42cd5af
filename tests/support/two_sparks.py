"""Two Sparks on one LAN, and a third host with the LiteLLM proxy of packaging/litellm in front of them.

Each is a throwaway host with a network of its own; a bridge on the third joins them, so that a Spark can be unplugged.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.front import QUESTION, add_token
from support.host import Host
from support.network import network_of
from support.scene import SETTINGS
from support.spark import REPOSITORY, SOCKETS, SparkHost
from support.witness import DAEMON, until

ADDRESSES = {"spark-a": "10.77.0.11", "spark-b": "10.77.0.12"}
FRONT_ADDRESS = "10.77.0.1"
LAN = "10.77.0.0/24"
GPT, QWEN, SMALL = "gpt-oss-120b", "qwen3-32b", "llama3.2-3b"
PROXY_PORT = 4000
PROXY = "litellm.service"
KEY = "LITELLM_MASTER_KEY"
BOOT_SECONDS = 120.0
ANSWER_SECONDS = 120.0
GATEWAY_DROP_IN = """\
[Socket]
ListenStream={address}:30101
FreeBind=yes
IPAddressAllow={lan}
"""
DAEMON_DROP_IN = "[Service]\nIPAddressAllow={lan}\n"


@dataclass(frozen=True)
class Answer:
    """What the proxy answered, and which of the Sparks it was from ("" where none)."""

    status: int
    spark: str
    body: bytes

    @property
    def text(self) -> str:
        """What the model said, streamed or not."""
        if not self.body.startswith(b"data:"):
            return str(json.loads(self.body)["choices"][0]["message"]["content"]).strip()
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", lines[-1]
        choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices).strip()


@dataclass(frozen=True)
class TwoSparks:
    """The two, by name, and the host of the proxy."""

    sparks: Mapping[str, SparkHost]
    front: Host
    key: str

    def ask(self, model: str, *, stream: bool = False) -> Answer:
        """One chat through the proxy."""
        with self.asked(model, stream=stream) as response:
            _, _, spark = response.headers.get("x-litellm-model-id", "").partition("@")
            return Answer(response.status, spark, response.read())

    @contextlib.contextmanager
    def asked(self, model: str, **more: object) -> Iterator[http.client.HTTPResponse]:
        """The same, with its body still to be read; ``more`` is what else the request has in it."""
        body = {"model": model, "messages": QUESTION, "max_tokens": 20, "temperature": 0, **more}
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with network_of(self.front):
            connection = http.client.HTTPConnection("127.0.0.1", PROXY_PORT, timeout=ANSWER_SECONDS)
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                yield connection.getresponse()
            finally:
                connection.close()

    def refit(self, spark: str, *, serving: str | None, gpt: str) -> None:
        """Gives a Spark another entry for GPT, once its slot is empty, and then this model."""
        host = self.sparks[spark]
        self._switch(spark, None)
        host.model(GPT, gpt)
        code, said = host.api("POST", "/api/reload")
        assert code == 200, said
        self._switch(spark, serving)

    def _switch(self, spark: str, model: str | None) -> None:
        code, said = self.sparks[spark].api("POST", "/api/switch?wait=true", {"model": model})
        assert code == 200, said

    def slot(self, spark: str) -> str | None:
        """The model in the slot of a Spark."""
        code, status = self.sparks[spark].api("GET", "/api/status")
        assert code == 200, status
        model: str | None = status["slot"]["model"]
        return model

    def stop_daemon(self, spark: str) -> None:
        """The Spark is up, and nothing listens on it."""
        self.sparks[spark].run("systemctl", "stop", *SOCKETS, DAEMON)

    def start_daemon(self, spark: str) -> None:
        self.sparks[spark].run("systemctl", "start", *SOCKETS, DAEMON)

    def unplug(self, spark: str) -> None:
        """The Spark is gone from the LAN without a word to its peers."""
        _ip(self.front, "link", "set", spark, "down")

    def plug_in(self, spark: str) -> None:
        _ip(self.front, "link", "set", spark, "up")


@contextlib.contextmanager
def two_sparks(clients: Path) -> Iterator[TwoSparks]:
    """Boots all three; ``clients`` is the environment with the proxy in it."""
    with contextlib.ExitStack() as stack:
        binds = {"/opt/clients": clients, "/opt/litellm": REPOSITORY / "packaging" / "litellm"}
        front = stack.enter_context(Host(binds=binds))
        _ip(front, "link", "add", "lan", "type", "bridge")
        _ip(front, "address", "add", f"{FRONT_ADDRESS}/24", "dev", "lan")
        _ip(front, "link", "set", "lan", "up")
        sparks = {name: stack.enter_context(SparkHost()) for name in ADDRESSES}
        tokens = {name: _furnish(name, spark, front) for name, spark in sparks.items()}
        key = f"sk-{secrets.token_hex(16)}"
        _start_proxy(front, key, tokens)
        yield TwoSparks(sparks, front, key)


def _ip(host: Host, *arguments: str) -> None:
    """``ip`` in the host's network, with this machine's process ids."""
    subprocess.run(["nsenter", "-t", str(host.pid), "-n", "ip", *arguments], check=True)


def _furnish(name: str, spark: SparkHost, front: Host) -> str:
    """Onto the LAN, installed, with its models; the proxy's token."""
    address = ADDRESSES[name]
    _ip(front, "link", "add", name, "type", "veth", "peer", "name", "lan0", "netns", str(spark.pid))
    _ip(front, "link", "set", name, "master", "lan", "up")
    _ip(spark, "address", "add", f"{address}/24", "dev", "lan0")
    _ip(spark, "link", "set", "lan0", "up")
    spark.install()
    spark.settings(SETTINGS.replace("[slot]\n", '[slot]\nmin_residency = "50ms"\n'))
    spark.tiny(GPT, port=8001)
    spark.tiny(QWEN, port=8002)
    spark.tiny(SMALL, port=8003, memory="8MiB", role="side")
    units = "/etc/systemd/system"
    spark.write(f"{units}/spark-modeld-gateway.socket.d/lan.conf", GATEWAY_DROP_IN.format(address=address, lan=LAN))
    spark.write(f"{units}/{DAEMON}.d/lan.conf", DAEMON_DROP_IN.format(lan=LAN))
    spark.run("systemctl", "daemon-reload")
    spark.enable()
    return add_token(spark, "litellm", "--scope", "inference")


def _start_proxy(front: Host, key: str, tokens: Mapping[str, str]) -> None:
    hosts = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    front.write("/etc/hosts", f"127.0.0.1 localhost\n{hosts}")
    front.run("sysctl", "--quiet", "--load", "/opt/litellm/sysctl.conf")
    secret = {**{f"{name.upper().replace('-', '_')}_TOKEN": token for name, token in tokens.items()}, KEY: key}
    shipped = (REPOSITORY / "packaging/litellm/litellm.env").read_text()
    filled = re.sub(r"^(\w+)=$", lambda line: f"{line[1]}={secret.pop(line[1])}", shipped, flags=re.MULTILINE)
    assert not secret, f"litellm.env has no {', '.join(secret)}"
    front.write("/etc/litellm.env", filled, mode=0o600)
    # Not bin/litellm: its first line names the folder that the environment was built in.
    program = ("/opt/clients/bin/python3", "-m", "litellm.proxy.proxy_cli", "--config", "/opt/litellm/config.yaml")
    front.run(
        *("systemd-run", f"--unit={PROXY}", "-p", "EnvironmentFile=/etc/litellm.env", "-p", "WorkingDirectory=/tmp"),
        *(*program, "--host", "127.0.0.1", "--port", str(PROXY_PORT)),
    )
    url = f"http://127.0.0.1:{PROXY_PORT}/health/liveliness"

    def lives() -> bool:
        assert front.show(PROXY, "ActiveState") == "active", front.journal("-u", PROXY, "-n", "40")
        return front.run("curl", "-sf", url, check=False).returncode == 0

    until("the proxy listens", lives, seconds=BOOT_SECONDS)
