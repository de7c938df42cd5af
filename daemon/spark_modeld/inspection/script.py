"""The engine's flags in a shell script that starts it, as far as they are written out.

Nothing is executed: what stands in variables is not known, and neither is what the script leaves to others.
"""

from __future__ import annotations

import os
import shlex
import stat

from msgspec import Struct
from msgspec.structs import replace

from spark_modeld.core.footprint import Flags, parse_flags
from spark_modeld.core.model import Container, EngineKind, Launch, Model

MOST_BYTES = 64 << 10
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_PROGRAMS = {
    EngineKind.SGLANG: "sglang",
    EngineKind.VLLM: "vllm",
    EngineKind.LLAMA_SERVER: "llama-server",
    EngineKind.TRTLLM: "trtllm-serve",
}
_ENDS = frozenset({";", "&&", "||", "|", "&"})


class Script(Struct, frozen=True):
    """``stamp`` changes with the file; ``flags`` is None where it does not show how the engine is started."""

    stamp: str
    flags: Flags | None


def script_of(model: Model) -> Script | None:
    """The script that starts this model, None where there is none or it may not be read. Blocking, raises nothing."""
    path = _path(model)
    if path is None:
        return None
    try:
        # Opening a FIFO without O_NONBLOCK would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        entry = os.fstat(descriptor)
        if not stat.S_ISREG(entry.st_mode) or entry.st_size > MOST_BYTES:
            return None
        text = os.read(descriptor, MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return Script(f"{entry.st_size} {entry.st_mtime_ns} {entry.st_ino}", _flags(model.engine, text))


def _path(model: Model) -> str | None:
    match model.run:
        case Container(start_script=str(script)):
            return script
        case Launch(command=(program, script, *_)) if program.rpartition("/")[2] in _SHELLS and script.startswith("/"):
            return script
        case Launch(command=(program, *_)) if program.startswith("/") and program.endswith((".sh", ".bash")):
            return program
    return None


def _flags(engine: EngineKind, text: str) -> Flags | None:
    """Of the first command that names the engine; words with variables in them are left out."""
    name = _PROGRAMS.get(engine)
    if name is None:
        return None
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        start = next((i for i, word in enumerate(words) if name in word and not word.startswith("-")), None)
        if start is None or words[0] in {"echo", "pkill", "export"} or "=" in words[start]:
            continue
        end = next((i for i, word in enumerate(words) if i > start and word in _ENDS), len(words))
        said = [word for word in words[start:end] if "$" not in word and "`" not in word]
        before = [word for word in words[:start] if "$" not in word]
        return replace(parse_flags(engine, said, before), known=False, bad=())
    return None
