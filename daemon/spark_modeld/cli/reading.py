"""Commands that only look."""

from __future__ import annotations

import json

import click

from spark_modeld.cli import screens
from spark_modeld.cli.client import StreamEnded
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import clean, paint


@click.command()
@common
@pass_ctl
def status(ctl: Ctl) -> None:
    """What serves, what is happening, and how much memory is left."""
    shown = ctl.client.call("GET", "/api/status")
    ctl.say(shown, *([] if ctl.json else screens.status(shown)))


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
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many at most.")
@common
@pass_ctl
def history(ctl: Ctl, lines: int) -> None:
    """The last switches, newest first."""
    shown = ctl.client.call("GET", f"/api/switches?limit={lines}")
    ctl.say(shown, *([] if ctl.json else screens.history(shown)))


@click.command()
@common
@pass_ctl
def events(ctl: Ctl) -> None:
    """What happens, as it happens, until Ctrl-C."""
    stream = ctl.client.events()
    try:
        while True:
            try:
                event = stream.next(None)
            except StreamEnded:
                stream.close()
                stream = ctl.client.events_again(stream.last_id)
                continue
            if event is not None and event.kind:
                data = json.dumps(event.data, ensure_ascii=False)
                ctl.say(
                    {"id": event.id, "event": event.kind, "data": event.data},
                    f"{event.id:>6}  {paint(event.kind.ljust(7), 'cyan')} {clean(data)}",
                )
    except KeyboardInterrupt:
        pass
    finally:
        stream.close()
