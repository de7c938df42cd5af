"""``tailscale status --json`` and ``tailscale serve status --json``, within a bound."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from msgspec import Struct

from spark_modeld.core.tailnet import Tailnet, tailnet_of
from spark_modeld.programs import end, start

SECONDS = 2.0
_STATUS = ("tailscale", "status", "--json", "--peers=false")
_SERVE = ("tailscale", "serve", "status", "--json")


class Answer(Struct, frozen=True):
    """What came of asking: ``installed`` says that there is such a command, ``trouble`` why it said nothing."""

    installed: bool
    tailnet: Tailnet | None = None
    trouble: str = ""


def ask(seconds: float = SECONDS) -> Answer:
    """Blocking, for as many seconds at most; it never raises."""
    asked: list[subprocess.Popen[bytes]] = []
    try:
        asked += (start(*command) for command in (_STATUS, _SERVE))
        texts = [each.communicate(timeout=seconds)[0] for each in asked]
    except subprocess.TimeoutExpired:
        return Answer(installed=True, trouble=f"`tailscale status` has not answered in {seconds:g} s")
    except FileNotFoundError:
        return Answer(installed=False)
    except OSError as error:
        return Answer(installed=True, trouble=f"`tailscale` cannot be run: {error.strerror or error}")
    finally:
        for each in asked:
            end(each)
    # With its daemon stopped or logged out the command fails, and says which in the JSON.
    documents = [_parsed(text) for text in texts]
    if documents[0] is None:
        return Answer(installed=True, trouble="`tailscale status` fails: its daemon does not run, or lets nobody ask")
    return Answer(installed=True, tailnet=tailnet_of(*documents))


def look() -> Tailnet | None:
    """The machine's tailnet; None where there is none, or nobody answers."""
    return ask().tailnet


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
