"""The shapes of JSON: what a document is made of, and where it is not as it was said to be.

A shape is "string", "integer", "number", "boolean", "time" (RFC 3339, UTC) or "any", with "?" behind it where null is
possible; "@" and the name of a shape; a list of one shape; or an object with a shape for each member. A member with "?"
behind its name may be missing; "*" stands for members of any other name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[2] / "packaging" / "man" / "json-shapes.json"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def golden() -> dict[str, Any]:
    """Command -> the shape of what its ``--json`` prints."""
    shapes: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    named = shapes.pop("")
    return {command: _resolved(shape, named) for command, shape in shapes.items()}


def _resolved(shape: Any, named: dict[str, Any]) -> Any:
    """The shape, those that it names put in their places."""
    if isinstance(shape, str) and shape.startswith("@"):
        name, maybe = shape[1:].removesuffix("?"), shape.endswith("?")
        found = _resolved(named[name], named)
        return {"?": found} if maybe else found
    if isinstance(shape, list):
        return [_resolved(each, named) for each in shape]
    if isinstance(shape, dict):
        return {name: _resolved(each, named) for name, each in shape.items()}
    return shape


def differences(value: Any, shape: Any, where: str = "$") -> Iterator[str]:
    """Where the value is not of this shape, in words; nothing where it is."""
    match shape:
        case {"?": inner}:
            if value is not None:
                yield from differences(value, inner, where)
        case str(text) if text.endswith("?"):
            if value is not None:
                yield from differences(value, text[:-1], where)
        case str(text):
            if not _is(value, text):
                yield f"{where} is {value!r:.60}, not {text}"
        case [inner]:
            if not isinstance(value, list):
                yield f"{where} is no list"
                return
            for number, each in enumerate(value):
                yield from differences(each, inner, f"{where}[{number}]")
        case {"*": inner} if len(shape) == 1:
            if not isinstance(value, dict):
                yield f"{where} is no object"
                return
            for name, each in value.items():
                yield from differences(each, inner, f"{where}.{name}")
        case dict():
            yield from _members(value, shape, where)


def _members(value: Any, shape: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    known = {name.removesuffix("?"): (each, name.endswith("?")) for name, each in shape.items() if name != "*"}
    for name in value.keys() - known.keys() if "*" not in shape else ():
        yield f"{where}.{name} is new"
    for name, (each, optional) in known.items():
        if name in value:
            yield from differences(value[name], each, f"{where}.{name}")
        elif not optional:
            yield f"{where}.{name} is missing"


def _is(value: Any, text: str) -> bool:
    match text:
        case "any":
            return True
        case "string":
            return isinstance(value, str)
        case "time":
            return isinstance(value, str) and _TIME.fullmatch(value) is not None
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
    raise ValueError(f"no shape: {text}")
