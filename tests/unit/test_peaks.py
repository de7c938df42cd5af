"""Memory's bookkeeping: curves, what is still to come back, what was measured, when the guard acts."""

from __future__ import annotations

import pytest

from spark_modeld.core.admission import admit, never_started
from spark_modeld.core.curve import MOST, Curve
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.guard import Alarm, Guard, enough
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Basis, Footprint
from spark_modeld.core.peaks import MARGIN_BYTES, Peaks, with_margin
from spark_modeld.core.reading import GpuProcess, MemorySource, Reading
from spark_modeld.core.record import Measured
from spark_modeld.core.returning import Returning
from spark_modeld.core.settings import MemorySettings

pytestmark = pytest.mark.unit

GIB = 1 << 30
FLOOR = 3 * GIB


def at(seconds: float) -> Instant:
    return Instant(seconds, 1_800_000_000.0 + seconds)


def reading(available: int, *processes: GpuProcess, seconds: float = 0.0, stale: bool = False) -> Reading:
    return Reading(
        total=128 * GIB,
        available=available,
        free=0,
        source=MemorySource.UNIFIED,
        taken_at=at(seconds),
        processes=processes,
        stale=stale,
    )


# The curve.


def test_a_short_curve_is_kept_whole() -> None:
    curve = Curve(10.0)
    for second in range(5):
        curve.add(10.0 + second, 100 - second)
    assert curve.points() == [[0.0, 100], [1.0, 99], [2.0, 98], [3.0, 97], [4.0, 96]]


def test_a_long_curve_is_thinned_where_it_is_old() -> None:
    curve = Curve(0.0)
    for number in range(5 * 900):
        curve.add(number / 5, number)
    points = curve.points()
    assert len(points) <= MOST
    assert points[0] == [0.0, 0]
    assert points == sorted(points)
    assert [available for _, available in points[-20:]] == list(range(4480, 4500))


def test_a_reading_that_is_not_later_is_left_out() -> None:
    curve = Curve(0.0)
    for second in (1.0, 1.0, 0.5):
        curve.add(second, 7)
    assert curve.points() == [[1.0, 7]]


# What is still to come back.


def test_a_debt_is_paid_by_readings_that_rise() -> None:
    returning = Returning()
    returning.begin("alpha", 60 * GIB, 10 * GIB)
    assert returning.outstanding("alpha", 10 * GIB) == 60 * GIB
    assert returning.outstanding("alpha", 30 * GIB) == 40 * GIB
    assert returning.outstanding("alpha", 5 * GIB) == 60 * GIB
    assert returning.outstanding("beta", 10 * GIB) is None
    returning.down("alpha", at(0), 120.0)
    returning.look(30 * GIB, at(1))
    assert returning.total(30 * GIB) == 40 * GIB
    returning.look(70 * GIB, at(2))
    assert returning.total(10 * GIB) == 0, "what was paid once is paid"


def test_a_debt_is_not_waited_for_for_ever() -> None:
    returning = Returning()
    returning.begin("alpha", 60 * GIB, 10 * GIB)
    returning.look(10 * GIB, at(1000))
    assert returning.total(10 * GIB) == 60 * GIB, "it is still on its way down"
    returning.down("alpha", at(1000), 120.0)
    returning.look(10 * GIB, at(1119))
    assert returning.unsettled(10 * GIB)
    returning.look(10 * GIB, at(1120))
    assert not returning.unsettled(10 * GIB)


def test_the_same_bytes_do_not_pay_two_debts() -> None:
    returning = Returning()
    returning.begin("alpha", 20 * GIB, 10 * GIB)
    returning.begin("beta", 30 * GIB, 10 * GIB)
    assert returning.total(35 * GIB) == 25 * GIB
    assert returning.total(35 * GIB, without={"beta"}) == 0
    assert returning.shown(35 * GIB) == [{"model": "beta", "expected": 30 * GIB, "outstanding": 25 * GIB}]


# What was measured.


@pytest.mark.parametrize(("peak", "margin"), [(100 * GIB, 5 * GIB), (GIB, MARGIN_BYTES)])
def test_the_margin_is_a_twentieth_and_half_a_gib_at_least(peak: int, margin: int) -> None:
    footprint = with_margin(Measured(peak, 1.0, 4096, "f"))
    assert (footprint.bytes, footprint.basis, footprint.taken_at) == (peak + margin, Basis.MEASURED, 1.0)
    assert "at a context of 4096" in footprint.note


def loaded(*readings: Reading, clean: bool = True) -> Peaks:
    """What is known of a model that was admitted at 100 GiB, after these readings, when it serves."""
    peaks = Peaks({})
    peaks.begin("m", "f", None)
    peaks.admitted("m", reading(100 * GIB), clean=clean)
    for each in readings:
        peaks.look(each)
    peaks.serves("m", 5.0)
    return peaks


def test_the_higher_of_attribution_and_drop_is_learnt() -> None:
    assert loaded(reading(60 * GIB)).measured["m"].bytes == 40 * GIB
    mine = GpuProcess(1, 30 * GIB, model="m")
    assert loaded(reading(60 * GIB, mine)).measured["m"].bytes == 40 * GIB, "host memory is the same pool"
    mine = GpuProcess(1, 45 * GIB, model="m")
    assert loaded(reading(60 * GIB, mine)).measured["m"].bytes == 45 * GIB


@pytest.mark.parametrize(
    "disturbance",
    [reading(101 * GIB), reading(60 * GIB, GpuProcess(9, GIB)), reading(60 * GIB, GpuProcess(9, GIB, model=None))],
)
def test_a_drop_is_not_learnt_when_others_moved_memory(disturbance: Reading) -> None:
    assert loaded(reading(90 * GIB), disturbance, reading(60 * GIB)).measured == {}


def test_a_drop_that_was_never_clean_is_not_learnt() -> None:
    assert loaded(reading(60 * GIB), clean=False).measured == {}


def test_processes_of_an_old_answer_are_no_measurement() -> None:
    stale = reading(100 * GIB, GpuProcess(1, 45 * GIB, model="m"), stale=True)
    assert loaded(stale).measured == {}


def test_only_what_grew_notably_is_kept() -> None:
    peaks = loaded(reading(60 * GIB))
    peaks.changed = False
    peaks.look(reading(0, GpuProcess(1, int(40.5 * GIB), model="m")))
    assert not peaks.changed
    peaks.look(reading(0, GpuProcess(1, 42 * GIB, model="m")))
    assert peaks.changed
    peaks.look(reading(0, GpuProcess(1, GIB, model="m")))
    assert peaks.measured["m"].bytes == 42 * GIB, "the peak, not the latest"


def test_it_counts_for_the_fingerprint_it_was_taken_with() -> None:
    peaks = loaded(reading(60 * GIB))
    assert peaks.of("m", "f") is not None
    assert peaks.of("m", None) is not None, "nobody has looked at it yet"
    assert peaks.of("m", "g") is None
    peaks.forget("m")
    assert peaks.of("m", "f") is None


def test_what_came_up_before_it_was_looked_at_is_kept_under_its_fingerprint() -> None:
    peaks = Peaks({})
    peaks.begin("m", None, None)
    peaks.look(reading(0, GpuProcess(1, 40 * GIB, model="m")))
    peaks.serves("m", 5.0)
    assert peaks.measured == {}
    peaks.known_as("m", "f")
    peaks.look(reading(0, GpuProcess(1, 40 * GIB, model="m")))
    assert peaks.measured["m"].fingerprint == "f"


# The guard's time.


def test_the_guard_says_so_first_and_acts_after_the_grace() -> None:
    guard = Guard()
    looks = [(0, 5), (1, 2), (2, 2), (30, 1), (31, 1)]
    told = [guard.look(reading(gib * GIB), FLOOR, 30.0, at(second)) for second, gib in looks]
    assert told == [None, Alarm.UNDER_FLOOR, None, None, Alarm.STOPPING]
    guard.acted(at(31))
    assert guard.look(reading(GIB), FLOOR, 30.0, at(60)) is None
    assert guard.look(reading(GIB), FLOOR, 30.0, at(61)) is Alarm.STOPPING
    assert guard.look(reading(FLOOR), FLOOR, 30.0, at(62)) is None, "just over it is not over"
    assert guard.look(reading(4 * GIB), FLOOR, 30.0, at(63)) is Alarm.OVER_FLOOR
    state = guard.state(30.0)
    assert (state.under_since, state.under_seconds, dict(state.actions)) == (
        None,
        62.0,
        {"stopping": 1, "under-floor": 1},
    )


def test_no_more_is_stopped_than_it_takes() -> None:
    freed = [("a", 2), ("b", 3), ("c", 9)]
    assert enough(freed, 1) == ["a"]
    assert enough(freed, 2) == ["a"]
    assert enough(freed, 5) == ["a", "b"]
    assert enough(freed, 99) == ["a", "b", "c"]


# Admission.


def test_a_discrete_gpu_that_does_not_answer_admits_nothing() -> None:
    """There the driver is the only one who knows what is free."""
    blind = Reading(
        total=80 * GIB, available=80 * GIB, free=0, source=MemorySource.DISCRETE, taken_at=at(0), stale=True
    )
    refusal = admit("m", Footprint(GIB, Basis.DECLARED), blind, MemorySettings())
    assert refusal is not None
    assert refusal.code is Code.MEMORY_REFUSED


def test_what_comes_back_is_counted_for_who_waits() -> None:
    need = Footprint(60 * GIB, Basis.DECLARED)
    assert admit("m", need, reading(10 * GIB), MemorySettings(), coming=58 * GIB) is None
    debts = [{"model": "old", "expected": 60 * GIB, "outstanding": 58 * GIB}]
    refusal = admit("m", need, reading(10 * GIB), MemorySettings(), debts=debts)
    assert refusal is not None
    assert refusal.extra["returning"] == debts
    assert "Of the 60.0 GiB of old, which is down, 58.0 GiB have not come back." in refusal.detail
    assert never_started(refusal)
    assert not never_started(Problem(Code.MEMORY_REFUSED, "killed", {"curve": []}))
    assert not never_started(Problem(Code.MODEL_FAILED, "died"))
