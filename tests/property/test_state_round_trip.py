"""Any record comes back from state.toml as it was, and any bytes are either a record or damage."""

from __future__ import annotations

import string
from contextlib import suppress
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.record import Measured, Record
from spark_modeld.core.switch import Outcome, Requester, Rollback, Switch, SwitchPhase
from spark_modeld.state_format import Renderer, parse

pytestmark = pytest.mark.property

FEW = settings(max_examples=150, deadline=None)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Sixty-fourths of a second are whole microseconds and exact as floats.
WALL = st.integers(0, 4_000_000_000 * 64).map(lambda ticks: ticks / 64)
INSTANT = WALL.map(lambda wall: Instant(0.0, wall))
SECONDS = st.floats(0, 1e9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PROBLEMS = st.builds(
    Problem,
    st.sampled_from(Code),
    TEXT,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.none() | st.integers(400, 599),
)
SWITCHES = st.builds(
    Switch,
    id=TEXT,
    model=st.none() | TEXT,
    from_model=st.none() | TEXT,
    requested_by=st.sampled_from(Requester),
    actor=st.none() | TEXT,
    started_at=INSTANT,
    force=st.booleans(),
    phase=st.sampled_from(SwitchPhase),
    phase_since=st.just(0.0),
    finished_at=st.none() | INSTANT,
    outcome=st.none() | st.sampled_from(Outcome),
    error=st.none() | PROBLEMS,
    rollback=st.none() | st.builds(Rollback, model=TEXT, phase=st.sampled_from(SwitchPhase)),
    timings=st.dictionaries(TEXT, SECONDS, max_size=3).map(MappingProxyType),
    noop=st.booleans(),
    reason=st.none() | TEXT,
)
RECORDS = st.builds(
    Record,
    desired=st.none() | TEXT,
    last_good=st.none() | TEXT,
    held_boot=TEXT,
    switch=st.none() | SWITCHES,
    history=st.lists(SWITCHES, max_size=3).map(tuple),
    failures=st.dictionaries(TEXT, st.integers(0, 9), max_size=3),
    boot=TEXT,
    measured=st.dictionaries(
        TEXT, st.builds(Measured, st.integers(0, 1 << 50), WALL, st.none() | st.integers(1, 1 << 30), TEXT), max_size=3
    ),
)


@FEW
@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_round_trip(records: list[Record]) -> None:
    renderer = Renderer()
    for record in records:
        assert parse(renderer.render(record)) == record


@FEW
@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    record_or_damage(data)


@FEW
@given(RECORDS, st.data())
def test_a_right_file_with_bytes_changed(record: Record, data: st.DataObject) -> None:
    right = Renderer().render(record)
    place = data.draw(st.integers(0, len(right) - 1))
    record_or_damage(right[:place] + data.draw(st.binary(max_size=4)) + right[place + data.draw(st.integers(0, 40)) :])


def record_or_damage(data: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(parse(data), Record)
