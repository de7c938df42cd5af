"""The switches that ended, in memory."""

from __future__ import annotations

import pytest

from spark_modeld.chronicle import Chronicle
from spark_modeld.core.instant import Instant
from spark_modeld.core.record import HISTORY
from spark_modeld.core.switch import Outcome, Requester, Switch

pytestmark = pytest.mark.unit


def test_only_the_last_are_kept_and_each_is_told() -> None:
    told: list[str] = []
    chronicle = Chronicle(lambda switch: told.append(switch.id))
    ids = [f"s{number}" for number in range(HISTORY + 3)]
    for each in ids:
        chronicle.add(
            Switch(
                id=each,
                model="alpha",
                from_model=None,
                requested_by=Requester.CONTROL,
                actor=None,
                started_at=Instant(1.0, 1.0),
                outcome=Outcome.READY,
            )
        )
    chronicle.tell()
    assert [switch.id for switch in chronicle.history] == ids[-HISTORY:]
    assert told == ids
