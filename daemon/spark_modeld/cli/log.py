"""The log of a model's unit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from spark_modeld.cli.client import Client
from spark_modeld.cli.completion import complete_model
from spark_modeld.cli.failures import USAGE, Failure, local
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import clean, paint

_AWAY_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_MISSED_LINES = 1000
_AWAY = frozenset({"unreachable", "shutting-down"})


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("-f", "--follow", is_flag=True, help="Go on with every further line, until Ctrl-C.")
@click.option("-n", "--lines", default=100, show_default=True, type=click.IntRange(0, 1000), help="How many at most.")
@common
@pass_ctl
def logs(ctl: Ctl, model: str | None, follow: bool, lines: int) -> None:
    """What MODEL's unit said last: by default the model in the slot, or on its way there, or the last that failed."""
    path = f"/api/models/{quote(model or _of_interest(ctl.client), safe='')}/logs"
    if follow:
        try:
            for line in _follow(ctl.client, path, lines):
                ctl.say(line, _shown(line))
        except KeyboardInterrupt:
            pass
        return
    shown = ctl.client.call("GET", f"{path}?lines={lines}")
    ctl.say(shown, *map(_shown, shown["lines"]))
    if not shown["lines"] and not ctl.json:
        click.echo(f"{shown['unit']} has said nothing that is in the journal.", err=True)


def _of_interest(client: Client) -> str:
    """The occupant, else the model of the switch under way, else of the one that failed last."""
    status = client.call("GET", "/api/status")
    switches = (status["switch"], status["last_failure"])
    names = (status["slot"]["model"], *(switch["model"] for switch in switches if switch is not None))
    if name := next(filter(None, names), None):
        return str(name)
    raise local("usage", "No model", "The slot is empty and nothing has failed: say which MODEL.", USAGE)


def _follow(client: Client, path: str, lines: int) -> Iterator[Any]:
    """Goes on where it was when the daemon has been restarted meanwhile."""
    seen, deadline = "", 0.0
    while True:
        try:
            missed = bool(seen)
            for line in client.lines(f"{path}?follow=true&lines={_MISSED_LINES if missed else lines}"):
                missed = missed and line["time"] <= seen
                if not missed:
                    yield line
                    seen = line["time"]
            # Also where there was no line yet, what comes from now on is missed and nothing before.
            seen = seen or time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            deadline = time.monotonic() + _AWAY_SECONDS
        except Failure as failure:
            if failure.problem.get("code") not in _AWAY or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def _shown(line: dict[str, Any]) -> str:
    at = f"{line['time'][:19].replace('T', ' ')}Z"
    return f"{paint(at, 'dim')} {clean(line['text'])}"
