"""state.toml: what was saved is there again; what is damaged is set aside, never lost and never believed."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld.core.instant import Instant
from spark_modeld.core.record import HISTORY, Record
from spark_modeld.core.switch import Requester, Switch
from spark_modeld.state import StateFile
from spark_modeld.state_format import Renderer, parse
from support.records import record, switch

pytestmark = pytest.mark.unit


async def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = StateFile(tmp_path / "new" / "state")
    assert store.load() == (Record(), None)
    for number in range(3):
        await store.save(record(number))
        assert StateFile(tmp_path / "new" / "state").load() == (record(number), None)
    assert os.listdir(tmp_path / "new" / "state") == ["state.toml"]


async def test_an_emptied_slot_is_not_an_undecided_one(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    await store.save(Record(desired=""))
    assert store.load()[0].desired == ""
    await store.save(Record(desired=None))
    assert store.load()[0].desired is None


async def test_monotonic_times_are_not_kept(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    running = replace(switch("a"), started_at=Instant(5.0, 6.0), phase_since=7.0)
    await store.save(Record(switch=running))
    assert store.load()[0].switch == replace(running, started_at=Instant(0.0, 6.0), phase_since=0.0)


async def test_the_least_a_switch_can_be(tmp_path: Path) -> None:
    least = Switch(
        id="", model=None, from_model=None, requested_by=Requester.GUARD, actor=None, started_at=Instant(0.0, 0.0)
    )
    store = StateFile(tmp_path)
    await store.save(Record(switch=least, history=(least, least)))
    assert store.load() == (Record(switch=least, history=(least, least)), None)


async def test_history_keeps_the_last(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    long = record(1, history=HISTORY + 5)
    await store.save(long)
    assert store.load()[0].history == long.history[-HISTORY:]


async def test_text_that_is_not_unicode_is_no_obstacle(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    odd = replace(switch("a"), actor="\udcff")
    await store.save(Record(switch=odd, history=(odd,)))
    loaded, warning = store.load()
    assert warning is None
    assert loaded.history == (odd,)
    assert loaded.switch == replace(odd, actor="?")


def test_times_can_be_read_by_people() -> None:
    text = Renderer().render(record(1)).decode()
    assert re.search(r"^started_at = 2026-02-02[T ]02:40:00\.250000\+00:00$", text, re.MULTILINE)
    assert '"started_at": "2026-02-02 02:40:00.250000+00:00"' in text


def test_a_changed_history_is_rendered_anew() -> None:
    renderer = Renderer()
    one, two = record(1), record(2)
    for wanted in (one, replace(one, history=one.history[1:]), two, replace(two, history=(*one.history, *two.history))):
        assert parse(renderer.render(wanted)) == wanted


def test_every_cut_is_noticed() -> None:
    whole = Renderer().render(record(1))
    assert parse(whole) == record(1)
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            parse(whole[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"\0",
        b"\xff",
        b"desired = ",
        b"desired = 3",
        b"history = 3",
        b"history = ['']",
        b"history = ['{}']",
        b"history = ['[]']",
        b"history = [{}]",
        b"switch = { id = 'a' }",
        b"[measured]\na = 1",
        b"[measured.a]\nbytes = 1.5\ntaken_at = 2026-01-01T00:00:00Z",
        b"[measured.a]\nbytes = 1\ntaken_at = 0001-01-01T00:00:00",
        b"[switch]\nid = 'a'\nrequested_by = 'nobody'\nstarted_at = 2026-01-01T00:00:00Z\nphase = 'ready'",
        b"a = " + b"[" * 20000,
        b"a = " + b"9" * 5000,
    ],
)
def test_damage_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.toml").write_bytes(content)
    loaded, warning = StateFile(tmp_path).load()
    assert loaded == Record()
    [aside] = tmp_path.iterdir()
    assert re.fullmatch(r"state\.toml\.damaged-\d{8}T\d{6}Z", aside.name)
    assert aside.read_bytes() == content
    assert warning is not None
    assert str(aside) in warning
    assert "\n" not in warning
    assert StateFile(tmp_path).load() == (Record(), None)


def test_every_damaged_file_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "state.toml").write_text(f"damage {number}")
        assert StateFile(tmp_path).load()[1] is not None
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["damage 0", "damage 1", "damage 2"]


def test_a_directory_in_its_place_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "state.toml").mkdir()
    assert StateFile(tmp_path).load()[1] is not None
    assert not (tmp_path / "state.toml").exists()


def test_keys_of_a_newer_version_are_let_pass() -> None:
    text = Renderer().render(record(1)).decode()
    text = text.replace("desired =", "colour = 'red'\ndesired =", 1).replace("[switch]", "[switch]\ncolour = 1", 1)
    text = text.replace("{", '{"colour": {}, ', 1)
    assert parse(text.encode()) == record(1)


def test_a_file_written_by_hand_needs_no_last_line() -> None:
    assert parse(b'desired = "qwen"\n') == Record(desired="qwen")


def test_leftovers_of_a_killed_daemon_are_removed(tmp_path: Path) -> None:
    for name in ("state.toml.new-12-abcd", "state.toml.damaged-x", "other.new-1"):
        (tmp_path / name).touch()
    StateFile(tmp_path).load()
    assert sorted(os.listdir(tmp_path)) == ["other.new-1", "state.toml.damaged-x"]


async def test_the_last_of_many_saves_stays(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    await asyncio.gather(*(store.save(record(number)) for number in range(30)))
    assert store.load() == (record(29), None)


async def test_an_older_save_that_comes_late_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateFile(tmp_path)
    calls = []

    async def later(*call: object) -> None:
        calls.append(call)

    with monkeypatch.context() as patch:
        patch.setattr("spark_modeld.state.asyncio.to_thread", later)
        await store.save(record(1))
        await store.save(record(2))
    for function, *arguments in reversed(calls):
        function(*arguments)
    assert store.load() == (record(2), None)


async def test_a_cancelled_save_is_not_torn(tmp_path: Path) -> None:
    store = StateFile(tmp_path)
    tasks = [asyncio.create_task(store.save(record(number))) for number in range(5)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.save(record(9))
    assert store.load() == (record(9), None)
    assert os.listdir(tmp_path) == ["state.toml"]


async def test_what_cannot_be_written_is_an_oserror_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        await StateFile(tmp_path / "file").save(record(1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not possible here")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


async def test_a_full_disk(small_disk: Path) -> None:
    store = StateFile(small_disk)
    await store.save(record(1))
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    for number in (2, 3):
        with pytest.raises(OSError) as error:
            await store.save(record(number, history=100))
        assert error.value.errno == errno.ENOSPC
        assert sorted(os.listdir(small_disk)) == ["filler", "state.toml"]
        assert StateFile(small_disk).load() == (record(1), None)
    filler.unlink()
    await store.save(record(4))
    assert store.load() == (record(4), None)
