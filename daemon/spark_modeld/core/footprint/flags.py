"""The launch flags that decide how much memory an engine takes, read from a model's command.

``--x y`` and ``--x=y`` are the same, so are ``--max_model_len`` and ``--max-model-len``; the last one wins, as in the
engines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from spark_modeld.core.model import Docker, EngineKind, Launch, Model

_SHELLS = {"sh", "bash", "dash", "zsh"}
_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kKmMgGtT]?)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kmgt]?)b?", re.IGNORECASE)
# vLLM reads 1k as 1000 and 1K as 1024; so do we for every engine.
_COUNT_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
}
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Flags(Struct, frozen=True, kw_only=True):
    """What the command says; None where it says nothing, and the engine's default holds.

    ``fraction`` is 0..1, ``context`` and ``max_tokens`` are tokens, ``sequences`` how many run at once. ``said`` has
    each field's flag as it was written (``--tp 2``), ``bad`` the flags whose value is none, ``known`` is False when
    there is no command to read, or it is a script that may add flags of its own.
    """

    fraction: float | None = None
    kv_cache_bytes: int | None = None
    max_tokens: int | None = None
    context: int | None = None
    kv_dtype: str | None = None
    value_dtype: str | None = None
    shm_bytes: int | None = None
    tensor_parallel: int | None = None
    sequences: int | None = None
    quantization: str | None = None
    served_names: tuple[str, ...] = ()
    model_path: str | None = None
    tokenizer: str | None = None
    trust_remote_code: bool = False
    full_window: bool = False
    known: bool = False
    said: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    bad: tuple[str, ...] = ()


def flags_of(model: Model) -> Flags:
    """The flags of a catalog's model. A unit or container of the user's own shows none here: ``known`` is False."""
    match model.run:
        case Launch(command=command):
            return parse_flags(model.engine, command)
        case Docker(options=options, command=command):
            return parse_flags(model.engine, command, options)
    return Flags()


def parse_flags(engine: EngineKind, command: Sequence[str], docker_options: Sequence[str] = ()) -> Flags:
    """The flags of a command, and of the docker options before it."""
    found: dict[str, Any] = {}
    said: dict[str, str] = {}
    bad: list[str] = []
    program = _unwrap(command)
    for table, words in ((_DOCKER, list(docker_options)), (_tables(engine), program)):
        for name, values in _options(words, table):
            key, parse = table[name]
            text = " ".join((name, *values))[:200]
            try:
                found[key] = parse(values)
                said[key] = text
            except (ValueError, OverflowError):
                bad.append(text)
    host_ipc = found.pop("ipc", None) == "host"
    if host_ipc:
        # With the host's /dev/shm the size given for the container's own means nothing.
        found.pop("shm_bytes", None)
    return Flags(**found, known=_tells(program), said=MappingProxyType(said), bad=tuple(bad))


def _tells(words: Sequence[str]) -> bool:
    """Whether these words are the engine's own: no script's, and more than the name of a program."""
    script = bool(words) and (_is_shell(words[0]) or words[0].endswith((".sh", ".bash")))
    return len(words) > 1 and not script


def _is_shell(word: str) -> bool:
    return word.rpartition("/")[2] in _SHELLS


def _unwrap(command: Sequence[str]) -> list[str]:
    """The words of the engine's command, also where it stands inside ``sh -c "..."``."""
    words = list(command)
    if not words or not _is_shell(words[0]):
        return words
    for i, word in enumerate(words[1:-1], start=1):
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            try:
                return shlex.split(words[i + 1], comments=True)
            except ValueError:
                return []
    return words


def _options(words: list[str], table: Mapping[str, _Rule]) -> Iterator[tuple[str, list[str]]]:
    """Each known option with the values that follow it, up to the next option."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        if name not in table:
            continue
        if equals:
            yield name, [value]
            continue
        end = i + 1
        while end < len(words) and not _is_option(words[end]):
            end += 1
        # "serve" is followed by the model, if at all.
        if end > i + 1 or _is_option(name):
            yield name, words[i + 1 : end]


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-[0-9.]+", word)


_Parse = Callable[[list[str]], Any]
_Rule = tuple[str, _Parse]


def _first(values: list[str]) -> str:
    if not values or not values[0]:
        raise ValueError
    return values[0]


def _fraction(values: list[str]) -> float:
    number = float(_first(values))
    if not 0 < number <= 1:
        raise ValueError
    return number


def _count(values: list[str]) -> int | None:
    """A number of things; None for "auto" and for the 0 and -1 that mean the engine's default."""
    text = _first(values)
    if text.lower() == "auto" or text in {"-1", "0"}:
        return None
    return _scaled(_COUNT, _COUNT_UNITS, text)


def _size(values: list[str]) -> int:
    return _scaled(_SIZE, _SIZE_UNITS, _first(values).lower())


def _scaled(pattern: re.Pattern[str], units: Mapping[str, int], text: str) -> int:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError
    number = float(match[1]) * units[match[2]]
    if not 1 <= number < 1 << 53:
        raise ValueError
    return int(number)


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(name for value in values for name in value.split(",") if name)


def _switch(values: list[str]) -> bool:
    # A word after a switch belongs to something else, but "--trust-remote-code=false" is one.
    return not values or values[0].lower() not in {"false", "0", "no"}


_DOCKER: Mapping[str, _Rule] = {"--shm-size": ("shm_bytes", _size), "--ipc": ("ipc", _first)}
_COMMON: Mapping[str, _Rule] = {
    "--quantization": ("quantization", _first),
    "-q": ("quantization", _first),
    "--served-model-name": ("served_names", _names),
    "--kv-cache-dtype": ("kv_dtype", _first),
    "--trust-remote-code": ("trust_remote_code", _switch),
    "--tokenizer": ("tokenizer", _first),
    "--shm-size": ("shm_bytes", _size),
}
_OF_ENGINE: Mapping[EngineKind, Mapping[str, _Rule]] = {
    EngineKind.SGLANG: {
        "--mem-fraction-static": ("fraction", _fraction),
        "--context-length": ("context", _count),
        "--max-total-tokens": ("max_tokens", _count),
        "--tensor-parallel-size": ("tensor_parallel", _count),
        "--tp-size": ("tensor_parallel", _count),
        "--tp": ("tensor_parallel", _count),
        "--max-running-requests": ("sequences", _count),
        "--model-path": ("model_path", _first),
        "--model": ("model_path", _first),
        "--tokenizer-path": ("tokenizer", _first),
    },
    EngineKind.VLLM: {
        "--gpu-memory-utilization": ("fraction", _fraction),
        "--kv-cache-memory-bytes": ("kv_cache_bytes", _count),
        "--kv-cache-memory": ("kv_cache_bytes", _count),
        "--max-model-len": ("context", _count),
        "--tensor-parallel-size": ("tensor_parallel", _count),
        "-tp": ("tensor_parallel", _count),
        "--max-num-seqs": ("sequences", _count),
        "--model": ("model_path", _first),
        "serve": ("model_path", _first),
    },
    EngineKind.LLAMA_SERVER: {
        "-c": ("context", _count),
        "--ctx-size": ("context", _count),
        "-np": ("sequences", _count),
        "--parallel": ("sequences", _count),
        "-ctk": ("kv_dtype", _first),
        "--cache-type-k": ("kv_dtype", _first),
        "-ctv": ("value_dtype", _first),
        "--cache-type-v": ("value_dtype", _first),
        "-a": ("served_names", _names),
        "--alias": ("served_names", _names),
        "-m": ("model_path", _first),
        "--model": ("model_path", _first),
        "--swa-full": ("full_window", _switch),
    },
    EngineKind.TRTLLM: {
        "--kv-cache-free-gpu-memory-fraction": ("fraction", _fraction),
        "--max-seq-len": ("context", _count),
        "--tp-size": ("tensor_parallel", _count),
        "--max-batch-size": ("sequences", _count),
        "serve": ("model_path", _first),
        "trtllm-serve": ("model_path", _first),
    },
}


def _tables(engine: EngineKind) -> Mapping[str, _Rule]:
    own = _OF_ENGINE.get(engine, {})
    return own if engine is EngineKind.LLAMA_SERVER else {**_COMMON, **own}
