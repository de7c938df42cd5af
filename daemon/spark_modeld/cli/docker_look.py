"""What docker says of a model's image or container. The daemon never asks docker; a person may."""

from __future__ import annotations

import subprocess
from typing import Any

_SECONDS = 10.0
_POLICY = "{{.HostConfig.RestartPolicy.Name}}"

Finding = dict[str, str]


def with_docker(shown: dict[str, Any]) -> dict[str, Any]:
    """The check's JSON, with what docker says in place of ``docker-not-asked`` where docker can be asked."""
    if shown.get("image"):
        said = _image(shown["image"])
    elif shown.get("container"):
        said = _container(shown["container"], shown.get("start_script"))
    else:
        return shown
    if said is None:
        return shown
    kept = [finding for finding in shown["findings"] if finding["code"] != "docker-not-asked"]
    levels = ("error", "warning", "info")
    findings = sorted([*said, *kept], key=lambda finding: levels.index(finding["level"]))
    return {**shown, "findings": findings, "ok": all(finding["level"] != "error" for finding in findings)}


def _image(image: str) -> list[Finding] | None:
    found = ask_docker("image", "inspect", "--format", "{{.Id}}", image)
    if found is None or found.returncode == 0:
        return None if found is None else []
    if "no such image" not in found.stderr.lower():
        return None
    return [_finding("image-absent", "error", f"docker has no image {image}", f"`docker pull {image}`")]


def _container(name: str, start_script: str | None) -> list[Finding] | None:
    found = ask_docker("container", "inspect", "--format", _POLICY, name)
    if found is None:
        return None
    if found.returncode == 0:
        policy = found.stdout.strip()
        if policy in {"", "no"}:
            return []
        message = (
            f"docker starts the container {name} again by itself (--restart {policy}), past the daemon's admission"
        )
        return [_finding("restart-policy", "warning", message, f"`docker update --restart=no {name}`")]
    if "no such container" not in found.stderr.lower():
        return None
    if start_script is not None:
        message = f"docker has no container {name} yet: {start_script} creates it"
        return [_finding("container-absent", "info", message, "Nothing, unless the script gives it another name")]
    return [
        _finding(
            "container-absent",
            "error",
            f"docker has no container {name}",
            "Create it, or name a start_script that does",
        )
    ]


def ask_docker(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """None where there is no docker, or it does not answer."""
    try:
        return subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _finding(code: str, level: str, message: str, hint: str) -> Finding:
    return {"code": code, "level": level, "message": message, "hint": hint}
