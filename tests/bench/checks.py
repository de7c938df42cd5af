"""What a check costs: of a checkpoint of 200 shards, read for the first time and again when nothing has changed."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from figures import Figure

from spark_modeld import checkpoint
from spark_modeld.core.appraisal import appraise
from spark_modeld.core.footprint import estimate
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.inspection import Eyes
from spark_modeld.inspection.look import look
from spark_modeld.remains import Brands, HostRemains
from support.checkpoints import DEEPSEEK_V3, write

SHARDS = 200
TARGET_MS = 150.0
TOTAL = 128 << 30


def measure_checks(rounds: int) -> Iterator[Figure]:
    """Inspection, estimate and findings together, as the daemon has them made for every switch."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), DEEPSEEK_V3, 688_586_727_753, SHARDS)
        entry = model(str(path))
        known = eyes()
        check(entry, known)
        yield figure("first", rounds, lambda: check(entry, eyes()), TARGET_MS)
        yield figure("again, unchanged", rounds, lambda: check(entry, known), None)


def figure(name: str, rounds: int, run: Callable[[], None], target: float | None) -> Figure:
    """The median of so many rounds."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append((time.perf_counter() - began) * 1e3)
    note = f"max {max(took):.1f} ms; {rounds} rounds, files in the page cache"
    return Figure(f"check of a {SHARDS}-shard checkpoint, {name}: median", statistics.median(took), "ms", target, note)


def eyes() -> Eyes:
    """Eyes that have seen nothing yet."""
    return Eyes(checkpoint.read, checkpoint.stamp)


def model(path: str) -> Model:
    """A model of this checkpoint."""
    words = ("python3", "-m", "sglang.launch_server", "--model-path", path, "--served-model-name", "bench")
    return Model(
        id="bench",
        engine=EngineKind.SGLANG,
        url="http://127.0.0.1:1",
        run=Launch(words),
        served_model_name="bench",
        path=path,
        user="nobody",
    )


def check(entry: Model, how: Eyes) -> None:
    """One check, as the daemon has it made."""
    HostRemains(lambda _: {}, Brands(Path("/run/spark-models"), owner=0)).listeners(entry)
    seen = look(entry, None, how)
    appraise(entry, seen, estimate(entry.engine, seen.checkpoint, seen.flags, total=TOTAL))


if __name__ == "__main__":
    from figures import table

    print(table(list(measure_checks(20))))
