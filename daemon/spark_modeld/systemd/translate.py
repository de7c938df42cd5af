"""From systemd's words to ours: properties to a UnitStatus, error names to a CallFailure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.unit import ActiveState, UnitStatus
from spark_modeld.ports import CallFailure
from spark_modeld.systemd.glib_thread import BusError

STATUS_PROPERTIES = (
    "ActiveState",
    "SubState",
    "LoadState",
    "Job",
    "Result",
    "ExecMainStatus",
    "MainPID",
    "NeedDaemonReload",
)

FACT_PROPERTIES = ("LoadState", "UnitFileState", "Restart", "User", "ExecStart", "LimitRTTIME")

_BUS = "org.freedesktop.DBus.Error."
_SYSTEMD = "org.freedesktop.systemd1."

NO_SUCH_UNIT = _SYSTEMD + "NoSuchUnit"
NO_SUCH_PROCESS = _SYSTEMD + "NoSuchProcess"
_LOAD_FAILED = _SYSTEMD + "LoadFailed"
# A missing polkit rule gives the second; to us they are the same.
_DENIED = frozenset({_BUS + "AccessDenied", _BUS + "InteractiveAuthorizationRequired", _BUS + "AuthFailed"})
# The bus, not systemd, says these: the call may have been delivered or not.
_UNCLEAR = frozenset(
    _BUS + name
    for name in ("NoReply", "Timeout", "TimedOut", "Disconnected", "NoServer", "ServiceUnknown", "NameHasNoOwner")
)


def call_failure(error: BusError) -> CallFailure:
    """What a failed call means. ``unclear`` unless systemd itself answered."""
    if error.name is None or error.name in _UNCLEAR:
        return CallFailure.UNCLEAR
    if error.name == NO_SUCH_UNIT or (error.name == _LOAD_FAILED and "not found" in error.message.lower()):
        return CallFailure.NO_SUCH_UNIT
    if error.name in _DENIED:
        return CallFailure.ACCESS_DENIED
    return CallFailure.REFUSED


def unit_status(properties: Mapping[str, Any]) -> UnitStatus:
    """The status that these properties describe; units that are no services lack the last four."""
    active = str(properties.get("ActiveState", ""))
    job_id, job_path = properties.get("Job", (0, "/"))
    return UnitStatus(
        active=ActiveState(active) if active in set(ActiveState) else ActiveState.UNKNOWN,
        sub=str(properties.get("SubState", "")),
        load=str(properties.get("LoadState", "loaded")),
        job=str(job_path) if job_id else None,
        result=str(properties.get("Result", "success")),
        exit_status=int(properties.get("ExecMainStatus", 0)),
        main_pid=int(properties.get("MainPID", 0)),
        need_reload=bool(properties.get("NeedDaemonReload", False)),
    )


def unit_facts(properties: Mapping[str, Any]) -> UnitFacts:
    """The facts in these properties; ``ExecStart`` is a list of (program, argv, ...)."""
    commands = properties.get("ExecStart", [])
    return UnitFacts(
        load=str(properties.get("LoadState", "loaded")),
        file_state=str(properties.get("UnitFileState", "")),
        restart=str(properties.get("Restart", "no")),
        user=str(properties.get("User", "")),
        command=tuple(str(word) for word in commands[0][1]) if len(commands) == 1 else (),
        brand=int(properties.get("LimitRTTIME", 0)),
    )


def unloadable(error: BusError) -> UnitStatus:
    """The status of a unit that systemd will not even look at."""
    missing = call_failure(error) is CallFailure.NO_SUCH_UNIT
    return UnitStatus(active=ActiveState.INACTIVE, load="not-found" if missing else "error", sub="dead")
