"""The benchmarks: the installed daemon as its own service, on a throwaway host, beside the same engines without it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from checks import measure_checks
from climbs import measure_climbs
from figures import Figure, overhead_figures, percentile, table
from guards import measure_loading, measure_looks
from readings import measure_readings

from support import docker
from support.host import why_not
from support.spark import SOURCE, SparkHost, quoted
from support.tiny_models import tiny_model

DAEMON = "spark-modeld.service"
INSIDE = f"{SOURCE}/tests/bench/inside.py"
BAD_ENGINE = f"{SOURCE}/tests/support/bad_engine.py"
OVERHEAD_MS = 40.0
LOADS = {"llama-server": None, "load 0.5 s": 0.5, "load 1.5 s": 1.5}
SETTINGS = """
[slot]
overlap = "never"
[memory]
reserve = "64MiB"
floor = "32MiB"
"""


class Bench:
    """The host, and one pair of models per kind of engine, each pair on one port."""

    def __init__(self, host: SparkHost) -> None:
        self.host = host
        self._port = 31100

    def start_daemon(self) -> None:
        """Enables its sockets and starts it."""
        self.host.enable()
        if self.host.run("systemctl", "start", DAEMON, check=False).returncode:
            raise SystemExit(f"the daemon does not start:\n{self.host.journal('-n', '40')}")

    def pair(self, name: str, load_seconds: float | None) -> dict[str, Any]:
        """Adds two models; what inside.py needs to know of them. ``load_seconds`` None: the real llama-server."""
        self._port += 2
        models = [f"{name}-{letter}" for letter in "ab"]
        for model in models:
            self.host.model(model, entry(self._port, command(model, self._port, load_seconds)))
        bare = self._port + 1
        return {"models": models, "port": bare, "commands": [command(model, bare, load_seconds) for model in models]}

    def docker_pair(self) -> dict[str, Any]:
        """Two models that run the real llama-server in a container; bare, the same `docker run` in the foreground."""
        docker.start_docker(self.host)
        self._port += 2
        models, bare = ["docker-a", "docker-b"], self._port + 1
        for model in models:
            command = docker.llama_command(model, self._port)
            self.host.model(model, docker.docker_entry("llama-server", self._port, command, memory="64MiB"))
        commands = [
            ["docker", *docker.run_words(f"bare-{model}", docker.llama_command(model, bare), "run", "--rm")]
            for model in models
        ]
        return {"models": models, "port": bare, "commands": commands}

    def inside(self, what: str, spec: dict[str, Any], rounds: int) -> dict[str, Any]:
        """Runs one measurement inside."""
        argument = json.dumps(spec | {"rounds": rounds})
        done = self.host.run("/usr/bin/python3", INSIDE, what, argument, timeout=3600, check=False)
        if done.returncode:
            journal = self.host.journal("-n", "40")
            raise SystemExit(f"{what} failed:\n{done.stdout}{done.stderr}\n{journal}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def reload(self) -> None:
        """Has the daemon read the configuration."""
        status, answer = self.host.api("POST", "/api/reload")
        if status != 200:
            raise SystemExit(f"the configuration is not taken: {answer}")

    def resident_mib(self) -> float:
        """The daemon's resident memory."""
        pid = self.host.show(DAEMON, "MainPID")
        lines = self.host.path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def cpu_seconds(self) -> float:
        """What the daemon's service has used so far."""
        lines = self.host.path(f"/sys/fs/cgroup/system.slice/{DAEMON}/cpu.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6

    def start_seconds(self) -> float:
        """Restarts the daemon; from the execution of its program to READY=1, as systemd saw it."""
        self.host.run("systemctl", "restart", DAEMON)
        executed, ready = (
            int(self.host.show(DAEMON, f"{name}Monotonic"))
            for name in ("ExecMainStartTimestamp", "ActiveEnterTimestamp")
        )
        return (ready - executed) / 1e6


def command(model: str, port: int, load_seconds: float | None) -> list[str]:
    """An engine's command line."""
    if load_seconds is None:
        gguf = f"/srv/models/{tiny_model(model).name}"
        words = ["/opt/llama/llama-server", "--model", gguf, "--alias", model, "--host", "127.0.0.1"]
        words += ["--device", "none", "--threads", "1", "--parallel", "1", "--ctx-size", "2048", "--no-webui"]
        return [*words, "--port", str(port)]
    words = ["/usr/bin/python3", "-I", "-S", BAD_ENGINE, "--name", model, "--port", str(port)]
    return [*words, "--load-seconds", str(load_seconds)]


def entry(port: int, words: list[str]) -> str:
    """A model's configuration."""
    kind = "llama-server" if "llama-server" in words[0] else "vllm"
    launch = ", ".join(map(quoted, words))
    url = f"http://127.0.0.1:{port}"
    return f'engine = "{kind}"\nurl = "{url}"\nmemory = "64MiB"\n[launch]\ncommand = [{launch}]\n'


@contextmanager
def booted() -> Iterator[Bench]:
    """A throwaway host with the daemon installed and its sockets enabled."""
    host = SparkHost()
    with host:
        host.install()
        host.settings(SETTINGS)
        yield Bench(host)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def measure_overhead(
    bench: Bench, specs: dict[str, dict[str, Any]], rounds: int, *, target_ms: float | None = OVERHEAD_MS
) -> Iterator[Figure]:
    for name, spec in specs.items():
        say(f"switch overhead, {name}: {rounds} pairs")
        result = bench.inside("overhead", spec, rounds)
        yield from overhead_figures(name, result["bare"], result["daemon"], target_ms)
        phases: dict[str, list[float]] = defaultdict(list)
        for timings in result["phases"]:
            for phase, seconds in timings.items():
                phases[phase].append(seconds * 1e3)
        medians = (f"{phase} {statistics.median(values):.1f}" for phase, values in phases.items())
        say(f"  median ms in each phase: {', '.join(medians)}")


def measure_docker(bench: Bench, rounds: int) -> Iterator[Figure]:
    """Shown without a target: most of it is docker's own, and some of that comes twice."""
    if reason := docker.why_not():
        say(f"no figures of docker: {reason}")
        return
    spec = bench.docker_pair()
    bench.reload()
    yield from measure_overhead(bench, {"docker, llama-server": spec}, rounds, target_ms=None)


def measure_status(bench: Bench, spec: dict[str, Any]) -> Iterator[Figure]:
    say("GET /api/status while a switch is under way")
    took = [seconds * 1e3 for seconds in bench.inside("status", spec, 6)["status"]]
    note = f"median {statistics.median(took):.2f} ms, max {max(took):.2f} ms; {len(took)} calls in 6 switches"
    yield Figure("GET /api/status during a switch: p99", percentile(took, 0.99), "ms", 3.0, note)


def measure_many(bench: Bench, spec: dict[str, Any], count: int) -> Iterator[Figure]:
    say(f"{count} switches in a row")
    before = bench.resident_mib()
    parts = []
    for _ in range(4):
        bench.inside("switches", spec, count // 4 // 2 * 2)
        parts.append(bench.resident_mib())
    path = " ".join(f"{mib:.1f}" for mib in (before, *parts))
    yield Figure(f"RSS after {count} switches", parts[-1], "MiB", 60.0, f"at each quarter: {path}")
    yield Figure("RSS growth over the second half", parts[-1] - parts[1], "MiB", 1.0)


def measure_idle(bench: Bench, seconds: float) -> Iterator[Figure]:
    say(f"idle for {seconds:g} s with a model serving")
    time.sleep(2)  # what a switch leaves to be done is over
    began, used = time.monotonic(), bench.cpu_seconds()
    time.sleep(seconds)
    share = (bench.cpu_seconds() - used) / (time.monotonic() - began)
    yield Figure("idle CPU, one core", share * 100, "%", 0.1, f"the service's cgroup over {seconds:g} s")


def measure_start(bench: Bench, times: int) -> Iterator[Figure]:
    say(f"{times} restarts of the daemon")
    took = [bench.start_seconds() * 1e3 for _ in range(times)]
    note = f"max {max(took):.0f} ms; {times} restarts with a model serving, as systemd timed them"
    yield Figure("daemon exec to READY=1: median", statistics.median(took), "ms", 400.0, note)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="switches per engine for the overhead (20)")
    parser.add_argument("--switches", type=int, default=1000, help="switches in a row for the memory figures (1000)")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--restarts", type=int, default=9)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if reason := why_not():
        raise SystemExit(f"bench: no throwaway host here: {reason}")
    say("one reading of memory")
    readings = list(measure_readings(500))
    say("the readiness ladder alone")
    climbs = list(measure_climbs(LOADS, max(2, options.pairs // 2)))
    say("checks alone")
    checks = list(measure_checks(20))
    say("what the guard costs")
    looks = list(measure_looks(300))
    with booted() as bench:
        specs = {name: bench.pair(name.replace(" ", "-"), load) for name, load in LOADS.items()}
        instant = bench.pair("instant", 0.0)
        endless = bench.pair("endless", 3600.0)
        bench.start_daemon()
        figures = [
            *readings,
            *climbs,
            *checks,
            *measure_overhead(bench, specs, options.pairs),
            *measure_docker(bench, options.pairs),
            *measure_status(bench, specs["load 0.5 s"]),
            *measure_many(bench, instant, options.switches),
            *measure_idle(bench, options.idle_seconds),
            *measure_start(bench, options.restarts),
            *looks,
            *measure_loading(bench.host, endless["models"][0], bench.cpu_seconds, options.idle_seconds),
        ]
    print(table(figures))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} cores; load average at the end (1, 5, 15 min): {load}. Other work here spoils these figures."
    )


if __name__ == "__main__":
    main()
