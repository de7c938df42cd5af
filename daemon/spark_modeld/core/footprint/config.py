"""``config.json`` (or a GGUF header in its words) -> which layers cache what.

Elements per token and layer: full attention ``kv_heads x (head_k + head_v)``; MLA ``kv_lora_rank + qk_rope_head_dim``,
once, because keys and values share it; a sliding window caps the tokens; recurrent layers keep a state per sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from spark_modeld.core.footprint.checkpoint import Architecture, CacheKind, Layers
from spark_modeld.core.footprint.recurrent import state_bytes

MOST_LAYERS = 4096
_MOST = 1 << 31

# Models whose config.json may leave the pattern to the code: every n-th layer is full, the others slide.
_FULL_EVERY = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n": 5,
    "gemma3n_text": 5,
    "gpt_oss": 2,
    "cohere2": 4,
    "llama4": 4,
    "llama4_text": 4,
    "qwen3_next": 4,
}
# What their code assumes where config.json is silent (the published Gemma 3 files are).
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "head_dim": 256,
        "num_key_value_heads": 4,
    },
    "gemma2": {"sliding_window": 4096, "max_position_embeddings": 8192},
    "llama4_text": {"attention_chunk_size": 8192},
}
_SLIDING = {"sliding_attention", "chunked_attention", "sliding_window", "local", "swa"}
_STATE = {"linear_attention", "mamba", "mamba2", "recurrent", "conv", "m"}
_FULL = {"full_attention", "attention", "global", "*", "full"}


class Facts:
    """Typed access to a mapping nobody vouches for: a value that is no plausible number is as good as absent."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._defaults = _DEFAULTS.get(self.text("model_type") or "", {})

    def number(self, *keys: str) -> int | None:
        """The first of these keys that holds a positive number below 2^31."""
        for key in keys:
            value = self._values.get(key, self._defaults.get(key))
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST:
                return value
        return None

    def text(self, key: str) -> str | None:
        """A string of at most 128 characters."""
        value = self._values.get(key)
        return value if isinstance(value, str) and 0 < len(value) <= 128 else None

    def items(self, key: str) -> list[Any] | None:
        """A list of at most as many items as a model can have layers."""
        value = self._values.get(key)
        return value if isinstance(value, list) and 0 < len(value) <= MOST_LAYERS else None

    def flag(self, key: str) -> bool | None:
        """A boolean."""
        value = self._values.get(key)
        return value if isinstance(value, bool) else None


def architecture(values: Mapping[str, Any], *, source: str) -> Architecture | None:
    """What caches in this model; None when the keys do not say how many layers or heads it has."""
    facts = Facts(values)
    count = facts.number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if count is None or count > MOST_LAYERS:
        return None
    kinds, notes = _kinds(facts, count)
    attention = _attention(facts)
    if attention is None and set(kinds) & {CacheKind.FULL, CacheKind.SLIDING}:
        return None
    named = facts.items("architectures")
    name = named[0] if named and isinstance(named[0], str) else facts.text("model_type")
    return Architecture(
        name=(name or "unknown")[:128],
        layers=tuple(_group(facts, kind, n, attention) for kind, n in sorted(Counter(kinds).items())),
        context=facts.number(
            "max_position_embeddings", "max_sequence_length", "n_positions", "seq_length", "max_seq_len"
        ),
        dtype=facts.text("dtype") or facts.text("torch_dtype"),
        source=source,
        notes=notes,
    )


def _group(facts: Facts, kind: CacheKind, count: int, attention: Layers | None) -> Layers:
    if kind is CacheKind.STATE or attention is None:
        return Layers(kind=CacheKind.STATE, count=count, state_bytes=state_bytes(facts.number))
    if kind is CacheKind.SLIDING:
        return replace(attention, kind=kind, count=count, window=_window(facts))
    wide = facts.number("global_head_dim")
    if wide is not None:
        heads = facts.number("num_global_key_value_heads") or attention.heads
        return replace(attention, count=count, key=heads * wide, value=heads * wide, heads=heads)
    return replace(attention, count=count)


def _attention(facts: Facts) -> Layers | None:
    rank = facts.number("kv_lora_rank")
    if rank is not None:
        index = facts.number("index_head_dim")
        # DeepSeek-V3.2's indexer keeps a key in fp8 and a scale in float32 per 128 of it, whatever the cache's dtype.
        extra = 0 if index is None else index + 4 * -(-index // 128)
        return Layers(
            kind=CacheKind.MLA, count=0, key=rank + (facts.number("qk_rope_head_dim") or 0), extra_bytes=extra
        )
    heads = facts.number("num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads = facts.number("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num") or heads
    if facts.flag("multi_query"):
        kv_heads = 1
    hidden = facts.number("hidden_size", "n_embd", "d_model")
    key = facts.number("head_dim", "attention_head_dim", "kv_channels") or (
        hidden // heads if hidden and heads else None
    )
    if kv_heads is None or not key:
        return None
    value = facts.number("v_head_dim") or key
    return Layers(kind=CacheKind.FULL, count=0, key=kv_heads * key, value=kv_heads * value, heads=kv_heads)


def _window(facts: Facts) -> int | None:
    return facts.number("sliding_window", "attention_chunk_size", "sliding_window_size")


def _kinds(facts: Facts, count: int) -> tuple[list[CacheKind], tuple[str, ...]]:
    """One kind per layer that caches anything, and what was assumed on the way."""
    kinds, note = (
        _by_list(facts, count) or _by_pattern(facts, count) or _by_period(facts, count) or _uniform(facts, count)
    )
    if facts.number("kv_lora_rank") is not None:
        kinds = [CacheKind.MLA if kind is CacheKind.FULL else kind for kind in kinds]
    shared = facts.number("num_kv_shared_layers") or 0
    kinds = kinds[: max(1, len(kinds) - shared)] if shared else kinds
    if _window(facts) is None:
        kinds = [CacheKind.FULL if kind is CacheKind.SLIDING else kind for kind in kinds]
    return kinds, (note,) if note else ()


_Found = tuple[list[CacheKind], str]


def _by_list(facts: Facts, count: int) -> _Found | None:
    named = facts.items("layer_types") or facts.items("layers_block_type")
    if named is None or len(named) != count:
        return None
    return _read([str(item).lower() for item in named])


def _by_pattern(facts: Facts, count: int) -> _Found | None:
    pattern = facts.text("hybrid_override_pattern")
    return _read(list(pattern.lower())) if pattern is not None and len(pattern) == count else None


def _read(names: list[str]) -> _Found:
    kinds: list[CacheKind] = []
    unknown: set[str] = set()
    for name in names:
        if name in _SLIDING:
            kinds.append(CacheKind.SLIDING)
        elif name in _STATE:
            kinds.append(CacheKind.STATE)
        elif name in _FULL or name not in {"-", "e", "mlp", "moe"}:
            kinds.append(CacheKind.FULL)
            unknown |= {name} - _FULL
    # Full attention is the dearest kind: what nobody knows is counted as that.
    note = f"layers of unknown kind {', '.join(sorted(unknown))[:200]} counted as full attention" if unknown else ""
    return kinds, note


def _by_period(facts: Facts, count: int) -> _Found | None:
    """Hybrids and mixed windows that give a period: Qwen3-Next, Jamba, Gemma, Llama 4."""
    attention = facts.items("attn_layer_indices")
    if attention is not None:
        return [CacheKind.FULL if i in attention else CacheKind.STATE for i in range(count)], ""
    period = facts.number("full_attention_interval")
    if period is not None:
        return _every(period, count, CacheKind.STATE), ""
    period = facts.number("attn_layer_period")
    if period is not None:
        offset = facts.number("attn_layer_offset") or 0
        return [CacheKind.FULL if i % period == offset % period else CacheKind.STATE for i in range(count)], ""
    kind = facts.text("model_type") or ""
    period = facts.number("sliding_window_pattern", "no_rope_layer_interval", "_sliding_window_pattern")
    if period is not None:
        return _every(period, count, CacheKind.SLIDING), ""
    if kind in _FULL_EVERY:
        other = CacheKind.STATE if kind == "qwen3_next" else CacheKind.SLIDING
        return _every(_FULL_EVERY[kind], count, other), f"one layer in {_FULL_EVERY[kind]} full, as {kind} has it"
    return None


def _every(period: int, count: int, other: CacheKind) -> list[CacheKind]:
    return [CacheKind.FULL if (i + 1) % period == 0 else other for i in range(count)]


def _uniform(facts: Facts, count: int) -> _Found:
    if _attention(facts) is None and facts.number("state_size", "ssm_state_size", "mamba_d_state") is not None:
        return [CacheKind.STATE] * count, ""
    if facts.number("sliding_window") is None or facts.flag("use_sliding_window") is False:
        return [CacheKind.FULL] * count, ""
    # Qwen2: only layers from max_window_layers on slide; Mistral and Phi-3: all do.
    first = facts.number("max_window_layers") or 0 if facts.flag("use_sliding_window") else 0
    return [CacheKind.SLIDING if i >= first else CacheKind.FULL for i in range(count)], ""
