"""What the guard costs while a model loads and memory is read five times a second."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import structlog
from figures import Figure
from readings import PROCESSES, check, sleeper

from spark_modeld.clock import SystemClock
from spark_modeld.core.reading import Reading
from spark_modeld.core.switch import Requester
from spark_modeld.core.unit import Phase
from spark_modeld.memory.gauge import NvmlGauge
from support.fakes import Outside
from support.nvml import GIB, FakeNvml, Process, load_here
from support.spark import SparkHost

LOOKS_A_SECOND = 5
MODEL = "small"


def measure_looks(times: int) -> Iterator[Figure]:
    """Processor time of one look, times five: the reading with 20 processes, and what the engine makes of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nvml = FakeNvml(folder / "nvml")
        nvml.processes([Process(stack.enter_context(sleeper()), GIB) for _ in range(PROCESSES)])
        load_here()
        os.environ["FAKE_NVML"] = str(nvml.path)
        try:
            reading, reading_ms = asyncio.run(readings(times))
        finally:
            del os.environ["FAKE_NVML"]
    handling_ms = asyncio.run(handled(reading, times))
    share = (reading_ms + handling_ms) * LOOKS_A_SECOND / 1e3
    note = f"{LOOKS_A_SECOND} looks a second of {reading_ms:.2f} ms for the reading, {handling_ms:.2f} ms for the rest"
    yield Figure("guard while a model loads, one core", share * 100, "%", 1.0, note)


async def readings(times: int) -> tuple[Reading, float]:
    """A reading, and the milliseconds of processor time, all threads together, that one takes."""
    gauge = NvmlGauge(SystemClock())
    try:
        reading = await gauge.read()
        check(reading)
        began = time.process_time()
        for _ in range(times):
            reading = await gauge.read()
        return reading, (time.process_time() - began) / times * 1e3
    finally:
        await gauge.close()


async def handled(reading: Reading, times: int) -> float:
    """Milliseconds that the engine takes for one look at a model that loads: the curve, the decision, the snapshot."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    outside = Outside()
    outside.prober.hold(MODEL)
    await outside.up()
    engine = outside.engine
    await engine.switch(MODEL, requested_by=Requester.CONTROL, actor=None)
    await outside.until(lambda: engine.snapshot.models[MODEL].phase is Phase.WARMING)
    outside.gauge.processes = reading.processes
    began = time.process_time()
    for _ in range(times):
        await engine.measure()
        await engine.ping()
    took = (time.process_time() - began) / times * 1e3
    await engine.shut_down()
    structlog.reset_defaults()
    return took


def measure_loading(host: SparkHost, model: str, cpu_seconds: Callable[[], float], seconds: float) -> Iterator[Figure]:
    """All that the daemon's service uses while a model goes on loading, with the probe that knocks at its door."""
    status, switch = host.api("POST", "/api/switch", {"model": model})
    if status != 202:
        raise SystemExit(f"the switch to {model} was refused: {switch}")
    try:
        deadline = time.monotonic() + 30
        while host.api("GET", f"/api/models/{model}")[1]["state"] != "warming":
            if time.monotonic() > deadline:
                raise SystemExit(f"{model} does not load")
            time.sleep(0.05)
        time.sleep(1)  # what the start left to be done is over
        began, used = time.monotonic(), cpu_seconds()
        time.sleep(seconds)
        share = (cpu_seconds() - used) / (time.monotonic() - began)
    finally:
        host.api("POST", "/api/switch?wait=true", {"model": None})
    note = f"the service's cgroup over {seconds:g} s: the guard, and knocking until the engine is ready"
    yield Figure("  the whole daemon meanwhile", share * 100, "%", None, note)
