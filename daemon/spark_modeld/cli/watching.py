"""What happens, as it happens."""

from __future__ import annotations

import time
from typing import Any

import click

from spark_modeld.cli.client import Event, StreamEnded
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.outlook import how_far
from spark_modeld.cli.text import arrow, clean, counted, paint, phase, size


@click.command()
@common
@pass_ctl
def events(ctl: Ctl) -> None:
    """What happens, as it happens, until Ctrl-C. A restart of the daemon is waited for."""
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
                document = {"id": event.id, "event": event.kind, "data": event.data}
                ctl.say(document, *([] if ctl.json else [_line(event)]))
    except KeyboardInterrupt:
        pass
    finally:
        stream.close()


def _line(event: Event) -> str:
    """An event for people. What a newer daemon adds is left to --json."""
    say = {"switch": _switch, "slot": _slot, "memory": _memory, "model": _model, "config": _config}.get(event.kind)
    told = say(event.data) if say is not None else str(event.data)
    return f"{paint(time.strftime('%H:%M:%S'), 'dim')}  {paint(event.kind.ljust(6), 'cyan')}  {told}"


def _switch(data: dict[str, Any]) -> str:
    back, error = data.get("rollback"), data.get("error")
    way = f"{data['from'] or 'empty'} {arrow()} {data['model'] or 'empty'}"
    step = data["outcome"] or (f"back to {back['model']}: {back['phase']}" if back else data["phase"])
    more = clean(error["detail"]) if data["outcome"] and error else how_far(data)
    return f"{way}  {phase(step)}{f', {more}' if more else ''}  {paint('[' + data['id'] + ']', 'dim')}"


def _slot(data: dict[str, Any]) -> str:
    why = f": {clean(data['reason'])}" if data.get("reason") else ""
    waiting = f", {', '.join(data['waiting'])} waited for" if data.get("waiting") else ""
    return f"{data.get('model') or ''} {phase(data['phase'])}".strip() + why + waiting


def _memory(data: dict[str, Any]) -> str:
    if "alarm" in data:
        return paint(clean(data["message"]), "red")
    return f"{size(data['available'])} of {size(data['total'])} available{', stale' if data['stale'] else ''}"


def _model(data: dict[str, Any]) -> str:
    far = how_far(data)
    return f"{data['id']} {phase(data['state'])}{f', {far}' if far else ''}"


def _config(data: dict[str, Any]) -> str:
    if not data["ok"]:
        return paint("it is wrong; the one before stays in force: spark-modelctl reload says what", "red")
    return f"in force: {counted(len(data['models']), 'model')}"
