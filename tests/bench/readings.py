"""What one reading of memory costs: the gauge on the fake NVML library, with processes that live."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from figures import Figure, percentile

from spark_modeld.clock import SystemClock
from spark_modeld.core.reading import Reading
from spark_modeld.memory.gauge import NvmlGauge
from support.nvml import GIB, FakeNvml, Process, load_here

PROCESSES = 20
TARGET_MS = 2.0


def measure_readings(times: int) -> Iterator[Figure]:
    """Readings one after the other, with 20 processes in the driver's lists; the first, which names them, is apart."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pids = [stack.enter_context(sleeper()) for _ in range(PROCESSES)]
        nvml = FakeNvml(folder / "nvml")
        nvml.processes([Process(pid, GIB, ("compute", "graphics")[pid % 2]) for pid in pids])
        load_here()
        os.environ["FAKE_NVML"] = str(nvml.path)
        try:
            first, plain, thorough = asyncio.run(timed(times))
        finally:
            del os.environ["FAKE_NVML"]
    note = f"p99 {percentile(plain, 0.99):.2f} ms, max {max(plain):.2f} ms; {times} readings, fake NVML"
    yield Figure(f"one reading, {PROCESSES} processes: median", statistics.median(plain), "ms", TARGET_MS, note)
    yield Figure("  the first, which opens NVML and names them", first, "ms")
    looked = sum(name.isdecimal() for name in os.listdir("/proc"))
    note = f"{looked} processes on this machine"
    yield Figure("  a thorough one, which looks for strangers: median", statistics.median(thorough), "ms", None, note)


@contextmanager
def sleeper() -> Iterator[int]:
    """The PID of a process that lives until the block ends."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def timed(times: int) -> tuple[float, list[float], list[float]]:
    """Milliseconds of the first reading, of plain ones, and of thorough ones."""
    gauge = NvmlGauge(SystemClock())

    async def take(*, thorough: bool) -> float:
        began = time.perf_counter()
        reading = await gauge.read(thorough=thorough)
        took = (time.perf_counter() - began) * 1e3
        check(reading)
        return took

    try:
        first = await take(thorough=False)
        plain = [await take(thorough=False) for _ in range(times)]
        await take(thorough=True)  # it names whom it finds, once
        return first, plain, [await take(thorough=True) for _ in range(times)]
    finally:
        await gauge.close()


def check(reading: Reading) -> None:
    """A fast reading of nothing is no figure."""
    commands = [process.command for process in reading.processes]
    if reading.stale or commands != ["sleep"] * PROCESSES:
        raise SystemExit(f"not the reading that was to be timed: {reading}")
