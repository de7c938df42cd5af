"""Debian's Chromium without a window, driven over its own pipe (the DevTools protocol), with nothing in between.

Clicks and keys are real input events; waiting is done in the page, by an observer of its changes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import platform
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
SECONDS = 30.0
_FIRST_FREE_FD = 10
_SWITCHES = (
    *("--headless", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    # On a busy machine a page is there, and to be clicked at, before its first frame is.
    "--allow-pre-commit-input",
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync"),
    *("--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"),
)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}
_TYPED = {"Enter": "\r", " ": " "}

_NAME = "((it) => (it.getAttribute('aria-label') ?? it.textContent).replace(/\\s+/g, ' ').trim())(%s)"
# Resolves with the expression's first true value; looked at again with every change of the page.
_UNTIL = """new Promise((resolve) => {
  const look = () => {
    let value = null;
    try { value = (%s); } catch (error) { value = null; }
    if (!value) return;
    observer.disconnect();
    resolve(value === true || typeof value !== 'object' ? value : true);
  };
  const observer = new MutationObserver(look);
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  document.addEventListener('focusin', look);
  look();
})"""

# The middle of an element that has come to rest there, with nothing before it.
_PLACE = """new Promise((resolve) => {
  let before = null;
  const look = () => {
    const it = %s;
    it?.scrollIntoView({ block: 'center', behavior: 'instant' });
    const box = it?.getBoundingClientRect();
    const place = box && { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    const still = place && before && place.x === before.x && place.y === before.y;
    if (still && it.contains(document.elementFromPoint(place.x, place.y))) resolve(place);
    else requestAnimationFrame(look);
    before = place;
  };
  look();
})"""


def program() -> str | None:
    """The browser: what CHROMIUM names, else the first that is installed; None if there is none."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next((found for found in map(shutil.which, PROGRAMS) if found), None)


def why_not() -> str | None:
    """Why there is no browser here; None if there is one. Ubuntu has it as a snap only, which nothing here installs."""
    if program():
        return None
    if "CHROMIUM" in os.environ or platform.freedesktop_os_release()["ID"] == "debian":
        return "needs a Chromium: make build, or name one in CHROMIUM"
    return "this machine has no Chromium in its distribution: name one in CHROMIUM"


class Browser:
    """A running browser. Started in a thread's network, it stays there. Use it as a context manager."""

    def __init__(self, **environment: str) -> None:
        self._environment = environment
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._unread = b""

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE_FD) for fd in (read, write)]
        found = program()
        assert found is not None, "there is no Chromium here"
        pipe = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", pipe, "_", found, *_SWITCHES, f"--user-data-dir={self._home.name}", "about:blank"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._home.name, **self._environment},
            start_new_session=True,
        )
        for fd in (read, write, *theirs):
            os.close(fd)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._home.cleanup()

    def page(self) -> Page:
        """A new page, of a profile of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        page.prepare()
        return page

    def send(self, method: str, *, session: str | None = None, seconds: float = SECONDS, **params: Any) -> Any:
        """One command and its result. AssertionError for a refused one, TimeoutError."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        sent = json.dumps(message).encode() + b"\0"
        while sent:
            sent = sent[os.write(self._write, sent) :]
        deadline = time.monotonic() + seconds
        while number not in self._answers:
            if not self.hear(deadline - time.monotonic()):
                raise TimeoutError(f"{method}: no answer in {seconds:.0f} s")
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def hear(self, seconds: float) -> bool:
        """Takes in what the browser says; whether it said anything in so many seconds."""
        if seconds <= 0 or not select.select([self._read], [], [], seconds)[0]:
            return False
        said = os.read(self._read, 1 << 20)
        if not said:
            raise OSError("the browser has ended")
        *messages, self._unread = (self._unread + said).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.heard(message["method"], message["params"])
        return True


class Page:
    """One page. ``complaints`` are its errors and violations of its policy, ``requests`` every address it asked."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._size = (1280, 900)
        self._loaded = False

    def prepare(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(*self._size)
        self.media()

    def send(self, method: str, **params: Any) -> Any:
        """One command of this page."""
        return self._browser.send(method, session=self._session, **params)

    def close(self) -> None:
        """Ends it, with its profile."""
        self._browser.send("Target.disposeBrowserContext", browserContextId=self._context)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """One event of this page."""
        match method:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.complaints.append(" ".join(str(each.get("value", each)) for each in params["args"]))
            # What the network says is told by the page: a refused token, a daemon that is away.
            case "Log.entryAdded" if params["entry"]["source"] != "network":
                self.complaints.append(params["entry"]["text"])

    # Looking.

    def open(self, address: str) -> None:
        """Goes there; returns when the page and its modules are loaded."""
        self._loaded = False
        self.send("Page.navigate", url=address)
        deadline = time.monotonic() + SECONDS
        while not self._loaded:
            assert self._browser.hear(deadline - time.monotonic()), f"{address} did not load in {SECONDS:.0f} s"

    def evaluate(self, expression: str, *, seconds: float = SECONDS) -> Any:
        """The value of an expression, of its promise if it is one. AssertionError if it throws."""
        answer = self._browser.send(
            "Runtime.evaluate",
            session=self._session,
            seconds=seconds,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def until(self, expression: str, what: str, *, seconds: float = SECONDS) -> Any:
        """The expression's first true value. AssertionError with the page's text when there was none in time."""
        try:
            return self.evaluate(_UNTIL % expression, seconds=seconds)
        except TimeoutError:
            raise AssertionError(f"{what}: not in {seconds:.0f} s. The page shows:\n{self.text()}") from None

    def text(self, selector: str = "body") -> str:
        """What a person reads there; empty where there is nothing."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def await_text(self, text: str, selector: str = "body", *, seconds: float = SECONDS) -> None:
        """Returns when this can be read there."""
        within = f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)})"
        self.until(within, f"{text!r} in {selector}", seconds=seconds)

    # Acting.

    def click(self, name: str, within: str = "body") -> None:
        """Presses the button or summary of this name, where a finger would, once it is there and can be pressed."""
        find = (
            f"[...document.querySelectorAll({json.dumps(f'{within} button, {within} summary')})]"
            ".find((each) => each.checkVisibility() && each.ariaDisabled !== 'true' &&"
            f" {_NAME % 'each'} === {json.dumps(name)})"
        )
        self.until(find, f"a button {name!r}")
        box = self.evaluate(_PLACE % find)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Presses a key and lets it go."""
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": _KEYS[key]}
        modifiers = 8 if shift else 0
        typed = {"text": _TYPED[key]} if key in _TYPED else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **common, **typed)
        self.send("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **common)

    def write(self, text: str) -> None:
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def focused(self) -> str:
        """The name of what has the focus."""
        return str(self.evaluate(f"{_NAME % 'document.activeElement'} || document.activeElement.id"))

    def await_focus(self, name: str) -> None:
        """Returns when what has this name has the focus."""
        self.until(
            f"({_NAME % 'document.activeElement'} || document.activeElement.id) === {json.dumps(name)}",
            f"the focus on {name!r}",
        )

    # Looks.

    def size(self, width: int, height: int, *, scale: float = 1) -> None:
        """The window's size in CSS pixels."""
        self._size = (width, height)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def media(self, *, dark: bool = False, still: bool = True) -> None:
        """What the person prefers."""
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        self.send("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Writes what it looks like as PNG, the whole page or the window's part of it."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(taken["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        height = self.evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)")
        return {"clip": {"x": 0, "y": 0, "width": self._size[0], "height": max(height, 1), "scale": 1}}


@contextlib.contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A new page at this address."""
    page = browser.page()
    try:
        page.open(address)
        yield page
    finally:
        page.close()
