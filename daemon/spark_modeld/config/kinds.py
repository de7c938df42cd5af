"""The kinds of value a key can have: what is allowed in words and as JSON Schema, and how it is read.

A kind's ``parse`` raises ValueError for a value that is not allowed; its text, if any, says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from msgspec import Struct

from spark_modeld.config.findings import dotted, shown, type_of

T = TypeVar("T")
Value = Any  # what tomllib returns


class Wrong(Exception):
    """A value that is not allowed. Each fault is a place inside the value ("", "[2]", ".NAME") and a message."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("; ".join(message for _, message in faults))
        self.faults = faults


class Kind(Struct, Generic[T], frozen=True):
    """One kind of value. ``secret`` values are never repeated in a message."""

    allowed: str
    schema: Mapping[str, Any]
    parse: Callable[[Value], T]
    secret: bool = False

    def read(self, value: Value) -> T:
        """The value as the core wants it. Raises Wrong."""
        try:
            return self.parse(value)
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            raise Wrong(("", f"must be {self.allowed}{self._found(value)}{reason}")) from error

    def _found(self, value: Value) -> str:
        if not self.secret:
            return f"; is {shown(value)}"
        return "" if isinstance(value, str) else f"; is {type_of(value)}"


def string(value: Value) -> str:
    """The value if it is a string. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError
    return value


def boolean() -> Kind[bool]:
    """``true`` or ``false``."""

    def parse(value: Value) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind("true or false", {"type": "boolean"}, parse)


def integer(least: int, most: int, unit: str = "") -> Kind[int]:
    """An integer within bounds, both included."""

    def parse(value: Value) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    allowed = f"an integer from {least} to {most}" + (f" ({unit})" if unit else "")
    return Kind(allowed, {"type": "integer", "minimum": least, "maximum": most}, parse)


def choice(*options: str) -> Kind[str]:
    """One of a few words."""

    def parse(value: Value) -> str:
        if string(value) not in options:
            raise ValueError
        return str(value)

    allowed = " or ".join(f'"{option}"' for option in options) if len(options) < 3 else "one of " + ", ".join(options)
    return Kind(allowed, {"enum": list(options)}, parse)


E_ = TypeVar("E_", bound=StrEnum)


def member(vocabulary: type[E_]) -> Kind[E_]:
    """One word of a closed vocabulary."""
    words = choice(*(str(word) for word in vocabulary))
    return Kind(words.allowed, words.schema, lambda value: vocabulary(words.parse(value)))


def text(pattern: str, allowed: str, *, reserved: frozenset[str] = frozenset()) -> Kind[str]:
    """A string that matches ``pattern`` as a whole and is not ``reserved``."""
    compiled = re.compile(pattern)

    def parse(value: Value) -> str:
        if compiled.fullmatch(string(value)) is None:
            raise ValueError
        if value in reserved:
            raise ValueError("that name is reserved")
        return str(value)

    schema: dict[str, Any] = {"type": "string", "pattern": f"^(?:{pattern})$"}
    if reserved:
        schema["not"] = {"enum": sorted(reserved)}
    return Kind(allowed, schema, parse)


def either(first: Kind[T], word: str, meaning: T) -> Kind[T]:
    """What ``first`` allows, or one word that stands for ``meaning``."""

    def parse(value: Value) -> T:
        return meaning if value == word else first.parse(value)

    return Kind(f'{first.allowed}, or "{word}"', {"anyOf": [dict(first.schema), {"const": word}]}, parse, first.secret)


def array(item: Kind[T], allowed: str, *, least: int = 0) -> Kind[tuple[T, ...]]:
    """A list of ``item``, with every wrong item told; positions count from 1."""

    def parse(value: Value) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError
        if len(value) < least:
            raise ValueError("too few entries")
        items: list[T] = []
        faults: list[tuple[str, str]] = []
        for position, entry in enumerate(value, 1):
            try:
                items.append(item.read(entry))
            except Wrong as wrong:
                faults += [(f"[{position}]{where}", message) for where, message in wrong.faults]
        if faults:
            raise Wrong(*faults)
        return tuple(items)

    schema: dict[str, Any] = {"type": "array", "items": dict(item.schema)}
    if least:
        schema["minItems"] = least
    return Kind(allowed, schema, parse, item.secret)


def string_table(name: Kind[str], item: Kind[str], allowed: str) -> Kind[Mapping[str, str]]:
    """A table of strings, with every wrong name and value told."""

    def parse(value: Value) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise ValueError
        faults: list[tuple[str, str]] = []
        for key, entry in value.items():
            for kind, told in ((name, key), (item, entry)):
                try:
                    kind.read(told)
                except Wrong as wrong:
                    faults += [("." + dotted("", key) + where, message) for where, message in wrong.faults]
        if faults:
            raise Wrong(*faults)
        return MappingProxyType(dict(value))

    schema = {"type": "object", "propertyNames": dict(name.schema), "additionalProperties": dict(item.schema)}
    return Kind(allowed, schema, parse, item.secret)


class Field(Struct, frozen=True):
    """One key: its kind, one line about it, and its default as TOML would have it.

    ``default`` None means there is no constant default; ``default_help`` then says what applies.
    """

    key: str
    kind: Kind[Any]
    help: str
    default: Any = None
    required: bool = False
    default_help: str = ""


class Table(Struct, frozen=True):
    """One table of a file (``key`` "" for the file itself): its keys and the tables in it."""

    key: str
    help: str
    fields: tuple[Field, ...]
    tables: tuple[Table, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key it may have, those of the tables in it by their own names."""
        return *(field.key for field in self.fields), *(table.key for table in self.tables)
