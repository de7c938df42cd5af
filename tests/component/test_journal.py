from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from spark_modeld.core.errors import Code, SparkError
from spark_modeld.systemd import journal
from spark_modeld.systemd.journal import Journalctl

pytestmark = pytest.mark.component


def reader(folder: Path, script: str) -> Journalctl:
    """A Journalctl over a program that this test wrote."""
    program = folder / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Journalctl(program=str(program))


def printing(folder: Path, *entries: object) -> Journalctl:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "entries").write_text("\n".join(lines) + "\n")
    return reader(folder, f"cat {folder}/entries")


def alive(pid: str) -> bool:
    return Path(f"/proc/{int(pid)}").exists()


async def test_only_the_latest_run_oldest_first(tmp_path: Path) -> None:
    entries = [
        {"_SYSTEMD_INVOCATION_ID": "1", "MESSAGE": "earlier"},
        {"MESSAGE": "about the earlier"},
        {"INVOCATION_ID": "2", "MESSAGE": "Started"},
        {"_SYSTEMD_INVOCATION_ID": "2", "MESSAGE": "loading"},
        {"MESSAGE": "killed by the kernel"},
        {"_SYSTEMD_INVOCATION_ID": "2", "MESSAGE": "last words"},
    ]
    lines = await printing(tmp_path, *entries).tail("x.service", 10)
    assert lines == ("Started", "loading", "killed by the kernel", "last words")


async def test_what_it_asks_for(tmp_path: Path) -> None:
    await reader(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/asked').tail("spark-model@a.service", 7)
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--quiet", "--no-pager", "--output=json", "--unit=spark-model@a.service", "--lines=7"]


async def test_what_is_older_is_not_asked_for(tmp_path: Path) -> None:
    await reader(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/asked').tail("ollama.service", 7, since=1790000000.9)
    assert (tmp_path / "asked").read_text().split()[3:] == ["--unit=ollama.service", "--lines=7", "--since=@1790000000"]


async def test_a_users_unit_is_asked_for_as_such(tmp_path: Path) -> None:
    assert await reader(tmp_path, "exit 0").tail("x", 1) == ()
    program = tmp_path / "journalctl"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\n')
    await Journalctl(user=True, program=str(program)).tail("x", 1)
    assert {"--user", "--user-unit=x"} <= set((tmp_path / "asked").read_text().split())


async def test_secrets_and_control_characters_are_taken_out(tmp_path: Path) -> None:
    entries = [
        {"MESSAGE": "start --api-key hunter2"},
        {"MESSAGE": list(b"\x1b[31mred\x1b[0m \xff bell\x07")},
        {"MESSAGE": None},
        {"MESSAGE": [999]},
        {"MESSAGE": "x" * 9000},
    ]
    lines = await printing(tmp_path, *entries).tail("x", 10)
    assert lines[:3] == ("start --api-key [redacted]", "red \ufffd bell", "[a line too long to show]")
    assert len(lines[4]) == journal.LINE_LIMIT


async def test_what_is_no_entry_is_left_out(tmp_path: Path) -> None:
    assert await printing(tmp_path, "-- No entries --", "[1]", '{"MESSAGE": "a"}', "{").tail("x", 10) == ("a",)


async def test_no_journalctl_is_no_error(tmp_path: Path) -> None:
    assert await Journalctl(program=str(tmp_path / "nowhere")).tail("x", 10) == ()
    assert await Journalctl(program="/bin/false").tail("x", 10) == ()
    assert await Journalctl(program="/bin/false").tail("x", 0) == ()
    assert await Journalctl().tail("x\0y", 10) == ()


async def test_a_hanging_journalctl_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "DEADLINE_SECONDS", 0.2)
    assert await reader(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60").tail("x", 10) == ()
    assert not alive((tmp_path / "pid").read_text())


async def test_a_cancelled_tail_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    task = asyncio.create_task(reader(tmp_path, f"echo $$ > {fifo}; exec sleep 60").tail("x", 10))
    pid = await asyncio.to_thread(fifo.read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


async def test_endless_output_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "OUTPUT_LIMIT", 1 << 20)
    lines = await reader(tmp_path, """exec yes '{"MESSAGE": "again"}'""").tail("x", 10)
    assert set(lines) == {"again"}


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs journalctl: make build")
async def test_the_real_journalctl_takes_these_options() -> None:
    output = await Journalctl()._output("no-such.service", 5, "--since=@1790000000")
    assert output == b""


# Reading and following, for people.


async def test_lines_of_every_run_with_their_times(tmp_path: Path) -> None:
    entries = [
        {"_SYSTEMD_INVOCATION_ID": "1", "MESSAGE": "earlier", "__REALTIME_TIMESTAMP": "1790000000123456"},
        {"_SYSTEMD_INVOCATION_ID": "2", "MESSAGE": "HF_TOKEN=hf_abcdefgh", "__REALTIME_TIMESTAMP": "x"},
    ]
    first, second = await printing(tmp_path, *entries).read("x.service", 10)
    assert (first.text, f"{first.at:.6f}") == ("earlier", "1790000000.123456")
    assert (second.text, second.at) == ("HF_TOKEN=[redacted]", 0.0)
    assert await Journalctl(program=str(tmp_path / "nowhere")).read("x", 0) == ()


async def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "DEADLINE_SECONDS", 0.2)
    for broken in (Journalctl(program=str(tmp_path / "nowhere")), reader(tmp_path, "exec sleep 60")):
        with pytest.raises(SparkError) as refused:
            await broken.read("x", 10)
        assert refused.value.problem.code is Code.INTERNAL


def lasting(folder: Path, *commands: str) -> Journalctl:
    """A follower's journalctl: its PID is in ``pid``, it stays after its commands."""
    first = f'case "$*" in *--follow*) ;; *) cat {folder}/before 2>/dev/null; exit ;; esac; echo "$*" > {folder}/told'
    return reader(folder, "\n".join([first, f"echo $$ > {folder}/pid", *commands, "exec sleep 600"]))


async def test_following_gives_each_line_as_it_comes_and_leaves_no_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "more")
    said = [f"echo '{json.dumps({'MESSAGE': text})}'" for text in ("one", "two")]
    lines = lasting(tmp_path, said[0], f"cat {tmp_path}/more", said[1]).follow("x.service", 3)
    assert (await anext(lines)).text == "one"
    coming = asyncio.create_task(anext(lines))
    await asyncio.sleep(0)
    assert not coming.done()
    (tmp_path / "more").write_text("no entry\n")
    assert (await coming).text == "two"
    assert alive((tmp_path / "pid").read_text())
    await lines.aclose()
    assert not alive((tmp_path / "pid").read_text())


@pytest.mark.parametrize("before", ["", '{"MESSAGE": "zero"}\n'])
async def test_a_unit_that_has_never_run_is_followed_from_its_first_line(tmp_path: Path, before: str) -> None:
    """With --lines=, journalctl would show nothing for ever where it finds nothing to begin with."""
    (tmp_path / "before").write_text(before)
    lines = lasting(tmp_path, """echo '{"MESSAGE": "one"}'""").follow("x.service", 3)
    await anext(lines)
    await lines.aclose()
    told = (tmp_path / "told").read_text().split()
    assert ("--no-tail" in told) == (before == "")


async def test_a_cancelled_follower_leaves_no_process(tmp_path: Path) -> None:
    lines = lasting(tmp_path, """echo '{"MESSAGE": "one"}'""").follow("x.service", 3)
    await anext(lines)
    coming = asyncio.create_task(anext(lines))
    await asyncio.sleep(0)
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
    assert not alive((tmp_path / "pid").read_text())


async def test_a_line_without_end_is_skipped(tmp_path: Path) -> None:
    long = "head -c 3000000 /dev/zero | tr '\\0' x; echo"
    lines = lasting(tmp_path, long, """echo '{"MESSAGE": "after"}'""").follow("x", 3)
    assert (await anext(lines)).text == "after"
    await lines.aclose()


async def test_followers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FOLLOWERS", 1)
    source = lasting(tmp_path, """echo '{"MESSAGE": "one"}'""")
    first = source.follow("x", 1)
    await anext(first)
    with pytest.raises(SparkError) as refused:
        source.follow("x", 1)
    assert refused.value.problem.code is Code.BUSY
    await first.aclose()
    second = source.follow("x", 1)
    await anext(second)
    await second.aclose()
