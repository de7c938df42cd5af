"""The bar of spark-modelctl memory: what fills how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from spark_modeld.cli.memory_bar import memory_bar

pytestmark = pytest.mark.unit

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "76")  # 64 cells of 2 GiB beside an indent of 10 and two brackets


def answer(available: int, **more: Any) -> dict[str, Any]:
    """What the API answers, sizes in GiB."""
    empty: dict[str, Any] = {"models": [], "processes": [], "strangers": [], "loaded": []}
    levels = {"total": 128 * GIB, "available": available * GIB, "reserve": 8 * GIB, "floor": 2 * GIB}
    return {**empty, **levels, **more}


def model(name: str, size: int) -> dict[str, Any]:
    return {"model": name, "state": "serving", "bytes": size * GIB, "host_bytes": 0}


def process(pid: int, size: int | None, model: str | None = None) -> dict[str, Any]:
    held = size * GIB if size is not None else None
    return {"pid": pid, "bytes": held, "model": model, "unit": None, "command": "python3", "user": "ann"}


def cells(shown: dict[str, Any]) -> dict[str, int]:
    """How many cells of the bar have which mark, in their order."""
    bar = memory_bar(shown, 10)[0].strip()
    assert (bar[0], bar[-1]) == ("[", "]")
    inside = bar[1:-1]
    found = {mark: inside.count(mark) for mark in dict.fromkeys(inside)}
    assert inside == "".join(mark * number for mark, number in found.items())
    return found


def test_every_holder_has_its_length_and_the_levels_are_at_the_end() -> None:
    shown = answer(
        64, models=[model("qwen", 40)], processes=[process(1, 40, "qwen"), process(2, 4)], strangers=[process(3, 10)]
    )
    assert cells(shown) == {"a": 20, "b": 5, "c": 2, "█": 5, "░": 28, "▒": 3, "▓": 1}


def test_what_a_server_holds_for_others_is_a_holder_and_its_processes_are_not() -> None:
    on = {"unit": "ollama.service", "gpu_bytes": 0, "ends_in": None}
    ours = {"name": "qwen:8b", "bytes": 20 * GIB, "model": "qwen", **on}
    strange = {"name": "llava:34b", "bytes": 40 * GIB, "model": None, **on}
    runner = {**process(1, 60), "unit": "ollama.service"}
    shown = answer(64, models=[model("qwen", 20)], processes=[runner], strangers=[runner], loaded=[ours, strange])
    assert cells(shown) == {"a": 20, "b": 10, "█": 2, "░": 28, "▒": 3, "▓": 1}
    assert "llava:34b on ollama.service, no model of the catalog" in memory_bar(shown, 10)[1]


def test_what_is_used_covers_the_levels() -> None:
    assert cells(answer(2, models=[model("qwen", 120)])) == {"a": 60, "█": 3, "▓": 1}
    assert cells(answer(0)) == {"█": 64}


def test_an_empty_machine() -> None:
    assert cells(answer(128)) == {"░": 60, "▒": 3, "▓": 1}


def test_lists_that_claim_too_much_fill_no_more_than_what_is_used() -> None:
    shown = answer(96, models=[model("old", 64)], strangers=[process(3, 64)])
    assert cells(shown) == {"a": 8, "b": 8, "░": 44, "▒": 3, "▓": 1}


def test_unknown_bytes_and_the_ninth_holder_are_among_everything_else() -> None:
    shown = answer(64, processes=[process(1, None), *(process(pid, 4) for pid in range(2, 12))])
    assert cells(shown) == {**dict.fromkeys("abcdefgh", 2), "█": 16, "░": 28, "▒": 3, "▓": 1}


def test_the_legend_says_who_and_how_much() -> None:
    lines = memory_bar(answer(64, models=[model("qwen", 40)], strangers=[process(3, 10)]), 10)[1:]
    assert [line.strip().split("  ")[0].split()[:1] for line in lines] == [[mark] for mark in "ab█░▒▓"]
    assert lines[0] == "          a   40.0 GiB  qwen, serving"
    assert lines[1] == "          b   10.0 GiB  python3, PID 3 of ann, host memory"
    assert "56.0 GiB  for models" in lines[3]


def test_a_model_is_one_holder_also_where_only_host_memory_is_seen() -> None:
    both, host = model("qwen", 40) | {"host_bytes": 6 * GIB}, model("cpu", 0) | {"bytes": None, "host_bytes": 10 * GIB}
    assert cells(answer(64, models=[both, host])) == {"a": 23, "b": 5, "█": 4, "░": 28, "▒": 3, "▓": 1}


def test_a_container_has_its_short_name() -> None:
    held = process(3, 10) | {"unit": f"docker-{'0123456789abcdef' * 4}.scope"}
    assert memory_bar(answer(64, processes=[held]), 10)[1].endswith("PID 3 of ann, docker 0123456789ab")


@pytest.mark.parametrize("columns", [32, 60, 76, 112, 300])
def test_it_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = memory_bar(answer(64, models=[model("m" * 64, 40)], strangers=[process(3, 10)]), 10)
    assert max(len(line) for line in lines) <= columns


def test_no_bar_where_there_is_no_room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert "[" not in "".join(memory_bar(answer(64), 10))
