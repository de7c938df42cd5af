"""How much cache one full context takes, layer kind by layer kind."""

from __future__ import annotations

from msgspec import Struct

from spark_modeld.core.footprint.checkpoint import CacheKind, Checkpoint, Layers
from spark_modeld.core.footprint.dtypes import known, size_of
from spark_modeld.core.footprint.flags import Flags
from spark_modeld.core.model import EngineKind

SLOTS = 4
"""llama-server's -np where it chooses by itself."""
BATCH = 512
"""llama.cpp keeps this many tokens (its -ub) besides each window."""
MOST_BYTES = 1 << 53


class CacheNeed(Struct, frozen=True, kw_only=True):
    """``bytes`` for ``context`` tokens; ``per_token``: each further one, in the layers that keep all of them."""

    bytes: int
    per_token: int
    context: int
    source: str
    notes: tuple[str, ...] = ()


def cache_need(
    engine: EngineKind, checkpoint: Checkpoint | None, flags: Flags, context: int | None
) -> CacheNeed | None:
    """What one full context needs; None when architecture or context are unknown.

    llama-server divides its context among its slots, so ``-np`` costs windows and recurrent states, never full caches.
    """
    architecture = checkpoint.architecture if checkpoint else None
    if checkpoint is None or architecture is None:
        return None
    tokens, context_source = _context(flags, architecture.context, context)
    if tokens is None:
        return None
    llama = engine in {EngineKind.LLAMA_SERVER, EngineKind.OLLAMA}
    key_type, value_type, dtype_source, note = _dtypes(checkpoint, flags, llama=llama)
    tp = flags.tensor_parallel or 1
    sequences = (flags.sequences or SLOTS) if llama else 1
    needed = per_token = 0
    for layers in architecture.layers:
        one = layers.count * (
            _split(size_of(layers.key, key_type) + size_of(layers.value, value_type), layers, tp) + layers.extra_bytes
        )
        kept = tokens
        if layers.kind is CacheKind.SLIDING and layers.window is not None and not flags.full_window:
            batch = BATCH if llama else 0
            kept = min(tokens, sequences * (layers.window + batch))
        else:
            per_token += one
        needed += one * kept + sequences * layers.count * layers.state_bytes
    if needed >= MOST_BYTES:
        return None
    kinds = _words(architecture.layers)
    return CacheNeed(
        bytes=needed,
        per_token=per_token,
        context=tokens,
        source=f"{architecture.source}: {kinds}; {tokens} tokens ({context_source}), {dtype_source}",
        notes=(*architecture.notes, *note),
    )


def _context(flags: Flags, longest: int | None, declared: int | None) -> tuple[int | None, str]:
    if declared is not None:
        return declared, "context in the catalog"
    if flags.context is not None:
        return flags.context, flags.said.get("context", "launch flags")
    return longest, "the checkpoint's longest"


def _dtypes(checkpoint: Checkpoint, flags: Flags, *, llama: bool) -> tuple[str, str, str, tuple[str, ...]]:
    asked = flags.kv_dtype
    if asked is not None and asked.lower() != "auto":
        key = known(asked)
        value = known(flags.value_dtype or asked) if not llama else known(flags.value_dtype or "f16")
        if key is not None and value is not None:
            return key, value, flags.said.get("kv_dtype", asked), ()
        return (
            "f16",
            "f16",
            "2 bytes an element",
            (f"{asked} is no cache dtype known here: counted as 2 bytes an element",),
        )
    if llama:
        value = known(flags.value_dtype or "f16") or "f16"
        return "f16", value, "f16, llama.cpp's default", ()
    quantization = checkpoint.quantization
    if quantization is not None and quantization.kv_cache is not None:
        stored = known(quantization.kv_cache)
        if stored is not None:
            return stored, stored, f"{stored} ({quantization.source})", ()
    dtype = checkpoint.architecture.dtype if checkpoint.architecture else None
    # Engines load float32 checkpoints in half precision, and what is quantized computes in it.
    return (
        "bf16",
        "bf16",
        f"{dtype or 'bfloat16'}, 2 bytes an element" if dtype != "float32" else "2 bytes an element",
        (),
    )


def _split(size: int, layers: Layers, tp: int) -> int:
    """A rank's share: whole heads, and every rank keeps at least one."""
    if layers.heads <= 1 or tp <= 1:
        return size
    return size * max(1, -(-layers.heads // tp)) // layers.heads


def _words(layers: tuple[Layers, ...]) -> str:
    return ", ".join(
        f"{group.count} x {group.kind}" + (f" of {group.window}" if group.window else "") for group in layers
    )
