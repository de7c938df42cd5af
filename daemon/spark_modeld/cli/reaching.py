"""Where everything is: the one overview of addresses."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from spark_modeld.cli.completion import complete_model
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import clean, paint, phase

_TITLES = (
    ("gateway", "For clients: every model"),
    ("gateway-port", "For clients: one model each"),
    ("control", "For operators and scripts"),
    ("engine", "Engines themselves, past the gateway: to look, not for clients"),
)


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@common
@pass_ctl
def endpoints(ctl: Ctl, model: str | None) -> None:
    """Every address: base URLs, who reaches them, health, calls to try. With MODEL, what leads to it."""
    query = f"?model={quote(model, safe='')}" if model is not None else ""
    shown = ctl.client.call("GET", f"/api/endpoints{query}")
    health = {} if ctl.json else _health(shown["endpoints"])
    ctl.say(shown, *([] if ctl.json else _screen(shown, health)))


def _health(found: list[dict[str, Any]]) -> dict[str, str]:
    """What our own listeners answer just now. Engines are left alone: some generate a token for it."""
    from concurrent.futures import ThreadPoolExecutor

    from spark_modeld.cli.web import health_of

    own = [each for each in found if each["kind"] != "engine" and each["url"].startswith("http://")]
    with ThreadPoolExecutor(max_workers=max(1, len(own))) as pool:
        told = list(pool.map(lambda each: health_of(each["health"]), own))
    return {each["url"]: word for each, word in zip(own, told, strict=True)}


def _screen(shown: dict[str, Any], health: dict[str, str]) -> list[str]:
    tailscale = shown["tailscale"]
    lines = [f"{paint('host'.ljust(10), 'dim')}{clean(shown['host'])}"]
    if tailscale is not None:
        names = "  ".join([tailscale["name"] or "(no name)", *tailscale["addresses"]])
        lines.append(f"{paint('tailscale'.ljust(10), 'dim')}{clean(names)}")
    for kind, title in _TITLES:
        if those := [each for each in shown["endpoints"] if each["kind"] == kind]:
            lines += ["", paint(title, "bold")]
            for each in those:
                lines += _lines(each, health.get(each["url"]))
    return lines


def _lines(each: dict[str, Any], health: str | None) -> list[str]:
    about = [_REACH[each["reach"]], f"token with scope {each['token']}" if each["token"] else "no token"]
    if each["kind"] == "engine":
        about = [_REACH[each["reach"]]]
    if health is not None:
        about.append(paint(health, "green" if health == "answers" else "red"))
    if each["model"] is not None:
        about.insert(0, f"{each['model']} {phase(each['state'] or 'unknown')}")
    lines = [f"  {clean(each['url'])}  {paint('(', 'dim')}{', '.join(about)}{paint(')', 'dim')}"]
    lines += [f"    {paint(clean(example), 'dim')}" for example in each["examples"]]
    if each["kind"] != "engine" and each["url"].startswith("http"):
        lines.append(f"    {paint(clean('curl ' + each['health']), 'dim')}")
    return lines


_REACH = {
    "machine": "this machine only",
    "network": "from the network",
    "tailnet": "from the tailnet",
    "internet": "from the whole internet",
}
