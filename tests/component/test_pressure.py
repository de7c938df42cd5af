"""The kernel's word that memory is short: real, where this machine's kernel has it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_modeld.memory.pressure import KernelPressure

pytestmark = pytest.mark.component

PSI = Path("/proc/pressure/memory")
# Pages of a file can be taken back at any time, so this is held up for ever and never killed.
EATER = """
import mmap, sys
file = open(sys.argv[1], "r+b")
file.truncate(96 << 20)
view = mmap.mmap(file.fileno(), 0)
while True:
    for at in range(0, len(view), 4096):
        view[at] = 1
"""


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def limit_file() -> tuple[Path, str] | None:
    """Where control groups of the memory controller are made, and the name of their limit."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(target), "memory.limit_in_bytes"
        if kind == "cgroup2" and "memory" in (Path(target) / "cgroup.subtree_control").read_text().split():
            return Path(target), "memory.high"
    return None


@pytest.fixture
def thrashing(tmp_path: Path) -> Iterator[None]:
    """A process that works on six times the memory that its own control group gives it."""
    found = limit_file()
    if found is None or not os.access(found[0] / "cgroup.procs", os.W_OK):
        pytest.skip("this machine has no control group to squeeze a process in")
    group = found[0] / f"spark-pressure-{os.getpid()}"
    group.mkdir()
    try:
        (group / found[1]).write_text(str(16 << 20))
        (tmp_path / "pages").touch()
        enter = f'echo $$ >{group}/cgroup.procs; exec "$@"'
        with subprocess.Popen(["sh", "-c", enter, "_", sys.executable, "-c", EATER, tmp_path / "pages"]) as process:
            try:
                yield
            finally:
                process.kill()
    finally:
        group.rmdir()
        (tmp_path / "pages").unlink(missing_ok=True)


async def test_a_kernel_without_it_never_tells_and_is_asked_once(tmp_path: Path) -> None:
    before = fds()
    pressure = KernelPressure(str(tmp_path / "memory"))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pressure.felt(), 0.01)
    assert not pressure.armed
    pressure.close()
    assert fds() == before


@pytest.mark.skipif(not PSI.exists(), reason="this machine has no PSI in its kernel")
async def test_waiting_and_giving_up_leaves_nothing_behind() -> None:
    before = fds()
    pressure = KernelPressure()
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pressure.felt(), 0.01)
    assert pressure.armed
    pressure.close()
    assert fds() == before


@pytest.mark.skipif(not PSI.exists(), reason="this machine has no PSI in its kernel")
async def test_pressure_is_felt(thrashing: None) -> None:
    pressure = KernelPressure()
    try:
        for _ in range(2):
            await asyncio.wait_for(pressure.felt(), 20)
        assert pressure.armed
    finally:
        pressure.close()
