"""Renews packaging/pictures: the dashboard and the command line, on a throwaway host that looks like a GB10.

Everything in the pictures is what the daemon told: only the engines pose (they load in steps, and hold no memory), and
the kernel's and the driver's numbers are written here. make pictures.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.browser import Browser, Page, opened
from support.browser import why_not as why_no_browser
from support.dashboard import ADDRESS, Dashboard
from support.gb10 import Gb10
from support.network import network_of
from support.nvml import GIB, Process
from support.scene import HOLDS, Scene
from support.spark import REPOSITORY, SOURCE, SparkHost, quoted, why_not
from support.terminal import document
from support.witness import processes, until

PICTURES = REPOSITORY / "packaging" / "pictures"
LARGEST = 150_000
SHARDS = 11
"""As posing_engine.py has them."""
SETTINGS = """\
[slot]
default = "qwen3-32b-nvfp4"
[memory]
reserve = "8GiB"
large = "24GiB"
floor = "3GiB"
"""
IDLE = 113 * GIB
WEIGHTS = {
    "qwen3-32b-nvfp4": 38,
    "gpt-oss-120b": 66,
    "deepseek-r1-8b": 17,
    "bge-m3": 2,
    "llama4-scout-17b": 62,
    "llama-3.3-70b-bf16": 141,
}
FONTS = "".join(
    [
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>',
        "<include>/etc/fonts/fonts.conf</include>",
        *(
            f'<match target="pattern"><test name="family"><string>{family}</string></test>'
            '<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>'
            for family in ("ui-sans-serif", "system-ui", "sans-serif")
        ),
        "</fontconfig>",
    ]
)
"""The page takes the system's own font; this system has none to show."""


def posing(model: str, port: int, *, aliases: tuple[str, ...] = (), extra: str = "") -> str:
    """The catalog entry of a posing engine."""
    command = [
        *("/usr/bin/python3", "-S", f"{SOURCE}/tests/support/posing_engine.py", "--pose", f"{HOLDS}/{model}"),
        *("--name", model, "--port", str(port)),
    ]
    return _entry("sglang", port, model, command, aliases, extra)


def failing(model: str, port: int) -> str:
    """That of one that dies as SGLang does over compressed-tensors."""
    script = f"{SOURCE}/tests/support/vendor_engine.py"
    command = ["/usr/bin/python3", "-I", "-S", script, "--as=sglang", "--name", model, "--port", str(port)]
    return _entry("sglang", port, model, [*command, "--dies", "scheme"], ("scout",), "")


def _entry(engine: str, port: int, model: str, command: list[str], aliases: tuple[str, ...], extra: str) -> str:
    words = ", ".join(map(quoted, command))
    head = [f"engine = {quoted(engine)}", f'url = "http://127.0.0.1:{port}"', f'memory = "{WEIGHTS[model]}GiB"']
    return "\n".join([*head, f"aliases = {json.dumps(aliases)}", extra, "[launch]", f"command = [{words}]", ""])


class Studio(Scene):
    """The host, and how far each model's load is."""

    def __init__(self, host: SparkHost) -> None:
        super().__init__(host)
        self.gb10 = Gb10(host)
        self.held = {"bge-m3": 1.0, "qwen3-32b-nvfp4": 1.0}

    def prepare(self) -> str:
        """The catalog and the daemon; a token for its dashboard."""
        host = self.host
        self.gb10.install()
        host.settings(SETTINGS)
        host.model("qwen3-32b-nvfp4", posing("qwen3-32b-nvfp4", 30001, aliases=("qwen",)))
        host.model("gpt-oss-120b", posing("gpt-oss-120b", 30002, aliases=("gpt-oss",)))
        host.model("deepseek-r1-8b", posing("deepseek-r1-8b", 30003))
        host.model("llama4-scout-17b", failing("llama4-scout-17b", 30004))
        host.model("llama-3.3-70b-bf16", posing("llama-3.3-70b-bf16", 30005))
        host.model("bge-m3", posing("bge-m3", 30010, extra='role = "side"'))
        self.gb10.available(IDLE)
        host.enable()
        added = host.run("spark-modelctl", "token", "add", "--json", "--scope", "control", "olga")
        return str(json.loads(added.stdout)["token"])

    def memory(self) -> None:
        """Tells the kernel's and the driver's numbers: of those that live."""
        living = {model: engines[0] for model in self.held if (engines := self._engines(model))}
        sizes = {model: int(WEIGHTS[model] * self.held[model] * GIB) for model in living}
        self.gb10.available(IDLE - sum(sizes.values()))
        self.gb10.nvml.processes([Process(living[model], size) for model, size in sizes.items() if size])
        self.host.api("GET", "/api/memory")

    def _engines(self, model: str) -> list[int]:
        """The model's processes as the host numbers them."""
        slice_ = "/sys/fs/cgroup/spark.slice/spark-models.slice"
        found = []
        for pid in processes(self.host, f"{slice_}/spark-model@{model}.service"):
            with contextlib.suppress(OSError):  # it may end while we look
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                found.append(int(next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1]))
        return found

    def pose(self, model: str, step: int) -> None:
        """Has the model load up to this step, and hold so much memory."""
        self.host.write(f"{HOLDS}/{model}", str(step))
        self.held[model] = min(1.0, step / SHARDS)
        self.memory()

    def load(self, model: str, *, pace: float, until_step: int = SHARDS + 1) -> str:
        """Begins a switch and lets it load, a step in so many seconds; its id."""
        self.host.write(f"{HOLDS}/{model}", "0")
        self.held[model] = 0.0
        switch = self.begin(model)
        # What left gives its memory back only here.
        until(f"{model} to be started", lambda: self.memory() or self._engines(model))
        for step in range(1, until_step + 1):
            time.sleep(pace)  # the pace is part of the picture
            self.pose(model, step)
        return switch

    def end(self, switch: str) -> None:
        """Returns when this switch has ended. What leaves meanwhile gives its memory back only here."""
        until(f"{switch} to end", lambda: self.memory() or self.find(switch)["outcome"], seconds=90)
        self.memory()

    def ctl(self, *words: str, width: int = 100) -> tuple[str, str]:
        """A command and what it writes to a terminal."""
        command = f"stty cols {width} rows 50; spark-modelctl {' '.join(words)}"
        said = self.host.run("script", "-qec", command, "/dev/null").stdout
        return f"spark-modelctl {' '.join(words)}", said


def take(page: Page, name: str, width: int, height: int, *, dark: bool) -> None:
    """One picture, of this much of the page from its top."""
    page.size(width, height, scale=1.5)
    page.media(dark=dark)
    # Two frames: what was changed is painted.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    save(page, name)
    page.media()


def save(page: Page, name: str, *, whole: bool = False) -> None:
    """Writes the picture small. RuntimeError if that cannot be."""
    target = PICTURES / f"{name}.png"
    page.picture(target, whole=whole)
    smaller = (
        "pngquant",
        "--quality",
        "55-85",
        "--speed",
        "1",
        "--strip",
        "--force",
        "--output",
        str(target),
        str(target),
    )
    subprocess.run(smaller, check=True)
    size = target.stat().st_size
    print(f"{target.relative_to(REPOSITORY)}: {size >> 10} KiB", flush=True)
    if size > LARGEST:
        raise RuntimeError(f"{target} has {size} bytes, more than {LARGEST}")


def story(studio: Studio, token: str, browser: Browser) -> None:
    """All pictures, in the order in which they happen."""
    with opened(browser, ADDRESS) as page:
        page.until("document.getElementById('token')", "the question for the token")
        take(page, "dashboard-token", 900, 560, dark=False)
        Dashboard(page).enter(token)
        page.await_text("serving", ".slot", seconds=60)
        studio.host.api("POST", "/api/models/bge-m3/start")
        until("bge-m3 serves", lambda: studio.host.api("GET", "/api/models/bge-m3")[1]["state"] == "serving")
        studio.memory()
        for model in ("gpt-oss-120b", "qwen3-32b-nvfp4"):
            studio.end(studio.load(model, pace=0.8))
        page.await_text("for 12 s", ".slot")
        take(page, "dashboard-serving", 1200, 1000, dark=False)
        commands = [studio.ctl("status"), studio.ctl("models"), studio.ctl("memory"), studio.ctl("history")]
        switch = studio.load("gpt-oss-120b", pace=0.8, until_step=6)
        page.await_text("54 %", ".switch")
        take(page, "dashboard-loading", 1200, 1000, dark=True)
        take(page, "dashboard-phone", 360, 780, dark=True)
        studio.pose("gpt-oss-120b", SHARDS + 1)
        studio.end(switch)
        failed = studio.begin("llama4-scout-17b")
        studio.host.path(f"{HOLDS}/gpt-oss-120b").unlink()
        studio.end(failed)
        page.await_text("was started again", ".failure")
        take(page, "dashboard-failed", 1200, 1000, dark=False)
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as written:
        written.write(document(commands))
        written.flush()
        with opened(browser, f"file://{written.name}") as page:
            width, height = page.evaluate(
                "[document.querySelector('main').offsetWidth + 56, document.querySelector('main').offsetHeight + 56]"
            )
            page.size(width, height, scale=1.5)
            save(page, "terminal")


def main() -> int:
    """The exit status."""
    if reason := why_not() or why_no_browser():
        print(f"pictures: {reason}", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    with SparkHost() as host, tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as fonts:
        fonts.write(FONTS)
        fonts.flush()
        host.install()
        studio = Studio(host)
        token = studio.prepare()
        browser = Browser(FONTCONFIG_FILE=fonts.name)
        with network_of(host):
            browser.__enter__()
        try:
            story(studio, token, browser)
        finally:
            browser.__exit__()
    return 0


if __name__ == "__main__":
    sys.exit(main())
