"""A tiny genuine model as a Hugging Face folder: the weights of ``tiny_models``, a tokenizer of whole words."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from support.tiny_models import (
    CONTEXT,
    HEAD_WIDTH,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MODELS,
    WIDTH,
    Weights,
    sentence_of,
    tensors_of,
)

UNKNOWN, BEGIN, END, END_OF_TURN = "<unk>", "<s>", "</s>", "<|im_end|>"
TEMPLATE = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}


def tiny_folder(name: str) -> Path:
    """The folder of a model that says ``sentence_of(name)``. Written once and kept in build/models; all may read it."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = MODELS / f"{name}-folder-{version}"
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(unfinished, name)
        unfinished.rename(target)
    return target


def _write(folder: Path, name: str) -> None:
    words = sentence_of(name).split()
    tokens = [UNKNOWN, BEGIN, END, END_OF_TURN, *words]
    tokens += [f"[PAD{i}]" for i in range(-len(tokens) % 64)]
    chain = list(range(4, 4 + len(words)))
    documents = {
        "config.json": _config(len(tokens)),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": False},
        "tokenizer.json": _tokenizer(tokens),
        "tokenizer_config.json": _tokenizer_config(),
    }
    for file, document in documents.items():
        (folder / file).write_text(json.dumps(document))
    _write_safetensors(folder / "model.safetensors", tensors_of(len(tokens), chain, 3))


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 3,
    }


def _tokenizer(tokens: list[str]) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **plain} for i in range(4)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(tokens)}, "unk_token": UNKNOWN},
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "bos_token": BEGIN,
        "eos_token": END_OF_TURN,
        "pad_token": UNKNOWN,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def _write_safetensors(path: Path, weights: Weights) -> None:
    """The format: the header's length in 64 bits, the header as JSON, the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = bytearray()
    for name, tensor in weights.items():
        data = tensor.astype("<f4").tobytes()
        header[f"{_name(name)}.weight"] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)


def _name(gguf: str) -> str:
    if gguf in _WHOLE:
        return _WHOLE[gguf]
    _, block, part = gguf.split(".")
    return f"model.layers.{block}.{_PARTS[part]}"
