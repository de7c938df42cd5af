"""Docker, where the catalog has models in containers."""

from __future__ import annotations

import grp
import json
import os
from pathlib import Path
from typing import Any

from spark_modeld.cli.doctor.facts import DockerFacts
from spark_modeld.cli.doctor.run import Ran, run
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import Container

_SOCKET = Path("/run/docker.sock")
_POLICY = "{{.Name}} {{.HostConfig.RestartPolicy.Name}}"


def docker(catalog: Catalog) -> DockerFacts:
    """Its command, group, socket and daemon, and what it does by itself with the catalog's containers."""
    info = run("docker", "info", "--format", "{{json .}}")
    group, owner = _group()
    if info.missing:
        return DockerFacts(group=group, socket=_SOCKET.exists(), socket_group=owner)
    told = _told(info)
    version = told.get("ServerVersion") or ""
    return DockerFacts(
        installed=True,
        group=group,
        socket=_SOCKET.exists(),
        socket_group=owner,
        version=version,
        trouble="" if version else _trouble(info, told),
        refused="permission denied" in (info.err + json.dumps(told)).lower(),
        hangs=info.hangs,
        nvidia=("nvidia" in (told.get("Runtimes") or {}) or bool(told.get("CDISpecDirs"))) if version else None,
        policies=_policies(catalog) if version else {},
    )


def _told(info: Ran) -> dict[str, Any]:
    try:
        told = json.loads(info.out)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _trouble(info: Ran, told: dict[str, Any]) -> str:
    errors = told.get("ServerErrors")
    return str(errors[0]) if isinstance(errors, list) and errors else info.says or "it does not answer"


def _group() -> tuple[bool, str]:
    """Whether there is a group docker, and who owns the socket."""
    try:
        grp.getgrnam("docker")
        there = True
    except KeyError:
        there = False
    try:
        return there, grp.getgrgid(os.stat(_SOCKET).st_gid).gr_name
    except (OSError, KeyError):
        return there, ""


def _policies(catalog: Catalog) -> dict[str, str]:
    names = [model.run.name for model in catalog.models.values() if isinstance(model.run, Container)]
    if not names:
        return {}
    # It names those it knows even where it fails for others.
    lines = run("docker", "container", "inspect", "--format", _POLICY, *names).out.splitlines()
    pairs = [line.strip().removeprefix("/").split(" ") for line in lines if line.strip()]
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}
