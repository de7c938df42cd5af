"""The check of a checkpoint that is in no catalog, by this process itself, and the model's file that would add it."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from spark_modeld.core.reading import Reading

DEFAULT_USER = "spark-model"


def check_path(
    path: str,
    memory: dict[str, Any] | None,
    models: list[dict[str, Any]],
    *,
    name: str | None = None,
    taken: Collection[str] = (),
) -> dict[str, Any]:
    """The API's JSON of a check, and ``proposal``: the ``id``, ``file`` and ``toml`` that would add it.

    ``memory`` and ``models`` are the daemon's, None and none where it does not answer. ``name`` is the id where
    somebody has chosen one, ``taken`` are further names that are not free.
    """
    from msgspec.structs import replace

    from spark_modeld import checkpoint
    from spark_modeld.config.proposal import propose, render
    from spark_modeld.core.appraisal import appraise
    from spark_modeld.core.check import Room
    from spark_modeld.core.check import memory as memory_findings
    from spark_modeld.core.finding import sort
    from spark_modeld.core.footprint import estimate, flags_of
    from spark_modeld.core.model import Amount, Basis
    from spark_modeld.core.report import Report
    from spark_modeld.core.settings import MemorySettings
    from spark_modeld.inspection import Eyes
    from spark_modeld.inspection.look import inspect_checkpoint

    reading = _reading(memory)
    seen = inspect_checkpoint(path, DEFAULT_USER, Eyes(checkpoint.read, checkpoint.stamp))
    found = seen.checkpoint or checkpoint.read(path)
    model = propose(
        found,
        total=reading.total,
        taken_names={each for m in models for each in (m["id"], m["served_model_name"], *m["aliases"])} | {*taken},
        name=name,
        taken_ports={urlsplit(m["url"]).port or 0 for m in models} | _listened_on(),
    )
    flags = flags_of(model)
    plan = estimate(model.engine, found, flags, total=reading.total, available=reading.available, context=model.context)
    appraisal = appraise(model, replace(seen, checkpoint=found, flags=flags), plan)
    settings = MemorySettings(reserve=Amount(bytes=memory["reserve"])) if memory else MemorySettings()
    room = Room(reading=reading, settings=settings, need=plan.footprint)
    reserve = settings.reserve.of(reading.total)
    known = plan.footprint.basis is not Basis.UNKNOWN
    report = Report(
        model=model,
        appraisal=appraisal,
        findings=sort((*appraisal.findings, *memory_findings(model, room))),
        need=plan.footprint,
        large=not known or plan.total >= settings.large.of(reading.total),
        fits=reading.available - plan.footprint.bytes >= reserve if known else None,
        reading=reading,
        reserve=reserve,
    )
    can = found.weight_bytes and model.path is not None and model.path.isprintable()
    proposal = {"id": model.id, "file": f"models.d/{model.id}.toml", "toml": render(model, found)}
    return {**report.members(), "proposal": proposal if can else None}


def _reading(memory: dict[str, Any] | None) -> Reading:
    """The daemon's, else what the kernel says; processes are nobody's business here."""
    from spark_modeld.core.instant import Instant
    from spark_modeld.core.reading import MemorySource, Reading
    from spark_modeld.memory.meminfo import read_meminfo

    if memory is None:
        own = read_meminfo(os.environ.get("SPARK_MODELD_MEMINFO", "/proc/meminfo"))
        memory = {"total": own.total, "available": own.available, "free": own.free, "source": MemorySource.HOST}
    return Reading(
        total=memory["total"],
        available=memory["available"],
        free=memory["free"],
        source=MemorySource(memory["source"]),
        taken_at=Instant(0.0, 0.0),
    )


def _listened_on() -> set[int]:
    """Every port of this machine that somebody listens on; none where the kernel cannot be asked."""
    from spark_modeld.remains.sockets import listening

    try:
        return {each.port for each in listening()}
    except OSError:
        return set()
