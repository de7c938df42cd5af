"""The driver of the GPU, and what the kernel does with memory."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from spark_modeld.cli.doctor import nvml_script
from spark_modeld.cli.doctor.facts import MemoryFacts, NvmlFacts
from spark_modeld.cli.doctor.run import run
from spark_modeld.memory.meminfo import read_meminfo

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
_KERNEL_VERSION = Path("/proc/driver/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")
_KILLERS = ("earlyoom.service", "nohang.service", "nohang-desktop.service", "systemd-oomd.service")


def nvml() -> NvmlFacts:
    """What the library answers, from a process that can be left behind."""
    hardware, kernel = _has_gpu(), _kernel()
    asked = run(sys.executable, "-I", "-S", str(Path(nvml_script.__file__)))
    if asked.hangs:
        return NvmlFacts(hardware=hardware, kernel=kernel, library=True, hangs=True)
    try:
        told = json.loads(asked.out)
    except ValueError:
        return NvmlFacts(hardware=hardware, kernel=kernel, library=True, message=asked.says or "it crashed")
    return NvmlFacts(
        hardware=hardware,
        kernel=kernel,
        library=told["library"],
        driver=told.get("driver", ""),
        code=told.get("code"),
        message=told.get("message", ""),
        gpus=tuple(told.get("gpus", ())),
        persistence=told.get("persistence"),
        mig=told.get("mig"),
    )


def memory() -> MemoryFacts:
    """Sizes in bytes; what this kernel does not have counts as off."""
    seen = read_meminfo(os.environ.get("SPARK_MODELD_MEMINFO", "/proc/meminfo"))
    swaps = [line.split() for line in _read("/proc/swaps").splitlines()[1:]]
    states = run("systemctl", "is-active", *_KILLERS).out.split()
    pages = seen.reserved_pages
    return MemoryFacts(
        total=seen.total,
        available=seen.available,
        free=seen.free,
        swap_total=sum(int(fields[2]) for fields in swaps) * 1024,
        swap_used=sum(int(fields[3]) for fields in swaps) * 1024,
        zswap=_read("/sys/module/zswap/parameters/enabled").strip() == "Y",
        overcommit=int(_read("/proc/sys/vm/overcommit_memory") or 0),
        huge_pages=pages.reserved if pages is not None else 0,
        pressure=bool(_read("/proc/pressure/memory")),
        killers=tuple(name for name, state in zip(_KILLERS, states, strict=False) if state == "active"),
    )


def _has_gpu() -> bool:
    with suppress(OSError):
        for device in _PCI.iterdir():
            if _read(device / "vendor").strip() == _NVIDIA and _read(device / "class").startswith(_DISPLAY):
                return True
    return _KERNEL_VERSION.exists()


def _kernel() -> str:
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _read(_KERNEL_VERSION))
    return match[1] if match else ""


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
