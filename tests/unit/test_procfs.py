"""What /proc says of processes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from spark_modeld.memory.procfs import Identity, big_processes, identify, started, user_name

pytestmark = pytest.mark.unit

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def process(folder: Path, pid: int, *, resident: int = 0, **kib: int) -> None:
    """Writes one process's files; ``kib`` are lines of its status."""
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "statm").write_text(f"999999 {resident // PAGE} 0 1 0 2 0\n")
    lines = [f"{key}:\t{value:8} kB\n" for key, value in kib.items()]
    (folder / str(pid) / "status").write_text(f"Name:\tx\n{''.join(lines)}Threads:\t1\n")


def test_this_process_is_known() -> None:
    found = identify(os.getpid())
    assert found.command == Path("/proc/self/comm").read_text().strip()
    assert found.user == user_name(os.getuid())
    assert started(os.getpid()) == started(os.getpid()) is not None


def test_a_process_that_is_gone() -> None:
    assert (identify(4_000_001), started(4_000_001)) == (Identity(), None)


def test_a_name_with_brackets_and_spaces_does_not_hide_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = " ".join(str(number) for number in range(3, 53))
    (tmp_path / "stat").write_text(f"7 (a) S (b c) {fields}\n")
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *rest, **more: real(tmp_path / "stat", *rest, **more))
    assert started(7) == 22


def test_a_user_without_a_name_is_a_number() -> None:
    assert (user_name(0), user_name(3_999_999_999)) == ("root", "3999999999")


def test_what_the_kernel_can_take_back_does_not_count(tmp_path: Path) -> None:
    mapped = {"VmRSS": 40 << 20, "RssFile": 39 << 20}
    process(tmp_path, 1, resident=40 << 30, **mapped, VmLck=0, RssAnon=1 << 20, RssShmem=0)
    process(tmp_path, 2, resident=40 << 30, **mapped, VmLck=39 << 20, RssAnon=1 << 20, RssShmem=0)
    process(tmp_path, 3, resident=5 << 30, VmLck=0, VmRSS=5 << 20, RssAnon=2 << 20, RssShmem=3 << 20)
    process(tmp_path, 4, resident=4 << 30, VmLck=0, VmRSS=4 << 20, RssAnon=4 << 20, RssShmem=0)
    assert big_processes(4 << 30, str(tmp_path)) == {2: 39 << 30, 3: 5 << 30, 4: 4 << 30}


def test_what_is_odd_or_gone_is_passed_over(tmp_path: Path) -> None:
    process(tmp_path, 1, resident=2 << 30, RssAnon=2 << 20)
    (tmp_path / "1" / "status").unlink()
    process(tmp_path, 2)
    (tmp_path / "2" / "statm").write_text("")
    (tmp_path / "3").mkdir()
    (tmp_path / "meminfo").write_text("")
    assert big_processes(1, str(tmp_path)) == {}


def test_memory_of_this_process_is_found() -> None:
    before = big_processes(1)[os.getpid()]
    with mmap.mmap(-1, 32 * MIB) as memory:
        memory.write(b"\1" * 32 * MIB)
        assert big_processes(1)[os.getpid()] >= before + 30 * MIB
    assert os.getpid() not in big_processes(1 << 50)
