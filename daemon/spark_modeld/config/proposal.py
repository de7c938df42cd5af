"""A model's file for a checkpoint that is in no catalog: a first guess, written so that a person can correct it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from shutil import which

from spark_modeld.core.admission import gib
from spark_modeld.core.footprint import Checkpoint, Flags, Format, PartName, estimate
from spark_modeld.core.model import MODEL_NAME, RESERVED_NAMES, EngineKind, Launch, Model

PORTS = range(30001, 30100)
"""Between SGLang's own port and the daemon's."""
_CONTEXT = 32768
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.85
_NOT_IN_ID = re.compile(r"[^a-z0-9._-]+")
_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")
_HUB = re.compile(r"models--.+?--(.+)")


def propose(
    checkpoint: Checkpoint,
    *,
    total: int,
    taken_names: Collection[str] = (),
    taken_ports: Collection[int] = (),
    name: str | None = None,
) -> Model:
    """A model that would serve this checkpoint on a machine with ``total`` bytes of memory.

    ``name`` is its id where somebody has chosen one. GGUF runs in llama-server, everything else in SGLang, but for what
    SGLang is known not to load on a Spark.
    """
    path = str(Path(checkpoint.path).absolute())
    name = name or free_name(id_of(path), taken_names)
    port = next((port for port in PORTS if port not in taken_ports), PORTS[0])
    engine = _engine_for(checkpoint)
    longest = checkpoint.architecture.context if checkpoint.architecture else None
    context = min(longest or _CONTEXT, _CONTEXT)
    share = _share(checkpoint, context, total)
    return Model(
        id=name,
        engine=engine,
        url=f"http://127.0.0.1:{port}",
        run=Launch(_command(engine, path, name, port=port, context=context, share=share)),
        served_model_name=name,
        path=path,
        context=context,
    )


def render(model: Model, checkpoint: Checkpoint) -> str:
    """The model's file, as ``models.d/<id>.toml`` would hold it."""
    assert isinstance(model.run, Launch)
    command = model.run.command
    lines = [f"# {line}" for line in _about(model, checkpoint)]
    lines += [
        f"engine = {quoted(model.engine)}",
        f"url = {quoted(model.url)}",
        f"served_model_name = {quoted(model.served_model_name)}",
        f"path = {quoted(model.path or '')}",
        "# Tokens, for the estimate; the launch flag below says the same to the engine.",
        f"context = {model.context}",
        '# What it needs is estimated until it was seen; memory = "38GiB" would declare it.',
        "",
        "[launch]",
        "command = [",
        *(f"  {', '.join(map(quoted, group))}," for group in _groups(command)),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _about(model: Model, checkpoint: Checkpoint) -> list[str]:
    name = checkpoint.architecture.name if checkpoint.architecture else "A checkpoint of unknown architecture"
    size = gib(checkpoint.weight_bytes) if checkpoint.weight_bytes else "unknown size"
    stored = checkpoint.quantization
    lines = [f"{name}: weights of {size}, {f'quantized with {stored}' if stored else 'not quantized'}."]
    if stored is not None and model.engine is EngineKind.VLLM:
        lines.append(f"vLLM, because {stored.method} checkpoints do not load in the Spark's SGLang.")
    if checkpoint.custom_code is not None and model.engine is not EngineKind.LLAMA_SERVER:
        lines.append(f"It brings code of its own ({checkpoint.custom_code}): --trust-remote-code would run it.")
    assert isinstance(model.run, Launch)
    program = model.run.command[0]
    if which(program) is None:
        lines.append(f"{program} is not on this machine's PATH: name it with its whole path.")
    return [printable(line) for line in lines]


def _command(engine: EngineKind, path: str, name: str, *, port: int, context: int, share: float) -> tuple[str, ...]:
    where = ("--host", "127.0.0.1", "--port", str(port))
    match engine:
        case EngineKind.LLAMA_SERVER:
            words = ("llama-server", "--model", path, "--alias", name, "--ctx-size", str(context))
            return (*words, "--n-gpu-layers", "999", *where)
        case EngineKind.VLLM:
            words = ("vllm", "serve", path, "--served-model-name", name, "--max-model-len", str(context))
            return (*words, "--gpu-memory-utilization", f"{share:.2f}", *where)
        case _:
            words = ("python3", "-m", "sglang.launch_server", "--model-path", path, "--served-model-name", name)
            return (*words, "--context-length", str(context), "--mem-fraction-static", f"{share:.2f}", *where)


def _groups(command: tuple[str, ...]) -> list[list[str]]:
    """The words, a line for each option with its value."""
    groups: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return groups


def _engine_for(checkpoint: Checkpoint) -> EngineKind:
    if checkpoint.format is Format.GGUF:
        return EngineKind.LLAMA_SERVER
    stored = checkpoint.quantization
    return EngineKind.VLLM if stored is not None and stored.method == "compressed-tensors" else EngineKind.SGLANG


def _share(checkpoint: Checkpoint, context: int, total: int) -> float:
    """What weights and two full contexts are of the memory, rounded up: enough to start with, and to leave room."""
    plan = estimate(EngineKind.OPENAI, checkpoint, Flags(), total=total, context=context)
    weights, cache = plan.part(PartName.WEIGHTS), plan.part(PartName.KV_CACHE)
    wanted = (weights.bytes if weights else 0) + 2 * (cache.bytes if cache else 0)
    return min(_MOST_SHARE, max(_LEAST_SHARE, math.ceil(110 * wanted / max(1, total)) / 100))


def id_of(source: Path | str) -> str:
    """From a folder's or file's name; in the Hugging Face cache, where that is a commit, from the repository's."""
    path = Path(source)
    hub = next((match[1] for part in path.parts if (match := _HUB.fullmatch(part))), None)
    name = path.stem if path.suffix == ".gguf" else hub or path.name
    cleaned = _NOT_IN_ID.sub("-", _PART.sub("", name).lower()).strip("._-")
    return cleaned[:60].rstrip("._-") or "model"


def free_name(name: str, taken: Collection[str]) -> str:
    """This name, or the next one like it that nobody has."""
    assert MODEL_NAME.fullmatch(name)
    candidates = (name, *(f"{name}-{i}" for i in range(2, 1000)))
    return next(each for each in candidates if each not in taken and each not in RESERVED_NAMES)


def quoted(word: str) -> str:
    """A string in TOML."""
    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")


def printable(text: str) -> str:
    """What may stand in a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)
