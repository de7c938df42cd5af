"""The table of transitions in DESIGN.md is the one in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from spark_modeld.core.life_event import Trigger
from spark_modeld.core.transitions import TABLE
from spark_modeld.core.unit import Phase

pytestmark = pytest.mark.unit

DESIGN = Path(__file__).resolve().parents[2] / "daemon" / "DESIGN.md"
BEGIN, END = "<!-- transitions -->", "<!-- /transitions -->"

Transition = tuple[Phase, Trigger, Phase]


def transitions_in(text: str) -> list[Transition]:
    """The rows between the marks; a cell may list several phases. ValueError for what is no phase or no trigger."""
    lines = text.splitlines()
    rows = [line for line in lines[lines.index(BEGIN) + 1 : lines.index(END)] if line.strip()]
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    assert cells[0] == ["from", "event", "to"]
    assert all(set(cell) <= set(":-") for cell in cells[1])
    return [
        (Phase(before), Trigger(event), Phase(after))
        for befores, event, afters in cells[2:]
        for before in befores.replace("`", "").split(", ")
        for after in afters.replace("`", "").split(", ")
    ]


def test_the_design_says_what_the_code_does() -> None:
    said = transitions_in(DESIGN.read_text(encoding="utf-8"))
    done = {(before, trigger, after) for (before, trigger), afters in TABLE.items() for after in afters}
    assert set(said) - done == set(), "in DESIGN.md, not in the code"
    assert done - set(said) == set(), "in the code, not in DESIGN.md"
    assert len(said) == len(set(said)), "said twice"


def test_a_table_is_read_row_by_row() -> None:
    text = (
        f"x\n{BEGIN}\n| from | event | to |\n|---|:--|---|\n| stopped, `failed` | shown | starting, warming |\n{END}\n"
    )
    assert set(transitions_in(text)) == {
        (before, Trigger.SHOWN, after)
        for before in (Phase.STOPPED, Phase.FAILED)
        for after in (Phase.STARTING, Phase.WARMING)
    }
    for wrong in ("asleep | shown | starting", "stopped | knocked | starting", "stopped | shown | asleep"):
        with pytest.raises(ValueError, match=r"asleep|knocked"):
            transitions_in(f"{BEGIN}\n| from | event | to |\n|---|---|---|\n| {wrong} |\n{END}\n")
