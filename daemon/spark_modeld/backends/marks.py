"""What changes while an engine generates, read out of what it says about itself."""

from __future__ import annotations

import hashlib

_MOVING = frozenset(
    {
        # vLLM and, without a prefix, NIM. The use of the KV cache moves through a long prefill, which no counter does.
        "generation_tokens_total",
        "prompt_tokens_total",
        "request_success_total",
        "kv_cache_usage_perc",
        "gpu_cache_usage_perc",
        # SGLang
        "token_usage",
        "num_used_tokens",
        # llama-server
        "tokens_predicted_total",
        "n_decode_total",
    }
)


def prometheus(body: bytes) -> str | None:
    """The counters of an engine's Prometheus text that move as it generates; None if it has none of them."""
    found = []
    for line in body.decode("utf-8", "replace").splitlines():
        if line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0].rpartition(":")[2] in _MOVING:
            found.append(f"{series} {value}")
    return "\n".join(found) or None


def slots(body: bytes) -> str | None:
    """llama-server's slots: tokens processed and decoded are among what it tells of each."""
    return hashlib.sha256(body).hexdigest() if body.lstrip().startswith(b"[") else None
