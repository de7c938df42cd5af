"""Asks the NVIDIA driver's library a few questions and prints JSON. A process of its own: the library may hang.

Runs alone, without the package. NVML's codes: 3 not supported, 9 no driver, 18 library and driver differ.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_LENGTH = 96


def _text(library: Any, function: str, *arguments: Any) -> str:
    buffer = ctypes.create_string_buffer(_LENGTH)
    if _code(library, function, *arguments, buffer, ctypes.c_uint(_LENGTH)) != 0:
        return ""
    return buffer.value.decode(errors="replace")


def _code(library: Any, function: str, *arguments: Any) -> int:
    try:
        return int(getattr(library, function)(*arguments))
    except AttributeError:  # an older library, or one that is not NVIDIA's
        return 13


def _flag(library: Any, function: str, device: Any, *more: Any) -> bool | None:
    value = ctypes.c_uint()
    return bool(value.value) if _code(library, function, device, ctypes.byref(value), *more) == 0 else None


def main() -> None:
    """Prints what was answered."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        print(json.dumps({"library": "No such file" not in str(error), "message": str(error)}))
        return
    code = _code(library, "nvmlInitWithFlags", ctypes.c_uint(0))
    found: dict[str, Any] = {"library": True, "code": code, "gpus": []}
    if code != 0:
        library.nvmlErrorString.restype = ctypes.c_char_p
        found["message"] = library.nvmlErrorString(code).decode(errors="replace")
    else:
        found["driver"] = _text(library, "nvmlSystemGetDriverVersion")
        count = ctypes.c_uint()
        _code(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            device = ctypes.c_void_p()
            if _code(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device)) == 0:
                found["gpus"].append(_text(library, "nvmlDeviceGetName", device))
                found["persistence"] = _flag(library, "nvmlDeviceGetPersistenceMode", device)
                found["mig"] = _flag(library, "nvmlDeviceGetMigMode", device, ctypes.byref(ctypes.c_uint()))
    print(json.dumps(found))
    sys.stdout.flush()
    # Neither nvmlShutdown nor what the library does at a process' end: they may hang where the questions did not.
    os._exit(0)


if __name__ == "__main__":
    main()
