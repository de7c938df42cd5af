"""What a recurrent layer (Mamba, Mamba 2, gated delta net, short convolution) keeps per sequence."""

from __future__ import annotations

from typing import Protocol

_STATE_ELEMENT = 4  # engines keep the recurrence in float32
_CONV_ELEMENT = 2  # and the convolution's tail in the model's dtype


class Number(Protocol):
    """Looks up the first of these keys that holds a plausible number."""

    def __call__(self, *keys: str) -> int | None:
        """The number, or None."""


def state_bytes(number: Number) -> int:
    """Bytes per layer and sequence; 0 when the keys do not tell (then it is small change: tens of KiB)."""
    return _delta_net(number) or _mamba(number) or _short_convolution(number)


def _delta_net(number: Number) -> int:
    """Gated delta net (Qwen3-Next, Qwen3.5): a matrix per value head, and the convolution over q, k and v."""
    heads, key, value = number("linear_num_value_heads"), number("linear_key_head_dim"), number("linear_value_head_dim")
    if heads is None or key is None or value is None:
        return 0
    width = 2 * (number("linear_num_key_heads") or heads) * key + heads * value
    kernel = number("linear_conv_kernel_dim") or 4
    return heads * key * value * _STATE_ELEMENT + (kernel - 1) * width * _CONV_ELEMENT


def _mamba(number: Number) -> int:
    state = number("ssm_state_size", "mamba_d_state", "state_size", "mamba_state_dim")
    if state is None:
        return 0
    heads, head = number("mamba_num_heads", "mamba_n_heads"), number("mamba_head_dim", "mamba_d_head")
    hidden = number("hidden_size", "d_model") or 0
    expanded = (number("mamba_expand", "expand") or 2) * hidden
    inner = heads * head if heads and head else number("mamba_d_ssm", "intermediate_size_ssm") or expanded
    width = inner + 2 * (number("n_groups", "mamba_n_groups") or 1) * state
    kernel = number("conv_kernel", "mamba_d_conv") or 4
    return inner * state * _STATE_ELEMENT + (kernel - 1) * width * _CONV_ELEMENT


def _short_convolution(number: Number) -> int:
    """LFM2: the last few inputs of a short convolution."""
    cached, hidden = number("conv_L_cache"), number("hidden_size")
    return cached * hidden * _CONV_ELEMENT if cached and hidden else 0
