"""What the readiness ladder alone costs: a start until the ladder has passed, beside one until a bare first answer."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager

from figures import Figure
from inside import LOOK_SECONDS, first_answer

from spark_modeld.backends.ladder import Ladder
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.ports import LadderPassed
from support.engines import RunningEngine, bad_engine, free_port, llama_arguments, running
from support.tiny_models import tiny_model

TARGET_MS = 20.0
NAME = "tiny-alpha"


def measure_climbs(loads: dict[str, float | None], rounds: int) -> Iterator[Figure]:
    """For each load time (seconds; None: the real llama-server) what the ladder adds, by pairs."""
    start(0.0, climbed)  # the first climb of a process imports aiohttp
    for name, seconds in loads.items():
        extra = [(start(seconds, climbed) - start(seconds, answered)) * 1e3 for _ in range(rounds)]
        note = f"{rounds} pairs, max {max(extra):.1f} ms"
        yield Figure(f"readiness ladder alone, {name}: median", statistics.median(extra), "ms", TARGET_MS, note)


def start(load_seconds: float | None, ready: Callable[[int], Awaitable[None]]) -> float:
    """Seconds from an engine's start until it is ``ready``."""

    async def timed() -> float:
        port = free_port()
        began = time.perf_counter()
        with started(load_seconds, port):
            await ready(port)
            return time.perf_counter() - began

    return asyncio.run(timed())


def started(load_seconds: float | None, port: int) -> AbstractContextManager[RunningEngine]:
    """The engine, until the block ends."""
    if load_seconds is None:
        return running(llama_arguments(gguf=tiny_model(NAME), name=NAME, port=port), port)
    return bad_engine(f"--load-seconds={load_seconds}", name=NAME, port=port)


async def answered(port: int) -> None:
    """A bare first answer, looked for without a pause worth the name."""
    while not await asyncio.to_thread(first_answer, port, NAME):
        await asyncio.to_thread(time.sleep, LOOK_SECONDS)


async def climbed(port: int) -> None:
    """The ladder, to its top."""
    url = f"http://127.0.0.1:{port}"
    model = Model(id=NAME, engine=EngineKind.LLAMA_SERVER, url=url, run=Launch(()), served_model_name=NAME)
    outcome = await Ladder(lambda path: "").climb(model, lambda _: None)
    if outcome != LadderPassed():
        raise SystemExit(f"the ladder was not climbed: {outcome}")
