"""How far a load is, read out of what the engine writes into its log while it loads.

The lines are those of SGLang, vLLM (and NIM, which is one of them inside), TensorRT-LLM, transformers and llama.cpp. No
line of one means something else to another, so every engine is read alike: an ``openai`` may be any of them.

A bar that is drawn over itself with carriage returns, or a row of dots, is one line to the journal, which has it when
the line ends or has grown to 48 KiB (seen of systemd 252): what tqdm and llama.cpp draw is mostly heard when all is
there. Until an engine says more than that it loads its weights, what the disks have given since it began, of what the
weights' files hold, is the estimate.
"""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec import Struct

LOOKED_AT = 500
"""Characters at either end of a line: a bar that is drawn again and again is one long line, and its end is the news."""


class LoadStep(StrEnum):
    """What an engine does while it loads."""

    READING = "reading weights (estimated)"
    WEIGHTS = "loading weights"
    COMPILING = "compiling"
    GRAPHS = "capturing CUDA graphs"
    WARM_UP = "warming up"


class Progress(Struct, frozen=True):
    """The step an engine is at, and how much of that step is done, 0 to 1; None where it does not say."""

    step: LoadStep
    share: float | None = None


_PERCENT = re.compile(r"(\d{1,3})%")
# load_tensors: one dot for each hundredth, and the line's end after the last
_DOTS = re.compile(r"\.{20,}")
_BAR_OF = (
    # Loading safetensors checkpoint shards:  45% Completed | 5/11; Multi-thread loading shards:  50% Completed; from
    # transformers and TensorRT-LLM: Loading checkpoint shards:  50%|, Loading weights: 100%|
    (re.compile(r"\bloading\b[^%]*\b(?:shards|weights|safetensors|tensors)\b[^%]*\d%", re.I), LoadStep.WEIGHTS),
    # SGLang: Capturing batches (bs=8 avail_mem=18.72 GB):  33%|; vLLM: Capturing CUDA graphs (decode, FULL):  45%|
    (re.compile(r"\bcapturing\b[^%]*\b(?:batches|graphs?|shapes)\b[^%]*\d%", re.I), LoadStep.GRAPHS),
)
_SAYS = (
    ("load weight begin", Progress(LoadStep.WEIGHTS)),
    ("starting to load model", Progress(LoadStep.WEIGHTS)),
    ("load_model: loading model", Progress(LoadStep.WEIGHTS)),
    ("load_tensors: loading model tensors", Progress(LoadStep.WEIGHTS)),
    ("load weight end", Progress(LoadStep.WEIGHTS, 1.0)),
    ("loading weights took", Progress(LoadStep.WEIGHTS, 1.0)),
    ("model loading took", Progress(LoadStep.WEIGHTS, 1.0)),
    ("dynamo bytecode transform", Progress(LoadStep.COMPILING)),
    ("compiling a graph", Progress(LoadStep.COMPILING)),
    ("vllm's torch.compile", Progress(LoadStep.COMPILING)),
    ("capture cuda graph begin", Progress(LoadStep.GRAPHS)),
    ("capture cuda graph end", Progress(LoadStep.GRAPHS, 1.0)),
    ("graph capturing finished", Progress(LoadStep.GRAPHS, 1.0)),
    ("warming up the model", Progress(LoadStep.WARM_UP)),
)


WORTH_AN_ESTIMATE = 1 << 30
"""Bytes of weights: what is smaller is read in a moment."""
_LEAST_SHARE = 0.05
"""Less than that, the engine's own program or somebody else may have read."""


def estimated(said: Progress | None, read: int, weights: int) -> Progress | None:
    """How far the load is that has ``said`` so much, ``read`` bytes of its ``weights`` having been read since it began.

    Weights that are in the page cache already are not read, and nothing is said of them.
    """
    share = min(1.0, read * 100 // weights / 100) if weights >= WORTH_AN_ESTIMATE else 0.0
    if share < _LEAST_SHARE or (said is not None and said != Progress(LoadStep.WEIGHTS)):
        return said
    return Progress(LoadStep.READING, share)


def heard(line: str) -> Progress | None:
    """How far the load is by this line of an engine's log; None where it says nothing of that."""
    line = line.strip()
    begin, end = line[:LOOKED_AT], line[-LOOKED_AT:]
    if _DOTS.fullmatch(end):
        return Progress(LoadStep.WEIGHTS, min(1.0, len(line) / 100))
    if "%" in end:
        for bar, step in _BAR_OF:
            if bar.search(begin) or bar.search(end):
                return Progress(step, min(1.0, int(_PERCENT.findall(end)[-1]) / 100))
    small = begin.lower()
    return next((progress for text, progress in _SAYS if text in small), None)
