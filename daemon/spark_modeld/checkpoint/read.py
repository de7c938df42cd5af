"""A checkpoint's path -> what it says of itself. Blocking, bounded: under 64 MiB and a second on whatever it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from spark_modeld.checkpoint.config import Config
from spark_modeld.checkpoint.files import Unreadable, names, size_of
from spark_modeld.checkpoint.gguf import Header, header
from spark_modeld.checkpoint.leftovers import leftovers
from spark_modeld.checkpoint.weights import folder_weights, siblings, unfinished
from spark_modeld.core.finding import Finding, error, warning
from spark_modeld.core.footprint import Architecture, Checkpoint, Format, Quantization, architecture

_TOKENIZERS = {
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
}
# GGUF's names of an architecture and its numbers, in config.json's words.
_GGUF_TYPES = {"gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "gpt-oss": "gpt_oss", "llama4": "llama4_text"}
_GGUF_TYPES |= {"qwen3next": "qwen3_next"}
_GGUF_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attention.chunk_size": "attention_chunk_size",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "full_attention_interval": "full_attention_interval",
    "ssm.state_size": "ssm_state_size",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "mamba_d_ssm",
    "ssm.group_count": "n_groups",
}
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 12: "Q3_K_M"}
_FILE_TYPES |= {14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16", 38: "MXFP4_MOE"}


def read(path: str | Path) -> Checkpoint:
    """What this folder or .gguf says of itself. Raises nothing: what is wrong with it is in ``findings``.

    Blocking: for a thread of its own.
    """
    where = Path(path)
    if where.suffix == ".gguf" and size_of(where) is not None:
        return _gguf(where)
    try:
        present = names(where)
    except Unreadable as failure:
        hint = "Correct `path` in the model's file, and see that the daemon's user may read it"
        return Checkpoint(path=str(path), findings=(error("path-unreadable", f"{path}: {failure}", hint),))
    models = [name for name in present if name.endswith(".gguf") and not name.startswith("mmproj")]
    if models and not any(name.endswith((".safetensors", ".bin")) for name in present):
        found = _gguf(where / models[0])
        parts = {part.name for part in siblings(where / models[0])}
        others = [name for name in models if name not in parts]
        return found if not others else _one_of(found, models)
    return _folder(where, present)


def _folder(folder: Path, present: list[str]) -> Checkpoint:
    weights = folder_weights(folder, present)
    config = Config(folder)
    # An index that names what is not there has said it already.
    unfinished_already = any(finding.code == "unfinished-download" for finding in weights.findings)
    left = () if unfinished_already else tuple(leftovers(folder, present))
    return Checkpoint(
        path=str(folder),
        format=weights.format,
        architecture=config.architecture,
        quantization=config.quantization,
        weight_bytes=weights.bytes,
        weight_source=weights.source,
        weight_files=weights.files,
        dtypes=weights.dtypes,
        tokenizer=any(
            (name in _TOKENIZERS or name.endswith(".tiktoken")) and size_of(folder / name) for name in present
        ),
        custom_code=config.custom_code,
        findings=(*weights.findings, *left, *config.findings),
    )


def _one_of(found: Checkpoint, models: list[str]) -> Checkpoint:
    message = f"{found.path} was read, one of {len(models)} GGUF models in its folder"
    extra = warning("several-models", message, "Let `path` name the .gguf itself")
    return replace(found, findings=(*found.findings, extra))


def _gguf(path: Path) -> Checkpoint:
    parts = siblings(path)
    sizes = [size_of(part) for part in parts]
    there = [size for size in sizes if size is not None]
    source = f"size of {path.name}" if len(parts) == 1 else f"sizes of the {len(parts)} parts of {path.name}"
    findings: list[Finding] = []
    if len(there) < len(parts):
        findings.append(unfinished(f"{len(parts) - len(there)} of {len(parts)} parts are not there"))
    built: Architecture | None = None
    quantization: Quantization | None = None
    tokenizer = False
    try:
        found = header(parts[0])
    except Unreadable as failure:
        findings.append(error("gguf-unreadable", f"{parts[0].name}: {failure}", "Fetch it again, or correct `path`"))
    else:
        if found.reaches > found.size and found.tensors:
            findings.append(unfinished(f"{parts[0].name} ends before its last tensor"))
        built = _gguf_architecture(found)
        tokenizer = any(name.startswith("tokenizer.ggml.") for name in (*found.values, *found.skipped))
        kind = found.values.get("general.file_type")
        form = _FILE_TYPES.get(kind, f"file type {kind}") if isinstance(kind, int) else None
        quantization = Quantization(method="gguf", format=form, source="GGUF general.file_type")
        if built is None:
            message = f"{parts[0].name} does not say how many layers and heads the model has"
            findings.append(warning("config-incomplete", message, 'Declare memory = "..." in the model\'s file'))
    return Checkpoint(
        path=str(path),
        format=Format.GGUF,
        architecture=built,
        quantization=quantization,
        weight_bytes=sum(there),
        weight_source=source,
        weight_files=len(there),
        tokenizer=tokenizer,
        findings=tuple(findings),
    )


def _gguf_architecture(found: Header) -> Architecture | None:
    name = found.values.get("general.architecture")
    if not isinstance(name, str):
        return None
    own = {key.removeprefix(f"{name}."): item for key, item in found.values.items() if key.startswith(f"{name}.")}
    values: dict[str, Any] = {"model_type": _GGUF_TYPES.get(name, name), "architectures": [name]}
    values |= {word: own[key] for key, word in _GGUF_KEYS.items() if key in own}
    if "attention.kv_lora_rank" in own and "attention.key_length_mla" in own:
        values |= {"kv_lora_rank": own["attention.kv_lora_rank"], "qk_rope_head_dim": own.get("rope.dimension_count")}
    heads = values.get("num_key_value_heads")
    if isinstance(heads, list) and heads and all(isinstance(item, int) for item in heads):
        # One number per layer, 0 where a layer has no attention.
        values["num_key_value_heads"] = max(heads)
        values["attn_layer_indices"] = [i for i, item in enumerate(heads) if item > 0]
    pattern = values.get("sliding_window_pattern")
    if isinstance(pattern, list):
        del values["sliding_window_pattern"]
        values["layer_types"] = ["sliding_attention" if item else "full_attention" for item in pattern]
    return architecture(values, source=f"GGUF {name}.*")
