"""Does it fit? Pure arithmetic over one reading; every refusal carries its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import Basis, Footprint
from spark_modeld.core.reading import GpuProcess, HostProcess, MemorySource, Reading
from spark_modeld.core.settings import MemorySettings

_GIB = 1 << 30


class Holder(Struct, frozen=True):
    """A model that is alive: what it was admitted for, and what it is seen to hold (None: nobody can say).

    ``loading`` models have been promised memory that a reading does not show as taken yet. ``remedy`` says how to be
    rid of one that is none of ours.
    """

    model: str
    footprint: Footprint
    held: int | None
    large: bool
    loading: bool
    remedy: str = ""

    @property
    def gives_back(self) -> int:
        """Bytes that come back when it ends: what it is seen to hold, else what it was admitted for."""
        return self.footprint.bytes if self.held is None else self.held

    @property
    def outstanding(self) -> int:
        """Bytes it was promised and has not taken yet."""
        return max(0, self.footprint.bytes - (self.held or 0)) if self.loading else 0


def is_large(footprint: Footprint, memory: MemorySettings, total: int) -> bool:
    """Whether a model may never run beside another large one. Unknown needs count as large: fail closed."""
    return footprint.basis is Basis.UNKNOWN or footprint.bytes >= memory.large.of(total)


def held_by(model: str, reading: Reading) -> int | None:
    """Bytes that its server says it holds, or GPU memory of its processes; None where neither can be seen."""
    if listed := [entry.bytes for entry in reading.loaded if entry.model == model]:
        return sum(listed)
    amounts = [p.bytes for p in reading.processes if p.model == model]
    known = [a for a in amounts if a is not None]
    return sum(known) if amounts and len(known) == len(amounts) and not reading.stale else None


def strangers(reading: Reading, memory: MemorySettings) -> tuple[Holder, ...]:
    """Models that are not in the catalog, which other clients had our servers load."""
    found = []
    for entry in reading.loaded:
        if entry.model is None:
            footprint = Footprint(entry.bytes, Basis.MEASURED)
            large = is_large(footprint, memory, reading.total)
            remedy = f"`ollama stop {entry.name}` unloads it"
            found.append(Holder(f"{entry.name} on {entry.unit}", footprint, entry.bytes, large, False, remedy))
    return tuple(found)


def admit(
    model: str,
    need: Footprint,
    reading: Reading,
    memory: MemorySettings,
    *,
    leaving: Iterable[Holder] = (),
    staying: Iterable[Holder] = (),
    force: bool = False,
    coming: int = 0,
    debts: Sequence[Mapping[str, object]] = (),
) -> Problem | None:
    """None if ``available + returned - need >= reserve``, else the refusal.

    ``leaving`` give their memory back first, ``staying`` keep it. ``force`` skips an estimate, never the floor.
    ``coming`` are bytes that models which are gone have still to give back, for whoever can wait for them; ``debts``
    says of which, whether it is waited for or not.
    """
    staying = (*staying, *strangers(reading, memory))
    if reading.stale and reading.source is MemorySource.DISCRETE:
        detail = f"The driver does not answer: how much GPU memory is free for {model} is not known. Try again."
        return Problem(Code.MEMORY_REFUSED, detail, {"needed": need.bytes, "stale": True})
    if is_large(need, memory, reading.total):
        others = [h for h in staying if h.large]
        if others:
            return _large_parallel(model, need, others, memory.large.of(reading.total))
    given = sum(h.gives_back for h in leaving)
    available = reading.available - sum(h.outstanding for h in staying)
    skip_estimate = force and need.basis in {Basis.ESTIMATED, Basis.UNKNOWN}
    needed = 0 if skip_estimate else need.bytes
    reserve = (memory.floor if skip_estimate else memory.reserve).of(reading.total)
    if available + given + coming - needed >= reserve:
        return None
    refusal = _memory_refused(
        model, need, reading, staying, available=available, given=given, coming=coming, reserve=reserve
    )
    return _with_debts(refusal, reading, debts)


def _large_parallel(model: str, need: Footprint, others: list[Holder], large: int) -> Problem:
    names = ", ".join(f"{h.model} ({gib(h.footprint.bytes)})" for h in others)
    size = gib(need.bytes) if need.basis is not Basis.UNKNOWN else "of unknown size"
    detail = (
        f"{model} ({size}) is large, and so is {names}, which is running: "
        f"two models of {gib(large)} or more never run together. {_what_to_do(others)}."
    )
    extra = {"needed": need.bytes, "large": large, "holders": [_holder(h) for h in others]}
    return Problem(Code.LARGE_PARALLEL, detail, extra)


def _what_to_do(others: list[Holder]) -> str:
    remedies = "; ".join(h.remedy for h in others if h.remedy)
    return remedies[:1].upper() + remedies[1:] or "Switch instead of starting beside it"


def _memory_refused(
    model: str,
    need: Footprint,
    reading: Reading,
    staying: tuple[Holder, ...],
    *,
    available: int,
    given: int,
    coming: int,
    reserve: int,
) -> Problem:
    missing = reserve - (available + given + coming - need.bytes)
    back = f" + {gib(given)} given back" if given else ""
    back += f" + {gib(coming)} still to come back" if coming else ""
    detail = (
        f"{model} needs {gib(need.bytes)} ({need.basis}): {gib(available)} available{back} "
        f"- {gib(need.bytes)} would leave less than the reserve of {gib(reserve)}; {gib(missing)} short."
    )
    known = {h.model for h in staying}
    servers = {entry.unit for entry in reading.loaded}
    holders: list[dict[str, object]] = [_holder(h) for h in staying]
    holders += [
        _process(p, p.model, "gpu")
        for p in reading.processes
        if (p.model is None or p.model not in known) and p.unit not in servers
    ]
    holders += [_process(p, None, "host") for p in reading.strangers if p.unit not in servers]
    if holders:
        detail += " Held by " + ", ".join(_name(h) for h in holders) + "."
    extra = {
        "needed": need.bytes,
        "basis": str(need.basis),
        "available": available,
        "returned": given + coming,
        "reserve": reserve,
        "total": reading.total,
        "holders": holders,
    }
    return Problem(Code.MEMORY_REFUSED, detail, extra)


def _with_debts(refusal: Problem, reading: Reading, debts: Sequence[Mapping[str, object]]) -> Problem:
    """The refusal with what else explains it: memory that did not come back, and memory that is set aside."""
    detail, extra = refusal.detail, dict(refusal.extra)
    for debt in debts:
        owed, expected = debt["outstanding"], debt["expected"]
        assert isinstance(owed, int)
        assert isinstance(expected, int)
        detail += f" Of the {gib(expected)} of {debt['model']}, which is down, {gib(owed)} have not come back."
    if debts:
        extra["returning"] = [dict(debt) for debt in debts]
    if reading.huge_pages is not None:
        detail += f" {gib(reading.huge_pages.reserved)} more are set aside as huge pages."
        extra["huge_pages"] = reading.huge_pages.reserved
    return replace(refusal, detail=detail, extra=extra)


def never_started(problem: Problem) -> bool:
    """Whether this is a refusal, not what became of a start: killed under the floor, it has the curve of readings."""
    return problem.code in {Code.MEMORY_REFUSED, Code.LARGE_PARALLEL} and "curve" not in problem.extra


def _holder(holder: Holder) -> dict[str, object]:
    return {"model": holder.model, "bytes": holder.gives_back}


def _process(process: GpuProcess | HostProcess, model: str | None, memory: str) -> dict[str, object]:
    return {
        "model": model,
        "pid": process.pid,
        "command": process.command,
        "user": process.user,
        "unit": process.unit,
        "bytes": process.bytes,
        "memory": memory,
    }


def _name(holder: dict[str, object]) -> str:
    size = holder["bytes"]
    user = f" of {holder['user']}" if holder.get("user") else ""
    who = holder["model"] or f"{holder['command'] or 'a process'} (PID {holder['pid']}{user})"
    where = " of host memory" if holder.get("memory") == "host" else ""
    return f"{who} {gib(size) if isinstance(size, int) else 'an unknown amount'}{where}"


def gib(amount: int) -> str:
    """Bytes for people, in GiB."""
    return f"{amount / _GIB:.1f} GiB"
