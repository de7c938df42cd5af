"""A host with a catalog for the dashboard to show, and the dashboard as a test uses it."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from support.browser import Page
from support.gb10 import Gb10
from support.nvml import GIB
from support.scene import HOLDS, Scene, bad_model
from support.spark import REPOSITORY, SparkHost, llama_model
from support.witness import until

ADDRESS = "http://127.0.0.1:30100/"
GATEWAY = "http://127.0.0.1:30101"
AXE = REPOSITORY / "build" / "axe" / "axe.min.js"
SETTINGS = """\
[slot]
start_timeout = "60s"
drain_timeout = "60s"
overlap = "never"
[memory]
reserve = "8GiB"
large = "24GiB"
floor = "3GiB"
"""
TABS = 150
LOOK = """axe.run(document, { preload: false, resultTypes: ['violations'] }).then(({ violations }) =>
  violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ html, any }) =>
    `${html.slice(0, 160)} ${any.map(({ message }) => message).join(' ')}`) })))"""


class Play(Scene):
    """alpha and beta of 30 GiB, huge that never fits, broken that dies with hostile words, absent without its file,
    small beside them.
    """

    gb10: Gb10
    token: str
    observer: str

    @classmethod
    def prepare(cls, host: SparkHost) -> Self:
        """An installed host with the catalog, tokens and alpha serving."""
        play = cls(host)
        play.gb10 = Gb10(host)
        play.gb10.install()
        host.settings(SETTINGS)
        for model, port in (("alpha", 8001), ("beta", 8002)):
            host.model(model, scripted(model, port))
        host.model("huge", bad_model("huge", port=8003, memory="120GiB"))
        host.model("broken", broken(8004))
        host.model("absent", llama_model("absent", port=8006, gguf="/srv/models/absent.gguf", memory="1GiB"))
        host.model("small", bad_model("small", port=8005, memory="1GiB", extra='role = "side"'))
        host.enable()
        play.token = play.add("dashboard", "control", "inference")
        play.observer = play.add("observer", "observe")
        play.settle()
        return play

    def add(self, name: str, *scopes: str) -> str:
        """A new token."""
        words = [word for scope in scopes for word in ("--scope", scope)]
        return str(json.loads(self.host.run("spark-modelctl", "token", "add", "--json", *words, name).stdout)["token"])

    def settle(self) -> None:
        """alpha serving, 90 GiB available, nothing held up."""
        self.release()
        self.gb10.nvml.gb10()
        self.gb10.available(90 * GIB)
        if self.slot() != ("alpha", "serving"):
            self.switch("alpha")

    def look(self) -> None:
        """A reading now, so that what was changed of memory is told at once."""
        assert self.host.api("GET", "/api/memory")[0] == 200

    def switch_under_way(self) -> str | None:
        """Its model."""
        under_way = self.status()["switch"]
        return str(under_way["model"]) if under_way else None

    def switches(self) -> list[str]:
        """The ids of all of them."""
        return [each["id"] for each in self.host.api("GET", "/api/switches")[1]["switches"]]

    @contextlib.contextmanager
    def request_in_flight(self, model: str = "alpha") -> Iterator[None]:
        """Somebody's request at the gateway, which is being answered meanwhile."""
        self.hold("answer")
        body = {"model": model, "messages": [], "script": {"hold": f"{HOLDS}/answer"}}
        words = ("-H", f"Authorization: Bearer {self.token}", "-H", "Content-Type: application/json")
        asking = self.host.popen("curl", "-sS", *words, "-d", json.dumps(body), f"{GATEWAY}/v1/chat/completions")
        try:
            until("the request to be in flight", lambda: self.status()["slot"]["in_flight"] == 1)
            yield
        finally:
            self.release("answer")
            asking.wait(30)


def scripted(model: str, port: int) -> str:
    """A model that does what a request's script says."""
    bad = bad_model(model, port=port, memory="30GiB")
    # Not isolated: it imports the bad engine beside it.
    return bad.replace("bad_engine.py", "scripted_engine.py").replace('"-I", ', "")


def broken(port: int) -> str:
    """A model that dies while it loads, with words that a page must not take for markup."""
    words = ("loading <img src=x onerror=alert(1)>", r"\x1b[31mred letters\x1b[0m", "CUDA out of memory")
    said = f"printf '%b\\n' {' '.join(map(shlex.quote, words))}; exit 3"
    return "\n".join(
        [
            'engine = "openai"',
            f'url = "http://127.0.0.1:{port}"',
            'memory = "30GiB"',
            "[launch]",
            f"command = {json.dumps(['/bin/bash', '-c', said])}",
            "",
        ]
    )


class Dashboard:
    """A page at ADDRESS."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def enter(self, token: str) -> None:
        """Types the token and sends it, by keyboard."""
        self.page.until("document.getElementById('token')", "the question for the token")
        self.page.evaluate("document.getElementById('token').focus()")
        self.page.write(token)
        self.page.key("Enter")

    def tab_to(self, name: str) -> None:
        """Goes on with Tab until this has the focus. AssertionError if it never has."""
        seen = []
        for _ in range(TABS):
            if (focused := self.page.focused()) == name:
                return
            seen.append(focused[:40])
            self.page.key("Tab")
        raise AssertionError(f"Tab never came to {name!r}, but to {seen}")


def barriers(page: Page) -> list[str]:
    """What axe-core finds to be serious or critical, in light and dark."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(f"{Path(AXE).read_text(encoding='utf-8')}; true")
    found: list[str] = []
    for dark in (False, True):
        page.media(dark=dark)
        seen: list[dict[str, Any]] = page.evaluate(LOOK)
        how = "dark" if dark else "light"
        found += [f"{how}: {v['id']}: {v['nodes']}" for v in seen if v["impact"] in {"serious", "critical"}]
    page.media()
    return found
