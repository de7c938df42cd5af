"""config.json and hf_quant_config.json -> architecture, quantization, custom code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spark_modeld.checkpoint.documents import members, small, value
from spark_modeld.checkpoint.files import Unreadable, content, size_of
from spark_modeld.core.finding import Finding, error, warning
from spark_modeld.core.footprint import Architecture, Quantization, architecture

MOST_BYTES = 8 << 20
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_DEPTH = 3
# fmt: off
_KEYS = (
    "architectures", "model_type", "num_hidden_layers", "n_layer", "n_layers", "num_layers",
    "num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "n_head_kv", "num_kv_heads",
    "multi_query_group_num", "multi_query", "head_dim", "attention_head_dim", "kv_channels", "v_head_dim",
    "hidden_size", "n_embd", "d_model", "kv_lora_rank", "qk_rope_head_dim", "index_head_dim", "global_head_dim",
    "num_global_key_value_heads", "num_kv_shared_layers", "max_position_embeddings", "max_sequence_length",
    "n_positions", "seq_length", "max_seq_len", "dtype", "torch_dtype", "layer_types", "layers_block_type",
    "hybrid_override_pattern", "attn_layer_indices", "attn_layer_period", "attn_layer_offset",
    "full_attention_interval", "sliding_window_pattern", "_sliding_window_pattern", "no_rope_layer_interval",
    "sliding_window", "sliding_window_size", "attention_chunk_size", "use_sliding_window", "max_window_layers",
    "linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim",
    "linear_conv_kernel_dim", "ssm_state_size", "mamba_d_state", "state_size", "mamba_state_dim",
    "mamba_num_heads", "mamba_n_heads", "mamba_head_dim", "mamba_d_head", "mamba_expand", "expand",
    "mamba_d_ssm", "n_groups", "mamba_n_groups", "conv_kernel", "mamba_d_conv", "conv_L_cache", "auto_map",
)
# fmt: on
_QUANTIZATION = ("quant_method", "quant_algo", "format", "fmt", "bits", "kv_cache_quant_algo", "kv_cache_scheme")


class Config:
    """What the configuration files of one folder say."""

    def __init__(self, folder: Path) -> None:
        self.architecture: Architecture | None = None
        self.quantization: Quantization | None = None
        self.custom_code: str | None = None
        self.findings: list[Finding] = []
        try:
            self._read(content(folder / "config.json", MOST_BYTES))
        except Unreadable as failure:
            self.findings.append(_unreadable("config", "config.json", failure))
        if self.quantization is None and size_of(folder / "hf_quant_config.json") is not None:
            try:
                self.quantization = _modelopt(content(folder / "hf_quant_config.json", MOST_BYTES))
            except Unreadable as failure:
                self.findings.append(_unreadable("quantization", "hf_quant_config.json", failure))

    def _read(self, data: bytes) -> None:
        values, where = _resolve(data)
        self.architecture = architecture(values, source="config.json" + where)
        if self.architecture is None:
            self.findings.append(
                warning(
                    "config-incomplete",
                    "config.json does not say how many layers and heads the model has, so its KV cache is not known",
                    'Declare memory = "..." in the model\'s file',
                )
            )
        code = values.get("auto_map")
        if isinstance(code, dict) and code:
            self.custom_code = next((v[:128] for v in code.values() if isinstance(v, str)), "custom code")
        self.quantization = _quantization(data, where)


def _unreadable(code: str, name: str, failure: Unreadable) -> Finding:
    return error(f"{code}-unreadable", f"{name}: {failure}", "Fetch the checkpoint again, or correct `path`")


def _resolve(data: bytes | memoryview) -> tuple[dict[str, Any], str]:
    """All keys, those of the language model over those around it, and where these were found."""
    values: dict[str, Any] = {}
    where = ""
    for _ in range(_DEPTH):
        raw = members(data, (*_KEYS, *_NESTED))
        nested = [(key, raw.pop(key)) for key in _NESTED if key in raw]
        outer = values.get("architectures")
        values |= {key: found for key, found in small(raw).items() if found is not None}
        if outer is not None:
            values["architectures"] = outer
        inside = next(((key, view) for key, view in nested if _is_object(view)), None)
        if inside is None:
            break
        where, data = f"{where} {inside[0]}", inside[1]
    return values, where


def _quantization(data: bytes, where: str) -> Quantization | None:
    view: bytes | memoryview = data
    for key in ("", *where.split()):
        view = members(view, (key,))[key] if key else view
        for name in ("quantization_config", "compression_config"):
            section = members(view, (name,)).get(name)
            if section is not None and _is_object(section):
                source = f"config.json {key + '.' if key else ''}{name}"
                return _read_section(section, source)
    return None


def _read_section(section: memoryview, source: str) -> Quantization | None:
    raw = members(section, _QUANTIZATION)
    scheme = raw.pop("kv_cache_scheme", None)
    said = small(raw)
    method = _text(said, "quant_method")
    algorithm = _text(said, "quant_algo")
    if method is None and algorithm is None:
        return None
    form = algorithm or _text(said, "format") or _text(said, "fmt")
    bits = said.get("bits")
    if form is None and isinstance(bits, int) and 0 < bits <= 64:
        form = f"{bits} bits"
    cached = _text(said, "kv_cache_quant_algo")
    if cached is None and scheme is not None and _bits(scheme) == 8:
        cached = "fp8"
    return Quantization(
        method=(method or "modelopt").lower(), format=form, kv_cache=cached, source=f"{source}.quant_method"
    )


def _bits(scheme: memoryview) -> int | None:
    """The bits of a kv_cache_scheme, None where it names none."""
    if not _is_object(scheme):
        return None
    bits = small(members(scheme, ("num_bits",))).get("num_bits")
    return bits if isinstance(bits, int) else None


def _modelopt(data: bytes) -> Quantization | None:
    section = members(data, ("quantization",)).get("quantization")
    if section is None or not _is_object(section):
        return None
    said = {key: value(view) for key, view in members(section, ("quant_algo", "kv_cache_quant_algo")).items()}
    algorithm, cached = _text(said, "quant_algo"), _text(said, "kv_cache_quant_algo")
    if algorithm is None and cached is None:
        return None
    return Quantization(
        method="modelopt",
        format=algorithm,
        kv_cache=cached,
        source="hf_quant_config.json quantization.quant_algo",
    )


def _is_object(view: memoryview) -> bool:
    return bytes(view[:1]) == b"{"


def _text(said: Mapping[str, Any], key: str) -> str | None:
    found = said.get(key)
    return found if isinstance(found, str) and 0 < len(found) <= 128 else None
