"""Admission: the arithmetic at its edges, the large rule, and every number in the refusal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from spark_modeld.core.admission import Holder, admit, held_by, is_large
from spark_modeld.core.errors import Code
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Amount, Basis, Footprint
from spark_modeld.core.reading import GpuProcess, HostProcess, MemorySource, Reading
from spark_modeld.core.settings import MemorySettings

pytestmark = pytest.mark.unit

GIB = 1 << 30
MEMORY = MemorySettings(reserve=Amount(bytes=8 * GIB), large=Amount(bytes=24 * GIB), floor=Amount(bytes=3 * GIB))


def reading(available: int, *processes: GpuProcess, stale: bool = False) -> Reading:
    return Reading(
        total=121 * GIB,
        available=available,
        free=0,
        source=MemorySource.UNIFIED,
        taken_at=Instant(0, 0),
        stale=stale,
        processes=processes,
    )


def declared(gib: int) -> Footprint:
    return Footprint(gib * GIB, Basis.DECLARED)


def holder(gib: int, *, held: int | None = None, large: bool = False, loading: bool = False) -> Holder:
    return Holder("old", declared(gib), held, large, loading)


def test_it_fits_to_the_byte() -> None:
    assert admit("new", declared(38), reading(46 * GIB), MEMORY) is None
    refusal = admit("new", declared(38), reading(46 * GIB - 1), MEMORY)
    assert refusal is not None
    assert refusal.code is Code.MEMORY_REFUSED


def test_the_leaving_model_gives_back_what_it_is_seen_to_hold() -> None:
    assert admit("new", declared(38), reading(10 * GIB), MEMORY, leaving=[holder(40)]) is None
    assert admit("new", declared(38), reading(10 * GIB), MEMORY, leaving=[holder(40, held=20 * GIB)]) is not None


def test_what_is_still_loading_has_been_promised_its_memory() -> None:
    loading = holder(20, held=5 * GIB, loading=True)
    assert admit("new", declared(4), reading(26 * GIB), MEMORY, staying=[loading]) is not None
    assert admit("new", declared(4), reading(27 * GIB), MEMORY, staying=[loading]) is None
    assert admit("new", declared(4), reading(26 * GIB), MEMORY, staying=[holder(20)]) is None


def test_two_large_models_never_meet_however_much_is_free() -> None:
    refusal = admit("new", declared(24), reading(121 * GIB), MEMORY, staying=[holder(30, large=True)])
    assert refusal is not None
    assert refusal.code is Code.LARGE_PARALLEL
    assert refusal.extra["holders"] == [{"model": "old", "bytes": 30 * GIB}]
    assert admit("new", declared(23), reading(121 * GIB), MEMORY, staying=[holder(30, large=True)]) is None
    assert admit("new", declared(24), reading(121 * GIB), MEMORY, leaving=[holder(30, large=True)]) is None


def test_a_need_nobody_knows_counts_as_large() -> None:
    assert is_large(Footprint(0, Basis.UNKNOWN), MEMORY, 121 * GIB)
    assert not is_large(declared(23), MEMORY, 121 * GIB)


def test_the_refusal_says_every_number_and_who_holds_the_memory() -> None:
    notebook = GpuProcess(4242, 9 * GIB, "jupyter", "session-3.scope", user="ann")
    server = HostProcess(77, 40 * GIB, "ollama", "ollama.service", "ollama")
    now = replace(reading(30 * GIB, notebook), strangers=(server,))
    refusal = admit("new", declared(60), now, MEMORY, leaving=[holder(20)])
    assert refusal is not None
    extra = refusal.extra
    assert (extra["needed"], extra["available"], extra["returned"], extra["reserve"]) == (
        60 * GIB,
        30 * GIB,
        20 * GIB,
        8 * GIB,
    )
    where = ("pid", "command", "user", "unit", "bytes", "memory")
    assert extra["holders"] == [
        {"model": None} | dict(zip(where, (4242, "jupyter", "ann", "session-3.scope", 9 * GIB, "gpu"), strict=True)),
        {"model": None} | dict(zip(where, (77, "ollama", "ollama", "ollama.service", 40 * GIB, "host"), strict=True)),
    ]
    for said in ("60.0 GiB", "30.0 GiB", "20.0 GiB", "8.0 GiB", "18.0 GiB short"):
        assert said in refusal.detail
    assert "jupyter (PID 4242 of ann) 9.0 GiB, ollama (PID 77 of ollama) 40.0 GiB of host memory." in refusal.detail


def test_what_is_still_to_come_back_is_not_said_to_be_given_back() -> None:
    debt = {"model": "gone", "expected": 12 * GIB, "outstanding": 10 * GIB}
    refusal = admit("new", declared(60), reading(2 * GIB), MEMORY, leaving=[holder(20)], coming=10 * GIB, debts=[debt])
    assert refusal is not None
    assert (refusal.extra["returned"], refusal.extra["returning"]) == (30 * GIB, [debt])
    assert "2.0 GiB available + 20.0 GiB given back + 10.0 GiB still to come back - 60.0 GiB would" in refusal.detail
    assert "36.0 GiB short" in refusal.detail
    waited = admit("new", declared(60), reading(2 * GIB), MEMORY, coming=10 * GIB)
    assert waited is not None
    assert "given back" not in waited.detail


def test_force_skips_an_estimate_but_never_the_floor() -> None:
    estimated = Footprint(60 * GIB, Basis.ESTIMATED)
    assert admit("new", estimated, reading(4 * GIB), MEMORY, force=True) is None
    assert admit("new", estimated, reading(3 * GIB - 1), MEMORY, force=True) is not None
    assert admit("new", declared(60), reading(40 * GIB), MEMORY, force=True) is not None


def test_percentages_are_of_the_machine() -> None:
    memory = MemorySettings(reserve=Amount(percent=10.0), large=Amount(percent=50.0))
    assert is_large(declared(61), memory, 121 * GIB)
    assert not is_large(declared(60), memory, 121 * GIB)
    assert admit("new", declared(10), reading(22 * GIB), memory) is not None
    assert admit("new", declared(10), reading(23 * GIB), memory) is None


def test_what_a_model_holds_is_unknown_when_one_process_is() -> None:
    known = GpuProcess(1, 5 * GIB, model="old")
    assert held_by("old", reading(0, known)) == 5 * GIB
    assert held_by("old", reading(0, known, GpuProcess(2, None, model="old"))) is None
    assert held_by("old", reading(0)) is None
    assert held_by("old", reading(0, known, stale=True)) is None
