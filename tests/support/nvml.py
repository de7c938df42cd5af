"""The fake NVML library of tests/fake_nvml, and the file it takes its answers from.

In a process that is still to be started: ``LD_LIBRARY_PATH=library_dir()`` and ``FAKE_NVML=<file>`` in its environment.
In this process: ``load_here()`` once, then ``FAKE_NVML`` in ``os.environ``.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "fake_nvml" / "nvml.c"
SONAME = "libnvidia-ml.so.1"
GB10 = "NVIDIA GB10"

DRIVER_NOT_LOADED = 9
UNINITIALIZED = 1
GPU_LOST = 15
VERSION_MISMATCH = 18
UNKNOWN = 999

GIB = 1 << 30


def library_dir(build: Path = ROOT / "build" / "fake_nvml") -> Path:
    """The folder with the library, compiled if it is missing or older than its source. For LD_LIBRARY_PATH."""
    library = build / SONAME
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        build.mkdir(parents=True, exist_ok=True)
        build_library(build)
    return build


def build_library(folder: Path, *flags: str) -> None:
    """Compiles the library into this folder, in one piece."""
    # Several test processes may build at once: each its own file, and the rename decides.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / SONAME
        standard = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
        subprocess.run(["gcc", *standard, *flags, f"-Wl,-soname,{SONAME}", "-o", fresh, SOURCE], check=True)
        fresh.replace(folder / SONAME)


def load_here() -> None:
    """Loads the library into this process, where every later dlopen of the driver's name finds it."""
    ctypes.CDLL(str(library_dir() / SONAME), mode=ctypes.RTLD_GLOBAL)


@dataclass(frozen=True)
class Process:
    """One line of a process list. ``who`` is a PID, or a program's name: then every living process of that name."""

    who: int | str
    bytes: int | None
    kind: str = "compute"

    @property
    def line(self) -> str:
        """As the file has it."""
        who = f"@{self.who}" if isinstance(self.who, str) else self.who
        return f"{self.kind} {who} {'unknown' if self.bytes is None else self.bytes}"


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``memory`` is "not-supported", "shim" or (total, free) in bytes; ``error`` its own error code."""

    name: str = GB10
    memory: str | tuple[int, int] = "not-supported"
    bar1: int | None = None
    processes: tuple[Process, ...] = ()
    error: int | None = None

    @property
    def lines(self) -> list[str]:
        """As the file has them."""
        memory = self.memory if isinstance(self.memory, str) else f"{self.memory[0]} {self.memory[1]}"
        lines = [f"gpu {self.name}", f"memory {memory}", *(process.line for process in self.processes)]
        if self.bar1 is not None:
            lines.append(f"bar1 {self.bar1}")
        if self.error is not None:
            lines.append(f"error {self.error}")
        return lines


class FakeNvml:
    """What the library answers from now on, written to ``path``. Each method replaces the file in one piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gpus: tuple[Gpu, ...] = ()
        self._ahead: tuple[str, ...] = ()
        self.gb10()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to meet this machine."""
        return {"FAKE_NVML": str(self.path), "LD_LIBRARY_PATH": str(library_dir())}

    def gpus(self, *gpus: Gpu) -> None:
        """These GPUs, no error, no hang."""
        self._gpus, self._ahead = gpus, ()
        self._write()

    def gb10(self) -> None:
        """One GB10, as its driver answers: no memory info."""
        self.gpus(Gpu())

    def shim(self) -> None:
        """One GB10 under a shim library that answers with the machine's own memory."""
        self.gpus(Gpu(memory="shim"))

    def discrete(self, total: int = 24 * GIB, free: int = 20 * GIB, name: str = "NVIDIA RTX 4090") -> None:
        """One GPU with memory of its own."""
        self.gpus(Gpu(name, (total, free), bar1=total))

    def two_gpus(self) -> None:
        """Two GPUs with memory of their own: 24 GiB with 20 free, 16 GiB with 4 free."""
        self.gpus(
            Gpu("NVIDIA RTX 4090", (24 * GIB, 20 * GIB), bar1=24 * GIB),
            Gpu("NVIDIA RTX 4080", (16 * GIB, 4 * GIB), bar1=16 * GIB),
        )

    def no_gpu(self) -> None:
        """A driver that finds no GPU."""
        self.gpus()

    def processes(self, processes: Iterable[Process], gpu: int = 0) -> None:
        """These processes on the GPU with this index, and no others there."""
        one = self._gpus[gpu]
        changed = Gpu(one.name, one.memory, one.bar1, tuple(processes), one.error)
        self._gpus = (*self._gpus[:gpu], changed, *self._gpus[gpu + 1 :])
        self._write()

    def hang(self, function: str = "") -> None:
        """Every call, or the one of this name, hangs until ``works`` or anything else that says so."""
        self._say(f"hang {function}".strip())

    def fails(self, code: int, function: str = "") -> None:
        """Every call about a GPU, or the one of this name, answers with this error."""
        self._say(f"error {code} {function}".strip())

    def lost(self) -> None:
        """The GPU fell off the bus."""
        self.fails(GPU_LOST)

    def init_fails(self, code: int) -> None:
        """nvmlInit, and every call about a GPU, answers with this error."""
        self._say(f"init {code}", f"error {code}")

    def absent(self) -> None:
        """The driver is not loaded."""
        self.init_fails(DRIVER_NOT_LOADED)

    def works(self) -> None:
        """The GPUs as they were, without error or hang."""
        self._say()

    def _say(self, *ahead: str) -> None:
        self._ahead = ahead
        self._write()

    def _write(self) -> None:
        lines = [*self._ahead, *(line for gpu in self._gpus for line in gpu.lines)]
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self.path)
