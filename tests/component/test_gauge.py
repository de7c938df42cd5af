"""The gauge with the real pynvml on the fake NVML library."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.nvml import (
    GIB,
    ROOT,
    UNINITIALIZED,
    UNKNOWN,
    VERSION_MISMATCH,
    FakeNvml,
    Gpu,
    Process,
    build_library,
    library_dir,
    load_here,
)

from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.instant import Instant
from spark_modeld.core.reading import HugePages, MemorySource, Reading
from spark_modeld.memory.attribution import Owners
from spark_modeld.memory.gauge import NvmlGauge
from spark_modeld.memory.nvml import RETRY_SECONDS
from spark_modeld.memory.procfs import Identity, user_name
from spark_modeld.memory.vmstat import read_paged_in

pytestmark = pytest.mark.component

NEVER = 3600.0
SOON = 30.0
MEMINFO = "MemTotal: 127600748 kB\nMemFree: 90000000 kB\nMemAvailable: {available} kB\nHugePages_Total: {huge}\n"
IDLE_KB = 118566368


@dataclass
class HandClock:
    """A clock that stands still until it is moved."""

    mono: float = 1000.0

    def now(self) -> Instant:
        return Instant(self.mono, 1_700_000_000.0 + self.mono)

    def call_at(self, at: float, callback: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("the gauge has no timers on this clock")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the gauge never sleeps")


@dataclass
class Units:
    """What systemd answers when it is asked for a PID's unit."""

    known: dict[int, str] = field(default_factory=dict)
    error: SparkError | None = None
    asked: list[int] = field(default_factory=list)

    async def unit_of(self, pid: int) -> str | None:
        self.asked.append(pid)
        if self.error is not None:
            raise self.error
        return self.known.get(pid)


@dataclass
class Bench:
    """A gauge on a fake machine."""

    gauge: NvmlGauge
    nvml: FakeNvml
    clock: HandClock
    meminfo: Path
    units: Units

    def kernel(self, available: int = IDLE_KB, huge: int = 0) -> None:
        fresh = self.meminfo.with_suffix(".new")
        huge_lines = "HugePages_Free: 512\nHugepagesize: 2048 kB\n"
        fresh.write_text(MEMINFO.format(available=available, huge=huge) + huge_lines)
        fresh.replace(self.meminfo)


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    load_here()
    nvml = FakeNvml(tmp_path / "nvml")
    monkeypatch.setenv("FAKE_NVML", str(nvml.path))
    monkeypatch.setenv("SPARK_MODELD_MEMINFO", str(tmp_path / "meminfo"))
    before = set(threading.enumerate())
    clock, units = HandClock(), Units()
    gauge = NvmlGauge(
        clock,
        meminfo_path=str(tmp_path / "meminfo"),
        vmstat_path=str(tmp_path / "vmstat"),
        deadline=NEVER,
        patience=NEVER,
        unit_of=units.unit_of,
        owners=lambda: Owners({"sglang-qwen.service": "qwen"}),
    )
    bench = Bench(gauge, nvml, clock, tmp_path / "meminfo", units)
    bench.kernel()
    yield bench
    nvml.works()
    await gauge.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON)
    assert set(threading.enumerate()) <= before


@asynccontextmanager
async def heartbeat() -> AsyncIterator[Callable[[], int]]:
    """Counts how often the loop comes round."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    task = asyncio.create_task(beat())
    yield lambda: beats
    task.cancel()
    await asyncio.wait({task})


async def hung(bench: Bench) -> Reading:
    """A machine whose NVML hangs, and the first reading that says so; later ones must not wait."""
    bench.nvml.hang()
    bench.gauge.deadline = 0.05
    reading = await bench.gauge.read()
    bench.gauge.deadline = NEVER
    return reading


async def read_until(gauge: NvmlGauge, wanted: Callable[[Reading], bool]) -> Reading:
    async with asyncio.timeout(SOON):
        while True:
            reading = await gauge.read()
            if wanted(reading):
                return reading


def own_program() -> str:
    return Path("/proc/self/comm").read_text().strip()


def sizes(reading: Reading) -> dict[int, int | None]:
    return {process.pid: process.bytes for process in reading.processes}


async def test_gb10_is_unified(bench: Bench) -> None:
    reading = await bench.gauge.read()
    assert reading == Reading(
        total=127600748 * 1024,
        available=IDLE_KB * 1024,
        free=90000000 * 1024,
        source=MemorySource.UNIFIED,
        taken_at=bench.clock.now(),
        gpu="NVIDIA GB10",
    )


async def test_every_reading_is_fresh(bench: Bench) -> None:
    await bench.gauge.read()
    bench.kernel(available=5_000_000)
    bench.nvml.processes([Process(4_000_001, GIB)])
    reading = await bench.gauge.read()
    assert (reading.available, sizes(reading)) == (5_000_000 * 1024, {4_000_001: GIB})


async def test_a_shim_on_gb10_is_unified(bench: Bench) -> None:
    bench.nvml.shim()
    reading = await bench.gauge.read()
    assert (reading.source, reading.total, reading.available) == (
        MemorySource.UNIFIED,
        127600748 * 1024,
        IDLE_KB * 1024,
    )


async def test_discrete_counts_the_gpus_own_memory(bench: Bench) -> None:
    bench.nvml.discrete(24 * GIB, 20 * GIB)
    reading = await bench.gauge.read()
    assert (reading.source, reading.total, reading.available) == (MemorySource.DISCRETE, 24 * GIB, 20 * GIB)
    assert (reading.free, reading.gpu, reading.notes) == (90000000 * 1024, "NVIDIA RTX 4090", ())


async def test_a_gpu_as_large_as_the_machine_is_still_discrete(bench: Bench) -> None:
    bench.nvml.discrete(127600748 * 1024, 20 * GIB)
    reading = await bench.gauge.read()
    assert (reading.source, reading.available) == (MemorySource.DISCRETE, 20 * GIB)


async def test_two_gpus_are_summed(bench: Bench) -> None:
    bench.nvml.two_gpus()
    bench.nvml.processes([Process(4_000_001, 3 * GIB), Process(4_000_002, GIB)], gpu=0)
    bench.nvml.processes([Process(4_000_001, 11 * GIB)], gpu=1)
    reading = await bench.gauge.read()
    assert (reading.total, reading.available) == (40 * GIB, 24 * GIB)
    assert reading.gpu == "NVIDIA RTX 4090, NVIDIA RTX 4080"
    assert sizes(reading) == {4_000_001: 14 * GIB, 4_000_002: GIB}


async def test_one_of_two_gpus_lost(bench: Bench) -> None:
    bench.nvml.gpus(Gpu("A", (24 * GIB, 20 * GIB), bar1=1), Gpu("B", (16 * GIB, 4 * GIB), bar1=1))
    await bench.gauge.read()
    bench.nvml.gpus(Gpu("A", (24 * GIB, 20 * GIB), bar1=1), Gpu("B", (16 * GIB, 4 * GIB), bar1=1, error=15))
    reading = await bench.gauge.read()
    assert (reading.source, reading.total, reading.gpu) == (MemorySource.DISCRETE, 24 * GIB, "A")
    assert reading.notes == ("NVML: GPU 1 (B): GPU is lost",)


async def test_no_driver_is_the_host_shape_and_no_trouble(bench: Bench) -> None:
    bench.nvml.absent()
    reading = await bench.gauge.read()
    assert (reading.source, reading.available, reading.gpu) == (MemorySource.HOST, IDLE_KB * 1024, None)
    assert (reading.stale, reading.notes) == (False, ())


async def test_a_driver_without_gpu_is_the_host_shape(bench: Bench) -> None:
    bench.nvml.no_gpu()
    reading = await bench.gauge.read()
    assert (reading.source, reading.notes) == (MemorySource.HOST, ())


async def test_a_driver_that_comes_late_is_found_at_a_bounded_rate(bench: Bench) -> None:
    bench.nvml.absent()
    await bench.gauge.read()
    bench.nvml.works()
    bench.clock.mono += RETRY_SECONDS - 0.1
    assert (await bench.gauge.read()).source is MemorySource.HOST
    bench.clock.mono += 0.2
    assert (await bench.gauge.read()).source is MemorySource.UNIFIED


async def test_a_pid_in_both_lists_counts_once(bench: Bench) -> None:
    bench.nvml.processes(
        [Process(4_000_001, 3 * GIB), Process(4_000_001, 2 * GIB, "graphics"), Process(4_000_002, GIB, "graphics")]
    )
    assert sizes(await bench.gauge.read()) == {4_000_001: 3 * GIB, 4_000_002: GIB}


async def test_unknown_bytes_are_none(bench: Bench) -> None:
    bench.nvml.processes(
        [
            Process(4_000_001, None),
            Process(4_000_002, None),
            Process(4_000_002, GIB, "graphics"),
            Process(4_000_003, 2 * GIB),
        ]
    )
    reading = await bench.gauge.read()
    assert sizes(reading) == {4_000_001: None, 4_000_002: GIB, 4_000_003: 2 * GIB}
    assert [process.pid for process in reading.processes] == [4_000_003, 4_000_002, 4_000_001]


async def test_a_list_the_driver_does_not_have_is_a_note(bench: Bench) -> None:
    bench.nvml.processes([Process(4_000_001, GIB), Process(4_000_002, GIB, "graphics")])
    bench.nvml.fails(3, "nvmlDeviceGetGraphicsRunningProcesses_v3")
    reading = await bench.gauge.read()
    assert (reading.source, sizes(reading)) == (MemorySource.UNIFIED, {4_000_001: GIB})
    assert reading.notes == ("NVML: GPU 0 (NVIDIA GB10) does not list all its processes: Not Supported",)


async def test_reserved_huge_pages_are_said_and_nothing_is_refused(bench: Bench) -> None:
    bench.kernel(huge=1024)
    reading = await bench.gauge.read()
    assert reading.available == IDLE_KB * 1024
    (note,) = reading.notes
    assert note.startswith("2.0 GiB are reserved as 1024 huge pages of 2048 kB, 1.0 GiB of them free")
    assert reading.huge_pages == HugePages(2 * GIB, GIB, 2 << 20)


async def test_processes_have_command_unit_and_model(bench: Bench) -> None:
    bench.units.known = {os.getpid(): "sglang-qwen.service", 4_000_001: "gdm.service"}
    bench.nvml.processes([Process(os.getpid(), GIB), Process(4_000_001, 1)])
    ours, gone = (await bench.gauge.read()).processes
    assert (ours.command, ours.user) == (own_program(), user_name(os.getuid()))
    assert (ours.unit, ours.model) == ("sglang-qwen.service", "qwen")
    assert (gone.command, gone.user, gone.unit, gone.model) == ("", "", "gdm.service", None)


async def test_a_process_that_cannot_be_looked_at_in_time_is_named_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked process, or a directory of users in a network that is down, hangs whoever looks."""
    answer = threading.Event()

    def slow(pid: int) -> Identity:
        answer.wait(SOON)
        return Identity("python3", "ann")

    monkeypatch.setattr("spark_modeld.memory.processes.identify", slow)
    monkeypatch.setattr(bench.gauge._processes, "_deadline", 0.05)
    bench.units.known = {os.getpid(): "sglang-qwen.service"}
    bench.nvml.processes([Process(os.getpid(), GIB)])
    async with heartbeat() as beats:
        (process,) = (await bench.gauge.read()).processes
        assert beats() > 10
    assert (process.command, process.user, process.model, process.bytes) == ("", "", "qwen", GIB)
    answer.set()
    monkeypatch.setattr(bench.gauge._processes, "_deadline", NEVER)
    async with asyncio.timeout(SOON):
        while not process.command:  # the look that was given up has to come back first
            bench.clock.mono += 10
            (process,) = (await bench.gauge.read()).processes
    assert (process.command, process.user) == ("python3", "ann")


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """What the scan of /proc finds: PID -> bytes."""
    found: dict[int, int] = {}
    monkeypatch.setattr("spark_modeld.memory.strangers.big_processes", lambda least: dict(found))
    return found


async def test_a_thorough_reading_names_the_largest_strangers(bench: Bench, big: dict[int, int]) -> None:
    big |= {4_000_000 + n: n * GIB for n in range(1, 8)} | {os.getpid(): 40 * GIB}
    bench.units.known = {os.getpid(): "user@1000.service", 4_000_007: "sglang-qwen.service"}
    reading = await bench.gauge.read(thorough=True)
    first, *others = reading.strangers
    assert (first.pid, first.bytes, first.unit) == (os.getpid(), 40 * GIB, "user@1000.service")
    assert (first.command, first.user) == (own_program(), user_name(os.getuid()))
    assert [stranger.pid for stranger in others] == [4_000_006, 4_000_005, 4_000_004, 4_000_003]  # 7 is qwen's
    assert reading.host_held == {"qwen": 7 * GIB}
    plain = await bench.gauge.read()
    assert (plain.strangers, plain.host_held) == ((), {})


async def test_a_process_is_a_stranger_only_if_it_is_big(bench: Bench, big: dict[int, int]) -> None:
    bench.units.known = {4_000_001: "sglang-qwen.service", 4_000_002: "sglang-qwen.service"}
    big |= {4_000_001: GIB // 2, 4_000_002: GIB // 4, 4_000_003: GIB - 1, 4_000_004: GIB}
    reading = await bench.gauge.read(thorough=True)
    assert [stranger.pid for stranger in reading.strangers] == [4_000_004]
    assert reading.host_held == {"qwen": GIB * 3 // 4}


async def test_strangers_do_not_matter_beside_a_gpu_with_memory_of_its_own(bench: Bench, big: dict[int, int]) -> None:
    big[os.getpid()] = 40 * GIB
    bench.nvml.discrete()
    assert (await bench.gauge.read(thorough=True)).strangers == ()
    bench.nvml.absent()
    bench.clock.mono += RETRY_SECONDS
    assert len((await bench.gauge.read(thorough=True)).strangers) == 1


async def test_a_process_is_looked_up_once(bench: Bench) -> None:
    bench.units.known = {os.getpid(): "a.service"}
    bench.nvml.processes([Process(os.getpid(), GIB)])
    for _ in range(3):
        await bench.gauge.read()
        bench.clock.mono += 3600
    assert bench.units.asked == [os.getpid()]


async def test_a_pid_that_was_gone_is_looked_up_again(bench: Bench) -> None:
    bench.units.known = {os.getpid(): "a.service"}
    bench.nvml.processes([Process(os.getpid(), GIB)])
    await bench.gauge.read()
    bench.nvml.processes([])
    await bench.gauge.read()
    bench.nvml.processes([Process(os.getpid(), GIB)])
    await bench.gauge.read()
    assert bench.units.asked == [os.getpid()] * 2


async def test_a_process_without_unit_is_asked_for_again_later(bench: Bench) -> None:
    bench.nvml.processes([Process(4_000_001, GIB)])
    for _ in range(2):
        assert (await bench.gauge.read()).processes[0].unit is None
    assert bench.units.asked == [4_000_001]
    bench.units.known = {4_000_001: "sglang-qwen.service"}
    bench.clock.mono += 10
    assert (await bench.gauge.read()).processes[0].model == "qwen"


async def test_another_process_with_the_same_pid_is_looked_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    started = 100
    monkeypatch.setattr("spark_modeld.memory.processes.started", lambda pid: started)
    monkeypatch.setattr("spark_modeld.memory.processes.identify", lambda pid: Identity("python3", "ann"))
    bench.nvml.processes([Process(4_000_001, GIB)])
    bench.units.known = {4_000_001: "sglang-qwen.service"}
    assert (await bench.gauge.read()).processes[0].model == "qwen"
    bench.units.known, started = {4_000_001: "gdm.service"}, 200
    assert (await bench.gauge.read()).processes[0].unit == "gdm.service"


async def test_a_hidden_process_is_looked_up_again_later(bench: Bench) -> None:
    bench.nvml.processes([Process(4_000_001, GIB)])  # no such PID here: as good as hidden
    bench.units.known = {4_000_001: "a.service"}
    await bench.gauge.read()
    bench.clock.mono += 29
    await bench.gauge.read()
    assert bench.units.asked == [4_000_001]
    bench.clock.mono += 2
    await bench.gauge.read()
    assert bench.units.asked == [4_000_001] * 2


async def test_a_slice_is_no_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_modeld.memory.processes._unit_from_proc", lambda pid, *, user: f"{pid}.scope")
    bench.units.known = {4_000_001: "-.slice"}
    bench.nvml.processes([Process(4_000_001, GIB)])
    assert (await bench.gauge.read()).processes[0].unit == "4000001.scope"


async def test_a_lost_bus_leaves_the_control_group(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.units.error = refuse(Code.BUS_LOST, "the bus is lost")

    def unit_from_proc(pid: int, *, user: bool) -> str | None:
        return "sglang-qwen.service" if pid == 7 and not user else None

    monkeypatch.setattr("spark_modeld.memory.processes._unit_from_proc", unit_from_proc)
    bench.nvml.processes([Process(7, GIB)])
    assert (await bench.gauge.read()).processes[0].model == "qwen"


async def test_a_hang_makes_the_reading_stale_and_blocks_nothing(bench: Bench) -> None:
    bench.nvml.processes([Process(4_000_001, GIB)])
    await bench.gauge.read()
    bench.kernel(available=4_000_000)
    rescue = threading.Timer(SOON, bench.nvml.works)  # a gauge that blocks the loop is to fail, not to hang, this test
    rescue.start()
    async with heartbeat() as beats:
        before = beats()
        reading = await hung(bench)
        assert beats() > before + 10
    rescue.cancel()
    rescue.join()
    assert reading.stale
    assert (reading.available, reading.source) == (4_000_000 * 1024, MemorySource.UNIFIED)
    assert sizes(reading) == {4_000_001: GIB}
    (note,) = reading.notes
    assert note == ("NVML has not answered since 2023-11-14T22:30:00Z: the processes are those of 2023-11-14T22:30:00Z")


async def test_while_it_hangs_readings_come_at_once_and_no_thread_is_added(bench: Bench) -> None:
    await hung(bench)
    threads = threading.active_count()
    async with asyncio.timeout(SOON):
        for available in range(1_000_000, 1_000_200):
            bench.kernel(available=available)
            reading = await bench.gauge.read()
            assert (reading.stale, reading.available) == (True, available * 1024)
    assert threading.active_count() == threads


async def test_a_load_is_watched_on_while_the_driver_is_slow(bench: Bench) -> None:
    """Neither a slow answer nor whoever waits for it keeps the kernel's number from those in a hurry."""
    bench.nvml.processes([Process(4_000_001, GIB)])
    await bench.gauge.read()
    bench.nvml.hang()
    patient = asyncio.create_task(bench.gauge.read(thorough=True))
    bench.gauge.patience = 0.01
    async with asyncio.timeout(SOON):
        for available in range(1_000_000, 1_000_020):
            bench.kernel(available=available)
            reading = await bench.gauge.read()
            assert (reading.available, reading.stale, sizes(reading)) == (available * 1024, False, {4_000_001: GIB})
    assert not patient.done()
    bench.nvml.works()
    bench.nvml.processes([Process(4_000_002, GIB)])
    assert not (await patient).stale
    assert sizes(await bench.gauge.read(thorough=True)) == {4_000_002: GIB}


async def test_a_thorough_reading_is_of_an_answer_that_was_asked_for_after_it(bench: Bench) -> None:
    await bench.gauge.read()
    bench.nvml.hang("nvmlDeviceGetGraphicsRunningProcesses_v3")  # the compute list is in the answer already
    bench.gauge.patience = 0.01
    await bench.gauge.read()
    patient = asyncio.create_task(bench.gauge.read(thorough=True))
    await asyncio.sleep(0)
    bench.nvml.works()
    bench.nvml.processes([Process(4_000_001, GIB)])
    assert sizes(await patient) == {4_000_001: GIB}


async def test_a_hang_at_the_first_reading_is_said(bench: Bench) -> None:
    reading = await hung(bench)
    assert (reading.stale, reading.source, reading.available) == (True, MemorySource.HOST, IDLE_KB * 1024)
    assert reading.notes == (
        "NVML has not answered since 2023-11-14T22:30:00Z: which processes hold GPU memory is not known",
    )


async def test_a_discrete_gpu_that_hangs_keeps_its_last_numbers(bench: Bench) -> None:
    bench.nvml.discrete(24 * GIB, 20 * GIB)
    await bench.gauge.read()
    reading = await hung(bench)
    assert (reading.stale, reading.source, reading.available) == (True, MemorySource.DISCRETE, 20 * GIB)


async def test_it_recovers_by_itself_when_nvml_comes_back(bench: Bench) -> None:
    await bench.gauge.read()
    await hung(bench)
    bench.nvml.gb10()
    bench.nvml.processes([Process(4_000_001, GIB)])
    reading = await read_until(bench.gauge, lambda reading: not reading.stale)
    assert (reading.source, sizes(reading), reading.notes) == (MemorySource.UNIFIED, {4_000_001: GIB}, ())


async def test_readings_at_the_same_time_during_a_hang_wait_for_one_deadline_only(bench: Bench) -> None:
    await bench.gauge.read()
    bench.nvml.hang()
    bench.gauge.deadline = 0.05
    readings = await asyncio.gather(*(bench.gauge.read() for _ in range(5)))
    assert [reading.stale for reading in readings] == [True] * 5


async def test_a_caller_that_gives_up_harms_nobody(bench: Bench) -> None:
    await bench.gauge.read()
    bench.nvml.hang()
    task = asyncio.create_task(bench.gauge.read())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    bench.nvml.works()
    assert not (await bench.gauge.read()).stale


async def test_gpu_lost_and_found_again(bench: Bench) -> None:
    bench.nvml.processes([Process(4_000_001, GIB)])
    await bench.gauge.read()
    bench.nvml.lost()
    reading = await bench.gauge.read()
    assert (reading.source, reading.available, reading.stale) == (MemorySource.HOST, IDLE_KB * 1024, False)
    assert (reading.processes, reading.notes) == ((), ("NVML: GPU 0 (NVIDIA GB10): GPU is lost",))
    bench.nvml.works()
    assert (await bench.gauge.read()).source is MemorySource.HOST
    bench.clock.mono += RETRY_SECONDS
    reading = await bench.gauge.read()
    assert (reading.source, sizes(reading), reading.notes) == (MemorySource.UNIFIED, {4_000_001: GIB}, ())


@pytest.mark.parametrize("code", [UNINITIALIZED, VERSION_MISMATCH, UNKNOWN, 12345])
async def test_any_other_error_is_noted_and_tried_again(bench: Bench, code: int) -> None:
    await bench.gauge.read()
    bench.nvml.init_fails(code)
    for _ in range(2):
        reading = await bench.gauge.read()
        assert (reading.source, len(reading.notes)) == (MemorySource.HOST, 1)
        assert reading.notes[0].startswith("NVML: ")
        bench.clock.mono += RETRY_SECONDS
    bench.nvml.works()
    reading = await bench.gauge.read()
    assert (reading.source, reading.notes) == (MemorySource.UNIFIED, ())


async def test_a_driver_that_goes_away_is_noted(bench: Bench) -> None:
    await bench.gauge.read()
    bench.nvml.absent()
    await bench.gauge.read()
    bench.clock.mono += RETRY_SECONDS
    assert (await bench.gauge.read()).notes == ("NVML: Driver Not Loaded",)


async def test_the_kernels_file_is_gone_for_a_while(bench: Bench) -> None:
    await bench.gauge.read()
    bench.meminfo.unlink()
    bench.nvml.processes([Process(4_000_001, GIB)])
    reading = await bench.gauge.read()
    assert (reading.stale, reading.available, sizes(reading)) == (True, IDLE_KB * 1024, {4_000_001: GIB})
    assert "No such file" in reading.notes[0]
    bench.kernel(available=7)
    reading = await bench.gauge.read()
    assert (reading.stale, reading.available, reading.notes) == (False, 7 * 1024, ())


async def test_the_kernels_file_was_never_there(bench: Bench) -> None:
    bench.meminfo.unlink()
    with pytest.raises(SparkError) as caught:
        await bench.gauge.read()
    assert caught.value.problem.code is Code.INTERNAL


async def test_close_leaves_a_thread_that_hangs_and_it_ends_when_nvml_returns(bench: Bench) -> None:
    before = set(threading.enumerate())
    await hung(bench)
    (thread,) = set(threading.enumerate()) - before
    async with asyncio.timeout(SOON):
        assert not await bench.gauge.close()
    assert thread.is_alive()
    assert thread.daemon
    bench.nvml.works()
    thread.join(SOON)
    assert not thread.is_alive()


SCRIPT = """
import asyncio, os, sys
from spark_modeld.core.instant import Instant
from spark_modeld.memory.gauge import NvmlGauge

class Clock:
    def now(self):
        return Instant(1000.0, 0.0)

async def main():
    gauge = NvmlGauge(Clock(), deadline=30)
    reading = await gauge.read()
    print(reading.source, reading.gpu, "pynvml" in sys.modules, *(p.pid == os.getpid() for p in reading.processes))
    await gauge.close()

asyncio.run(main())
"""


UPGRADE = """
import asyncio
from spark_modeld.core.instant import Instant
from spark_modeld.memory.gauge import NvmlGauge
from spark_modeld.memory.nvml import RETRY_SECONDS

class Clock:
    mono = 1000.0
    def now(self):
        return Instant(self.mono, 0.0)

async def main():
    clock = Clock()
    gauge = NvmlGauge(clock, deadline=30)
    for _ in range(3):
        reading = await gauge.read()
        print(reading.source, *reading.notes, sep=": ", flush=True)
        input()
        clock.mono += RETRY_SECONDS
    await gauge.close()

asyncio.run(main())
"""


def test_a_library_that_an_upgrade_replaced_is_loaded_anew(tmp_path: Path) -> None:
    """The mapped one is not the driver's any more, and never will be again."""
    nvml = FakeNvml(tmp_path / "nvml")
    build_library(tmp_path, "-DANOTHER_VERSION")
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_NVML": str(nvml.path), "PYTHONPATH": str(ROOT / "daemon")}
    command = [sys.executable, "-W", "error", "-c", UPGRADE]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        for replaced in (False, True):
            assert script.stdout.readline() == "host: NVML: RM has detected an NVML/RM version mismatch.\n"
            if replaced:
                build_library(tmp_path)
            script.stdin.write("\n")
            script.stdin.flush()
        assert script.stdout.readline() == "unified\n"
        script.communicate("\n", timeout=SOON)
    assert script.returncode == 0


def run_script(environment: dict[str, str]) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in {"LD_LIBRARY_PATH", "FAKE_NVML"}}
    clean |= {"PYTHONPATH": str(ROOT / "daemon"), **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], env=clean, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_process_finds_the_library_and_itself_by_name(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path / "nvml")
    nvml.processes([Process(Path(sys.executable).name[:15], GIB)])
    assert nvml.environment["LD_LIBRARY_PATH"] == str(library_dir())
    shown = run_script(nvml.environment).split()
    assert shown[:4] == ["unified", "NVIDIA", "GB10", "True"]
    assert "True" in shown[4:]


@pytest.mark.skipif(os.environ.get("SPARK_MODELD_REAL_NVML") == "1", reason="this machine has an NVIDIA driver")
def test_without_the_library_pynvml_is_not_even_imported() -> None:
    assert run_script({}) == "host None False"


@pytest.mark.skipif(os.environ.get("SPARK_MODELD_REAL_NVML") != "1", reason="this machine has no NVIDIA driver")
def test_the_real_library() -> None:
    source, gpu, imported, *_ = run_script({}).split()
    assert (source, gpu, imported) == ("discrete", "NVIDIA", "True")


async def test_what_the_disks_have_given_is_read_where_the_kernel_says_it(bench: Bench) -> None:
    assert (await bench.gauge.read()).paged_in is None
    bench.meminfo.with_name("vmstat").write_text("nr_free_pages 7\npgpgin 2048\npgpgout 9\n")
    assert (await bench.gauge.read()).paged_in == 2 << 20
    bench.meminfo.with_name("vmstat").write_text("nr_free_pages 7\n")
    assert (await bench.gauge.read()).paged_in is None
    assert read_paged_in("/proc/vmstat")
