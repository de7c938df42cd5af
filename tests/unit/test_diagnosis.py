"""What a unit's last log lines are read as: real lines of real engines, each with where it was seen."""

# ruff: noqa: E501 - lines of logs are kept as they were seen
from __future__ import annotations

import time
from itertools import pairwise

import pytest

from spark_modeld.core.diagnosis import diagnose
from spark_modeld.core.redact import redact
from spark_modeld.core.well_known import WELL_KNOWN

pytestmark = pytest.mark.unit

CASES = [
    # systemd's journal, as in systemd/src/core/unit.c and service.c
    ("oom-killed", "x.service: A process of this unit has been killed by the OOM killer."),
    ("oom-killed", "x.service: Failed with result 'oom-kill'."),
    # github.com/vllm-project/vllm/issues/20305
    (
        "memory-share-too-large",
        "[multiproc_executor.py:492] ValueError: Free memory on device (31.44/47.38 GiB) on startup is less than desired "
        "GPU memory utilization (0.95, 45.01 GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
        "processes.",
    ),
    # github.com/pytorch/pytorch/issues/175666: newer ones name the device
    (
        "memory-share-too-large",
        "ValueError: Free memory on device cuda:0 (19.77/22.05 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 19.84 GiB).",
    ),
    # vllm/engine: raise_if_cache_size_invalid, check_enough_kv_cache_memory
    (
        "memory-share-too-small",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing "
        "the engine.",
    ),
    # github.com/lemonade-sdk/vllm-rocm/issues/5
    (
        "memory-share-too-small",
        "(EngineCore pid=42521) ValueError: To serve at least one request with the models's max seq len (131072), (4.11 "
        "GiB KV cache is needed, which is larger than the available KV cache memory (4.0 GiB).",
    ),
    # github.com/sgl-project/sglang/issues/4330, and its new words in pull 23181
    ("memory-share-too-small", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."),
    ("memory-share-too-small", "Not enough memory to allocate KV cache."),
    # torch's allocator, as quoted in github.com/vllm-project/vllm
    (
        "out-of-memory",
        "(EngineCore_DP0 pid=60) ERROR 01-12 01:09:14 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to "
        "allocate 116.00 MiB. GPU 0 has a total capacity of 22.05 GiB of which 112.12 MiB is free.",
    ),
    ("out-of-memory", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("out-of-memory", "RuntimeError: CUDA error: out of memory"),
    (
        "out-of-memory",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you",
    ),
    # github.com/ggml-org/llama.cpp/issues/20431
    (
        "out-of-memory",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 0: cudaMalloc failed: out of memory",
    ),
    ("out-of-memory", "alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624"),
    ("out-of-memory", "llama_model_load: error loading model: unable to allocate CUDA0 buffer"),
    # github.com/ollama/ollama/issues/9782
    ("out-of-memory", "Error: llama runner process has terminated: CUDA error: out of memory"),
    # github.com/vllm-project/llm-compressor/issues/1427; sglang has the same words
    ("scheme-not-found", "NotImplementedError: No compressed-tensors compatible scheme was found."),
    # what SGLang's image on the Spark says
    ("scheme-not-found", "ValueError: Scheme not found"),
    # vllm/config/model.py and sglang/srt/configs/model_config.py
    (
        "quantization-mismatch",
        "  Value error, Quantization method specified in the model config (compressed-tensors) does not match the "
        "quantization method specified in the `quantization` argument (awq).",
    ),
    # github.com/triton-lang/triton/issues/8539
    ("unsupported-gpu", "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'"),
    # github.com/vllm-project/vllm/issues/30855, on a GB10
    ("unsupported-gpu", "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device"),
    # nvcc, as torch and flashinfer call it for kernels built on the spot
    ("unsupported-gpu", "nvcc fatal   : Unsupported gpu architecture 'compute_121a'"),
    # cudaErrorInsufficientDriver in words
    ("driver-too-old", "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
    # what torch says without a driver, ld.so, nvidia-smi; github.com/NVIDIA/nvidia-container-toolkit/issues/1269,
    # github.com/docker/for-win/issues/13835, github.com/NVIDIA/nvidia-container-toolkit/issues/237; pynvml; dockerd
    (
        "no-driver",
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a "
        "driver from http://www.nvidia.com/Download/index.aspx",
    ),
    ("no-driver", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"),
    (
        "no-driver",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
        "driver is installed and running.",
    ),
    ("no-driver", "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown."),
    (
        "no-driver",
        "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object "
        "file: no such file or directory: unknown.",
    ),
    ("no-driver", "nvidia-container-cli: initialization error: driver rpc error: timed out: unknown."),
    ("no-driver", "pynvml.NVMLError_DriverNotLoaded: Driver Not Loaded"),
    (
        "no-driver",
        'docker: Error response from daemon: error gathering device information while adding custom device "/dev/nvidia0": '
        "no such file or directory.",
    ),
    # torch/cuda, and nvidia-container-toolkit
    ("no-gpu", "RuntimeError: No CUDA GPUs are available"),
    ("no-gpu", "RuntimeError: CUDA driver initialization failed, you might not have a CUDA gpu."),
    ("no-gpu", "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"),
    (
        "no-gpu",
        "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env "
        "variable CUDA_VISIBLE_DEVICES after program start.",
    ),
    (
        "no-gpu",
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
    ),
    ("no-gpu", "Failed to initialize NVML: Unknown Error"),
    # uvicorn, github.com/vllm-project/vllm/issues/8204
    (
        "port-in-use",
        "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
    ),
    ("port-in-use", "OSError: [Errno 98] Address already in use"),
    # the real llama-server b10434
    (
        "port-in-use",
        "0.00.006.584 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 9912",
    ),
    # moby's port allocator, and its userland proxy
    ("port-in-use", "docker: Error response from daemon: Bind for 0.0.0.0:8000 failed: port is already allocated."),
    ("port-in-use", "Error starting userland proxy: listen tcp4 0.0.0.0:8000: bind: address already in use."),
    # github.com/ansible-collections/community.docker/issues/783: docker run --pull=never
    ("no-such-image", "docker: Error response from daemon: No such image: hello-world:latest."),
    ("no-such-image", "docker: Error response from daemon: pull access denied for nosuch, repository does not exist"),
    # docker's client
    (
        "docker-denied",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ),
    # huggingface_hub, github.com/ToTheBeginning/PuLID/issues/97
    (
        "gated",
        "Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-2-7b/resolve/main/config.json.",
    ),
    ("gated", "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66f4b037-1bf3d7d2)"),
    ("gated", "OSError: You are trying to access a gated repo."),
    # transformers/tokenization_utils_base.py and _fast.py
    ("missing-tokenizer", "OSError: Can't load tokenizer for '/srv/models/x'. If you were trying to load it from"),
    ("missing-tokenizer", "ValueError: Couldn't instantiate the backend tokenizer from one of: "),
    # github.com/vllm-project/vllm/issues/14596
    ("broken-checkpoint", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"),
    # the real llama-server b10434
    ("broken-checkpoint", "gguf_init_from_reader: invalid magic characters: '?'??', expected 'GGUF'"),
    # Python, llama-server, a shell, systemd
    ("permission-denied", "PermissionError: [Errno 13] Permission denied: '/nonexistent/.cache/huggingface'"),
    ("permission-denied", "gguf_init_from_file: failed to open GGUF file '/srv/x.gguf' (Permission denied)"),
    ("permission-denied", "/bin/sh: 1: /opt/serve.sh: Permission denied"),
    # ld.so, the real llama-server b10434 without its libraries; Python
    (
        "missing-library",
        "./llama-server: error while loading shared libraries: libllama-server-impl.so: cannot open shared object file: No "
        "such file or directory",
    ),
    ("missing-library", "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory"),
    # Python
    ("missing-module", "ModuleNotFoundError: No module named 'vllm'"),
    ("missing-module", "/usr/bin/python3: No module named sglang"),
    ("missing-module", "/opt/vllm/bin/python3.12: No module named vllm"),
    (
        "missing-module",
        "/usr/bin/python3: Error while finding module specification for 'sglang.launch_server' (ModuleNotFoundError: No "
        "module named 'sglang')",
    ),
    # argparse, github.com/vllm-project/vllm/issues/1364; llama-server b10434; docker
    ("unknown-argument", "vllm: error: unrecognized arguments: --omni"),
    ("unknown-argument", "launch_server.py: error: argument --tp: invalid int value: 'x'"),
    ("unknown-argument", "launch_server.py: error: the following arguments are required: --model-path"),
    ("unknown-argument", "error: invalid argument: --bogus"),
    ("unknown-argument", "unknown flag: --gpu"),
    # systemd, setpriv, sh
    (
        "missing-program",
        "spark-model@x.service: Failed at step EXEC spawning /opt/none: No such file or directory",
    ),
    ("missing-program", "setpriv: failed to execute /opt/none: No such file or directory"),
    ("missing-program", "/run/spark-models/x/start: 12: exec: vllm: not found"),
    # the real llama-server b10434; Python; transformers
    ("missing-file", "0.00 E gguf_init_from_file: failed to open GGUF file '/nope.gguf' (No such file or directory)"),
    ("missing-file", "FileNotFoundError: [Errno 2] No such file or directory: '/srv/models/x/config.json'"),
    ("missing-file", "python3: can't open file '/opt/serve.py': [Errno 2] No such file or directory"),
    ("missing-file", "OSError: Can't load the configuration of '/srv/x'. If you were trying to load it from"),
    ("missing-file", "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'"),
    ("missing-file", "OSError: /srv/models/x does not appear to have a file named config.json."),
    ("missing-file", "RuntimeError: Cannot find any model weights with `/srv/models/x`"),
]

HEALTHY = {
    # the real llama-server b10434 with a tiny model, and warnings it gives on a machine without AMX
    "llama-server": """\
0.00.004.620 I cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` CLI arg)
0.00.004.848 I srv          init: The UI is disabled
0.00.005.051 W srv  llama_server: -----------------
0.00.005.076 W srv  llama_server: CORS is set to allow all origins ('*') and no API key is set
0.00.005.076 W srv  llama_server: this can be a security risk (cross-origin attacks)
0.00.007.573 I srv    load_model: loading model '/srv/models/alpha.gguf'
0.00.009.100 E common_fit_params: encountered an error while trying to fit params to free device memory
AMX is not ready to be used!
0.00.020.611 W llama_context: n_ctx_seq (4096) > n_ctx_train (2048) -- possible training context overflow
load_tensors: loading model tensors, this can take a while... (mmap = true, direct_io = false)
load_tensors:        CUDA0 model buffer size = 48928.09 MiB
llama_kv_cache:      CUDA0 KV buffer size =   379.23 MiB
0.00.022.131 I srv    load_model: initializing, n_slots = 1, n_ctx_slot = 2048, kv_unified = 'false'
0.00.025.940 I srv  llama_server: model loaded
0.00.025.984 I srv  llama_server: listening on http://127.0.0.1:9914
0.02.996.560 I srv    operator(): operator(): cleaning up before exit...
""",
    # github.com/sgl-project/sglang/issues/12726 and 13198 (torch's warning on a GB10 is wrong, pytorch/issues/164596)
    "sglang": """\
/usr/local/lib/python3.12/dist-packages/torch/cuda/__init__.py:283: UserWarning:
    Found GPU0 NVIDIA GB10 which is of cuda capability 12.1.
    Minimum and Maximum cuda capability supported by this version of PyTorch is
    (8.0) - (12.0)
[2025-11-06 01:21:50] WARNING server_args.py:1565: Attention backend not specified. Use flashinfer backend by default.
[2025-11-06 01:21:50] server_args=ServerArgs(model_path='/srv/x', quantization='modelopt_fp4', mem_fraction_static=0.3)
[2025-11-06 01:22:01] Load weight begin. avail mem=110.12 GB
Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:01,  2.04it/s]
[2025-11-06 01:22:10] Using KV cache dtype: torch.bfloat16
[2025-11-06 01:22:10] KV Cache is allocated. #tokens: 421472, K size: 28.94 GB, V size: 28.94 GB
[2025-11-06 01:22:10] Memory pool end. avail mem=12.89 GB
[2025-11-06 01:22:10] Capture cuda graph begin. This can take up to several minutes. avail mem=12.79 GB
Capturing batches (bs=1 avail_mem=12.19 GB): 100%|████████| 23/23 [00:02<00:00,  9.88it/s]
[2025-11-06 01:22:14] max_total_num_tokens=421472, chunked_prefill_size=8192, context_len=40960, available_gpu_mem=12.18 GB
[2025-11-06 01:22:14] INFO:     Started server process [191490]
[2025-11-06 01:22:14] INFO:     Waiting for application startup.
[2025-11-06 01:22:15] INFO:     Uvicorn running on http://127.0.0.1:30000 (Press CTRL+C to quit)
[2025-11-06 01:22:16] INFO:     127.0.0.1:58910 - "GET /get_model_info HTTP/1.1" 200 OK
[2025-11-06 01:22:17] The server is fired up and ready to roll!
""",
    # github.com/vllm-project/vllm/pull/20707, 19794, 29830 and issues/8204
    "vllm": """\
WARNING 07-08 11:30:10 [interface.py:60] Failed to import from vllm._C with ModuleNotFoundError("No module named 'vllm._C'")
INFO 06-22 02:54:36 [backends.py:193] Compiling a graph for general shape takes 14.65 s
/usr/local/lib/python3.12/dist-packages/torch/utils/cpp_extension.py:2356: UserWarning: TORCH_CUDA_ARCH_LIST is not set
(EngineCore pid=127) INFO 04-15 13:42:25 [shm_broadcast.py:681] No available shared memory broadcast block found in 60 seconds.
(EngineCore_0 pid=1399537) INFO 08-19 14:58:40 [gpu_worker.py:277] Available KV cache memory: 112.61 GiB
(EngineCore_0 pid=1399537) INFO 08-19 14:58:40 [kv_cache_utils.py:849] GPU KV cache size: 922,496 tokens
(EngineCore_DP0 pid=3413554) DEBUG 12-01 19:49:03 [v1/worker/gpu_worker.py:484] Free memory on device (43.91/44.4 GiB) on startup. Desired GPU memory utilization is (0.9, 39.96 GiB).
(APIServer pid=1391815) WARNING 08-19 14:58:41 [__init__.py:1635] Default sampling parameters have been overridden by the model's Hugging Face generation config recommended from the model creator.
[rank0]:[W609 14:01:53.847994808 ProcessGroupNCCL.cpp:1554] Warning: WARNING: destroy_process_group() was not called before program exit
/usr/local/lib/python3.12/dist-packages/x/y.py:12: UserWarning: no fast path: No module named 'flash_attn'
INFO:     Started server process [6593]
INFO:     Waiting for application startup.
INFO:     Application startup complete.
""",
    # systemd's own lines about a unit that ended as it should
    "systemd": """\
Starting spark-model@x.service - Language model x...
spark-model@x.service: Deactivated successfully.
spark-model@x.service: Main process exited, code=exited, status=137/n/a
Stopped spark-model@x.service - Language model x.
""",
}


@pytest.mark.parametrize(("code", "line"), CASES)
def test_a_well_known_line_is_read(code: str, line: str) -> None:
    read = diagnose(["loading", line, "exiting"])
    assert read is not None
    assert (read.code, read.line) == (code, line)
    assert read.message.endswith(".")
    assert read.hint


def test_every_reading_has_a_case() -> None:
    assert {known.code for known in WELL_KNOWN} == {code for code, _ in CASES}


@pytest.mark.parametrize("engine", list(HEALTHY))
def test_nothing_is_read_into_a_start_that_went_well(engine: str) -> None:
    for line in HEALTHY[engine].splitlines():
        assert diagnose([line]) is None, line


def test_the_last_well_known_line_counts() -> None:
    read = diagnose(["CUDA out of memory. Tried", "retrying", "OSError: [Errno 98] Address already in use", "bye"])
    assert read is not None
    assert read.code == "port-in-use"


def test_what_systemd_says_of_the_end_comes_first() -> None:
    read = diagnose(["FileNotFoundError: x"], result="oom-kill")
    assert read is not None
    assert (read.code, read.line) == ("oom-killed", "")
    assert diagnose([], result="exit-code") is None


def test_readings_survive_redaction() -> None:
    for code, line in CASES:
        read = diagnose([redact(line)])
        assert read is not None
        assert read.code == code


def test_it_is_quick_with_whatever_a_log_holds() -> None:
    """A bound far above what it takes, far below what a pattern that explodes takes."""
    lines = ["CUDA error " + "x " * 1000, "exec: " * 300, "error: argument " * 130, "." * 2000] * 75
    began = time.process_time()
    assert diagnose(lines) is None
    assert time.process_time() - began < 5


def test_the_codes_are_distinct() -> None:
    codes = sorted(known.code for known in WELL_KNOWN)
    assert all(a != b for a, b in pairwise(codes))
