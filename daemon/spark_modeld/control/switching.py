"""The calls about switches."""

from __future__ import annotations

import math
import re
import time

from aiohttp import web

from spark_modeld.control import views, wire
from spark_modeld.control.answers import answer, refusal
from spark_modeld.control.call import Call, until
from spark_modeld.control.intake import whole
from spark_modeld.control.names import with_nearest
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.switch import Outcome, Requester, Switch

_SWITCH_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LONGEST_WAIT = 86400.0
_MOST = 1000


async def switch(call: Call) -> web.StreamResponse:
    """Requests a switch, and waits for its end if asked to."""
    wants = call.body
    assert isinstance(wants, wire.SwitchRequest)
    wait, timeout = _wait(call.query.get("wait"))
    try:
        requested = await call.face.switch(
            wants.model, requested_by=Requester.CONTROL, actor=call.caller.actor, force=wants.force
        )
    except SparkError as error:
        raise with_nearest(error, wants.model, call.face.snapshot.catalog) from error
    if wait and requested.outcome is None:
        requested = await _wait_for(requested, timeout, call)
    return _result(requested, call)


async def switches(call: Call) -> web.StreamResponse:
    """The one under way, then the history, newest first."""
    known = call.face.switches()
    limit = whole("limit", call.query["limit"], 1, _MOST) if "limit" in call.query else len(known)
    return answer(wire.SwitchList(switches=[_shown(each, call) for each in known[:limit]]))


async def find(call: Call) -> web.StreamResponse:
    """One switch."""
    return answer(_shown(call.face.find_switch(_id(call)), call))


async def cancel(call: Call) -> web.StreamResponse:
    """Cancels; 202 while the way back is still being walked."""
    cancelled = await call.face.cancel(_id(call), actor=call.caller.actor)
    return answer(_shown(cancelled, call), status=200 if cancelled.outcome is not None else 202)


async def _wait_for(requested: Switch, timeout: float | None, call: Call) -> Switch:
    try:
        return await until(call.face.wait(requested.id, timeout), call)
    except SparkError as error:
        if error.problem.code is not Code.SHUTTING_DOWN:
            raise
        # The switch is recorded and goes on when the daemon is back, so the caller needs its id.
        known = _shown(call.face.find_switch(requested.id), call)
        raise refuse(Code.SHUTTING_DOWN, error.problem.detail, switch=known) from error


def _shown(value: Switch, call: Call) -> wire.Switch:
    return views.switch(value, call.face.snapshot, time.time())


def _result(value: Switch, call: Call) -> web.Response:
    shown = _shown(value, call)
    if value.outcome is None:
        return answer(shown, status=202, headers={"Location": f"/api/switches/{value.id}"})
    if value.outcome is Outcome.READY:
        return answer(shown)
    return refusal(_why(value), switch=shown)


def _why(value: Switch) -> Problem:
    if value.error is not None:
        return value.error
    match value.outcome:
        case Outcome.SUPERSEDED:
            return Problem(Code.SUPERSEDED, "A newer switch took over. GET /api/switches shows which.")
        case Outcome.CANCELLED:
            return Problem(Code.CANCELLED, "The switch was cancelled before it was done.")
        case _:
            return Problem(Code.MODEL_FAILED, f"The switch to {value.model} ended {value.outcome}.")


def _wait(text: str | None) -> tuple[bool, float | None]:
    """Whether to wait, and for how long (None: until it ends)."""
    match text:
        case None | "false":
            return False, None
        case "" | "true":
            return True, None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise refuse(
            Code.INVALID_REQUEST,
            f"?wait={text[:40]} is not possible: use true, false, or seconds from 0 to {_LONGEST_WAIT:.0f}.",
        )
    return True, seconds


def _id(call: Call) -> str:
    switch_id = call.path["id"]
    if not _SWITCH_ID.fullmatch(switch_id):
        raise refuse(Code.NOT_FOUND, "There is no such switch. GET /api/switches lists them.")
    return switch_id
