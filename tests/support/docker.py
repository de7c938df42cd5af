"""Real docker on a throwaway host: an image without anything in it, and models whose engines come in by mounts."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence

from support.serving import LARGE, bad_command
from support.spark import SparkHost, quoted
from support.tiny_models import tiny_model

IMAGE = "engines:1"
DAEMON_JSON = {"iptables": False, "bridge": "none", "storage-driver": "vfs"}
MOUNTS = ("/usr", "/lib", "/lib64", "/opt/llama", "/srv/models", "/run/holds")
OPTIONS = ("--network", "host", "--ipc", "host", *(word for mount in MOUNTS for word in ("-v", f"{mount}:{mount}:ro")))


def why_not() -> str | None:
    """Why there is no docker on a host here; None if there is."""
    missing = [program for program in ("dockerd", "docker") if shutil.which(program) is None]
    return f"no {' and no '.join(missing)} here: make build, as root, installs Debian's docker.io" if missing else None


def start_docker(host: SparkHost) -> None:
    """Starts docker and imports ``IMAGE``."""
    host.run("mkdir", "-p", "/run/holds")
    host.write("/etc/docker/daemon.json", json.dumps(DAEMON_JSON))
    host.run("systemctl", "start", "docker.service")
    host.run("sh", "-c", f"mkdir -p /srv/image/tmp /srv/image/bin && ln -sf /usr/bin/dash /srv/image/bin/sh && "
             f"tar -C /srv/image -c . | docker import - {IMAGE}")  # fmt: skip


def llama_command(model: str, port: int) -> list[str]:
    """A real engine's command line."""
    words = ["/opt/llama/llama-server", "--model", f"/srv/models/{tiny_model(model).name}", "--alias", model]
    words += ["--host", "127.0.0.1", "--port", str(port), "--device", "none", "--threads", "1", "--parallel", "1"]
    return [*words, "--ctx-size", "2048", "--no-webui"]


def bad_docker(model: str, port: int, *switches: str, extra: str = "") -> str:
    """The catalog entry of a bad engine in a container of its own."""
    return docker_entry("vllm", port, bad_command(model, port, *switches), extra=extra)


def docker_entry(
    engine: str, port: int, command: Sequence[str], *, image: str = IMAGE, memory: str = LARGE, extra: str = ""
) -> str:
    """A catalog entry with ``[docker]``. ``extra`` are further lines before it."""
    lines = [_head(engine, port, memory), extra, "[docker]", f"image = {quoted(image)}", f"options = {_list(OPTIONS)}"]
    return "\n".join([*lines, f"command = {_list(command)}", ""])


def container_entry(engine: str, port: int, name: str, *, script: str | None = None, extra: str = "") -> str:
    """A catalog entry with ``[container]``."""
    lines = [_head(engine, port, LARGE), extra, "[container]", f"name = {quoted(name)}"]
    return "\n".join([*lines, *([f"start_script = {quoted(script)}"] if script else []), ""])


def run_words(name: str, command: Sequence[str], *verb: str) -> list[str]:
    """The words after `docker`, the verb and its own options first."""
    return [*verb, "--name", name, *OPTIONS, IMAGE, *command]


def run_detached(name: str, command: Sequence[str], *, verb: str = "run -d") -> str:
    """The command line with which people start their containers."""
    return shlex.join(["docker", *run_words(name, command, *verb.split())])


def _head(engine: str, port: int, memory: str) -> str:
    return f'engine = "{engine}"\nurl = "http://127.0.0.1:{port}"\nmemory = {quoted(memory)}'


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, words))}]"
