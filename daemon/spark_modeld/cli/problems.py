"""How a failure is told: what happened, the numbers, the last log lines, and what to do next. All on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from spark_modeld.cli.failures import Failure
from spark_modeld.cli.text import clean, paint, size

_SIZES = ("needed", "available", "returned", "reserve", "large", "floor")


def tell(failure: Failure, *, as_json: bool) -> None:
    """For people on stderr; with ``--json`` the problem itself on stdout too."""
    if as_json:
        click.echo(json.dumps(failure.problem, ensure_ascii=False))
    what, *more = told(failure.problem)
    for line in (f"{paint('spark-modelctl:', 'red', stream=sys.stderr)} {what}", *more):
        click.echo(line, err=True)


def told(problem: dict[str, Any]) -> Iterator[str]:
    """The lines that tell a problem, the first what it is."""
    findings = _members(problem, "findings")
    # With findings the detail repeats the first few of them.
    what = f"{problem.get('title')}:" if findings else problem.get("detail") or problem.get("title")
    yield clean(str(what))
    numbers = [f"{name} {size(problem[name])}" for name in _SIZES if isinstance(problem.get(name), int)]
    if numbers:
        yield "  " + ", ".join(numbers)
    for holder in _members(problem, "holders"):
        user = f" of {holder['user']}" if holder.get("user") else ""
        who = holder.get("model") or f"{holder.get('command') or 'a process'} (PID {holder.get('pid')}{user})"
        where = " of host memory" if holder.get("memory") == "host" else ""
        yield f"  held by {clean(str(who))}: {size(holder.get('bytes'))}{where}"
    for finding in findings:
        place = ": ".join(str(finding[k]) for k in ("file", "key", "code") if finding.get(k))
        yield f"  {clean(place)}: {clean(str(finding.get('message', '')))}"
        if finding.get("hint"):
            yield f"    {clean(str(finding['hint']))}"
    yield from _log(problem)
    yield from (f"  {line}" for line in _next_steps(problem))


def _log(problem: dict[str, Any]) -> Iterator[str]:
    log, reading = problem.get("log"), problem.get("reading")
    lines = [str(line) for line in log] if isinstance(log, list | tuple) else []
    if isinstance(reading, dict):
        yield f"  what its log says: {clean(str(reading.get('message')))}"
        line = str(reading.get("line", ""))
        if line and line not in lines:
            yield f"  | {clean(line)}"
        yield f"  what to do: {clean(str(reading.get('hint')))}"
    if lines:
        yield f"  last lines of {problem.get('unit', 'the unit')}:"
        yield from (f"  | {clean(line)}" for line in lines)


def _members(problem: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = problem.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _next_steps(problem: dict[str, Any]) -> Iterator[str]:
    switch = problem.get("switch")
    if isinstance(switch, dict) and switch.get("outcome") == "rolled-back" and switch.get("from"):
        yield f"{switch['from']} was started again."
    if step := next_step(problem):
        yield step


def next_step(problem: dict[str, Any]) -> str | None:
    """What to do about a problem, where there is something to do."""
    match problem.get("code"):
        case "check-failed" if problem.get("model"):
            return f"See all of it: spark-modelctl check {problem['model']}; --force tries it all the same."
        case "memory-refused":
            return "See who holds memory: spark-modelctl memory"
        case "model-failed" | "start-timeout" if problem.get("model"):
            return f"Read its log: spark-modelctl logs {problem['model']}"
        case "model-failed" | "start-timeout" if problem.get("unit"):
            return f"Read its log: journalctl -u {problem['unit']}"
        case "bus-lost":
            return "Look at the system bus: systemctl status dbus"
        case "stuck" if problem.get("unit"):
            return f"See what holds it: systemctl status {problem['unit']}"
        case "superseded":
            return "See what took over: spark-modelctl history"
        case "internal":
            return "Read the daemon's journal: journalctl -u spark-modeld"
    return None
