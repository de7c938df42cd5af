"""Which of its three shapes the gauge has, and what it shows in each. Pure."""

from __future__ import annotations

from msgspec import Struct

from spark_modeld.core.reading import MemorySource
from spark_modeld.memory.meminfo import MemInfo, gib
from spark_modeld.memory.nvml import Device

_SHIM_TOLERANCE = 0.05


class Pool(Struct, frozen=True):
    """The memory that models are admitted to, in bytes."""

    source: MemorySource
    total: int
    available: int
    gpu: str | None = None
    notes: tuple[str, ...] = ()


def shares_memory(device: Device, system_total: int) -> bool:
    """Whether this GPU has no memory but the machine's.

    GB10's driver does not support the question for its memory. A shim library that is in use there answers with the
    machine's own total; a GPU that merely happens to be as large as the machine has a BAR1 window, GB10 has none.
    """
    if device.total is None:
        return True
    return not device.has_bar1 and abs(device.total - system_total) <= _SHIM_TOLERANCE * system_total


def pool_of(devices: tuple[Device, ...], kernel: MemInfo) -> Pool:
    """The pool that these devices and the kernel's numbers make."""
    names = ", ".join(device.name for device in devices) or None
    shared = [device for device in devices if shares_memory(device, kernel.total)]
    own = [device for device in devices if device not in shared]
    if not devices:
        return Pool(MemorySource.HOST, kernel.total, kernel.available, notes=kernel.notes)
    if shared:
        ignored = tuple(f"the memory of {device.name} is not counted: {_holds(device)}" for device in own)
        return Pool(MemorySource.UNIFIED, kernel.total, kernel.available, names, (*kernel.notes, *ignored))
    total, free = sum(device.total or 0 for device in own), sum(device.free or 0 for device in own)
    summed = "the memory is the sum of several GPUs: " + ", ".join(f"{d.name} {_holds(d)}" for d in own)
    return Pool(MemorySource.DISCRETE, total, free, names, (summed,) if len(own) > 1 else ())


def _holds(device: Device) -> str:
    return f"{gib(device.free or 0)} free of {gib(device.total or 0)}"
