"""Published checkpoints, as far as the estimate reads them: config.json's own values, and weights all holes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

QWEN3_32B: Json = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "model_type": "qwen3",
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA_4_SCOUT: Json = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "model_type": "llama4",
    "text_config": {
        "attention_chunk_size": 8192,
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "interleave_moe_layer_step": 1,
        "max_position_embeddings": 10485760,
        "model_type": "llama4_text",
        "no_rope_layers": [],
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "torch_dtype": "bfloat16",
        "vocab_size": 202048,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1408, "num_attention_heads": 16, "num_hidden_layers": 34},
}
DISTILL_LLAMA_8B: Json = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
LLAMA_3_3_70B: Json = DISTILL_LLAMA_8B | {
    "head_dim": 128,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
GPT_OSS_120B: Json = {
    "architectures": ["GptOssForCausalLM"],
    "head_dim": 64,
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "sliding_window": 128,
    "vocab_size": 201088,
}
DEEPSEEK_V3: Json = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "hidden_size": 7168,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
GEMMA_3_27B: Json = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "image_token_index": 262144,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27},
}
QWEN3_NEXT_80B: Json = {
    "architectures": ["Qwen3NextForCausalLM"],
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "model_type": "qwen3_next",
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
NVFP4: Json = {
    "producer": {"name": "modelopt", "version": "0.31.0"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    },
}


@dataclass(frozen=True)
class Published:
    """One checkpoint as it is published: its configuration, and the size of its weights in bytes."""

    config: Json
    weights: int
    shards: int
    extra: Json = field(default_factory=dict)

    def put(self, folder: Path) -> Path:
        """Writes the folder: headers, an index, and holes for the rest."""
        return write(folder, self.config, self.weights, self.shards, self.extra)


def write(folder: Path, config: Json, weights: int, shards: int, extra: Json | None = None) -> Path:
    """A folder whose shards have ``weights`` bytes together; ``extra`` are further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": config, "tokenizer.json": {}, **(extra or {})}.items():
        (folder / name).write_text(json.dumps(content))
    names = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
    for i, name in enumerate(names):
        shard(folder / name, weights // shards + (weights % shards if i == 0 else 0))
    # The index's own total is stale on purpose: nothing may believe it.
    index = {"metadata": {"total_size": 1}, "weight_map": {f"model.layers.{i}.w": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def shard(path: Path, size: int, dtype: str = "BF16") -> None:
    """One safetensors file of this size: a true header, and a hole."""
    data = size
    for _ in range(3):
        entry = {"model.w": {"dtype": dtype, "shape": [data // 2], "data_offsets": [0, data]}}
        header = json.dumps({"__metadata__": {"format": "pt"}, **entry}).encode()
        header += b" " * (-len(header) % 8)
        data = size - 8 - len(header)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(size)


CASES: dict[str, Published] = {
    "Qwen3-32B": Published(QWEN3_32B, 65_524_246_528, 17),
    "Qwen3-32B-NVFP4": Published(QWEN3_32B, 20_300_000_000, 5, {"hf_quant_config.json": NVFP4}),
    "Llama-4-Scout-17B-16E": Published(LLAMA_4_SCOUT, 217_283_587_072, 50),
    "DeepSeek-R1-Distill-Llama-8B": Published(DISTILL_LLAMA_8B, 16_060_522_496, 2),
    "Llama-3.3-70B": Published(LLAMA_3_3_70B, 141_107_412_992, 30),
    "gpt-oss-120b": Published(GPT_OSS_120B, 65_248_815_744, 15),
    "DeepSeek-V3": Published(DEEPSEEK_V3, 688_586_727_753, 163),
    "Gemma-3-27B": Published(GEMMA_3_27B, 54_864_813_280, 12),
    "Qwen3-Next-80B-A3B": Published(QWEN3_NEXT_80B, 162_649_725_440, 41),
}
