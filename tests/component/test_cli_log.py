"""spark-modelctl logs."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.switch import Outcome
from support.command_line import Ctl, finished
from support.control import Control, running
from support.fake_face import Asked

pytestmark = pytest.mark.component


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


@pytest.fixture
def ctl(control: Control) -> Ctl:
    return Ctl(control.path)


async def test_the_last_lines_with_their_times(control: Control, ctl: Ctl) -> None:
    control.face.say("one")
    control.face.say("two\x1b[2J\x07")
    done = await ctl("logs", "llama-70b", "-n", "1")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2026-09-21 14:13:20Z two")
    assert "\x07" not in done.out
    assert control.face.asked == [Asked("log", "llama-70b")]
    assert [line["text"] for line in (await ctl("logs", "llama-70b", "--json")).json["lines"]] == [
        "one",
        "two\x1b[2J\x07",
    ]
    assert (await ctl("logs", "nobody")).code == 5
    assert (await ctl("logs", "-n", "5000")).code == 2


async def test_without_a_model_it_is_the_one_of_interest(control: Control, ctl: Ctl) -> None:
    async def asked() -> str | None:
        done = await ctl("logs")
        assert (done.code, "said nothing" in done.err) == (0, True)
        return control.face.asked[-1].name

    assert await asked() == "qwen"
    control.face.snapshot = replace(control.face.snapshot, slot_model=None, slot_phase=None)
    nothing = await ctl("logs")
    assert (nothing.code, "say which MODEL" in nothing.err) == (2, True)
    await ctl("switch", "llama", "--no-wait")
    assert await asked() == "llama-70b"
    control.face.finish("s1", Outcome.FAILED, Problem(Code.MODEL_FAILED, "it died"))
    await ctl("switch", "embed", "--no-wait")
    assert await asked() == "embed"
    control.face.finish("s2", Outcome.READY)
    assert await asked() == "llama-70b"


async def test_following_ends_with_ctrl_c(control: Control, ctl: Ctl) -> None:
    control.face.say("one")
    for arguments, shown in ((("-f",), lambda line: line.split(" ", 2)[2]), (("-f", "--json"), _text)):
        process = await ctl.start("logs", "qwen", *arguments)
        assert process.stdout is not None
        assert shown((await process.stdout.readline()).decode().strip()) == control.face.log_lines[0].text
        for _ in range(len(control.face.log_lines) - 1):
            await process.stdout.readline()
        control.face.say("more")
        assert shown((await process.stdout.readline()).decode().strip()) == "more"
        process.send_signal(signal.SIGINT)
        assert (await finished(process)).code == 0
        await control.face.until_readers(0)


def _text(line: str) -> str:
    return str(json.loads(line)["text"])


async def test_following_goes_on_after_a_restart_of_the_daemon(control: Control, ctl: Ctl, tmp_path: Path) -> None:
    for text in ("one", "two"):
        control.face.say(text)
    process = await ctl.start("logs", "-f", "-n", "1", "qwen")
    assert process.stdout is not None
    assert b"two" in await process.stdout.readline()
    await control.runner.close()
    control.path.unlink()
    control.face.say("missed")
    async with running(tmp_path) as again:
        again.face.log_lines = control.face.log_lines
        assert b"missed" in await process.stdout.readline()
        again.face.say("new")
        assert b"new" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert (await finished(process)).code == 0
        await again.face.until_readers(0)
