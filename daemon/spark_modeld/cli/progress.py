"""Follows a switch to its end by the daemon's events, and shows how far it, or a start beside the slot, is."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from spark_modeld.cli.client import Client, Stream, StreamEnded
from spark_modeld.cli.outlook import how_far, how_long, how_much_longer
from spark_modeld.cli.text import arrow, fit, phase, span, width

_REDRAW_SECONDS = 0.1
_BAR_COLUMNS = 10
_TENTHS = 10


class Progress(Protocol):
    """Something that shows a switch. ``tick`` is how often it wants to redraw, in seconds, None for never."""

    tick: float | None

    def show(self, switch: dict[str, Any]) -> None:
        """The switch as it is."""

    def end(self) -> None:
        """Nothing more comes."""


class Silent:
    """Shows nothing."""

    tick: float | None = None

    def show(self, switch: dict[str, Any]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Lines:
    """A line for every phase as it begins, and for every tenth of what the engine says, for logs and pipes."""

    tick: float | None = None

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seen: tuple[object, ...] = ()
        self._estimated = False

    def show(self, switch: dict[str, Any]) -> None:
        """A line if there is something new."""
        step, share = _step(switch), switch.get("progress")
        seen = (step, switch.get("step"), None if share is None else int(share * _TENTHS))
        if seen == self._seen:
            return
        far, takes = how_far(switch), "" if self._estimated else how_long(switch)
        self._seen, self._estimated = seen, self._estimated or bool(takes)
        more = ", ".join(text for text in (far, f"takes {takes}" if takes else "") if text)
        print(f"{time.monotonic() - self._started:6.1f} s  {step}{f'  {more}' if more else ''}", flush=True)

    def end(self) -> None:
        """Nothing: every line is whole."""


class Live:
    """One line that lives, and one that stays for every phase that is over."""

    tick: float | None = _REDRAW_SECONDS

    def __init__(self) -> None:
        self._started = self._since = time.monotonic()
        self._step = ""
        self._outlook: tuple[float | None, float] = (None, 0.0)

    def show(self, switch: dict[str, Any]) -> None:
        """Draws the line again."""
        now, step = time.monotonic(), _step(switch)
        if switch.get("eta_s") != self._outlook[0]:
            self._outlook = (switch.get("eta_s"), now)
        if step != self._step:
            if self._step:
                self._draw(f"  {self._step.ljust(12)} {span(now - self._since)}\n")
            self._step, self._since = step, now
        line = f"  {step.ljust(12)} {span(now - self._since)}   {_way(switch)}, {span(now - self._started)} in all"
        for text in (how_far(switch, _BAR_COLUMNS), how_much_longer(self._left(now)), how_long(switch)):
            if text and len(line) + len(text) + 2 < width():
                line += f", {text}"
        self._draw(fit(line, width() - 1).replace(step, phase(step), 1))

    def _left(self, now: float) -> float | None:
        """Seconds until it should be ready: what the daemon said, and counted down since."""
        said, at = self._outlook
        return None if said is None else max(0.0, said - (now - at))

    def end(self) -> None:
        """Takes the living line away."""
        self._draw("")

    def _draw(self, text: str) -> None:
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()


def follow(
    client: Client, stream: Stream, switch: dict[str, Any], progress: Progress, seconds: float | None
) -> dict[str, Any]:
    """The switch when it has ended, or as it is after so many seconds."""
    if switch["outcome"] is not None:  # nothing to do, so nothing on record
        stream.close()
        return switch
    path = f"/api/switches/{switch['id']}"
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        while switch["outcome"] is None:
            progress.show(switch)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return switch
            try:
                event = stream.next(min((t for t in (progress.tick, left) if t is not None), default=None))
            except StreamEnded:
                stream.close()
                stream = client.events_again(stream.last_id)
                switch = client.call("GET", path)
                continue
            if event is None:
                continue
            # A heartbeat is a good moment to make sure that nothing was missed.
            if not event.kind or (event.kind == "switch" and event.data.get("id") == switch["id"]):
                news = event.data if event.kind and "outcome" in event.data else client.call("GET", path)
                switch = {**switch, **news}
        result: dict[str, Any] = client.call("GET", path)
        return result
    finally:
        progress.end()
        stream.close()


def _way(switch: dict[str, Any]) -> str:
    return switch.get("way") or f"{switch['from'] or 'empty'} {arrow()} {switch['model'] or 'empty'}"


def _step(switch: dict[str, Any]) -> str:
    back = switch.get("rollback")
    return f"back to {back['model']}: {back['phase']}" if back else str(switch["phase"])
