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


def daemon(setting: Setting) -> DaemonFacts:
    """Its status, or why there is none."""
    states = run(*setting.systemctl.split(), "is-active", DAEMON, SOCKETS[0]).out.split()
    service, socket = (*states, "", "")[:2]
    if service not in _RUNS and socket == "active":
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


def _errors(model: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(each["message"]) for each in model.get("findings", []) if each["level"] == "error")


def _words(setting: Setting) -> tuple[str, ...]:
    unit: tuple[Any, ...] = ("--user-unit", DAEMON) if setting.per_user else ("--unit", DAEMON)
    said = run("journalctl", "--quiet", "--no-pager", "--output=cat", "--boot", f"--lines={_WORDS}", *unit)
    return tuple(line for line in said.out.splitlines() if line.strip())
