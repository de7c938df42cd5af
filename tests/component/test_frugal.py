"""What one switch costs the outside, in things that can be counted: seconds are the benchmarks' business."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from spark_modeld.core.switch import Outcome, Requester
from spark_modeld.face import Snapshot
from support.fakes import Outside

pytestmark = pytest.mark.component

AT_MOST = {
    # One each: every one is a check of polkit's, or a round trip to PID 1, while clients wait.
    "systemd.start": 1,
    "systemd.stop": 1,
    "systemd.facts": 1,
    "systemd.processes": 1,
    # What is meant, before the first stop; what came of it.
    "store.save": 2,
    "inspector.inspect": 1,
    "prober.climb": 1,
    # To admit, to be sure that it is gone, for room, for the floor.
    "gauge.read": 5,
    "snapshots": 18,
}


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    """One model serves, and each has been looked at."""
    made = Outside()
    await made.up()
    await switch(made, "alpha")
    await switch(made, "beta")
    yield made
    await made.engine.shut_down()


async def switch(outside: Outside, model: str) -> None:
    asked = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None, force=False)
    assert (await outside.engine.wait(asked.id, None)).outcome is Outcome.READY


def counted(target: Any, name: str, counts: Counter[str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(target, name)

    def call(*args: Any, **options: Any) -> Any:
        counts[what] += 1
        return real(*args, **options)

    monkeypatch.setattr(target, name, call)


async def test_a_switch_asks_no_more_than_it_has_to(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    for what in AT_MOST:
        part, _, name = what.partition(".")
        if name:
            counted(getattr(outside, part), name, counts, what, monkeypatch)

    def published(_: Snapshot) -> None:
        counts["snapshots"] += 1

    outside.engine.listen(published)
    await switch(outside, "alpha")
    assert {what: count for what, count in counts.items() if count > AT_MOST[what]} == {}
    assert counts["store.save"] == counts["systemd.start"] + counts["systemd.stop"] == 2
