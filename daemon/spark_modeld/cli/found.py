"""Servers that exist already, as docker and systemd show them to whoever asks."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

from spark_modeld.cli.docker_look import ask_docker
from spark_modeld.cli.failures import FAILED, local

if TYPE_CHECKING:
    from spark_modeld.config.adoption import Found

_SECONDS = 10.0
_PROPERTIES = ("LoadState", "Id", "ExecStart", "Restart")


def container(name: str) -> Found:
    """A container, running or not. Failure where docker cannot be asked or has none of this name."""
    from spark_modeld.config.adoption import Found
    from spark_modeld.core.model import Container

    answer = ask_docker("container", "inspect", name)
    if answer is None:
        raise local("failed", "No docker", f"docker does not answer, so nobody knows of a container {name}.", FAILED)
    if answer.returncode != 0:
        said = answer.stderr.strip()
        raise local("not-found", "No such container", f"docker shows no container {name!r}: {said}", FAILED)
    shown = json.loads(answer.stdout)[0]
    config, host = shown.get("Config") or {}, shown.get("HostConfig") or {}
    return Found(
        # Also where it was named by its id: by its name it is found again when it was made anew.
        run=Container(str(shown["Name"]).removeprefix("/")),
        words=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        image=str(config.get("Image") or ""),
        ports=_ports(host),
        mounts={m["Destination"]: m["Source"] for m in shown.get("Mounts") or () if m.get("Type") == "bind"},
        restart=(host.get("RestartPolicy") or {}).get("Name") or "no",
    )


def unit(name: str, *, user: bool) -> Found:
    """A unit. Failure where systemd cannot be asked or has none of this name."""
    from spark_modeld.config.adoption import Found, words_of
    from spark_modeld.core.model import OwnUnit

    command = ["systemctl", *(["--user"] if user else []), "show", f"--property={','.join(_PROPERTIES)}", "--", name]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise local("failed", "No systemd", f"systemd cannot be asked about {name}: {error}", FAILED) from error
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode != 0 or shown.get("LoadState") != "loaded":
        state = shown.get("LoadState", done.stderr.strip())
        raise local("not-found", "No such unit", f"systemd has no unit {name} to start ({state}).", FAILED)
    return Found(
        run=OwnUnit(shown.get("Id", name)),
        words=tuple(words_of(shown.get("ExecStart", ""))),
        restart=shown.get("Restart", "no"),
    )


def _ports(host: dict[str, Any]) -> dict[int, int]:
    """Port of the container -> port of the machine."""
    found: dict[int, int] = {}
    for inside, bindings in (host.get("PortBindings") or {}).items():
        for binding in bindings or ():
            with contextlib.suppress(ValueError):
                found.setdefault(int(inside.split("/")[0]), int(binding.get("HostPort") or ""))
    return found
