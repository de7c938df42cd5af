"""How much an element of a cache takes."""

from __future__ import annotations

# Bytes per 32 elements, so that block formats stay whole numbers; llama.cpp's blocks are 32 elements and their scales.
_PER_32 = {
    "float32": 128,
    "f32": 128,
    "bfloat16": 64,
    "float16": 64,
    "bf16": 64,
    "f16": 64,
    "half": 64,
    "fp8": 32,
    "int8": 32,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
    "nvfp4": 18,
    "fp4": 18,
}


def known(dtype: str) -> str | None:
    """The dtype's family ("fp8" for "fp8_e4m3" and "turboquant"s unknown: None)."""
    name = dtype.lower().removeprefix("torch.")
    if name in _PER_32:
        return name
    return next((family for family in ("fp8", "nvfp4", "fp4") if name.startswith(family)), None)


def size_of(elements: int, dtype: str) -> int:
    """Bytes of this many elements of a known dtype, rounded up to whole bytes."""
    return -(-elements * _PER_32[dtype] // 32)
