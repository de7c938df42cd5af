"""JSON that nobody vouches for: only the members asked for are ever built, however many there are.

A document's bytes can become objects thirty times their size. So members are cut out raw, and decoded only where they
are small; the depth is bounded by the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from spark_modeld.checkpoint.files import Unreadable

SMALL = 16 << 10
"""Bytes of one decoded member."""
MOST_PAIRS = 500_000
_MOST_NO_JSON = 1000

# Transformers writes Infinity (Mamba's time_step_limit), which is no JSON.
_NO_JSON = re.compile(rb"([:,\[]\s*)(?:-?Infinity|NaN)\b")
# From a key's closing quote on. Names of files need no escapes; the bounds keep every attempt to match short.
_VALUE = re.compile(rb'"\s{0,8}:\s{0,8}"([^"\\]{0,255})"')


def members(data: bytes | memoryview, wanted: Sequence[str]) -> dict[str, memoryview]:
    """The raw text of these members of an object, where they are there. Unreadable when it is no JSON object."""
    try:
        return _cut(data, wanted)
    except msgspec.DecodeError as failure:
        if _NO_JSON.search(data) is None:
            raise Unreadable(f"is no JSON object: {failure}"[:200]) from failure
    except RecursionError as failure:
        raise Unreadable("is nested too deeply") from failure
    except UnicodeDecodeError as failure:
        raise Unreadable("is no UTF-8") from failure
    try:
        return _cut(_NO_JSON.sub(rb"\1null", data, _MOST_NO_JSON), wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise Unreadable(f"is no JSON object: {failure}"[:200]) from failure


def _cut(data: bytes | memoryview, wanted: Sequence[str]) -> dict[str, memoryview]:
    found = msgspec.json.decode(data, type=_shape(tuple(wanted)))
    return {key: view for key in wanted if (view := memoryview(getattr(found, key)))}


@cache
def _shape(wanted: tuple[str, ...]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Members", [(key, msgspec.Raw, msgspec.Raw()) for key in wanted])


def small(raw: Mapping[str, memoryview]) -> dict[str, Any]:
    """Each member's value; None where it is too large to be what it should be."""
    return {key: value(view) for key, view in raw.items()}


def value(view: memoryview) -> Any:
    """What a raw member says; None where it is larger than ``SMALL`` or no value Python holds."""
    if len(view) > SMALL:
        return None
    try:
        return msgspec.json.decode(view)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def texts(view: memoryview, most: int) -> set[bytes]:
    """The different values of an object whose members are all strings, as they are written, without building it.

    Unreadable when there are more than ``most``, or more than ``MOST_PAIRS`` members.
    """
    found: set[bytes] = set()
    for count, match in enumerate(_VALUE.finditer(view)):
        found.add(match[1])
        if count >= MOST_PAIRS or len(found) > most:
            raise Unreadable(f"names more than {most} files or {MOST_PAIRS} tensors")
    return found
