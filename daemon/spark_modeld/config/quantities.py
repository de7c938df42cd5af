"""Durations and sizes."""

from __future__ import annotations

import re
from fractions import Fraction

from spark_modeld.config.kinds import Kind, Value, string
from spark_modeld.core.model import Amount

DURATION = r"[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|s|min|h)"
SIZE = r"[0-9]{1,15}(?:\.[0-9]{1,6})?(?:B|[kKMGT]B|[KMGT]iB)"
PERCENT = r"[0-9]{1,3}(?:\.[0-9]{1,6})?%"

YEAR = 365 * 24 * 3600
_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600)}
_POWERS = "BKMGT"
_LARGEST = 1 << 50
_NUMBER = re.compile(r"([0-9.]+)(.*)")


def duration(*, zero: bool = False, at_most: str = "8760h") -> Kind[float]:
    """A duration, in seconds once read. ``at_most`` is the largest one, as text; a year unless told."""
    compiled = re.compile(DURATION)
    limit = seconds(at_most)

    def parse(value: Value) -> float:
        if compiled.fullmatch(string(value)) is None:
            raise ValueError
        result = seconds(value)
        if result > limit:
            raise ValueError("that is too long")
        if result == 0 and not zero:
            raise ValueError("that is no time at all")
        return result

    bound = f", at most {at_most}" if limit < YEAR else ""
    return Kind(f'a duration such as "500ms", "30s", "15min" or "2h"{bound}', _schema(f"^{DURATION}$"), parse)


def size(*, zero: bool = False) -> Kind[Amount]:
    """A size in bytes, or a percentage of the machine's memory."""
    compiled, percentage = re.compile(SIZE), re.compile(PERCENT)

    def parse(value: Value) -> Amount:
        if percentage.fullmatch(string(value)) is not None:
            percent = float(value[:-1])
            if not 1 <= percent <= 100:
                raise ValueError
            return Amount(percent=percent)
        if compiled.fullmatch(value) is None:
            raise ValueError
        amount = _bytes(value)
        if amount > _LARGEST:
            raise ValueError("no machine has that much")
        if amount == 0 and not zero:
            raise ValueError("that is nothing")
        return Amount(bytes=amount)

    allowed = (
        'a size such as "512MiB", "38GiB" or "1.5GB", or a percentage of the machine\'s memory from "1%" to "100%"'
    )
    return Kind(allowed, _schema(f"^(?:{SIZE}|{PERCENT})$"), parse)


def seconds(text: str) -> float:
    """Seconds of a text that matches DURATION."""
    number, unit = _split(text)
    return float(number * _SECONDS[unit])


def _bytes(text: str) -> int:
    number, unit = _split(text)
    base = 1024 if unit.endswith("iB") else 1000
    return int(number * base ** _POWERS.index(unit[0].upper()))


def _split(text: str) -> tuple[Fraction, str]:
    match = _NUMBER.fullmatch(text)
    assert match is not None
    return Fraction(match[1]), match[2]


def _schema(pattern: str) -> dict[str, str]:
    return {"type": "string", "pattern": pattern}
