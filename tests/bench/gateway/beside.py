"""The gateway beside Caddy with the same bearer check, and beside the bare engine, in one run on one host.

CPU is that of each one's own control group, so that neither the load nor the engine counts; the access log is on in
both, Caddy's in a file and ours in the journal, whose own CPU is shown beside.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, table

from support.host import why_not
from support.spark import SOURCE, SparkHost, quoted

HERE = f"{SOURCE}/tests/bench/gateway"
OURS, CADDY, BARE = 30101, 9100, 9001
CADDY_PACED, BARE_PACED = 9101, 9002
PARTS = ("requests", "first-bytes", "stalls", "tokens", "hang-ups", "memory")
TOOLS = ("caddy", "nginx", "wrk")
CGROUPS = {"ours": "spark-modeld.service", "caddy": "bench-caddy.service", "journald": "systemd-journald.service"}
SETTINGS = """
[slot]
min_residency = "1s"
[memory]
reserve = "64MiB"
floor = "32MiB"
"""
ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "fixed",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 20}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
)
NGINX = f"""
worker_processes 1;
pid /tmp/nginx.pid;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 100m;
  client_body_temp_path /tmp/n1; proxy_temp_path /tmp/n2; fastcgi_temp_path /tmp/n3; uwsgi_temp_path /tmp/n4;
  scgi_temp_path /tmp/n5;
  default_type application/json;
  server {{
    listen 127.0.0.1:{BARE} backlog=1024;
    location = /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"fixed"}}]}}'; }}
    location / {{ return 200 '{ANSWER}'; }}
  }}
}}
"""
CADDYFILE = """
{
  admin off
  auto_https off
  servers {
    metrics
  }
}
%s
"""
CADDY_SITE = """
http://127.0.0.1:%(port)d {
  log {
    output file /tmp/caddy-%(port)d.log
  }
  @good header Authorization "Bearer %(token)s"
  handle @good {
    reverse_proxy 127.0.0.1:%(upstream)d {
      flush_interval -1
    }
  }
  handle {
    respond 401
  }
}
"""
LUA = """
wrk.method = "POST"
wrk.body = '{"model":"fixed","messages":[{"role":"user","content":"hello"}]}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, latency in ms, and each control group's CPU per request in µs."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]


class Side:
    """The host with all that is compared on it."""

    def __init__(self, host: SparkHost, token: str) -> None:
        self.host = host
        self.token = token

    def cpu(self) -> dict[str, float]:
        """Seconds that each control group has used."""
        used = {}
        for name, unit in CGROUPS.items():
            lines = self.host.path(f"/sys/fs/cgroup/system.slice/{unit}/cpu.stat").read_text().splitlines()
            used[name] = next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6
        return used

    def resident_mib(self, name: str) -> float:
        pid = self.host.show(CGROUPS[name], "MainPID")
        lines = self.host.path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def wrk(self, port: int, connections: int, seconds: int) -> Load:
        before = self.cpu()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", "/srv/bench/post.lua"]
        said = self.host.run(*command, f"http://127.0.0.1:{port}/v1/chat/completions").stdout
        assert "Non-2xx" not in said, said
        assert "Socket errors" not in said, said
        count = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
        cpu = {name: (value - before[name]) / count * 1e6 for name, value in self.cpu().items()}
        rate = float(re.search(r"Requests/sec: +([\d.]+)", said)[1])  # type: ignore[index]
        return Load(rate, milliseconds(said, "50%"), milliseconds(said, "99%"), cpu)

    def streams(self, port: int, count: int, tokens: int) -> tuple[float, dict[str, float], int]:
        """Tokens a second, CPU per token in µs, and how many streams ended too soon."""
        before = self.cpu()
        command = (sys.executable, f"{HERE}/streams.py", str(port), self.token, "paced", str(count), str(tokens))
        said = json.loads(self.host.run(*command).stdout)
        assert said["short"] or said["tokens"] == count * tokens, said
        cpu = {name: (value - before[name]) / said["tokens"] * 1e6 for name, value in self.cpu().items()}
        return said["tokens"] / said["seconds"], cpu, said["short"]

    @contextmanager
    def open_streams(self, port: int, count: int) -> Iterator[None]:
        command = (sys.executable, f"{HERE}/streams.py", str(port), self.token, "slow", str(count), "100000", "hold")
        process = self.host.popen(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        try:
            # It has a limit of its own, and ends with what is missing.
            if (said := process.stdout.readline()) != "open\n":
                raise SystemExit(f"bench: streams through port {port}: {said}")
            yield
        finally:
            process.kill()
            process.communicate()

    def bring(self, model: str) -> None:
        code, answer = self.host.api("POST", "/api/switch?wait=true", {"model": model}, timeout=90)
        assert code == 200, answer
        # Caddy may still hold connections to the engine that was there before.
        at = f"http://127.0.0.1:{CADDY_PACED}/v1/models"
        self.host.run("curl", "-s", "-H", f"Authorization: Bearer {self.token}", at, check=False)


def milliseconds(said: str, share: str) -> float:
    match = re.search(rf"{share} +([\d.]+)(us|ms|s)", said)
    assert match, said
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def model(name: str, port: int, command: Sequence[str]) -> str:
    words = ", ".join(map(quoted, command))
    head = f'engine = "openai"\nurl = "http://127.0.0.1:{port}"\nmemory = "64MiB"\n'
    return f"{head}[launch]\ncommand = [{words}]\n"


def paced(name: str, pace: float) -> list[str]:
    return ["/usr/bin/python3", f"{HERE}/paced.py", str(BARE_PACED), name, f"{pace:g}"]


@contextmanager
def booted() -> Iterator[Side]:
    with SparkHost() as host:
        host.install()
        host.settings(SETTINGS)
        host.write("/srv/bench/nginx.conf", NGINX)
        host.model(
            "fixed",
            model(
                "fixed", BARE, ["/usr/sbin/nginx", "-e", "stderr", "-g", "daemon off;", "-c", "/srv/bench/nginx.conf"]
            ),
        )
        host.model("paced", model("paced", BARE_PACED, paced("paced", 5)))
        host.model("slow", model("slow", BARE_PACED, paced("slow", 500)))
        host.enable()
        host.run("systemctl", "start", CGROUPS["ours"])
        token = json.loads(host.run("spark-modelctl", "token", "add", "--json", "bench").stdout)["token"]
        host.write("/srv/bench/post.lua", LUA % token)
        sites = [{"port": CADDY, "upstream": BARE}, {"port": CADDY_PACED, "upstream": BARE_PACED}]
        host.write("/srv/bench/Caddyfile", CADDYFILE % "".join(CADDY_SITE % {**site, "token": token} for site in sites))
        unit = CGROUPS["caddy"]
        caddy = ("/usr/bin/caddy", "run", "--config", "/srv/bench/Caddyfile", "--adapter", "caddyfile")
        host.run("systemd-run", "--unit", unit, "-p", "CPUAccounting=yes", "--setenv=HOME=/tmp", *caddy)
        if host.run("curl", "-s", f"http://127.0.0.1:{CADDY}/", check=False).returncode:
            host.run("sleep", "1")
        if host.run("curl", "-s", f"http://127.0.0.1:{CADDY}/", check=False).returncode:
            raise SystemExit(f"bench: caddy does not run:\n{host.journal('-u', unit, '-n', '20')}")
        yield Side(host, token)


def against(what: str, ours: Sequence[float], theirs: Sequence[float], target: float, more: str = "") -> Figure:
    """CPU in µs, round by round: the median of the rounds' ratios, so that what slows both in a round falls out."""
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    note = f"ours {statistics.median(ours):.1f} µs, Caddy {statistics.median(theirs):.1f} µs"
    note += f"; {len(ratios)} rounds, {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return Figure(what, statistics.median(ratios), "x", target, note + more)


def requests(side: Side, connections: int, rounds: int, seconds: int) -> Iterator[Figure]:
    say(f"small requests over {connections} connections")
    ports = {"bare": BARE, "caddy": CADDY, "ours": OURS}
    seen: dict[str, list[Load]] = {name: [] for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            seen[name].append(side.wrk(port, connections, seconds))
    median = statistics.median
    rate, p50, p99 = (
        {name: median(getattr(load, what) for load in loads) for name, loads in seen.items()}
        for what in ("rate", "p50", "p99")
    )
    used = {name: [load.cpu[name] for load in seen[name]] for name in ("ours", "caddy")}
    journal = median(load.cpu["journald"] for load in seen["ours"])
    title = f"{connections} connection{'s' if connections > 1 else ''}"
    what = f"{title}: CPU per small request, of Caddy's"
    yield against(what, used["ours"], used["caddy"], 0.6, f"; journald beside ours {journal:.1f} µs")
    for share, values in (("p50", p50), ("p99", p99)):
        note = f"ours {values['ours']:.3f} ms, Caddy {values['caddy']:.3f} ms, bare {values['bare']:.3f} ms"
        yield Figure(f"{title}: answer {share}, of Caddy's", values["ours"] / values["caddy"], "x", None, note)
    note = f"ours {rate['ours']:.0f}, Caddy {rate['caddy']:.0f}, bare {rate['bare']:.0f} a second"
    yield Figure(f"{title}: requests per second, of Caddy's", rate["ours"] / rate["caddy"], "x", None, note)
    yield Figure(f"{title}: requests per second, of the bare engine's", rate["ours"] / rate["bare"], "x", None, note)


def first_bytes(side: Side, rounds: int) -> Iterator[Figure]:
    say("first bytes")
    ports = [f"{name}={port}" for name, port in (("bare", BARE), ("caddy", CADDY), ("ours", OURS))]
    command = (sys.executable, f"{HERE}/firstbyte.py", side.token, str(rounds), *ports)
    said = json.loads(side.host.run(*command).stdout)
    for number, share in enumerate(("median", "p99")):
        ours, theirs, bare = (said[name][number] for name in ("ours", "caddy", "bare"))
        note = f"ours {ours:.3f} ms, Caddy {theirs:.3f} ms, bare {bare:.3f} ms; {rounds} each, in turn"
        goal = 1.0 if share == "median" else None
        yield Figure(f"1 connection: first byte, {share}, of Caddy's", ours / theirs, "x", goal, note)
        added = f"ours {ours - bare:.3f} ms, Caddy {theirs - bare:.3f} ms"
        title = f"1 connection: time added to the first byte, {share}, of Caddy's"
        yield Figure(title, (ours - bare) / (theirs - bare), "x", None, added)


def tokens(side: Side, streams: int, rounds: int, count: int) -> Iterator[Figure]:
    say(f"{streams} paced streams")
    ports = {"bare": BARE_PACED, "caddy": CADDY_PACED, "ours": OURS}
    seen: dict[str, list[float]] = {"caddy": [], "ours": []}
    rates: dict[str, list[float]] = {name: [] for name in ports}
    cut = dict.fromkeys(ports, 0)
    for number in range(rounds):
        # What else the machine does changes within seconds: the two take turns, and in turn who is first.
        order = ("bare", "caddy", "ours") if number % 2 else ("bare", "ours", "caddy")
        took = {name: side.streams(ports[name], streams, count) for name in order}
        for name, (rate, _, short) in took.items():
            cut[name] += short
            if not short:
                rates[name].append(rate)
        if not took["caddy"][2]:
            for name in ("caddy", "ours"):
                seen[name].append(took[name][1][name])
    if cut["ours"] or cut["bare"] or not seen["caddy"]:
        raise SystemExit(f"bench: streams ended too soon: {cut}")
    more = ""
    if cut["caddy"]:
        more = f"; Caddy ended {cut['caddy']} of its {rounds * streams} streams before their first token, not counted"
    title = f"{streams} streams at 5 ms"
    yield against(f"{title}: CPU per token, of Caddy's", seen["ours"], seen["caddy"], 0.75, more)
    per_second = {name: statistics.median(values) for name, values in rates.items()}
    ours = per_second["ours"]
    for name, whose in (("caddy", "Caddy's"), ("bare", "the bare engine's")):
        note = f"ours {ours:.0f}, {whose} {per_second[name]:.0f} a second"
        yield Figure(f"{title}: tokens per second, of {whose}", ours / per_second[name], "x", None, note)


def hang_ups(side: Side, rounds: int) -> Iterator[Figure]:
    say("clients that hang up")
    command = (sys.executable, f"{HERE}/gone.py", str(OURS), side.token, "paced", str(rounds))
    said = json.loads(side.host.run(*command).stdout)
    note = f"median {said['median']:.2f} ms; {rounds} in the middle of their streams"
    yield Figure("client gone until its engine knows: longest", said["longest"], "ms", 100.0, note)


def memory(side: Side, streams: int) -> Iterator[Figure]:
    say(f"{streams} open streams")
    found = {}
    for name, port in (("caddy", CADDY_PACED), ("ours", OURS)):
        before = side.resident_mib(name)
        with side.open_streams(port, streams):
            found[name] = side.resident_mib(name), before
    note = f"{found['ours'][1]:.1f} MiB before; Caddy {found['caddy'][0]:.1f} MiB, {found['caddy'][1]:.1f} before"
    yield Figure(f"RSS of the whole daemon, {streams} open streams", found["ours"][0], "MiB", 60.0, note)


def stalls(side: Side) -> Iterator[Figure]:
    say("large bodies")
    pid = side.host.show(CGROUPS["ours"], "MainPID")
    command = (sys.executable, f"{HERE}/stall.py", str(OURS), pid, side.token, "fixed", "20", "10")
    said = json.loads(side.host.run(*command).stdout)
    for name in ("image", "numbers", "form"):
        seen = said[name]
        note = (
            f"without the time it had no processor; by the clock {seen['wall']:.1f} ms, median {seen['median']:.2f} ms;"
        )
        note += f" while small ones pass {said['nothing']['stall']:.1f} ms"
        title = f"longest stall of the loop while 20 MiB pass ({name})"
        yield Figure(title, seen["stall"], "ms", 20.0, note)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/gateway/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given again")
    parser.add_argument("--if-possible", action="store_true", help="no error where a tool is missing, only a word")
    parser.add_argument("--seconds", type=int, default=3, help="of each load of small requests (3)")
    options = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None and not Path(f"/usr/sbin/{tool}").exists()]
    if missing:
        say(f"no figures of the gateway, {', '.join(missing)} missing: apt-get install caddy nginx-light wrk")
        raise SystemExit(0 if options.if_possible else 1)
    if reason := why_not():
        raise SystemExit(f"bench: no throwaway host here: {reason}")
    figures: list[Figure] = []
    parts = options.only or PARTS
    with booted() as side:
        side.bring("fixed")
        if "requests" in parts:
            for connections in (1, 16):
                figures += requests(side, connections, options.rounds, options.seconds)
        if "first-bytes" in parts:
            figures += first_bytes(side, 2000)
        if "stalls" in parts:
            figures += stalls(side)
        side.bring("paced")
        if "tokens" in parts:
            figures += tokens(side, 32, 2 * options.rounds, 400)
        if "hang-ups" in parts:
            figures += hang_ups(side, 200)
        side.bring("slow")
        if "memory" in parts:
            figures += memory(side, 256)
    print(table(figures))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores; load average at the end: {load}. Other work here spoils these figures.")


if __name__ == "__main__":
    main()
