"""The gate's and the launcher's programs, and a configuration to run them with."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from pathlib import Path
from types import ModuleType

LIBEXEC = Path(__file__).resolve().parents[2] / "daemon" / "libexec"


def load(name: str) -> ModuleType:
    """One of the programs in Python, as a module."""
    spec = importlib.util.spec_from_file_location(name, LIBEXEC / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launch = load("launch")


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with these variables only."""
    environment = {"PATH": "/usr/bin:/bin", **variables}
    command = [str(LIBEXEC / program), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, env=environment)


class Config:
    """A configuration in a folder of its own, run as the user who runs the tests.

    In the mode "system" that is root, who runs models as their own users.
    """

    def __init__(self, folder: Path, *, mode: str = "user") -> None:
        self.mode = mode
        self.folder = folder / "etc"
        self.reports = folder / "reports"
        (self.folder / "models.d").mkdir(parents=True)
        for path in (self.folder, self.folder / "models.d"):
            path.chmod(0o755)

    def file(self, model: str = "alpha") -> Path:
        return self.folder / "models.d" / f"{model}.toml"

    def write(self, content: str, *, settled: bool = True) -> None:
        self.file().write_text(content)
        self.file().chmod(0o644)
        if settled:
            time.sleep(launch.RACY + 0.02)  # ctime cannot be set: this is what it takes for the file to be old

    def launch(self, command: list[str], **environment: str) -> None:
        table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
        self.write(f"[launch]\ncommand = {json.dumps(command)}\nenvironment = {{ {table} }}\n", settled=False)

    def run(self, model: str = "alpha") -> subprocess.CompletedProcess[str]:
        home = str(self.folder.parent)
        return run("spark-model-run", model, str(self.folder), str(self.reports), self.mode, HOME=home)

    @property
    def signature(self) -> Path:
        return self.reports / "alpha" / "start.sig"
