"""The real daemon serving on a throwaway host, as a test sees it: switches, events, processes, and a watch over all."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from support.spark import SOURCE, SparkHost, launch_entry
from support.witness import (
    DAEMON,
    DEADLINE_SECONDS,
    Events,  # noqa: F401 - for the tests, with the rest that they use of a serving daemon
    unit,
    until,
)

STATE = "/var/lib/spark-modeld/state.toml"
BAD_ENGINE = f"{SOURCE}/tests/support/bad_engine.py"
PATIENCE = DEADLINE_SECONDS
ENGINES = tuple(
    name.encode()
    for name in ("/llama-server", "/bad_engine.py", "/sick_engine.py", "/vendor_engine.py", "transformers")
)

SETTINGS = """\
[slot]
start_timeout = "30s"
stop_timeout = "10s"
[memory]
reserve = "256MiB"
large = "1GiB"
floor = "128MiB"
"""
LARGE = "2GiB"
"""What large models declare: far more than they use, so that there is something to refuse on any machine."""

Json = dict[str, Any]
T = TypeVar("T")


def await_that(check: Callable[[], T | None], what: str, *, seconds: float = PATIENCE) -> T:
    """The first true answer of ``check``; AssertionError when there was none in time."""
    return until(what, check, seconds=seconds)


def bad_command(model: str, port: int, *switches: str) -> list[str]:
    """The command line of a bad engine inside the host."""
    return ["/usr/bin/python3", "-I", "-S", BAD_ENGINE, "--name", model, "--port", str(port), *switches]


def bad_model(model: str, port: int, *switches: str, memory: str = LARGE, extra: str = "") -> str:
    """The catalog entry of a bad engine. ``extra`` are further lines before ``[launch]``."""
    return launch_entry("openai", port, bad_command(model, port, *switches), memory=memory, extra=extra)


class Serving:
    """What a test does with the daemon on a host, and sees of it from outside."""

    def __init__(self, host: SparkHost) -> None:
        self.host = host

    def reload(self) -> None:
        """Has the daemon read the configuration again."""
        status, answer = self.host.api("POST", "/api/reload")
        assert status == 200, answer

    def switch(self, model: str | None, *, timeout: float = 60) -> tuple[int, Json]:
        """Switches and waits for the end: the status and the answer."""
        return self.host.api("POST", "/api/switch?wait=true", {"model": model}, timeout=timeout)

    def serve(self, model: str | None) -> Json:
        """A switch that has to end well."""
        status, switch = self.switch(model)
        assert (status, switch.get("outcome")) == (200, "ready"), switch
        return switch

    def begin(self, model: str | None) -> Json:
        """A switch that is not waited for."""
        status, switch = self.host.api("POST", "/api/switch", {"model": model})
        assert status == 202, switch
        return dict(switch)

    def cancel(self, switch: Json) -> None:
        """Cancels the switch."""
        status, answer = self.host.api("DELETE", f"/api/switches/{switch['id']}")
        assert status in (200, 202), answer

    def ended(self, switch: Json) -> Json:
        """The switch, once it has ended and its log was read."""

        def look() -> Json | None:
            found: Json = self.host.api("GET", f"/api/switches/{switch['id']}")[1]
            return found if found["outcome"] is not None and self.status()["switch"] is None else None

        return await_that(look, f"the end of {switch['id']}")

    def history(self) -> list[Json]:
        """Newest first."""
        return list(self.host.api("GET", "/api/switches")[1]["switches"])

    def status(self) -> Json:
        """GET /api/status."""
        status, answer = self.host.api("GET", "/api/status")
        assert status == 200, answer
        return dict(answer)

    def slot(self) -> tuple[str | None, str]:
        """The slot's model and its phase."""
        slot = self.status()["slot"]
        return slot["model"], slot["phase"]

    def await_slot(self, model: str | None, phase: str) -> None:
        """Returns when the slot shows this and no switch is under way."""

        def look() -> bool:
            status = self.status()
            shown = (status["slot"]["model"], status["slot"]["phase"])
            return shown == (model, phase) and status["switch"] is None

        await_that(look, f"the slot to show {model} {phase}; it shows {self.status()}")

    def warnings(self) -> list[str]:
        """The codes of the status' warnings."""
        return [each["code"] for each in self.status()["warnings"]]

    def desired_on_disk(self) -> str | None:
        """What state.toml says belongs into the slot."""
        return tomllib.loads(self.host.path(STATE).read_text()).get("desired")

    def pid(self, model: str) -> int:
        """MainPID of the model's unit, by systemd."""
        return int(self.host.show(unit(model), "MainPID"))

    def active(self, model: str) -> str:
        """ActiveState of the model's unit, by systemd."""
        return self.host.show(unit(model), "ActiveState")

    def restart_daemon(self) -> None:
        """systemctl restart of the daemon; returns when it answers."""
        self.host.run("systemctl", "restart", DAEMON)
        self.status()

    def ctl(self, *arguments: str, exit_status: int = 0) -> str:
        """spark-modelctl: what it says on standard output and error."""
        done = self.host.run("spark-modelctl", *arguments, check=False)
        assert done.returncode == exit_status, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


class Watch:
    """Looks at the control groups itself, all the time: which models have engine processes alive.

    ``parallel`` are moments at which two of ``large`` were alive for certain; ``born`` is every first sight of a
    model's process, as (monotonic seconds, model). ``units`` gives a model's unit where it is not the template's.
    Leaving it fails if any were parallel, unless ``expected``.
    """

    def __init__(
        self, host: SparkHost, large: Iterable[str], *, units: dict[str, str] | None = None, expected: bool = False
    ) -> None:
        self._expected = expected
        cgroup = host.cgroup
        models = cgroup / "spark.slice/spark-models.slice"
        own = {model: cgroup / "system.slice" / name for model, name in (units or {}).items()}
        self._folders = {model: own.get(model, models / unit(model)) for model in large}
        self.parallel: list[tuple[str, str]] = []
        self.born: list[tuple[float, str]] = []
        self.looks = 0
        self._seen: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:  # a short story is looked at a little longer: what it left is part of it
                await_that(lambda: self.looks > 10 or not self._thread.is_alive(), "the watch to have looked")
        finally:
            self._over.set()
            self._thread.join()
        if kind is None:
            assert self.looks > 10, "the watch has hardly looked"
            assert self._expected or not self.parallel, f"two large models were alive: {self.parallel}"

    def _run(self) -> None:
        while not self._over.wait(0.002):
            self._look()
            self.looks += 1

    def _look(self) -> None:
        first = {model: self.processes(model) for model in self._folders}
        for model, pids in first.items():
            self.born += [(time.monotonic(), model) for _ in pids - self._seen]
            self._seen |= pids
        alive = [model for model in first if first[model]]
        if len(alive) > 1:
            # A process seen before and after the look at the other one lived at that moment: no chance of an error.
            again = {model: self.processes(model) & first[model] for model in alive}
            self.parallel += [(a, b) for a, b in itertools.pairwise(alive) if again[a] and first[b]]

    def processes(self, model: str) -> frozenset[int]:
        """This machine's PIDs of the model's engine: neither its gate nor its launcher."""
        pids = []
        with contextlib.suppress(FileNotFoundError, OSError):  # the group may go while it is read
            pids = (self._folders[model] / "cgroup.procs").read_text().split()
        return frozenset(int(pid) for pid in pids if pid != "0" and _is_engine(pid))


def _is_engine(pid: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.endswith(ENGINES) for word in words)
