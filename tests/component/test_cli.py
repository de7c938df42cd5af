"""spark-modelctl as a process, against the control API on a real unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld import __version__
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import Role
from spark_modeld.core.outlook import Estimate, Outlook
from spark_modeld.core.progress import LoadStep, Progress
from spark_modeld.core.reading import Loaded
from spark_modeld.core.switch import Outcome, SwitchPhase
from spark_modeld.core.unit import Phase
from spark_modeld.face import Snapshot, Waiting, Warning
from support.command_line import Ctl, finished
from support.control import Control, open_folder, running
from support.fake_face import GIB, make_model, make_reading, make_state, refused

pytestmark = pytest.mark.component


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


@pytest.fixture
def ctl(control: Control) -> Ctl:
    return Ctl(control.path)


async def test_status_is_one_screen(control: Control, ctl: Ctl) -> None:
    control.face.snapshot = replace(
        control.face.snapshot, desired="llama-70b", warnings=(Warning(code="w", message="state is not saved"),)
    )
    done = await ctl("status")
    assert (done.code, done.err) == (0, "")
    for text in (
        "qwen serving", "2 in flight", "http://127.0.0.1:30001", "spark-model@qwen.service", "desired   llama-70b",
        "embed serving", "72.0 GiB of 128.0 GiB available", "█", "state is not saved",
    ):  # fmt: skip
        assert text in done.out
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) <= 12


async def test_status_shows_the_switch_and_the_last_failure(control: Control, ctl: Ctl) -> None:
    await ctl("switch", "llama", "--no-wait")
    reading = {"reading": {"message": "No room."}}
    control.face.finish("s1", Outcome.ROLLED_BACK, Problem(Code.MODEL_FAILED, "it died\x1b[2J\x07", reading))
    await ctl("switch", "--no-wait", "embed")
    control.face.advance("s2", SwitchPhase.STARTING)
    done = await ctl("status")
    assert "qwen → embed  starting" in done.out
    assert "[s2]" in done.out
    assert "llama-70b rolled-back: it died" in done.out
    assert "No room." in done.out
    assert "\x07" not in done.out


async def test_status_fits_the_screen_whatever_is_the_matter(control: Control, ctl: Ctl) -> None:
    await ctl("switch", "llama", "--no-wait")
    long = "It would leave less than the reserve. " * 20
    reading = {"message": long, "hint": long, "code": "x", "line": long}
    control.face.finish("s1", Outcome.ROLLED_BACK, Problem(Code.MODEL_FAILED, long, {"reading": reading}))
    await ctl("switch", "--no-wait", "llama-70b")
    control.face.advance("s2", SwitchPhase.WARMING)
    expected = Estimate(3, {SwitchPhase.WARMING: 130.0})
    control.face.foresee("s2", Outlook(Progress(LoadStep.WEIGHTS, 0.45), expected, time.time() + 85.0, 85.0))
    names = [f"a-rather-long-name-of-a-model-{n}" for n in range(9)]
    sides = {name: make_state(make_model(name, role=Role.SIDE), Phase.SERVING) for name in names}
    control.face.snapshot = replace(
        control.face.snapshot,
        slot_reason=long,
        desired="embed",
        models={**control.face.snapshot.models, **sides},
        queue=tuple(Waiting(model=name, waiters=3, since=time.time() - 12.0) for name in names),
        warnings=tuple(Warning(code="w", message=f"{n}: {long}") for n in range(9)),
        bus="lost",
        stopping=True,
    )
    lines = (await ctl("status", COLUMNS="80")).out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80, lines
    shown = "\n".join(lines)
    assert "loading weights [█████████░░░░░░░░░░░] 45 %, about 1 min 25 s left" in shown
    assert "3 for a-rather-long-name-of-a-model-0, for 12." in shown
    for text in (
        "qwen → llama-70b",
        "and 7 more",
        "rolled-back: It would",
        "→ It would",
        "warning",
        "more: spark-model",
    ):
        assert text in shown, text
    wide = (await ctl("status", COLUMNS="150")).out
    assert "takes about 2 min 10 s, as the last 3 times" in wide


async def test_status_of_an_empty_slot(control: Control, ctl: Ctl) -> None:
    control.face.snapshot = Snapshot()
    done = await ctl("status")
    assert done.code == 0
    assert "empty" in done.out
    assert "not connected" in done.out


async def test_without_unicode_it_stays_ascii(ctl: Ctl) -> None:
    done = await ctl("status", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert "[####" in done.out


@pytest.mark.parametrize("columns", ["20", "40", "80", "200"])
async def test_screens_fit_their_terminal(control: Control, ctl: Ctl, columns: str) -> None:
    await ctl("switch", "llama", "--no-wait")
    control.face.finish("s1", Outcome.FAILED, Problem(Code.STUCK, "it will not stop " * 9))
    for command in ("models", "memory", "history", "status"):
        done = await ctl(command, COLUMNS=columns)
        assert (done.code, done.err) == (0, "")
    models = await ctl("models", COLUMNS="80")
    assert max(len(line) for line in models.out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("command", "path"), [("status", "/api/status"), ("models", "/api/models"), ("history", "/api/switches")]
)
async def test_json_has_the_shapes_of_the_api(control: Control, ctl: Ctl, command: str, path: str) -> None:
    before, after = await ctl("--json", command), await ctl(command, "--json")
    assert (before.code, after.code, after.err) == (0, 0, "")
    assert before.json == after.json == (await control.call("GET", path)).json


async def test_models_is_a_table(ctl: Ctl) -> None:
    done = await ctl("models")
    lines = done.out.splitlines()
    assert lines[0].split()[:6] == ["MODEL", "STATE", "ROLE", "ENGINE", "NEEDS", "FITS"]
    assert lines[2].split()[:7] == ["llama-70b", "stopped", "slot", "sglang", "38.0", "GiB", "no"]
    assert lines[3].split()[0] == "qwen*"


async def test_memory_names_the_holders(ctl: Ctl) -> None:
    done = await ctl("memory")
    assert "4242" in done.out
    assert "37.0 GiB" in done.out
    assert "Xorg" in done.out
    for held in ("qwen, serving", "llama-server, PID 88 of ann", "8.0 GiB  reserve", "3.0 GiB  floor"):
        assert held in done.out
    assert "\x1b" not in done.out
    assert (await ctl("memory", "--json")).json["total"] == 128 * GIB


@pytest.mark.parametrize(("wanted", "colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_the_bar_of_memory_has_colours_where_they_belong(ctl: Ctl, wanted: dict[str, str], colours: bool) -> None:
    main, other = pty.openpty()
    process = await ctl.start("memory", stdout=other, **{"TERM": "xterm", **wanted})
    os.close(other)
    seen = await _read_until(main, b"HOST MEMORY")
    os.close(main)
    await finished(process)
    assert (b"\x1b[36maaaa" in seen, b"[aaaa" in seen) == (colours, not colours)


async def test_memory_names_what_was_loaded_past_us(control: Control, ctl: Ctl) -> None:
    assert "LOADED PAST US" not in (await ctl("memory")).out
    strange = Loaded(unit="ollama.service", name="llava:34b", bytes=20 * GIB, gpu_bytes=0, ends_in=240.0)
    control.face.reading = make_reading(loaded=(strange, replace(strange, name="ours", model="qwen")))
    lines = (await ctl("memory")).out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("LOADED PAST US"))
    assert lines[at + 1].split() == ["llava:34b", "ollama.service", "20.0", "GiB", "4", "min"]
    assert lines[at + 2] == "", "what is in the catalog is no stranger"


async def drive(control: Control, *phases: SwitchPhase) -> str:
    """The next switch that is asked for, taken through these phases."""
    switch = await control.face.requested.get()
    for phase in phases:
        control.face.advance(switch.id, phase)
    return switch.id


async def test_switch_waits_and_shows_every_phase(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("switch", "llama")
    switch_id = await drive(control, SwitchPhase.STOPPING, SwitchPhase.STARTING, SwitchPhase.WARMING)
    control.face.finish(switch_id, Outcome.READY)
    done = await finished(process)
    assert (done.code, done.err) == (0, "")
    steps = [line.split()[2] for line in done.out.splitlines()[:-1]]
    assert steps == ["queued", "stopping", "starting", "warming"]
    assert "about" not in done.out
    assert done.out.splitlines()[-1].startswith("llama-70b serves after")
    assert control.face.asked[0].force is False


async def test_switch_shows_how_far_the_engine_is_and_how_long_it_takes(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("switch", "llama")
    switch_id = await drive(control, SwitchPhase.WARMING)
    expected = Estimate(2, {SwitchPhase.WARMING: 130.0})
    for percent in (0, 1, 8, 45, 46, 100):
        progress = Progress(LoadStep.WEIGHTS, percent / 100)
        control.face.foresee(switch_id, Outlook(progress, expected, time.time() + 85.0, 85.0))
    control.face.finish(switch_id, Outcome.READY)
    done = await finished(process)
    assert (done.code, done.err) == (0, "")
    assert [line.split("  ")[-1] for line in done.out.splitlines()[2:-1]] == [
        "loading weights 0 %, takes about 2 min 10 s, as the last 2 times",
        "loading weights 45 %",
        "loading weights 100 %",
    ]


async def test_switch_on_a_terminal_shows_a_bar_and_what_is_left(control: Control, ctl: Ctl) -> None:
    main, other = pty.openpty()
    process = await ctl.start("switch", "llama", stdout=other, TERM="xterm", COLUMNS="150")
    os.close(other)
    switch_id = await drive(control, SwitchPhase.WARMING)
    outlook = Outlook(Progress(LoadStep.WEIGHTS, 0.5), Estimate(1, {SwitchPhase.WARMING: 60.0}), time.time() + 31, 31.0)
    control.face.foresee(switch_id, outlook)
    seen = await _read_until(main, b"as the last time")
    control.face.finish(switch_id, Outcome.READY)
    await _read_until(main, b"serves after")
    os.close(main)
    assert (await finished(process)).code == 0
    last = seen.decode().rsplit("\r", 1)[1]
    assert "loading weights [█████░░░░░] 50 %, about 30 s left, about 1 min, as the last time" in last


async def test_switch_on_a_terminal_draws_one_line(control: Control, ctl: Ctl) -> None:
    main, other = pty.openpty()
    process = await ctl.start("switch", "llama", "--force", stdout=other, TERM="xterm")
    os.close(other)
    switch_id = await drive(control, SwitchPhase.STARTING)
    seen = await _read_until(main, b"starting")
    control.face.finish(switch_id, Outcome.READY)
    seen += await _read_until(main, b"serves after")
    os.close(main)
    assert (await finished(process)).code == 0
    assert b"\r\x1b[K" in seen
    assert "qwen → llama-70b".encode() in seen
    assert control.face.asked[0].force is True


async def _read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(10):
        while text not in seen:
            seen += await asyncio.to_thread(os.read, fd, 4096)
    return seen


async def test_switch_json_is_the_switch(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("switch", "llama", "--json")
    control.face.finish(await drive(control, SwitchPhase.STARTING), Outcome.READY)
    done = await finished(process)
    assert (done.code, done.err) == (0, "")
    assert (done.json["id"], done.json["outcome"]) == ("s1", "ready")


async def test_switch_without_waiting(control: Control, ctl: Ctl) -> None:
    done = await ctl("switch", "llama", "--no-wait")
    assert (done.code, done.err) == (0, "")
    assert "under way: s1" in done.out


async def test_switch_to_what_serves_already(ctl: Ctl) -> None:
    done = await ctl("switch", "qwen")
    assert (done.code, done.out) == (0, "qwen serves already.\n")


async def test_switch_empty(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("switch", "--empty")
    control.face.finish(await drive(control), Outcome.READY)
    done = await finished(process)
    assert (done.code, "The slot is empty" in done.out) == (0, True)
    assert control.face.asked[0].name is None


@pytest.mark.parametrize(
    ("outcome", "error", "code", "says"),
    [
        (
            Outcome.ROLLED_BACK,
            Problem(
                Code.MODEL_FAILED,
                "it died",
                {
                    "unit": "u.service",
                    "log": ("boom\x1b[2J\x07", "bye"),
                    "reading": {"code": "x", "message": "No room.\x07", "hint": "Make room.", "line": "no"},
                },
            ),
            1,
            [
                *("it died", "says: No room.", "| no", "to do: Make room.", "| boom", "| bye"),
                *("qwen was started again", "journalctl -u u.service"),
            ],
        ),
        (
            Outcome.FAILED,
            Problem(
                Code.MEMORY_REFUSED,
                "too big",
                {"needed": 70 * GIB, "available": GIB, "holders": ({"model": "x", "bytes": GIB},)},
            ),
            4,
            ["too big", "needed 70.0 GiB, available 1.0 GiB", "held by x: 1.0 GiB", "spark-modelctl memory"],
        ),
        (
            Outcome.ROLLED_BACK,
            Problem(Code.START_TIMEOUT, "slow", {"unit": "u.service", "model": "llama-70b"}),
            6,
            ["slow", "spark-modelctl logs llama-70b"],
        ),
        (Outcome.SUPERSEDED, None, 1, ["superseded", "spark-modelctl history"]),
        (Outcome.CANCELLED, None, 1, ["cancelled"]),
        (Outcome.FAILED, Problem(Code.LARGE_PARALLEL, "two large"), 4, ["two large"]),
    ],
)
async def test_switch_that_fails(
    control: Control, ctl: Ctl, outcome: Outcome, error: Problem | None, code: int, says: list[str]
) -> None:
    for args in ((), ("--json",)):
        process = await ctl.start("switch", "llama", *args)
        control.face.finish(await drive(control), outcome, error)
        done = await finished(process)
        assert done.code == code
        assert all(text in done.err for text in says), done.err
        assert "\x07" not in done.err
        if args:
            assert done.json["switch"]["outcome"] == str(outcome)


async def test_switch_gives_up_waiting(control: Control, ctl: Ctl) -> None:
    done = await ctl("switch", "llama", "--timeout", "0.2")
    assert done.code == 6
    assert "goes on" in done.err
    assert control.face.find_switch("s1").outcome is None


async def test_switch_survives_a_daemon_that_comes_back(control: Control, ctl: Ctl, tmp_path: Path) -> None:
    process = await ctl.start("switch", "llama")
    assert process.stdout is not None
    switch_id = await drive(control, SwitchPhase.STARTING)
    while b"starting" not in await process.stdout.readline():
        pass
    await control.runner.close()
    control.path.unlink()
    async with running(tmp_path) as again:
        again.face.__dict__.update(control.face.__dict__)
        again.face.finish(switch_id, Outcome.READY)
        done = await finished(process)
    assert (done.code, done.err) == (0, "")
    assert "llama-70b serves" in done.out


async def test_ctrl_c_leaves_the_switch_alone(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("switch", "llama")
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert done.code == 130
    assert "goes on" in done.err
    assert "spark-modelctl cancel s1" in done.err
    assert control.face.find_switch("s1").outcome is None


async def test_cancel(control: Control, ctl: Ctl) -> None:
    assert (await ctl("cancel")).code == 1
    await ctl("switch", "llama", "--no-wait")
    done = await ctl("cancel")
    assert (done.code, "cancelled" in done.out) == (0, True)
    assert (await ctl("cancel", "s1")).code == 0
    assert (await ctl("cancel", "../s1 x")).code == 1


async def test_start_and_stop(control: Control, ctl: Ctl) -> None:
    assert (await ctl("start", "embed", "--no-wait")).out == "embed starting\n"
    assert (await ctl("stop", "embed", "--json")).json["state"] == "stopping"
    unknown = await ctl("start", "embd")
    assert unknown.code == 5
    assert "Did you mean embed?" in unknown.err


async def test_start_waits_until_the_model_serves(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("start", "embed", "--json")
    await control.face.started.get()
    for phase in (Phase.WARMING, Phase.SERVING):
        control.face.become("embed", phase)
    done = await finished(process)
    assert (done.code, done.json["state"], done.err) == (0, "serving", "")


async def test_start_shows_how_far_the_engine_is_and_how_long_it_takes(control: Control, ctl: Ctl) -> None:
    await ctl("switch", "embed", "--no-wait")
    for phase in (SwitchPhase.STARTING, SwitchPhase.WARMING, SwitchPhase.WARMING):
        control.face.advance("s1", phase)
    control.face.finish("s1", Outcome.READY)
    process = await ctl.start("start", "embed")
    assert process.stdout is not None
    await control.face.started.get()
    told = [(await process.stdout.readline()).decode().split(" s  ", 1)[1]]
    for percent in (1, 45):
        progress = Progress(LoadStep.WEIGHTS, percent / 100)
        control.face.become("embed", Phase.WARMING, progress=progress)
        told.append((await process.stdout.readline()).decode().split(" s  ", 1)[1])
    control.face.become("embed", Phase.SERVING)
    done = await finished(process)
    assert (done.code, done.out, done.err) == (0, "embed serving\n", "")
    takes = told[0].removeprefix("starting  takes about ").split(",")[0]
    assert told == [
        f"starting  takes about {takes}, as the last time\n",
        "warming  loading weights 1 %\n",
        "warming  loading weights 45 %\n",
    ]


async def test_start_on_a_terminal_draws_one_line(control: Control, ctl: Ctl) -> None:
    models = dict(control.face.snapshot.models)
    models["embed"] = replace(models["embed"], loads=Estimate(2, {SwitchPhase.WARMING: 3600.0}))
    control.face.snapshot = replace(control.face.snapshot, models=models)
    main, other = pty.openpty()
    process = await ctl.start("start", "embed", stdout=other, TERM="xterm", COLUMNS="150")
    os.close(other)
    await control.face.started.get()
    control.face.become("embed", Phase.WARMING, progress=Progress(LoadStep.WEIGHTS, 0.5))
    seen = await _read_until(main, b"50 %")
    control.face.become("embed", Phase.SERVING)
    seen += await _read_until(main, b"serving")
    os.close(main)
    assert (await finished(process)).code == 0
    assert "embed, " in seen.decode()
    assert "in all, loading weights [█████░░░░░] 50 %, about 1 h left, about 1 h, as the last 2 times" in seen.decode()


async def test_a_start_that_fails_is_told_with_the_units_last_words(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("start", "embed")
    await control.face.started.get()
    fell = Problem(Code.MODEL_FAILED, "The unit exited (status 1) while warming.")
    control.face.become("embed", Phase.FAILED, fell)
    reading = {"code": "x", "message": "The GPU is full.", "hint": "Lower it.", "line": "CUDA out of memory"}
    control.face.become("embed", Phase.FAILED, replace(fell, extra={"log": ["CUDA out of memory"], "reading": reading}))
    done = await finished(process)
    assert done.code == 1
    for said in ("status 1", "The GPU is full.", "Lower it.", "| CUDA out of memory", "spark-modelctl logs embed"):
        assert said in done.err


async def test_history(control: Control, ctl: Ctl) -> None:
    assert "No switch yet" in (await ctl("history")).out
    await ctl("switch", "llama", "--no-wait")
    control.face.finish("s1", Outcome.FAILED, Problem(Code.STUCK, "it will not stop"))
    done = await ctl("history", "-n", "1")
    assert "qwen → llama-70b" in done.out
    assert "it will not stop" in done.out
    await ctl("switch", "llama", "--no-wait")
    control.face.advance("s2", SwitchPhase.WARMING)
    control.face.finish("s2", Outcome.READY)
    header, newest, *_ = (await ctl("history")).out.splitlines()
    assert header.split() == ["STARTED", "SWITCH", "OUTCOME", "TOOK", "QUEUED", "BY", "ID"]
    assert newest.split()[5:6] == ["ready"]
    assert newest.endswith("s2")


async def test_one_switch_of_the_history_in_full(control: Control, ctl: Ctl) -> None:
    await ctl("switch", "llama", "--no-wait")
    control.face.advance("s1", SwitchPhase.WARMING)
    log = {"unit": "u.service", "log": ["CUDA out of memory"], "model": "llama-70b"}
    control.face.finish("s1", Outcome.FAILED, Problem(Code.MODEL_FAILED, "it died\x07", log))
    done = await ctl("history", "s1")
    assert (done.code, done.err) == (0, "")
    for text in (
        "s1  qwen → llama-70b  failed",
        "queued            0.2 s  ███",
        "it died",
        "| CUDA out of memory",
        "logs llama",
    ):
        assert text in done.out, text
    assert "\x07" not in done.out
    assert (await ctl("history", "s1", "--json")).json["outcome"] == "failed"
    unknown = await ctl("history", "s9")
    assert (unknown.code, unknown.out) == (1, "")


async def test_events_are_lines_for_people(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("events")
    assert process.stdout is not None
    await control.face.until_readers(1)
    await ctl("switch", "llama", "--no-wait")
    control.face.finish("s1", Outcome.FAILED, Problem(Code.STUCK, "it will\x07 not stop"))
    control.face.publish("slot", {"phase": "serving", "model": "qwen", "reason": None, "waiting": ["embed"]})
    control.face.publish("memory", {"available": 8 * GIB, "total": 128 * GIB, "stale": False})
    control.face.publish("memory", {"alarm": "under-floor", "message": "Memory is short."})
    control.face.become("embed", Phase.WARMING)
    control.face.publish("config", {"ok": False, "models": []})
    for models in (["qwen"], ["embed", "qwen"]):
        control.face.publish("config", {"ok": True, "models": models})
    control.face.publish("news", {"of": "tomorrow"})
    told = [(await process.stdout.readline()).decode().rstrip()[10:] for _ in range(10)]
    assert told[:9] == [
        "switch  qwen → llama-70b  queued  [s1]",
        "switch  qwen → llama-70b  failed, it will� not stop  [s1]",
        "slot    qwen serving, embed waited for",
        "memory  8.0 GiB of 128.0 GiB available",
        "memory  Memory is short.",
        "model   embed warming",
        "config  it is wrong; the one before stays in force: spark-modelctl reload says what",
        "config  in force: 1 model",
        "config  in force: 2 models",
    ]
    assert "tomorrow" in told[9]
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def test_events_stream(control: Control, ctl: Ctl) -> None:
    process = await ctl.start("events", "--json")
    assert process.stdout is not None
    await control.face.until_readers(1)
    control.face.publish("slot", {"phase": "serving"})
    line = json.loads(await process.stdout.readline())
    assert line == {"id": 1, "event": "slot", "data": {"phase": "serving"}}
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def test_reload(control: Control, ctl: Ctl) -> None:
    assert (await ctl("reload")).out == "The configuration is in force: 3 models.\n"
    snapshot = control.face.snapshot
    one = replace(snapshot.catalog, models={"qwen": snapshot.catalog.models["qwen"]})
    control.face.snapshot = replace(snapshot, catalog=one)
    assert (await ctl("reload")).out == "The configuration is in force: 1 model.\n"
    control.face.refusal = refused(
        Code.INVALID_CONFIG,
        "one error",
        http_status=422,
        findings=[{"file": "a.toml", "key": "memory", "message": "must be a size"}],
    )
    done = await ctl("reload")
    assert done.code == 1
    assert "a.toml: memory: must be a size" in done.err


async def test_no_daemon(tmp_path: Path) -> None:
    away = Ctl(tmp_path / "nobody.sock")
    done = await away("status")
    assert (done.code, done.out) == (3, "")
    assert "systemctl start spark-modeld.socket" in done.err
    as_json = await away("status", "--json")
    assert (as_json.code, as_json.json["code"]) == (3, "unreachable")
    del away.env["SPARK_MODELD_SOCKET"]
    after = await away("status", "--json", "--socket", str(tmp_path / "nobody.sock"))
    assert (after.code, after.json["code"]) == (3, "unreachable")
    as_user = await away("--user", "status", XDG_RUNTIME_DIR=str(tmp_path))
    assert as_user.code == 3
    assert f"{tmp_path}/spark-modeld/control.sock" in as_user.err
    assert "systemctl --user start" in as_user.err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_no_access() -> None:
    code = "from spark_modeld.cli.main import main; import os; os.setgid(65534); os.setuid(65534); main()"
    with open_folder() as folder:
        async with running(folder) as control:
            os.chmod(control.path, 0o660)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                code,
                "status",
                stderr=asyncio.subprocess.PIPE,
                stdin=asyncio.subprocess.PIPE,
                env=Ctl(control.path).env,
            )
            done = await finished(process)
    assert done.code == 3
    assert "group spark-modeld" in done.err


async def test_something_else_on_the_socket(tmp_path: Path) -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(rude, str(tmp_path / "rude.sock"))
    async with server:
        done = await Ctl(tmp_path / "rude.sock")("status")
    assert done.code == 3
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "args",
    [("nope",), ("switch",), ("switch", "a", "--empty"), ("switch", "--nope"), ("start",), ("history", "-n", "0"),
     ("token", "add", "x", "--expires", "soon"), ("token", "add", "x", "--scope", "root")],
)  # fmt: skip
async def test_usage(ctl: Ctl, args: tuple[str, ...]) -> None:
    done = await ctl(*args)
    assert done.code == 2
    assert "Usage:" in done.err


async def test_version_and_help(ctl: Ctl) -> None:
    assert __version__ in (await ctl("--version")).out
    for command in ("status", "switch", "token", "completion", "shutdown"):
        done = await ctl(command, "--help")
        assert (done.code, "--json" in done.out) == (0, True)


async def test_unknown_model_is_five(ctl: Ctl) -> None:
    done = await ctl("switch", "qwn", "--json")
    assert done.code == 5
    assert done.json["nearest"] == ["qwen"]


async def test_a_closed_pipe_is_quiet(ctl: Ctl) -> None:
    read, write = os.pipe()
    os.close(read)
    process = await ctl.start("models", stdout=write)
    os.close(write)
    assert "Traceback" not in (await finished(process)).err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_scripts(ctl: Ctl, shell: str) -> None:
    done = await ctl("completion", shell)
    assert done.code == 0
    assert "_SPARK_MODELCTL_COMPLETE" in done.out


async def test_completion_knows_the_models(ctl: Ctl, tmp_path: Path) -> None:
    asked = {"_SPARK_MODELCTL_COMPLETE": "bash_complete", "COMP_WORDS": "spark-modelctl switch ", "COMP_CWORD": "2"}
    assert (await ctl(**asked)).out.split() == ["plain,embed", "plain,llama-70b", "plain,qwen"]
    away = await Ctl(tmp_path / "nobody.sock")(**asked)
    assert (away.code, away.out.strip(), away.err) == (0, "", "")


async def test_tokens(ctl: Ctl, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    where = ("token", "--config", str(config))
    made = (await ctl(*where, "add", "ci", "--scope", "control", "--expires", "30d", "--json")).json
    assert made.keys() == {"id", "name", "token"}
    assert made["token"].startswith(f"smd_{made['id']}_")
    plain = await ctl(*where, "add", "cursor", "--model", "qwen", "--no-switch", "--note", "the laptop's")
    assert plain.code == 0
    assert plain.out.startswith("smd_")
    assert plain.out not in plain.err
    secret = "0123456789abcdef" * 4
    brought = await ctl(*where, "add", "old", "--stdin", stdin=f"{secret}\n")
    assert (brought.code, secret in brought.out) == (0, False)
    listed = (await ctl(*where, "list", "--json")).json["tokens"]
    assert [t["name"] for t in listed] == ["ci", "cursor", "old"]
    assert (listed[1]["models"], listed[1]["may_switch"], listed[1]["scopes"]) == (["qwen"], False, ["inference"])
    assert [t["note"] for t in listed] == ["", "the laptop's", ""]
    table = (await ctl(*where, "list")).out
    assert ("smd_" in table, "the laptop's" in table) == (False, True)
    assert (await ctl(*where, "add", "two lines", "--note", "a\nb")).code == 2
    assert (await ctl(*where, "add", "ci")).code == 2
    assert (await ctl(*where, "revoke", "ci")).code == 0
    assert (await ctl(*where, "revoke", "ci")).code == 1
    assert made["token"].split("_")[2] not in (config / "tokens.toml").read_text()
    missing = await ctl("token", "--config", str(tmp_path / "nowhere"), "add", "x")
    assert (missing.code, "Traceback" in missing.err) == (1, False)


async def test_shutdown_stops_daemon_and_sockets(ctl: Ctl, tmp_path: Path) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit ${{FAIL:-0}}\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert (await ctl("shutdown", PATH=path)).code == 0
    assert (await ctl("shutdown", "--user", "--json", PATH=path)).json["stopped"][-1] == "spark-modeld.service"
    assert (await ctl("shutdown", PATH=path, FAIL="4")).code == 1
    units = (
        "stop spark-modeld.socket spark-modeld-http.socket spark-modeld-gateway.socket spark-modeld-port@*.socket "
        "spark-modeld.service"
    )
    assert (tmp_path / "calls").read_text().splitlines() == [units, f"--user {units}", units]
