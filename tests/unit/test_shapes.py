"""What the shapes of JSON can tell apart."""

from __future__ import annotations

import pytest

from support.shapes import differences, golden

pytestmark = pytest.mark.unit

SHAPE = {
    "id": "string",
    "at": "time",
    "n?": "integer",
    "far": "number?",
    "all": [{"ok": "boolean"}],
    "map": {"*": "number"},
}
GOOD = {"id": "a", "at": "2026-11-23T06:48:45.595Z", "far": None, "all": [{"ok": True}], "map": {"x": 1, "y": 0.5}}


def test_what_is_of_a_shape() -> None:
    assert list(differences(GOOD, SHAPE)) == []
    assert list(differences({**GOOD, "n": 3, "far": 0.5, "all": []}, SHAPE)) == []
    assert list(differences({"a": 1, "more": []}, {"a": "integer", "*": "any"})) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": None}, "$.id is None"), ({"at": "yesterday"}, "$.at is"), ({"n": True}, "$.n is"),
        ({"n": 1.5}, "$.n is"),
        ({"far": "far"}, "$.far is"), ({"all": {}}, "$.all is no list"), ({"all": [{"ok": 1}]}, "$.all[0].ok is"),
        ({"map": {"x": "1"}}, "$.map.x is"), ({"map": []}, "$.map is no object"), ({"other": 1}, "$.other is new"),
        ({"all": [{}]}, "$.all[0].ok is missing"),
    ],
)  # fmt: skip
def test_what_is_not(changes: dict[str, object], told: str) -> None:
    found = list(differences({**GOOD, **changes}, SHAPE))
    assert len(found) == 1
    assert found[0].startswith(told)


def test_shapes_by_name_are_put_in_place() -> None:
    shapes = golden()
    assert shapes["cancel"] == shapes["switch"]
    assert list(differences(None, shapes["status"]["last_failure"])) == []
    assert list(differences({}, shapes["status"]["last_failure"])) != []
