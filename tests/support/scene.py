"""A SparkHost with a catalog of engines whose loading and stopping the test holds up, and the ways to look at it."""

from __future__ import annotations

import tomllib
from typing import Any

from support.spark import SOCKETS, SOURCE, SparkHost, launch_entry
from support.witness import DAEMON, Events, engines, unit, until

HOLDS = "/run/holds"
STATE = "/var/lib/spark-modeld/state.toml"
MEMINFO = "/run/meminfo/meminfo"
SETTINGS = """\
[slot]
start_timeout = "60s"
[memory]
reserve = "64MiB"
large = "16MiB"
floor = "32MiB"
reclaim_timeout = "60s"
"""


def bad_model(model: str, *switches: str, port: int, extra: str = "", memory: str = "64MiB") -> str:
    """The catalog entry of ``bad_engine.py``, held up by HOLDS/MODEL-load and HOLDS/MODEL-stop."""
    command = [
        *("/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/bad_engine.py"),
        *("--name", model, "--port", str(port)),
        *("--hold-load", f"{HOLDS}/{model}-load", "--hold-stop", f"{HOLDS}/{model}-stop", *switches),
    ]
    return launch_entry("openai", port, command, memory=memory, extra=extra)


class Scene:
    """The host, and what tests say about it."""

    def __init__(self, host: SparkHost) -> None:
        self.host = host
        host.run("mkdir", "-p", HOLDS)

    def hold(self, name: str) -> None:
        """Holds an engine up (``MODEL-load``, ``MODEL-stop``), or what a drop-in waits for."""
        self.host.write(f"{HOLDS}/{name}", "")

    def release(self, *names: str) -> None:
        """Lets it go on; without a name, all of them."""
        for path in self.host.path(HOLDS).iterdir():
            if not names or path.name in names:
                path.unlink()

    # Asking.

    def status(self) -> dict[str, Any]:
        """GET /api/status, which answers 200."""
        code, answer = self.host.api("GET", "/api/status")
        assert code == 200, answer
        return dict(answer)

    def slot(self) -> tuple[str | None, str]:
        """The model in the slot, and its phase."""
        slot = self.status()["slot"]
        return slot["model"], slot["phase"]

    def warnings(self) -> set[str]:
        """The codes of the warnings."""
        return {warning["code"] for warning in self.status()["warnings"]}

    def find(self, switch_id: str) -> dict[str, Any]:
        """One switch, which is known."""
        code, answer = self.host.api("GET", f"/api/switches/{switch_id}")
        assert code == 200, answer
        return dict(answer)

    def record(self) -> dict[str, Any]:
        """state.toml as it is on disk."""
        return tomllib.loads(self.host.path(STATE).read_text())

    def pid(self, model: str) -> str:
        """The main PID of the model's unit, with its start time: another one is another process."""
        main = self.host.show(unit(model), "MainPID")
        assert main != "0", f"{model} does not run"
        return f"{main}@{self.host.show(unit(model), 'ExecMainStartTimestampMonotonic')}"

    def daemon_pid(self) -> str:
        """The daemon's main PID, "0" if there is none."""
        return self.host.show(DAEMON, "MainPID")

    # Doing.

    def switch(self, model: str | None) -> dict[str, Any]:
        """A switch that ends well; returns it."""
        code, answer = self.host.api("POST", "/api/switch?wait=true", {"model": model}, timeout=90)
        assert code == 200, answer
        return dict(answer)

    def begin(self, model: str | None) -> str:
        """Requests a switch and returns its id at once."""
        code, answer = self.host.api("POST", "/api/switch", {"model": model})
        assert code == 202, answer
        return str(answer["id"])

    def ended(self, switch_id: str) -> dict[str, Any]:
        """The switch when it has ended, also if the daemon is away or replaced meanwhile."""

        def look() -> dict[str, Any] | None:
            switch = self.find(switch_id)
            return switch if switch["outcome"] else None

        with Events(self.host) as events:
            if switch := look():
                return switch
            for told in events:
                if told.kind == "switch" and told.data["id"] == switch_id and told.data["outcome"]:
                    break
        return until(f"switch {switch_id} ends", look)

    def reload(self) -> None:
        """POST /api/reload, which is taken."""
        code, answer = self.host.api("POST", "/api/reload")
        assert code == 200, answer

    def reset(self) -> None:
        """Back to an empty slot, with the daemon running and nothing held up."""
        self.release()
        self.host.run("systemctl", "start", *SOCKETS, DAEMON)
        self.switch(None)
        assert engines(self.host) == {}

    def serves(self, model: str, port: int) -> None:
        """The model is in the slot, its own engine answers, and no other model lives. An adopted one warms first."""
        assert self.slot()[0] == model
        until(f"{model} serves", lambda: self.slot() == (model, "serving"))
        assert self.host.ask(port) == f"I am {model}"
        assert set(engines(self.host)) == {model}
