"""``TABLE``: which phase of a unit's life may follow which, and on what."""

from __future__ import annotations

from collections.abc import Mapping

from spark_modeld.core.life_event import Trigger
from spark_modeld.core.unit import Phase

_P = Phase
_T = Trigger
_RUNNING = (_P.WARMING, _P.SERVING, _P.DRAINING)


def _table() -> Mapping[tuple[Phase, Trigger], frozenset[Phase]]:
    rows: dict[tuple[Phase, Trigger], frozenset[Phase]] = {
        (_P.UNKNOWN, _T.SHOWN): frozenset({_P.STOPPED, _P.STARTING, _P.WARMING, _P.STOPPING, _P.FAILED}),
        (_P.STOPPED, _T.START_WANTED): frozenset({_P.RECLAIMING}),
        (_P.FAILED, _T.START_WANTED): frozenset({_P.RECLAIMING}),
        (_P.STOPPED, _T.GATE_PASSED): frozenset({_P.STARTING}),
        (_P.FAILED, _T.GATE_PASSED): frozenset({_P.STARTING}),
        (_P.RECLAIMING, _T.FITS): frozenset({_P.STARTING}),
        (_P.RECLAIMING, _T.REFUSED): frozenset({_P.FAILED}),
        (_P.RECLAIMING, _T.STOP_WANTED): frozenset({_P.STOPPED}),
        (_P.STARTING, _T.SHOWN): frozenset({_P.WARMING, _P.STOPPING}),
        (_P.STARTING, _T.JOB_ENDED): frozenset({_P.WARMING, _P.STOPPING}),
        (_P.STARTING, _T.CALL_FAILED): frozenset({_P.STOPPING, _P.FAILED}),
        (_P.STARTING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.STARTING, _T.UNDER_FLOOR): frozenset({_P.STOPPING}),
        (_P.STARTING, _T.STOP_WANTED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.LADDER_PASSED): frozenset({_P.SERVING}),
        (_P.WARMING, _T.LADDER_REFUSED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.UNDER_FLOOR): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.STOP_WANTED): frozenset({_P.STOPPING}),
        (_P.SERVING, _T.STOP_WANTED): frozenset({_P.DRAINING}),
        (_P.SERVING, _T.STALLED): frozenset({_P.STOPPING}),
        (_P.DRAINING, _T.KEEP_WANTED): frozenset({_P.SERVING}),
        (_P.DRAINING, _T.UNUSED): frozenset({_P.STOPPING}),
        (_P.DRAINING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.STOPPING, _T.SHOWN): frozenset({_P.WARMING}),
        (_P.STOPPING, _T.GONE): frozenset({_P.STOPPED, _P.FAILED}),
        (_P.STOPPING, _T.CALL_FAILED): frozenset({_P.STUCK}),
        (_P.STOPPING, _T.EXPIRED): frozenset({_P.STUCK}),
        (_P.STUCK, _T.GONE): frozenset({_P.FAILED}),
        (_P.STUCK, _T.STOP_WANTED): frozenset({_P.STOPPING}),
    }
    for phase in (_P.STOPPED, _P.FAILED, _P.RECLAIMING):
        rows[phase, _T.SHOWN] = frozenset({_P.STARTING, _P.WARMING, _P.STOPPING})
    for phase in _RUNNING:
        rows[phase, _T.SHOWN] = frozenset({_P.FAILED, _P.STOPPING})
    for phase in (_P.STARTING, *_RUNNING):
        rows[phase, _T.CUT_WANTED] = frozenset({_P.STOPPING})
    for phase in Phase:
        if phase is not _P.UNKNOWN:
            rows[phase, _T.BUS_LOST] = frozenset({_P.UNKNOWN})
    return rows


TABLE = _table()
