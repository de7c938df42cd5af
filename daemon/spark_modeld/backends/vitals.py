"""The signs of life of an engine that serves. Whoever looks is no client: nothing of it counts as use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from spark_modeld.backends import engine_of, late
from spark_modeld.backends.clients import others_connected
from spark_modeld.core.model import Model
from spark_modeld.core.pulse import Look, Proof, Proven, Reach

if TYPE_CHECKING:
    from spark_modeld.backends.engine import Engine
    from spark_modeld.backends.probe import Answer, Probe

_NOT_ACCEPTED = frozenset({401, 403})
_NO_SUCH_PATH = frozenset({404, 405, 501})
_NOT_OFFERED = _NO_SUCH_PATH | _NOT_ACCEPTED | {400, 415, 422}
_TOO_BUSY = frozenset({429})


class EngineVitals:
    """ports.Vitals over HTTP. ``read_key`` reads the file a model's ``api_key_file`` names: the key, or OSError."""

    def __init__(self, read_key: Callable[[str], str]) -> None:
        self._read_key = read_key

    async def look(self, model: Model, seconds: float, *, others: bool) -> Look:
        """See ports.Vitals: a connection, one cheap request, and what the engine counts where it shows that."""
        engine = engine_of(model.engine)

        def connected() -> bool | None:
            return others_connected(model.endpoint[1]) if others else None

        async with late.probe(model, self._read_key) as probe:
            trouble = await probe.connect()
            if trouble is not None:
                return Look(Reach.SILENT, trouble, others=connected()) if trouble else Look(Reach.REFUSED)
            answer = await probe.get(engine.alive_path or engine.health_path, seconds)
            reach, words = _reach(engine, answer)
            if reach is Reach.WELL and engine.load and not _lists(engine, answer, model):
                return Look(Reach.UNWELL, f"at {engine.names_path} that {model.served_model_name} is not loaded")
            if reach in {Reach.REFUSED, Reach.SILENT}:
                return Look(reach, words, others=connected())
            mark = await _mark(engine, probe, seconds)
            return Look(reach, words, mark, mark is None and connected())

    async def ask(self, model: Model, seconds: float) -> Proven:
        """See ports.Vitals."""
        engine = engine_of(model.engine)
        async with late.probe(model, self._read_key) as probe:
            # A server of many models would load it for us, past admission.
            if engine.load and not _lists(engine, await probe.get(engine.names_path, seconds), model):
                return Proven(Proof.FAILED, "that it is not loaded")
            for request in engine.generations:
                answer = await probe.post(request.path, request.body(model.served_model_name), seconds)
                if answer.ok:
                    done = request.done(answer.document())
                    return Proven(Proof.GIVEN) if done else Proven(Proof.FAILED, "nothing")
                if answer.status not in _NOT_OFFERED:
                    hung = answer.status == 0 or answer.status in _TOO_BUSY
                    return Proven(Proof.HUNG if hung else Proof.FAILED, answer.words)
        return Proven(Proof.NOT_OFFERED)

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        """See ports.Vitals."""
        return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The program's name, in brackets, may hold anything; utime and stime are fields 14 and 15.
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def _reach(engine: Engine, answer: Answer) -> tuple[Reach, str]:
    if answer.status == 0:
        return (Reach.SILENT, answer.words) if answer.words else (Reach.REFUSED, "")
    optional = engine.health_optional and answer.status in _NO_SUCH_PATH
    if answer.ok or optional or answer.status in _NOT_ACCEPTED:
        return Reach.WELL, ""
    return Reach.UNWELL, answer.words


def _lists(engine: Engine, answer: Answer, model: Model) -> bool:
    """Whether a server of many models still lists this one; one that does not let us see is believed."""
    names = engine.names(answer.document()) if answer.ok else None
    return names is None or model.served_model_name in names


async def _mark(engine: Engine, probe: Probe, seconds: float) -> str | None:
    for path, read in engine.marks:
        answer = await probe.get(path, seconds)
        if answer.ok and (mark := read(answer.body)) is not None:
            return mark
    return None
