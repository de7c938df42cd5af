"""What the daemon itself says, if it runs: nobody who only looks may start it by connecting to its socket."""

from __future__ import annotations

from typing import Any

from spark_modeld import tailnet
from spark_modeld.cli.client import Client
from spark_modeld.cli.doctor.facts import DAEMON, SOCKETS, DaemonFacts, Setting, TailscaleFacts
from spark_modeld.cli.doctor.run import SECONDS, run
from spark_modeld.cli.failures import Failure

_WORDS = 3
_RUNS = frozenset({"active", "reloading", "deactivating"})
_COMING_UP = {"ActiveState": "activating", "Result": "success"}
"""For the first time: one that failed and is about to be started again has another result."""


def daemon(setting: Setting) -> DaemonFacts:
    """Its status, or why there is none."""
    service, socket = _states(setting)
    runs = service.get("ActiveState") in _RUNS or service == _COMING_UP
    if not runs and socket.get("ActiveState") == "active":
        return DaemonFacts(words=_words(setting))
    client = Client(setting.socket, user=setting.per_user, seconds=SECONDS)
    try:
        status = client.call("GET", "/api/status")
        models = {each["id"]: _errors(each) for each in client.call("GET", "/api/models")["models"]}
    except Failure as failure:
        code = failure.problem.get("code")
        if code == "no-access":
            return DaemonFacts(asked=True, refused=True)
        away = code in {"unreachable", "timed-out"}
        return DaemonFacts(asked=True, problem=failure.problem, words=_words(setting) if away else ())
    return DaemonFacts(asked=True, status=status, models=models)


def tailscale() -> TailscaleFacts:
    """What its command says."""
    said = tailnet.ask(SECONDS)
    return TailscaleFacts(installed=said.installed, tailnet=said.tailnet, trouble=said.trouble)


def _states(setting: Setting) -> tuple[dict[str, str], dict[str, str]]:
    """Of the service and of its control socket; empty where systemd does not say."""
    shown = run(*setting.systemctl.split(), "show", "--property=ActiveState,Result", DAEMON, SOCKETS[0])
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.out.split("\n\n")
    ]
    service, socket = (*blocks, {}, {})[:2]
    return service, socket


def _errors(model: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(each["message"]) for each in model.get("findings", []) if each["level"] == "error")


def _words(setting: Setting) -> tuple[str, ...]:
    unit: tuple[Any, ...] = ("--user-unit", DAEMON) if setting.per_user else ("--unit", DAEMON)
    said = run("journalctl", "--quiet", "--no-pager", "--output=cat", "--boot", f"--lines={_WORDS}", *unit)
    return tuple(line for line in said.out.splitlines() if line.strip())
