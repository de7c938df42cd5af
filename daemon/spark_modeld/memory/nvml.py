"""What NVML says: devices, their memory, and who uses it. Blocking, and for one thread only.

The only file that knows pynvml. It is imported when the driver's library is there, and only in NVML's own thread:
the import costs more than everything else the gauge does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

LIBRARY = "libnvidia-ml.so.1"
RETRY_SECONDS = 5.0


class Device(Struct, frozen=True):
    """One GPU. ``total`` and ``free`` are bytes, None where NVML does not support the question.

    ``has_bar1`` says that it has a memory window of its own on the PCI bus, which a GPU that shares the machine's
    memory does not.
    """

    name: str
    total: int | None
    free: int | None
    has_bar1: bool


class Survey(Struct, frozen=True):
    """One round of questions. ``usage`` is PID -> bytes, None where the driver does not know.

    ``trouble`` says in words what NVML could not do.
    """

    devices: tuple[Device, ...] = ()
    usage: Mapping[int, int | None] = field(default_factory=lambda: MappingProxyType({}))
    trouble: tuple[str, ...] = ()


class _Gpu(Struct, frozen=True):
    index: int
    handle: Any
    name: str
    has_bar1: bool


class Nvml:
    """NVML, opened when first asked and again, at a bounded rate, after it failed.

    ``monotonic`` gives seconds. A GPU that fails is left out until NVML was opened again; the others go on.
    """

    def __init__(self, monotonic: Callable[[], float], retry_seconds: float = RETRY_SECONDS) -> None:
        self._monotonic = monotonic
        self._retry_seconds = retry_seconds
        self._library: Any = None
        self._api: Any = None
        self._initialised = False
        self._gpus: list[_Gpu] = []
        self._trouble: list[str] = []
        self._seen_gpu = False
        self._open_at: float | None = 0.0

    def survey(self) -> Survey:
        """Asks every GPU. Errors of NVML come back as ``trouble``."""
        if self._open_at is not None and self._monotonic() >= self._open_at:
            self._open()
        devices: list[Device] = []
        usage: dict[int, int | None] = {}
        passing: list[str] = []
        for gpu in tuple(self._gpus):
            try:
                device = self._device(gpu)
                held = self._held(gpu, passing)
            except self._api.NVMLError as error:
                self._gpus.remove(gpu)
                self._fault(f"GPU {gpu.index} ({gpu.name}): {error}")
                continue
            devices.append(device)
            for pid, size in held.items():
                usage[pid] = _sum(usage[pid], size) if pid in usage else size
        return Survey(tuple(devices), usage, (*self._trouble, *passing))

    def close(self) -> None:
        """Shuts NVML down, if it was opened."""
        if self._initialised:
            self._initialised = False
            with suppress(self._api.NVMLError):
                self._api.nvmlShutdown()
        self._gpus = []

    def _open(self) -> None:
        self.close()
        self._trouble = []
        self._open_at = None
        if not self._load():
            return
        try:
            self._api.nvmlInit()
            self._initialised = True
            count = self._api.nvmlDeviceGetCount()
        except self._api.NVMLError as error:
            absent = error.value in {self._api.NVML_ERROR_DRIVER_NOT_LOADED, self._api.NVML_ERROR_LIBRARY_NOT_FOUND}
            self._fault(str(error), absent=absent)
            if error.value == self._api.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
                self._unload()
            return
        for index in range(count):
            try:
                self._gpus.append(self._find(index))
            except self._api.NVMLError as error:
                self._fault(f"GPU {index}: {error}")
        self._seen_gpu = self._seen_gpu or bool(self._gpus)
        if count == 0:
            self._fault("no GPU found", absent=True)

    def _load(self) -> bool:
        """Loads the driver's library, and pynvml once that worked."""
        import ctypes  # noqa: PLC0415 - see the module's docstring

        try:
            self._library = self._library or ctypes.CDLL(LIBRARY)
        except OSError as error:
            self._fault(str(error), absent="No such file" in str(error))
            return False
        import pynvml  # noqa: PLC0415

        self._api = pynvml
        return True

    def _unload(self) -> None:
        """Lets go of a library that is not the driver's: after an upgrade its file is another one, which may be."""
        import _ctypes  # noqa: PLC0415

        for library in (self._library, self._api.nvmlLib):
            if library is not None:
                _ctypes.dlclose(library._handle)
        self._library = self._api.nvmlLib = None
        self._api._nvmlGetFunctionPointer_cache.clear()

    def _fault(self, message: str, *, absent: bool = False) -> None:
        """Something failed: say so, and open NVML again later.

        A machine that never showed a GPU has none, which is no trouble; but it is asked again all the same, since the
        driver may come up after this daemon.
        """
        if self._seen_gpu or not absent:
            self._trouble.append(f"NVML: {message}")
        self._open_at = self._monotonic() + self._retry_seconds

    def _find(self, index: int) -> _Gpu:
        handle = self._api.nvmlDeviceGetHandleByIndex(index)
        name = self._api.nvmlDeviceGetName(handle)
        try:
            has_bar1 = self._api.nvmlDeviceGetBAR1MemoryInfo(handle).bar1Total > 0
        except self._api.NVMLError as error:
            if error.value not in self._unanswerable:
                raise
            has_bar1 = False
        return _Gpu(index, handle, name, has_bar1)

    def _device(self, gpu: _Gpu) -> Device:
        try:
            memory = self._api.nvmlDeviceGetMemoryInfo(gpu.handle)
        except self._api.NVMLError as error:
            if error.value not in self._unanswerable:
                raise
            return Device(gpu.name, None, None, gpu.has_bar1)
        return Device(gpu.name, int(memory.total), int(memory.free), gpu.has_bar1)

    def _held(self, gpu: _Gpu, passing: list[str]) -> dict[int, int | None]:
        """PID -> bytes on this GPU. A PID in both lists holds its memory once, so the larger number is the true one."""
        held: dict[int, int | None] = {}
        api = self._api
        for kind in (api.nvmlDeviceGetComputeRunningProcesses_v3, api.nvmlDeviceGetGraphicsRunningProcesses_v3):
            try:
                listed = self._list(kind, gpu)
            except api.NVMLError as error:
                if error.value not in self._unanswerable:
                    raise
                passing.append(f"NVML: GPU {gpu.index} ({gpu.name}) does not list all its processes: {error}")
                continue
            for process in listed:
                held[process.pid] = _larger(held.get(process.pid), process.usedGpuMemory)
        return held

    def _list(self, kind: Callable[[Any], list[Any]], gpu: _Gpu) -> list[Any]:
        try:
            return kind(gpu.handle)
        except self._api.NVMLError as error:
            if error.value != self._api.NVML_ERROR_INSUFFICIENT_SIZE:
                raise
        return kind(gpu.handle)  # processes came up between pynvml's two calls

    @property
    def _unanswerable(self) -> frozenset[int]:
        """Errors that say "not on this GPU, driver or account", and will go on saying it."""
        api = self._api
        return frozenset(
            {api.NVML_ERROR_NOT_SUPPORTED, api.NVML_ERROR_FUNCTION_NOT_FOUND, api.NVML_ERROR_NO_PERMISSION}
        )


def _larger(one: int | None, other: int | None) -> int | None:
    return max((size for size in (one, other) if size is not None), default=None)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
