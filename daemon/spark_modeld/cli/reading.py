"""Commands that only look."""

from __future__ import annotations

from urllib.parse import quote

import click

from spark_modeld.cli import history_screen, screens, status_screen
from spark_modeld.cli.completion import complete_switch
from spark_modeld.cli.options import Ctl, common, pass_ctl


@click.command()
@common
@pass_ctl
def status(ctl: Ctl) -> None:
    """What serves, what is happening, and how much memory is left."""
    shown = ctl.client.call("GET", "/api/status")
    ctl.say(shown, *([] if ctl.json else status_screen.status(shown)))


@click.command()
@common
@pass_ctl
def models(ctl: Ctl) -> None:
    """Every model and how it is; the default has a star."""
    shown = ctl.client.call("GET", "/api/models")
    ctl.say(shown, *([] if ctl.json else screens.models(shown)))


@click.command()
@common
@pass_ctl
def memory(ctl: Ctl) -> None:
    """A fresh reading of memory, and who holds it."""
    shown = ctl.client.call("GET", "/api/memory")
    ctl.say(shown, *([] if ctl.json else screens.memory(shown)))


@click.command()
@click.argument("switch_id", metavar="[ID]", required=False, shell_complete=complete_switch)
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many at most.")
@common
@pass_ctl
def history(ctl: Ctl, switch_id: str | None, lines: int) -> None:
    """The last switches, newest first, with the time each phase took; or all of the one with this ID."""
    if switch_id is not None:
        shown = ctl.client.call("GET", f"/api/switches/{quote(switch_id, safe='')}")
        ctl.say(shown, *([] if ctl.json else history_screen.one(shown, user=ctl.user)))
        return
    shown = ctl.client.call("GET", f"/api/switches?limit={lines}")
    ctl.say(shown, *([] if ctl.json else history_screen.history(shown)))
