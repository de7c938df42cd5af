"""The well-known failures of engines: the texts that tell each of them, what it means, what to do about it.

A text is one that appears when it happened, and not in the log of a start that went well. The tests name the sources.
"""

from __future__ import annotations

from msgspec import Struct


class WellKnown(Struct, frozen=True):
    """One failure. Each of ``texts`` is in small letters, and in parts that come one after the other in a line."""

    code: str
    message: str
    hint: str
    texts: tuple[tuple[str, ...], ...]


def _known(code: str, message: str, hint: str, *texts: str) -> WellKnown:
    """Each text is in small letters; "…" stands for anything."""
    return WellKnown(code, message, hint, tuple(tuple(text.split(" … ")) for text in texts))


# The order decides where one line fits two of them: what says more comes first.
WELL_KNOWN = (
    _known(
        "oom-killed",
        "The kernel killed it because the machine ran out of memory.",
        "Give it less (context length, memory fraction), choose a smaller model, or end what else holds memory: "
        "spark-modelctl memory.",
        "killed by the oom killer",
        "failed with result 'oom-kill'",
        "out of memory: killed process",
    ),
    _known(
        "memory-share-too-large",
        "The engine wants a larger share of the memory than is free.",
        "Lower --gpu-memory-utilization (vLLM takes that share of all memory), or free memory first: "
        "spark-modelctl memory.",
        "free memory on device … is less than desired gpu memory utilization",
    ),
    _known(
        "memory-share-too-small",
        "The engine's share of the memory holds the weights, but not its KV cache.",
        "Raise --gpu-memory-utilization (vLLM) or --mem-fraction-static (SGLang), or lower the context length.",
        "no available memory for the cache blocks",
        "larger than the available kv cache memory",
        "not enough memory. please try to increase --mem-fraction-static",
        "not enough memory to allocate kv cache",
    ),
    _known(
        "out-of-memory",
        "The engine ran out of memory while it allocated weights, KV cache or buffers.",
        "Lower the context length or the engine's memory fraction, choose a smaller quantization, or end what else "
        "holds memory: spark-modelctl memory. Correct `memory` in the model's file.",
        "cuda out of memory",
        "cuda error … out of memory",
        "cuda driver error … out of memory",
        "cuda runtime error … out of memory",
        "cudamalloc failed: out of memory",
        "cudaerrormemoryallocation",
        "cublas_status_alloc_failed",
        "unable to allocate … buffer",
        "failed to allocate buffer for kv cache",
        "failed to allocate … buffer of size",
        "defaultcpuallocator: can't allocate memory",
        "std::bad_alloc",
        "ggml_aligned_malloc: insufficient memory",
        "memoryerror",
    ),
    _known(
        "scheme-not-found",
        "The engine has no kernel for this checkpoint's compressed-tensors quantization.",
        "Use a ModelOpt (NVFP4, FP8) or plain BF16 checkpoint, or a newer image of the engine.",
        "compressed-tensors compatible scheme was found",
        "scheme not found",
    ),
    _known(
        "quantization-mismatch",
        "The quantization asked for is not the one of the checkpoint.",
        "Take --quantization out of the command, or name what quantization_config in its config.json says.",
        "quantization method specified in the model config … does not match",
        "unknown quantization method",
        "invalid quantization method",
        "cannot find the config file for",
    ),
    _known(
        "unsupported-gpu",
        "The engine was not built for this GPU (GB10 is sm_121).",
        "Use an image built with CUDA 13 for GB10; where only ptxas is too old, set "
        "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas in the model's environment.",
        "ptxas fatal",
        "is not defined for option 'gpu-name'",
        "no kernel image is available for execution on the device",
        "unsupported gpu architecture",
        "is not supported for the current gpu",
    ),
    _known(
        "no-driver",
        "The engine finds no NVIDIA driver: none is installed, it is not loaded (yet), or its container has none.",
        "See nvidia-smi, and `journalctl -b -k --grep=nvidia` for why it is not loaded. A container needs --gpus all.",
        "found no nvidia driver",
        "nvidia-smi has failed",
        "libcuda.so … cannot open shared object file",
        "libnvidia-ml.so … cannot open shared object file",
        "nvml … driver not loaded",
        "nvidia-container-cli: … driver rpc error",
        "/dev/nvidia … no such file or directory",
    ),
    _known(
        "driver-too-old",
        "The NVIDIA driver is older than the engine's CUDA needs.",
        "Update the driver, or use an image for the CUDA version that nvidia-smi shows.",
        "cuda driver version is insufficient",
        "ptx was compiled with an unsupported toolchain",
    ),
    _known(
        "no-gpu",
        "The engine sees no GPU.",
        "Check nvidia-smi. A container needs --gpus all, and loses its GPU at a `systemctl daemon-reload` until it is "
        "started again.",
        "no cuda gpus are available",
        "no cuda-capable device is detected",
        "cuda driver initialization failed",
        "cuda error … initialization error",
        "cuda_error_not_initialized",
        "cuda_error_no_device",
        "cuda unknown error - this may be due to an incorrectly set up environment",
        "unresolvable cdi devices",
        "could not select device driver … with capabilities",
        "failed to initialize nvml",
        "driver/library version mismatch",
    ),
    _known(
        "port-in-use",
        "Another program listens on the engine's port.",
        "See which: ss -ltnp. End it, or give the model another port, in its command and in `url`.",
        "address already in use",
        "eaddrinuse",
        "couldn't bind http server socket",
        "port is already allocated",
    ),
    _known(
        "no-such-image",
        "The container image is not on this machine.",
        "Fetch it yourself, `docker pull IMAGE`: nothing is pulled while a model is being started.",
        "error response from daemon: no such image",
        "pull access denied for",
        "manifest unknown",
        "manifest for … not found",
    ),
    _known(
        "docker-denied",
        "The model's user may not talk to docker.",
        "Check that docker runs and that its group may use it: systemctl status docker.",
        "permission denied while trying to connect to the docker",
        "cannot connect to the docker daemon",
    ),
    _known(
        "gated",
        "The model is gated on Hugging Face, and the engine has no access to it.",
        "Accept its terms there and download it with your own token; then let the command name the folder.",
        "cannot access gated repo",
        "gatedrepoerror",
        "trying to access a gated repo",
        "401 client error … huggingface.co",
    ),
    _known(
        "missing-tokenizer",
        "The checkpoint has no tokenizer that the engine can load.",
        "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into its folder, or name another folder "
        "with --tokenizer (vLLM) or --tokenizer-path (SGLang).",
        "can't load tokenizer for",
        "couldn't instantiate the backend tokenizer",
    ),
    _known(
        "broken-checkpoint",
        "A file of the checkpoint is not what it should be: cut off, or a pointer in place of the data.",
        "Download it again, and compare its size.",
        "invalid magic characters",
        "error while deserializing header",
    ),
    _known(
        "permission-denied",
        "The model's user may not read or write a file it needs.",
        "Models run as `user` (spark-model): let that user read the checkpoint and every folder above it, and name "
        "cache folders it may write to in the model's environment.",
        "permissionerror: [errno 13]",
        ": permission denied",
        "(permission denied)",
    ),
    _known(
        "missing-library",
        "A shared library that the engine needs is not installed.",
        "Install it, or set LD_LIBRARY_PATH in the model's environment.",
        "cannot open shared object file",
    ),
    _known(
        "missing-module",
        "A Python module that the engine needs is not installed.",
        "Check that the command names the Python of the environment in which the engine is installed.",
        "modulenotfounderror: no module named",
        "importerror: no module named",
        "python: no module named",
        "python3: no module named",
        "python3.10: no module named",
        "python3.11: no module named",
        "python3.12: no module named",
        "python3.13: no module named",
    ),
    _known(
        "unknown-argument",
        "The engine does not know an argument of its command.",
        "Compare the command in the model's file with the engine's --help; options change between versions.",
        "error: unrecognized arguments",
        "error: argument … : invalid",
        "error: argument … : expected",
        "error: the following arguments are required",
        "error: invalid argument:",
        "unknown flag: --",
        "no such option: -",
    ),
    _known(
        "missing-program",
        "The program of the command is not there.",
        "Write its whole path into the model's file: models do not run with your shell's PATH.",
        "failed to locate executable",
        "failed at step exec spawning … : no such file",
        "setpriv: failed to execute … : no such file",
        ": command not found",
        "exec: … : not found",
    ),
    _known(
        "missing-file",
        "A file or folder of the model is not there.",
        "Check the path in the model's command and `path`, and that the download is complete.",
        "failed to open gguf file … no such file",
        "filenotfounderror: ",
        "can't open file … no such file",
        "can't load the configuration of",
        "incorrect path_or_model_id",
        "repo id must be in the form",
        "does not appear to have a file named",
        "cannot find any model weights with",
    ),
)
