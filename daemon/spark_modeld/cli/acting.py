"""Commands that change something."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

import click

from spark_modeld.cli.check_screen import findings
from spark_modeld.cli.client import Stream
from spark_modeld.cli.completion import complete_model, complete_switch
from spark_modeld.cli.failures import FAILED, INTERRUPTED, TIMED_OUT, Failure, local, refused
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.progress import Lines, Live, Progress, Silent, follow
from spark_modeld.cli.starting import until_it_serves
from spark_modeld.cli.text import counted, phase, span

_UNITS = (
    "spark-modeld.socket",
    "spark-modeld-http.socket",
    "spark-modeld-gateway.socket",
    "spark-modeld-port@*.socket",
    "spark-modeld.service",
)


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--empty", is_flag=True, help="Empty the slot instead.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this.")
@click.option(
    "--force", is_flag=True, help="Also where its check found errors, or an estimate says that it does not fit."
)
@common
@pass_ctl
def switch(ctl: Ctl, model: str | None, empty: bool, wait: bool, timeout: float | None, force: bool) -> None:
    """Switch the slot to MODEL (an id, alias or served name)."""
    if (model is None) is not empty:
        raise click.UsageError("Say which MODEL, or --empty; not both.")
    client = ctl.client
    # Subscribed before the request is made, so that no phase is missed.
    stream = client.events() if wait else None
    try:
        shown = client.call("POST", "/api/switch", {"model": model, "force": force})
    except Failure:
        if stream is not None:
            stream.close()
        raise
    if stream is not None:
        shown = _wait(ctl, stream, shown, timeout)
    _conclude(ctl, shown, waited=wait)


@click.command()
@click.argument("switch_id", metavar="[ID]", required=False, shell_complete=complete_switch)
@common
@pass_ctl
def cancel(ctl: Ctl, switch_id: str | None) -> None:
    """Cancel the switch under way, or the one with this ID."""
    client = ctl.client
    if switch_id is None:
        under_way = client.call("GET", "/api/status")["switch"]
        if under_way is None:
            raise local("not-found", "Nothing to cancel", "No switch is under way.", FAILED)
        switch_id = under_way["id"]
    shown = client.call("DELETE", f"/api/switches/{quote(str(switch_id), safe='')}")
    if shown["outcome"] is None:
        ctl.say(
            shown, f"The switch to {_target(shown)} is being cancelled and goes back to {shown['from'] or 'empty'}."
        )
    else:
        ctl.say(shown, f"The switch to {_target(shown)} has ended: {shown['outcome']}.")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it serves.")
@common
@pass_ctl
def start(ctl: Ctl, model: str, wait: bool) -> None:
    """Start MODEL beside what runs, where memory admits it."""
    client = ctl.client
    stream = client.events() if wait else None
    try:
        shown = client.call("POST", f"/api/models/{quote(model, safe='')}/start")
        if stream is not None:
            shown = until_it_serves(client, stream, shown, _progress(ctl))
    except KeyboardInterrupt:
        click.echo(f"The start of {model} goes on. `spark-modelctl stop {model}` ends it.", err=True)
        sys.exit(INTERRUPTED)
    finally:
        if stream is not None:
            stream.close()
    if wait and shown["state"] != "serving":
        told = f"{shown['id']} did not come up: it is {shown['state']}."
        raise refused(
            {"model": shown["id"], "unit": shown["unit"]}
            | (shown["error"] or local("model-failed", told, told, FAILED).problem)
        )
    ctl.say(shown, f"{shown['id']} {phase(shown['state'])}")


@click.command()
@click.argument("model", shell_complete=complete_model)
@common
@pass_ctl
def stop(ctl: Ctl, model: str) -> None:
    """Stop a side model."""
    shown = ctl.client.call("POST", f"/api/models/{quote(model, safe='')}/stop")
    ctl.say(shown, f"{shown['id']} {phase(shown['state'])}")


@click.command()
@common
@pass_ctl
def reload(ctl: Ctl) -> None:
    """Read the configuration again; a wrong one changes nothing."""
    shown = ctl.client.call("POST", "/api/reload")
    ctl.say(shown, f"The configuration is in force: {counted(len(shown['models']), 'model')}.")


@click.command()
@common
@pass_ctl
def shutdown(ctl: Ctl) -> None:
    """Stop the daemon and its sockets. Models keep serving."""
    import subprocess

    command = ["systemctl", *(["--user"] if ctl.user else []), "stop", *_UNITS]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=ctl.json, text=True, check=False)
    except FileNotFoundError as error:
        raise local("failed", "No systemctl", "There is no systemctl on this machine.", FAILED) from error
    if done.returncode != 0:
        said = (done.stderr or "").strip()
        detail = f"`{' '.join(command)}` failed{': ' + said if said else ''}. Stopping the daemon needs root."
        raise local("failed", "Not stopped", detail, FAILED)
    ctl.say({"stopped": list(_UNITS)}, "The daemon and its sockets are stopped. Models keep serving.")


def _progress(ctl: Ctl) -> Progress:
    return Silent() if ctl.json else Live() if sys.stdout.isatty() else Lines()


def _wait(ctl: Ctl, stream: Stream, shown: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    try:
        return follow(ctl.client, stream, shown, _progress(ctl), timeout)
    except KeyboardInterrupt:
        cancel_it = f"`spark-modelctl cancel {shown['id']}` cancels it."
        click.echo(f"The switch to {_target(shown)} goes on. {cancel_it}", err=True)
        sys.exit(INTERRUPTED)


def _conclude(ctl: Ctl, shown: dict[str, Any], *, waited: bool) -> None:
    outcome, target = shown["outcome"], _target(shown)
    if outcome == "ready":
        took = f" after {span(sum(shown['timings'].values()))}" if shown["timings"] else ""
        done = f"{target} serves" if shown["model"] else "The slot is empty"
        warnings = [] if ctl.json else findings(shown.get("findings", []), "error", "warning")
        ctl.say(shown, f"{done} already." if shown["noop"] else f"{done}{took}.", *warnings)
    elif outcome is not None:
        raise refused({**_why(shown), "switch": shown})
    elif waited:
        detail = f"The switch to {target} is still {shown['phase']} and goes on: `spark-modelctl status`."
        problem = local("timed-out", "Still under way", detail, TIMED_OUT)
        problem.problem["switch"] = shown
        raise problem
    else:
        ctl.say(shown, f"The switch to {target} is under way: {shown['id']}")


def _why(shown: dict[str, Any]) -> dict[str, Any]:
    if shown["error"] is not None:
        return dict(shown["error"])
    how = {"superseded": "was superseded by a newer one", "cancelled": "was cancelled"}
    detail = f"The switch to {_target(shown)} {how.get(shown['outcome'], 'failed')}."
    code = shown["outcome"] if shown["outcome"] in how else "model-failed"
    return {"type": f"urn:spark-modeld:problem:{code}", "title": detail, "detail": detail, "code": code}


def _target(shown: dict[str, Any]) -> str:
    return shown["model"] or "an empty slot"
