"""What a checkpoint says of itself: the facts that the estimate and the check need, and nothing of its weights."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.finding import Finding


class Format(StrEnum):
    """How the weights are stored."""

    SAFETENSORS = "safetensors"
    PYTORCH = "pytorch"
    GGUF = "gguf"
    NONE = "none"


class CacheKind(StrEnum):
    """How a layer's cache grows: with every token, up to a window, or not at all (a state per sequence)."""

    FULL = "full attention"
    SLIDING = "sliding window"
    MLA = "latent attention"
    STATE = "recurrent state"


class Layers(Struct, frozen=True, kw_only=True):
    """``count`` layers that cache alike.

    ``key`` and ``value`` are elements per token (their size follows the cache's dtype), ``extra_bytes`` per token are
    there whatever the dtype. ``window`` is in tokens, ``state_bytes`` per sequence. ``heads`` is the number of KV
    heads tensor parallelism can divide, 1 where it divides nothing.
    """

    kind: CacheKind
    count: int
    key: int = 0
    value: int = 0
    extra_bytes: int = 0
    window: int | None = None
    state_bytes: int = 0
    heads: int = 1


class Architecture(Struct, frozen=True, kw_only=True):
    """``context`` is the longest sequence the model was made for, in tokens; ``source`` where all this is from."""

    name: str
    layers: tuple[Layers, ...]
    context: int | None
    dtype: str | None
    source: str
    notes: tuple[str, ...] = ()


class Quantization(Struct, frozen=True, kw_only=True):
    """``method`` as engines name it (compressed-tensors, modelopt, fp8, awq, gptq, mxfp4, bitsandbytes, gguf).

    ``format`` is what the method calls its variant ("nvfp4-pack-quantized", "NVFP4", "Q4_K_M"), ``kv_cache`` the dtype
    the checkpoint asks for its KV cache, ``source`` the file and key that said so.
    """

    method: str
    format: str | None = None
    kv_cache: str | None = None
    source: str = ""

    def __str__(self) -> str:
        return f"{self.method} ({self.format})" if self.format else self.method


class Checkpoint(Struct, frozen=True, kw_only=True):
    """All that is known of one checkpoint. What could not be read is None, and a finding says why.

    ``weight_bytes`` are the sizes of the files that will be loaded, from ``weight_source``; ``weight_files`` how many
    these are. ``dtypes`` are the tensor types met in a header. ``custom_code`` names the module a loader would run.
    """

    path: str
    format: Format = Format.NONE
    architecture: Architecture | None = None
    quantization: Quantization | None = None
    weight_bytes: int | None = None
    weight_source: str = ""
    weight_files: int = 0
    dtypes: tuple[str, ...] = ()
    tokenizer: bool = False
    custom_code: str | None = None
    findings: tuple[Finding, ...] = ()
