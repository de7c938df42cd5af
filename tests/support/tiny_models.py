"""Tiny genuine models, about 3 MB: real llama-architecture GGUF files whose weights say one fixed sentence.

The forward pass is a whole Llama. Attention and feed-forward weights are small noise; embedding and output head are
set so that the network is a chain of tokens: any prompt leads to the sentence, word by word, then to the end of the
turn. So a test can tell which model answered from what it says, not from the name it was given.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

MODELS = Path(__file__).resolve().parents[2] / "build" / "models"

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, HIDDEN, LAYERS, CONTEXT = 256, 4, 2, 64, 512, 2, 2048
NOISE = 0.002
END_OF_TURN = 260
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Weights = dict[str, npt.NDArray[np.float32]]


def sentence_of(name: str) -> str:
    """What the model of this name says."""
    return f"Hello, this is {name} speaking."


def tiny_model(name: str, *, loop: bool = False) -> Path:
    """The GGUF file of a model that says ``sentence_of(name)``, again and again for ever with ``loop``.

    Written once and kept in build/models; readable by every user.
    """
    words = sentence_of(name).split()
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = MODELS / f"{name}{'-loop' if loop else ''}-{version}.gguf"
    if not target.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        _write(unfinished, name, words, loop=loop)
        unfinished.chmod(0o644)
        unfinished.replace(target)
    return target


def _vocabulary(words: list[str]) -> list[tuple[str, gguf.TokenType]]:
    """Bytes, letters, the turn markers, and one token for each word of the sentence; END_OF_TURN's place is fixed."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [("<|im_start|>", kind.CONTROL), ("<|im_end|>", kind.CONTROL)]
    tokens += [(letter, kind.NORMAL) for letter in ["\u2581", *map(chr, range(33, 127))]]
    tokens += [(word if i == 0 else f"\u2581{word}", kind.NORMAL) for i, word in enumerate(words)]
    padding = -len(tokens) % 64
    return tokens + [(f"[PAD{i}]", kind.UNUSED) for i in range(padding)]


def tensors_of(vocabulary: int, chain: list[int], last: int) -> Weights:
    """Every tensor: a token of ``chain`` leads to the next one, the final one to ``last``, all others to the first."""
    random = np.random.default_rng(1)

    def unit(x: Any) -> Any:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def noise(*shape: int) -> Any:
        return NOISE * random.standard_normal(shape)

    common = unit(random.standard_normal(WIDTH))
    embedding = unit(common + 0.3 * unit(random.standard_normal((vocabulary, WIDTH))))
    embedding[chain] = unit(random.standard_normal((len(chain), WIDTH)))
    head = 0.02 * random.standard_normal((vocabulary, WIDTH))
    head[chain[0]] = 1.5 * common
    for token, following in itertools.pairwise([*chain, last]):
        # The first token follows both any prompt and, in a loop, the last word.
        head[following] = 1.5 * embedding[token] + (head[following] if following == chain[0] else 0)
    weights = {"token_embd": embedding, "output": head, "output_norm": np.ones(WIDTH)}
    for block in range(LAYERS):
        weights |= {
            f"blk.{block}.attn_norm": np.ones(WIDTH),
            f"blk.{block}.ffn_norm": np.ones(WIDTH),
            f"blk.{block}.attn_q": noise(HEADS * HEAD_WIDTH, WIDTH),
            f"blk.{block}.attn_k": noise(KV_HEADS * HEAD_WIDTH, WIDTH),
            f"blk.{block}.attn_v": noise(KV_HEADS * HEAD_WIDTH, WIDTH),
            f"blk.{block}.attn_output": noise(WIDTH, HEADS * HEAD_WIDTH),
            f"blk.{block}.ffn_gate": noise(HIDDEN, WIDTH),
            f"blk.{block}.ffn_up": noise(HIDDEN, WIDTH),
            f"blk.{block}.ffn_down": noise(WIDTH, HIDDEN),
        }
    return {name: tensor.astype(np.float32) for name, tensor in weights.items()}


def _write(path: Path, name: str, words: list[str], *, loop: bool) -> None:
    if len(set(words)) != len(words):
        raise ValueError(f"a chain needs every word to be another token: {words}")
    tokens = _vocabulary(words)
    first = next(i for i, (token, _) in enumerate(tokens) if token == words[0])
    chain = list(range(first, first + len(words)))
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, name, tokens)
    for tensor_name, tensor in tensors_of(len(tokens), chain, first if loop else END_OF_TURN).items():
        # llama.cpp wants the norms in 32 bits.
        writer.add_tensor(f"{tensor_name}.weight", tensor if tensor.ndim == 1 else tensor.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, name: str, tokens: list[tuple[str, gguf.TokenType]]) -> None:
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_eot_token_id(END_OF_TURN)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
