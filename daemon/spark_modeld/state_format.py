"""The shape of ``state.toml``: Record to text and back.

TOML has no null, so what is None is left out. Times are RFC 3339 timestamps for people, to the
microsecond; monotonic times mean nothing after a restart and are not kept. The history has one line
of JSON per switch: 200 switches as TOML tables would add 40 ms to every start.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import tomli_w

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.record import HISTORY, Measured, Record
from spark_modeld.core.switch import Outcome, Requester, Rollback, Switch, SwitchPhase

FORMAT = 1
_HEADER = "# Written by spark-modeld; stop it before you change anything here.\n"
# A file cut off between two entries is still TOML; without its last line it counts as damaged.
_END = "# end\n"


class _Problem(msgspec.Struct):
    code: Code
    detail: str
    extra: str | dict[str, Any] = {}  # as text where TOML's tables could not hold it
    http_status: int | None = None


class _Rollback(msgspec.Struct):
    model: str
    phase: SwitchPhase


class _Switch(msgspec.Struct, rename={"from_model": "from"}):
    id: str
    requested_by: Requester
    started_at: datetime
    phase: SwitchPhase
    model: str | None = None
    from_model: str | None = None
    actor: str | None = None
    force: bool = False
    noop: bool = False
    reason: str | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    error: _Problem | None = None
    rollback: _Rollback | None = None
    timings: dict[str, float] = {}


class _Measured(msgspec.Struct):
    bytes: int
    taken_at: datetime
    context: int | None = None
    fingerprint: str = ""


class _Record(msgspec.Struct):
    format: int = 0
    desired: str | None = None
    last_good: str | None = None
    held_boot: str = ""
    switch: _Switch | None = None
    measured: dict[str, _Measured] = {}
    failures: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    boot: str = ""
    history: list[str] = []


class Renderer:
    """Renders records; a switch of the history is rendered once and remembered while it stays in the history."""

    def __init__(self) -> None:
        self._lines: dict[int, tuple[Switch, str]] = {}

    def render(self, record: Record) -> bytes:
        """The text of ``state.toml``."""
        history = record.history[-HISTORY:]
        # Keyed by identity: the entry keeps its switch alive, so no other switch can get the same one.
        self._lines = {id(switch): self._lines.get(id(switch)) or (switch, _line(switch)) for switch in history}
        lines = "".join(self._lines[id(switch)][1] for switch in history)
        values = {
            "format": FORMAT,
            "desired": record.desired,
            "last_good": record.last_good,
            "held_boot": record.held_boot,
            "boot": record.boot,
        }
        tables = {
            "switch": _switch_table(record.switch) if record.switch is not None else None,
            "measured": {model: _measured_out(measured) for model, measured in record.measured.items()},
            "failures": dict(record.failures),
        }
        head, tail = tomli_w.dumps(_without_none(values)), tomli_w.dumps(_without_none(tables))
        # The last words of an engine may hold lone surrogates.
        return f"{_HEADER}{head}history = [\n{lines}]\n\n{tail}{_END}".encode("utf-8", "replace")


def parse(data: bytes) -> Record:
    """The record in the content of ``state.toml``. ValueError for what is not one; unknown keys are let pass."""
    text = data.decode()
    try:
        raw = tomllib.loads(text)
        if not raw:
            raise ValueError("it is empty")
        record = msgspec.convert(raw, _Record)
        if record.format and not text.endswith(_END):
            raise ValueError("it is cut off")
        return _record_in(record)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _record_in(record: _Record) -> Record:
    history = (msgspec.convert(json.loads(line), _Switch) for line in record.history[-HISTORY:])
    return Record(
        desired=record.desired,
        last_good=record.last_good,
        held_boot=record.held_boot,
        switch=_switch_in(record.switch) if record.switch is not None else None,
        history=tuple(_switch_in(switch) for switch in history),
        failures=MappingProxyType(record.failures),
        boot=record.boot,
        measured=MappingProxyType({model: _measured_in(measured) for model, measured in record.measured.items()}),
    )


def _line(switch: Switch) -> str:
    text = json.dumps(_switch_out(switch), default=_plain)
    # JSON in ASCII has no control character left; without a quote it is what a literal string may hold.
    return "  '" + text.replace("'", "\\u0027") + "',\n"


def _switch_table(switch: Switch) -> dict[str, Any]:
    table = _switch_out(switch)
    if "error" in table:
        extra = json.dumps(table["error"]["extra"], ensure_ascii=False, default=_plain)
        table["error"] = {**table["error"], "extra": extra}
    return table


def _switch_out(switch: Switch) -> dict[str, Any]:
    rollback, error = switch.rollback, switch.error
    return _without_none(
        {
            "id": switch.id,
            "model": switch.model,
            "from": switch.from_model,
            "requested_by": switch.requested_by,
            "actor": switch.actor,
            "started_at": _time_out(switch.started_at.wall),
            "finished_at": _time_out(switch.finished_at.wall) if switch.finished_at is not None else None,
            "phase": switch.phase,
            "outcome": switch.outcome,
            "force": switch.force,
            "noop": switch.noop,
            "reason": switch.reason,
            "timings": dict(switch.timings),
            "rollback": {"model": rollback.model, "phase": rollback.phase} if rollback is not None else None,
            "error": _problem_out(error) if error is not None else None,
        }
    )


def _switch_in(switch: _Switch) -> Switch:
    finished, rollback, error = switch.finished_at, switch.rollback, switch.error
    return Switch(
        id=switch.id,
        model=switch.model,
        from_model=switch.from_model,
        requested_by=switch.requested_by,
        actor=switch.actor,
        started_at=_instant(switch.started_at),
        force=switch.force,
        phase=switch.phase,
        finished_at=_instant(finished) if finished is not None else None,
        outcome=switch.outcome,
        error=_problem_in(error) if error is not None else None,
        rollback=Rollback(model=rollback.model, phase=rollback.phase) if rollback is not None else None,
        timings=MappingProxyType(switch.timings),
        noop=switch.noop,
        reason=switch.reason,
    )


def _problem_out(problem: Problem) -> dict[str, Any]:
    known = {"code": problem.code, "detail": problem.detail, "http_status": problem.http_status}
    return _without_none({**known, "extra": dict(problem.extra)})


def _problem_in(problem: _Problem) -> Problem:
    extra = json.loads(problem.extra) if isinstance(problem.extra, str) else problem.extra
    if not isinstance(extra, dict):
        raise ValueError("an error's extra is no table")
    return Problem(problem.code, problem.detail, MappingProxyType(extra), problem.http_status)


def _measured_out(measured: Measured) -> dict[str, Any]:
    return _without_none(
        {
            "bytes": measured.bytes,
            "taken_at": _time_out(measured.taken_at),
            "context": measured.context,
            "fingerprint": measured.fingerprint,
        }
    )


def _measured_in(measured: _Measured) -> Measured:
    return Measured(measured.bytes, measured.taken_at.timestamp(), measured.context, measured.fingerprint)


def _time_out(wall: float) -> datetime:
    return datetime.fromtimestamp(wall, UTC)


def _instant(time: datetime) -> Instant:
    return Instant(mono=0.0, wall=time.timestamp())


def _plain(value: object) -> object:
    """What JSON has no word for, as near as it can be said."""
    return dict(value) if isinstance(value, Mapping) else str(value)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
