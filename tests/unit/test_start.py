"""What the daemon's start takes, in things that can be counted: seconds are the benchmarks' business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

DAEMON = Path(__file__).resolve().parents[2] / "daemon"

LATER = (
    "aiohttp",
    "gguf",
    "prometheus_client",
    "spark_modeld.checkpoint.read",
    "spark_modeld.cli",
    "spark_modeld.control.server",
    "spark_modeld.inspection.look",
)
"""What READY=1 does not wait for."""
OTHERS = 310
OURS = 210
"""How many modules: those of others are large and bring more with them, ours are small."""
DATACLASSES = 8
COUNT = """
import dataclasses, json, sys
from spark_modeld import app
app._import_gateway()
ours = [module for name, module in sys.modules.items() if name.startswith("spark_modeld")]
made = {
    f"{value.__module__}.{value.__qualname__}"
    for module in ours for value in vars(module).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__.startswith("spark_modeld")
}
print(json.dumps({"modules": sorted(sys.modules), "dataclasses": sorted(made)}))
"""
ADOPTS = """
import asyncio, sys
from spark_modeld import app, paths
from spark_modeld.core.model import EngineKind, Launch, Model

model = Model(id="m", engine=EngineKind.OLLAMA, url="http://127.0.0.1:9", run=Launch(("x",)), served_model_name="m")

async def main():
    daemon = app.Daemon(paths.find(user=True, config="/nowhere"), user=True)
    outside = daemon._engine._out
    climb = asyncio.ensure_future(outside.prober.climb(model, lambda rung: None))
    await asyncio.sleep(0)
    print(climb.done(), "aiohttp" in sys.modules)
    print(await outside.server.loaded(model), climb.done())
    climb.cancel()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What is there when systemd hears READY=1."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, "PYTHONPATH": str(DAEMON)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("module", LATER)
def test_ready_does_not_wait_for(module: str, imported: dict[str, list[str]]) -> None:
    assert [name for name in imported["modules"] if name == module or name.startswith(f"{module}.")] == []


def test_an_adopted_model_waits_for_aiohttp_until_then_unless_a_server_of_many_is_to_be_asked(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(DAEMON)}
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS],
        env={**os.environ, **home},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["False False", "None False"]


def test_few_modules_are_imported_before_ready(imported: dict[str, list[str]]) -> None:
    ours = [name for name in imported["modules"] if name.partition(".")[0] == "spark_modeld"]
    assert len(ours) < OURS
    assert len(imported["modules"]) - len(ours) < OTHERS


def test_values_are_no_dataclasses(imported: dict[str, list[str]]) -> None:
    """Each is compiled anew at every start, which takes 0.8 ms; make it a frozen ``msgspec.Struct``."""
    assert len(imported["dataclasses"]) <= DATACLASSES, imported["dataclasses"]


def test_the_command_imports_little() -> None:
    """Whoever types it waits for it: half of it is the interpreter and click."""
    code = "import sys; from spark_modeld.cli.main import main; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(DAEMON)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    imported = set(done.stdout.split())
    assert imported.isdisjoint({"aiohttp", "asyncio", "msgspec", "structlog", "subprocess", "spark_modeld.core.model"})
    assert len(imported) < 200
