"""Records to be kept in state.toml."""

from __future__ import annotations

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.record import Measured, Record
from spark_modeld.core.switch import Outcome, Requester, Rollback, Switch, SwitchPhase


def switch(switch_id: str) -> Switch:
    """One that ended, with everything a switch can have."""
    return Switch(
        id=switch_id,
        model="qwen",
        from_model="scout",
        requested_by=Requester.CONTROL,
        actor="uid 1000",
        started_at=Instant(0.0, 1_770_000_000.25),
        force=True,
        phase=SwitchPhase.STARTING,
        finished_at=Instant(0.0, 1_770_000_003.5),
        outcome=Outcome.ROLLED_BACK,
        error=Problem(
            Code.MODEL_FAILED,
            "qwen's unit failed;\nlook at 'its' log \x7f\0 \"é\"",
            {"unit": "a.service", "holders": [{"pid": 1, "bytes": None}], "log": ["it's \x1b[31mred\x1b[0m"]},
            503,
        ),
        rollback=Rollback(model="scout", phase=SwitchPhase.READY),
        timings={"queued": 0.0, "stopping": 1.5},
    )


def record(number: int, history: int = 2) -> Record:
    """A full record that can be told from every other by its number."""
    return Record(
        desired="qwen",
        last_good=f"model-{number}",
        held_boot="b",
        switch=switch(f"current-{number}"),
        history=tuple(switch(f"{number}-{position}") for position in range(history)),
        failures={"qwen": 2},
        boot="boot-1",
        measured={"qwen": Measured(38 << 30, 1_770_000_000.0, 32768, "f"), "a.b": Measured(1, 2.5)},
    )
