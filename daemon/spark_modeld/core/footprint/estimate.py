"""What a model will need, in parts that each say where they come from.

vLLM takes a fraction of the total and SGLang a fraction of what is available when it starts, whatever the model needs:
there the fraction decides, and the KV cache is what the weights leave of it. Other engines take weights and cache as
they come.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.footprint.cache import CacheNeed, cache_need
from spark_modeld.core.footprint.checkpoint import Checkpoint
from spark_modeld.core.footprint.flags import Flags
from spark_modeld.core.model import Basis, EngineKind, Footprint

GIB = 1 << 30

SGLANG_FRACTION = 0.89
"""--mem-fraction-static when absent: SGLang keeps 0.5 GiB + 1.5 MiB per token of its prefill chunk (8192) + 2 MiB per
CUDA graph batch (256) free, which is 13 of a Spark's 121.7 GiB."""
VLLM_FRACTION = 0.9
"""--gpu-memory-utilization when absent, from vLLM's engine arguments."""
TRTLLM_FRACTION = 0.9
"""--kv_cache_free_gpu_memory_fraction when absent: of what is free once the weights are loaded."""
NIM_FRACTION = 0.9
"""NIM starts vLLM, SGLang or TensorRT-LLM by itself; each takes about this."""
_OVERHEADS: dict[EngineKind, int] = {
    EngineKind.SGLANG: 5 * GIB,
    EngineKind.VLLM: 3 * GIB,
    EngineKind.TRTLLM: 4 * GIB,
    EngineKind.NIM: 4 * GIB,
    EngineKind.LLAMA_SERVER: GIB,
    EngineKind.OLLAMA: GIB,
}
_OVERHEAD_OF_OTHERS = 3 * GIB
"""Allowances for what is in neither weights nor cache: the engine's host processes and CUDA context (2-3 GiB for the
Python engines), and activations and CUDA graphs where the fraction does not cover them (SGLang's is static only)."""


class PartName(StrEnum):
    """What memory is taken for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    OVERHEAD = "overhead"
    SHARED_MEMORY = "shared_memory"


class Part(Struct, frozen=True):
    """Bytes of one kind, and the file, flag or constant the number is from."""

    name: PartName
    bytes: int
    source: str


class Estimate(Struct, frozen=True, kw_only=True):
    """``cache`` is what one full context needs (None: nobody can say), ``pool`` what the engine will set aside for it.

    ``complete`` is False when weights or cache are unknown and no fraction decides, or an engine that takes a fraction
    was started with flags that are not seen: ``total`` is then a guess.
    ``context`` is in tokens. ``fraction`` is the bytes the engine's fraction allows, weights included.
    """

    parts: tuple[Part, ...]
    context: int | None = None
    cache: CacheNeed | None = None
    pool: int | None = None
    fraction: int | None = None
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All parts, in bytes."""
        return sum(part.bytes for part in self.parts)

    def part(self, name: PartName) -> Part | None:
        """One part, None if it is unknown."""
        return next((part for part in self.parts if part.name is name), None)

    @property
    def footprint(self) -> Footprint:
        """As admission takes it."""
        return Footprint(self.total, Basis.ESTIMATED) if self.complete else Footprint(0, Basis.UNKNOWN)


def estimate(
    engine: EngineKind,
    checkpoint: Checkpoint | None,
    flags: Flags,
    *,
    total: int,
    available: int | None = None,
    context: int | None = None,
) -> Estimate:
    """What this model will take.

    ``total`` is the machine's memory; ``available`` what will be when the engine starts (after what leaves has left),
    ``total`` if unknown. ``context`` is the catalog's own, which wins over the flags.
    """
    tp = flags.tensor_parallel or 1
    weights = _weights(checkpoint, tp)
    cache = cache_need(engine, checkpoint, flags, context)
    reserved, decided, notes = _reserve(
        engine, flags, weights, cache, _Memory(total, total if available is None else available)
    )
    parts = [part for part in (weights, reserved) if part is not None]
    overhead = _OVERHEADS.get(engine, _OVERHEAD_OF_OTHERS)
    parts.append(
        Part(PartName.OVERHEAD, overhead, f"allowance for {engine}: host processes, CUDA context, activations")
    )
    if flags.shm_bytes:
        parts.append(Part(PartName.SHARED_MEMORY, flags.shm_bytes, flags.said.get("shm_bytes", "--shm-size")))
        notes.append("shared memory is counted in full: it is taken from the same pool, but only as it is used")
    if tp > 1:
        notes.append(f"{flags.said.get('tensor_parallel', '')}: 1/{tp} of the weights is here, and of the cache")
    return Estimate(
        parts=tuple(parts),
        context=cache.context if cache else None,
        cache=cache,
        pool=reserved.bytes if reserved is not None and decided is not None else None,
        fraction=decided,
        complete=_decides(engine, flags) and (decided is not None or (weights is not None and reserved is not None)),
        notes=(*notes, *(cache.notes if cache else ())),
    )


def _decides(engine: EngineKind, flags: Flags) -> bool:
    """Whether the flags are seen; where they are not, a fraction may have been set that is not the default."""
    return flags.known or engine not in _POOLS or flags.fraction is not None or flags.kv_cache_bytes is not None


def _weights(checkpoint: Checkpoint | None, tp: int) -> Part | None:
    if checkpoint is None or not checkpoint.weight_bytes:
        return None
    share = f", 1/{tp} of it" if tp > 1 else ""
    return Part(PartName.WEIGHTS, -(-checkpoint.weight_bytes // tp), checkpoint.weight_source + share)


class _Memory(Struct, frozen=True):
    total: int
    available: int


_Reserved = tuple[Part | None, int | None, list[str]]


def _reserve(
    engine: EngineKind, flags: Flags, weights: Part | None, cache: CacheNeed | None, memory: _Memory
) -> _Reserved:
    """The KV cache's part, and the bytes the fraction allows when it is the fraction that decides."""
    weight_bytes = weights.bytes if weights else 0
    if flags.kv_cache_bytes:
        part = Part(PartName.KV_CACHE, flags.kv_cache_bytes, flags.said["kv_cache_bytes"])
        return part, weight_bytes + flags.kv_cache_bytes, []
    if engine not in _POOLS:
        return (Part(PartName.KV_CACHE, cache.bytes, cache.source) if cache else None), None, []
    flag, default, base_of = _POOLS[engine]
    fraction = default if flags.fraction is None else flags.fraction
    words, base, outside = base_of(memory, weight_bytes)
    decided = int(fraction * base) + outside
    said = flags.said.get("fraction") if flags.fraction is not None else f"{flag} {default} (the engine's default)"
    source = f"{said} of {words}" + (", less the weights" if not outside else "")
    notes = []
    if decided < weight_bytes:
        notes.append(f"{said} allows less than the weights take")
    pool = max(0, decided - weight_bytes)
    if flags.max_tokens and cache is not None and cache.per_token * flags.max_tokens < pool:
        pool = cache.per_token * flags.max_tokens
        return Part(PartName.KV_CACHE, pool, flags.said["max_tokens"]), weight_bytes + pool, notes
    return Part(PartName.KV_CACHE, pool, source), decided, notes


_Base = Callable[[_Memory, int], tuple[str, int, int]]


def _of_total(memory: _Memory, _weights: int) -> tuple[str, int, int]:
    return f"{memory.total / GIB:.1f} GiB in all", memory.total, 0


def _of_available(memory: _Memory, _weights: int) -> tuple[str, int, int]:
    return f"{memory.available / GIB:.1f} GiB available at the start", memory.available, 0


def _of_rest(memory: _Memory, weights: int) -> tuple[str, int, int]:
    rest = max(0, memory.available - weights)
    return f"{rest / GIB:.1f} GiB available once the weights are loaded", rest, weights


_POOLS: dict[EngineKind, tuple[str, float, _Base]] = {
    EngineKind.SGLANG: ("--mem-fraction-static", SGLANG_FRACTION, _of_available),
    EngineKind.VLLM: ("--gpu-memory-utilization", VLLM_FRACTION, _of_total),
    EngineKind.TRTLLM: ("--kv_cache_free_gpu_memory_fraction", TRTLLM_FRACTION, _of_rest),
    EngineKind.NIM: ("its own share", NIM_FRACTION, _of_total),
}
