"""What is wrong with a model before it is tried: each finding says what is the case and what to do about it.

Pure: whoever calls has read the checkpoint, parsed the flags and taken a reading. Errors block a switch unless forced.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from spark_modeld.core.admission import gib
from spark_modeld.core.finding import Finding, Level, error, info, sort, warning
from spark_modeld.core.footprint import Checkpoint, Estimate, Flags, PartName, Quantization
from spark_modeld.core.model import Basis, EngineKind, Footprint, Model
from spark_modeld.core.reading import Reading
from spark_modeld.core.settings import MemorySettings

__all__ = ["Finding", "Level", "Room", "blocks", "check", "memory"]

_FAMILIES = {
    "awq": "awq",
    "awq_marlin": "awq",
    "gptq": "gptq",
    "gptq_marlin": "gptq",
    "marlin": "gptq",
    "modelopt": "modelopt",
    "modelopt_fp4": "modelopt",
    "modelopt_fp8": "modelopt",
    "modelopt_mixed": "modelopt",
    "compressed-tensors": "compressed-tensors",
    "compressed_tensors": "compressed-tensors",
    "fp8": "fp8",
    "w8a8_fp8": "fp8",
    "mxfp4": "mxfp4",
    "bitsandbytes": "bitsandbytes",
    "gguf": "gguf",
}
_ALGORITHMS = {"modelopt_fp4": "NVFP4", "modelopt_fp8": "FP8"}
_ON_THE_FLY = {"fp8", "w8a8_fp8", "bitsandbytes"}
"""What engines also do to a checkpoint that is not quantized."""
_PYTHON = {EngineKind.SGLANG, EngineKind.VLLM, EngineKind.TRTLLM}
_NAMED_AFTER_PATH = {EngineKind.SGLANG, EngineKind.VLLM}


class Room(Struct, frozen=True, kw_only=True):
    """The machine as it is now: ``returned`` are the bytes that come back when what a switch replaces has stopped."""

    reading: Reading
    settings: MemorySettings
    need: Footprint
    returned: int = 0


def check(
    model: Model,
    checkpoint: Checkpoint | None,
    flags: Flags,
    estimate: Estimate | None,
    room: Room | None,
) -> tuple[Finding, ...]:
    """Every finding, errors first. What is None was not read, and nothing is said about it."""
    found: list[Finding] = []
    if checkpoint is None:
        if model.path is None:
            hint = "Set `path` to the checkpoint's folder or .gguf"
            found.append(
                info("no-path", "No path is set: the checkpoint is not checked and no need is estimated", hint)
            )
    else:
        found += [*checkpoint.findings, *_quantization(model, checkpoint, flags), *_loading(model, checkpoint, flags)]
    found += [*_flags(flags), *_name(model, flags)]
    if estimate is not None:
        found += _shares(model, estimate, flags)
    if room is not None:
        found += memory(model, room)
    return sort(tuple(found))


def blocks(findings: tuple[Finding, ...]) -> bool:
    """Whether any of these is an error."""
    return any(finding.level is Level.ERROR for finding in findings)


def _quantization(model: Model, checkpoint: Checkpoint, flags: Flags) -> Iterator[Finding]:
    stored = checkpoint.quantization
    if stored is not None and stored.method == "compressed-tensors" and model.engine is EngineKind.SGLANG:
        yield error(
            "compressed-tensors",
            f"The checkpoint is quantized with {stored} ({stored.source}): on the Spark's SGLang the usual cause "
            'of "Scheme not found" and of a server that never becomes ready',
            "Use a ModelOpt NVFP4 or FP8, or a plain BF16 checkpoint of this model, or run it with vLLM",
        )
    asked = (flags.quantization or "").lower()
    family = _FAMILIES.get(asked)
    if family is None:
        return
    said = flags.said.get("quantization", f"--quantization {asked}")
    hint = f"Remove {said}: engines read the method from the checkpoint"
    if stored is None:
        if asked not in _ON_THE_FLY and checkpoint.architecture is not None:
            yield error("quantization-mismatch", f"{said}, but the checkpoint is not quantized", hint)
    elif not _agree(asked, family, stored):
        yield error("quantization-mismatch", f"{said}, but the checkpoint is {stored} ({stored.source})", hint)


def _agree(asked: str, family: str, stored: Quantization) -> bool:
    algorithm = (stored.format or "").upper()
    if family != stored.method:
        return family == "fp8" and stored.method == "modelopt" and algorithm == "FP8"
    wanted = _ALGORITHMS.get(asked)
    return wanted is None or not algorithm or algorithm.startswith(wanted)


def _loading(model: Model, checkpoint: Checkpoint, flags: Flags) -> Iterator[Finding]:
    if checkpoint.custom_code is not None and model.engine in _PYTHON and flags.known and not flags.trust_remote_code:
        yield warning(
            "custom-code",
            f"The checkpoint brings code of its own ({checkpoint.custom_code}), and --trust-remote-code is not set",
            "Add the flag if you trust this code, unless the engine knows the architecture by itself",
        )
    if checkpoint.architecture is not None and not checkpoint.tokenizer and flags.tokenizer is None:
        # Flags that are not seen may name one.
        yield (error if flags.known else warning)(
            "no-tokenizer",
            "The checkpoint has no tokenizer: gated repositories and partial downloads look like this",
            "Accept the model's licence and fetch tokenizer.json and its neighbours, or name one with --tokenizer",
        )


def _flags(flags: Flags) -> Iterator[Finding]:
    for text in flags.bad:
        yield warning(
            "flag-invalid", f"{text} cannot be read: the estimate goes on without it", "Correct the flag's value"
        )


def _name(model: Model, flags: Flags) -> Iterator[Finding]:
    wanted = model.served_model_name
    if flags.served_names:
        if wanted in flags.served_names:
            return
        said = flags.said["served_names"]
        message = f"The engine will serve {', '.join(flags.served_names)} ({said}), the catalog expects {wanted}"
    elif flags.known and model.engine in _NAMED_AFTER_PATH and flags.model_path not in {None, wanted}:
        message = f"No --served-model-name: the engine will serve {flags.model_path}, the catalog expects {wanted}"
    else:
        return
    yield error(
        "served-name-mismatch", message, f"Let the flag and served_model_name in models.d/{model.id}.toml agree"
    )


def _shares(model: Model, estimate: Estimate, flags: Flags) -> Iterator[Finding]:
    """An engine that takes a fraction can be given too little of it, whatever the machine has."""
    weights = estimate.part(PartName.WEIGHTS)
    if estimate.fraction is None or weights is None or not (flags.known or flags.said):
        return
    said = flags.said.get("fraction") or flags.said.get("kv_cache_bytes") or f"{model.engine}'s default share"
    if estimate.fraction <= weights.bytes:
        yield error(
            "fraction-too-small",
            f"{said} is {gib(estimate.fraction)}, the weights alone take {gib(weights.bytes)}",
            "Raise the fraction, or use a smaller checkpoint",
        )
    elif estimate.cache is not None and estimate.pool is not None and estimate.pool < estimate.cache.bytes:
        yield warning(
            "context-too-long",
            f"{said} leaves {gib(estimate.pool)} for the KV cache; one context of {estimate.cache.context} tokens "
            f"takes {gib(estimate.cache.bytes)}",
            "Raise the fraction, shorten the context, or set an fp8 KV cache: vLLM refuses to start like this",
        )


def memory(model: Model, room: Room) -> Iterator[Finding]:
    """Whether it will ever fit on this machine, and whether it does now."""
    need, reading = room.need, room.reading
    if need.basis is Basis.UNKNOWN:
        hint = 'Set `path`, or declare memory = "..." in the model\'s file'
        yield warning("footprint-unknown", "Nobody can say how much memory this model needs", hint)
        return
    reserve = room.settings.reserve.of(reading.total)
    what = f"{model.id} needs {gib(need.bytes)} ({need.basis})"
    if need.bytes + reserve > reading.total:
        yield error(
            "memory-never",
            f"{what}, and with the reserve of {gib(reserve)} that is more than the {gib(reading.total)} there are",
            "Lower the fraction or the context, use a smaller checkpoint, or correct a declared `memory`",
        )
    elif reading.available + room.returned - need.bytes < reserve:
        given = f" and {gib(room.returned)} that would come back" if room.returned else ""
        yield warning(
            "memory-now",
            f"{what}: of the {gib(reading.available)} available{given} that leaves less than {gib(reserve)}",
            "Stop what holds the memory (`spark-modelctl memory` names it), or lower the fraction or the context",
        )
    elif reading.available - need.bytes < reserve:
        yield info(
            "memory-beside",
            f"{what}: it does not fit beside what runs now, but in its place",
            "Switch instead of starting it beside",
        )
