"""A plain reading of an engine's last log lines: what they mean, and what to do about it.

Engines say a few well-known things in many words. Each rule below is one of them, recognised by texts that appear
when it happened and not in the log of a start that went well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

LOOKED_AT = 1000
"""Characters of each line: what an engine says is at its beginning."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong (``code`` is stable, ``message`` one sentence), what to do, and the log line that says so."""

    code: str
    message: str
    hint: str
    line: str

    def as_dict(self) -> dict[str, str]:
        """The member ``reading`` of a problem."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Rule:
    code: str
    message: str
    hint: str
    pattern: re.Pattern[str]


def _rule(code: str, message: str, hint: str, *texts: str) -> _Rule:
    return _Rule(code, message, hint, re.compile("|".join(texts), re.I))


# The order decides where one line fits two of them: what says more comes first.
_RULES = (
    _rule(
        "oom-killed",
        "The kernel killed it because the machine ran out of memory.",
        "Give it less (context length, memory fraction), choose a smaller model, or end what else holds memory: "
        "spark-modelctl memory.",
        r"killed by the OOM killer",
        r"Failed with result 'oom-kill'",
        r"Out of memory: Killed process",
    ),
    _rule(
        "memory-share-too-large",
        "The engine wants a larger share of the memory than is free.",
        "Lower --gpu-memory-utilization (vLLM takes that share of all memory), or free memory first: "
        "spark-modelctl memory.",
        r"Free memory on device.{0,120}is less than desired GPU memory utilization",
    ),
    _rule(
        "memory-share-too-small",
        "The engine's share of the memory holds the weights, but not its KV cache.",
        "Raise --gpu-memory-utilization (vLLM) or --mem-fraction-static (SGLang), or lower the context length.",
        r"No available memory for the cache blocks",
        r"larger than the available KV cache memory",
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        r"Not enough memory to allocate KV cache",
    ),
    _rule(
        "out-of-memory",
        "The engine ran out of memory while it allocated weights, KV cache or buffers.",
        "Lower the context length or the engine's memory fraction, choose a smaller quantization, or end what else "
        "holds memory: spark-modelctl memory. Correct `memory` in the model's file.",
        r"CUDA out of memory",
        r"OutOfMemoryError",
        r"CUDA (?:driver |runtime )?error.{0,80}out of memory",
        r"cudaMalloc failed: out of memory",
        r"cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED",
        r"unable to allocate \S{1,40} buffer",
        r"failed to allocate (?:buffer for kv cache|\S{1,40} buffer of size)",
        r"DefaultCPUAllocator: can't allocate memory|std::bad_alloc|ggml_aligned_malloc: insufficient memory",
        r"(?:^|\s)(?:numpy\S*)?MemoryError\b",
    ),
    _rule(
        "scheme-not-found",
        "The engine has no kernel for this checkpoint's compressed-tensors quantization.",
        "Use a ModelOpt (NVFP4, FP8) or plain BF16 checkpoint, or a newer image of the engine.",
        r"No \S{0,10} ?compressed-tensors compatible scheme was found",
        r"Scheme not found",
    ),
    _rule(
        "quantization-mismatch",
        "The quantization asked for is not the one of the checkpoint.",
        "Take --quantization out of the command, or name what quantization_config in its config.json says.",
        r"Quantization method specified in the model config.{0,80}does not match",
        r"Unknown quantization method|Invalid quantization method",
        r"Cannot find the config file for (?:awq|gptq|modelopt|fp8|compressed)",
    ),
    _rule(
        "unsupported-gpu",
        "The engine was not built for this GPU (GB10 is sm_121).",
        "Use an image built with CUDA 13 for GB10; where only ptxas is too old, set "
        "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas in the model's environment.",
        r"ptxas fatal",
        r"is not defined for option 'gpu-name'",
        r"no kernel image is available for execution on the device",
        r"Unsupported gpu architecture",
        r"is not supported for the current GPU",
    ),
    _rule(
        "driver-too-old",
        "The NVIDIA driver is older than the engine's CUDA needs.",
        "Update the driver, or use an image for the CUDA version that nvidia-smi shows.",
        r"CUDA driver version is insufficient",
        r"PTX was compiled with an unsupported toolchain",
    ),
    _rule(
        "no-gpu",
        "The engine sees no GPU.",
        "Check nvidia-smi. A container needs --gpus all, and loses its GPU at a `systemctl daemon-reload` until it is "
        "started again.",
        r"No CUDA GPUs are available|no CUDA-capable device is detected|Found no NVIDIA driver",
        r"could not select device driver .{0,10} with capabilities",
        r"Failed to initialize NVML",
        r"Driver/library version mismatch",
    ),
    _rule(
        "port-in-use",
        "Another program listens on the engine's port.",
        "See which: ss -ltnp. End it, or give the model another port, in its command and in `url`.",
        r"address already in use|EADDRINUSE",
        r"couldn't bind HTTP server socket",
        r"port is already allocated",
    ),
    _rule(
        "no-such-image",
        "The container image is not on this machine.",
        "Fetch it yourself, `docker pull IMAGE`: nothing is pulled while a model is being started.",
        r"Error response from daemon: No such image",
        r"pull access denied for|manifest unknown|manifest for \S{1,200} not found",
    ),
    _rule(
        "docker-denied",
        "The model's user may not talk to docker.",
        "Check that docker runs and that its group may use it: systemctl status docker.",
        r"permission denied while trying to connect to the docker",
        r"Cannot connect to the Docker daemon",
    ),
    _rule(
        "gated",
        "The model is gated on Hugging Face, and the engine has no access to it.",
        "Accept its terms there and download it with your own token; then let the command name the folder.",
        r"Cannot access gated repo|GatedRepoError|trying to access a gated repo",
        r"401 Client Error.{0,200}huggingface\.co",
    ),
    _rule(
        "missing-tokenizer",
        "The checkpoint has no tokenizer that the engine can load.",
        "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into its folder, or name another folder "
        "with --tokenizer (vLLM) or --tokenizer-path (SGLang).",
        r"Can't load tokenizer for",
        r"Couldn't instantiate the backend tokenizer",
    ),
    _rule(
        "broken-checkpoint",
        "A file of the checkpoint is not what it should be: cut off, or a pointer in place of the data.",
        "Download it again, and compare its size.",
        r"invalid magic characters",
        r"Error while deserializing header",
    ),
    _rule(
        "permission-denied",
        "The model's user may not read or write a file it needs.",
        "Models run as `user` (spark-model): let that user read the checkpoint and every folder above it, and name "
        "cache folders it may write to in the model's environment.",
        r"PermissionError: \[Errno 13\]",
        r"[:(] ?Permission denied\)?$",
    ),
    _rule(
        "missing-library",
        "A shared library that the engine needs is not installed.",
        "Install it, or set LD_LIBRARY_PATH in the model's environment.",
        r"\.so[.0-9]{0,16}: cannot open shared object file",
    ),
    _rule(
        "missing-module",
        "A Python module that the engine needs is not installed.",
        "Check that the command names the Python of the environment in which the engine is installed.",
        r"(?:ModuleNotFoundError|ImportError|python\S{0,10}): No module named",
    ),
    _rule(
        "unknown-argument",
        "The engine does not know an argument of its command.",
        "Compare the command in the model's file with the engine's --help; options change between versions.",
        r"error: unrecognized arguments",
        r"error: (?:argument .{1,80}: (?:invalid|expected)|the following arguments are required)",
        r"error: invalid argument:|unknown flag: --|No such option: -",
    ),
    _rule(
        "missing-program",
        "The program of the command is not there.",
        "Write its whole path into the model's file: models do not run with your shell's PATH.",
        r"Failed to locate executable|Failed at step EXEC spawning .{1,300}: No such file",
        r"setpriv: failed to execute .{1,300}: No such file",
        r"command not found$|exec: .{1,300}: not found$",
    ),
    _rule(
        "missing-file",
        "A file or folder of the model is not there.",
        "Check the path in the model's command and `path`, and that the download is complete.",
        r"failed to open GGUF file .{1,300}No such file",
        r"FileNotFoundError: |can't open file .{1,300}No such file",
        r"Can't load the configuration of|Incorrect path_or_model_id|Repo id must be in the form",
        r"does not appear to have a file named|Cannot find any model weights with",
    ),
)


def diagnose(lines: Sequence[str], *, result: str = "") -> Diagnosis | None:
    """The reading of a unit's log, oldest line first; None where nothing in it is well known.

    The last line that says something well known counts: what comes before it did not end the engine. ``result`` is
    systemd's own word for how the unit ended; "oom-kill" needs no line.
    """
    said = _last(lines)
    if result == "oom-kill" and (said is None or said.code != "oom-killed"):
        rule = _RULES[0]
        return Diagnosis(rule.code, rule.message, rule.hint, "")
    return said


def _last(lines: Sequence[str]) -> Diagnosis | None:
    for line in reversed(lines):
        for rule in _RULES:
            if rule.pattern.search(line, 0, LOOKED_AT):
                return Diagnosis(rule.code, rule.message, rule.hint, line)
    return None
