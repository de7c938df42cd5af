"""Follows a model that was started beside the slot until it serves, or is down again with its unit's last words."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from spark_modeld.cli.client import Client, Stream, StreamEnded
from spark_modeld.cli.progress import Progress

_DOWN = frozenset({"stopped", "failed", "stuck"})
_ENDED = _DOWN | {"serving"}
_LOADING = frozenset({"starting", "warming"})
_WORDS_SECONDS = 3.0
"""How long a model that is down is waited for to be told with its unit's last words: they come a little later."""


def until_it_serves(client: Client, stream: Stream, shown: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The model when it serves, or is down again. The stream was subscribed before the start was asked for."""
    path = f"/api/models/{quote(shown['id'], safe='')}"
    down_since: float | None = None
    try:
        while not _is_told(shown):
            if shown["state"] in _DOWN:
                down_since = down_since or time.monotonic()
            else:
                progress.show(_as_switch(shown))
            left = None if down_since is None else down_since + _WORDS_SECONDS - time.monotonic()
            if left is not None and left <= 0:
                return shown
            try:
                event = stream.next(min((t for t in (progress.tick, left) if t is not None), default=None))
            except StreamEnded:
                stream.close()
                stream = client.events_again(stream.last_id)
                shown = client.call("GET", path)
                continue
            if event is None:
                continue
            # A heartbeat is a good moment to make sure that nothing was missed.
            if not event.kind or (event.kind == "model" and event.data.get("id") == shown["id"]):
                shown = client.call("GET", path)
        return shown
    finally:
        progress.end()
        stream.close()


def _as_switch(model: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a switch, of a model that comes up on its own."""
    load, loads = model.get("load"), model["state"] in _LOADING
    return {
        "phase": model["state"],
        "step": model.get("step"),
        "progress": model.get("progress"),
        "estimate": load,
        # Since its unit's start, which is when it was shown so first: from there on it is counted down.
        "eta_s": load["seconds"] if load is not None and loads else None,
        "way": model["id"],
    }


def _is_told(shown: dict[str, Any]) -> bool:
    """Whether nothing more is to come."""
    error = shown["error"] or {}
    explained = "log" in error or error.get("code") not in {"model-failed", "start-timeout"}
    return shown["state"] in _ENDED and (shown["state"] == "serving" or explained)
