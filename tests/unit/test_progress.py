"""How far a load is, by real lines of real engines, each with where it was seen."""

# ruff: noqa: E501 - lines of logs are kept as they were seen
from __future__ import annotations

import time

import pytest

from spark_modeld.core.progress import LoadStep, heard

pytestmark = pytest.mark.unit

WEIGHTS, COMPILING, GRAPHS, WARM_UP = LoadStep.WEIGHTS, LoadStep.COMPILING, LoadStep.GRAPHS, LoadStep.WARM_UP
BAR = "█" * 20

SAYS = [
    # SGLang: github.com/sgl-project/sglang pull 15426, issue 1479, pull 22051
    (WEIGHTS, None, "[2025-12-23 14:18:01] Load weight begin. avail mem=46.81 GB"),
    (WEIGHTS, 0.25, "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:01,  2.32it/s]"),
    (WEIGHTS, 0.0, "Loading safetensors checkpoint shards:   0% Completed | 0/55 [00:00<?, ?it/s]"),
    (WEIGHTS, 0.5, "Multi-thread loading shards:  50% Completed | 2/4 [00:06<00:07,  3.54s/it]"),
    (
        WEIGHTS, 0.5,
        "Multi-thread loading shards:  50% Completed | 2/4 [00:06<00:07,  3.54s/it][2026-04-09 20:05:30 PP0 TP1] Parameter lm_head.weight not found in params_dict",
    ),
    (WEIGHTS, 1.0, "[2025-10-16 09:06:50 TP0] Load weight end. elapsed=40.1 s, type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=31.4 GB, mem usage=15.02 GB."),
    (GRAPHS, None, "[2025-08-08 03:34:38] Capture cuda graph begin. This can take up to several minutes. avail mem=1.80 GB"),
    (GRAPHS, 1.0, "Capturing batches (bs=1 avail_mem=1.72 GB): 100%|█████████████████████| 4/4 [00:18<00:00,  4.57s/it]"),
    # tqdm draws with carriage returns, which the journal keeps in one line and which are taken out of it
    (
        GRAPHS, 0.67,
        "  0%|          | 0/3 [00:00<?, ?it/s]Capturing batches (bs=4 avail_mem=18.72 GB):  33%|███▎      | 1/3 [00:03<00:07,  3.93s/it]Capturing batches (bs=2 avail_mem=18.67 GB):  67%|██████▋   | 2/3 [00:04<00:02,  2.02s/it]",
    ),
    (GRAPHS, 1.0, "[2025-08-08 03:34:56] Capture cuda graph end. Time elapsed: 18.28 s. mem usage=0.11 GB. avail mem=1.70 GB."),
    # vLLM: github.com/vllm-project/vllm issue 38820, pull 51910
    (WEIGHTS, 0.45, "Loading safetensors checkpoint shards:  45% Completed | 22/49 [06:42<08:46, 19.51s/it]"),
    (WEIGHTS, None, "(EngineCore_DP0 pid=387) INFO 10-07 22:54:57 [gpu_model_runner.py:2602] Starting to load model meta-llama/Llama-3.2-3B-Instruct..."),
    (WEIGHTS, 1.0, "(Worker_TP0 pid=34322) INFO 05-06 20:59:57 [default_loader.py:384] Loading weights took 24.84 seconds"),
    (WEIGHTS, 1.0, "(Worker_TP0 pid=34322) INFO 05-06 20:59:59 [gpu_model_runner.py:4879] Model loading took 12.66 GiB memory and 31.657031 seconds"),
    (COMPILING, None, "(Worker_TP0 pid=34322) INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s"),
    (COMPILING, None, "(Worker_TP0 pid=34322) INFO 05-06 21:00:16 [backends.py:1069] Using cache directory: /home/b/.cache/vllm/torch_compile_cache/7b/rank_0_0/backbone for vLLM's torch.compile"),
    (GRAPHS, 0.42, "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  42%|████▏     | 28/67 [00:01<00:02, 18.70it/s]"),
    (GRAPHS, 1.0, "(EngineCore_DP0 pid=387) INFO 01-12 01:09:14 [gpu_model_runner.py:4587] Graph capturing finished in 9 secs, took 0.61 GiB"),
    # TensorRT-LLM: github.com/NVIDIA/TensorRT-LLM pull 5291
    (WEIGHTS, 1.0, f"Loading weights: 100%|{BAR}| 1190/1190 [01:01<00:00, 19.26it/s]"),
    (WEIGHTS, 0.37, f"Loading weights:  37%|{BAR}| 440/1190 [00:22<00:39, 19.26it/s]"),
    # transformers
    (WEIGHTS, 0.5, "Loading checkpoint shards:  50%|█████     | 1/2 [00:11<00:11, 11.52s/it]"),
    # llama.cpp: its dots, and the b10434 build that the tests run
    (WEIGHTS, None, "load_tensors: loading model tensors, this can take a while... (mmap = true)"),
    (WEIGHTS, 0.99, "." * 99),
    (WEIGHTS, None, "0.00.020.378 I srv    load_model: loading model '/srv/models/aa.gguf'"),
    (WARM_UP, None, "cmn  common_init_: warming up the model with an empty run - please wait ... (--no-warmup to disable)"),
]  # fmt: skip

SAYS_NOTHING = [
    "",
    "...",
    "INFO:     127.0.0.1:40112 - \"GET /health HTTP/1.1\" 503 Service Unavailable",
    "[2025-12-23 14:18:00] Init torch distributed begin.",
    "(EngineCore_0 pid=1) INFO Available KV cache memory: 27.4 GiB, 85% of what is free",
    "GPU KV cache usage: 45.0%, Prefix cache hit rate: 0.0%",
    "Decode batch. #running-req: 1, token usage: 0.01, gen throughput (token/s): 12.3",
    "The user wrote: loading 45%",
    "Loading the dictionary of 100% pure nonsense",
]  # fmt: skip


@pytest.mark.parametrize(("step", "share", "line"), SAYS)
def test_a_line_says_how_far_the_load_is(step: LoadStep, share: float | None, line: str) -> None:
    said = heard(line)
    assert said is not None, line
    assert (said.step, said.share) == (step, share)


@pytest.mark.parametrize("line", SAYS_NOTHING)
def test_other_lines_say_nothing_of_it(line: str) -> None:
    assert heard(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "Loading weights: 250%|",
        "loading " * 5000 + "5%",
        "%" * 20_000,
        "loading shards " * 2000 + "7% 9%",
        "." * 100_000,
    ],
)
def test_no_line_takes_long_or_says_more_than_all(line: str) -> None:
    started = time.perf_counter()
    said = heard(line)
    assert time.perf_counter() - started < 0.1
    assert said is None or said.share is None or 0 <= said.share <= 1
