"""What is wrong with a configuration, and how it is said."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from msgspec import Struct

from spark_modeld.core.errors import Code, SparkError, refuse

SHOWN = 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Finding(Struct, frozen=True):
    """One thing that is wrong: in which file, at which dotted key ("" for the file as a whole), and what is allowed."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.message}"

    def as_dict(self) -> dict[str, str]:
        """The members of one entry of a problem's ``findings``."""
        return {"file": self.file, "key": self.key, "message": self.message}


def invalid_config(findings: Sequence[Finding]) -> SparkError:
    """The SparkError ``invalid-config`` that carries every finding; its detail names the first ``SHOWN``."""
    count = f"{len(findings)} errors" if len(findings) != 1 else "1 error"
    lines = [str(finding) for finding in findings[:SHOWN]]
    if len(findings) > SHOWN:
        lines.append(f"and {len(findings) - SHOWN} more")
    detail = f"The configuration has {count}; correct and reload. " + "; ".join(lines)
    return refuse(Code.INVALID_CONFIG, detail, findings=[finding.as_dict() for finding in findings])


def dotted(prefix: str, key: str) -> str:
    """``prefix.key`` as it would be written in TOML, the key quoted where it must be, shortened where it is absurd."""
    part = key if _BARE_KEY.fullmatch(key) else quoted(key)
    return f"{prefix}.{part}" if prefix else part


def quoted(text: str, limit: int = 80) -> str:
    """``text`` in double quotes on one line, at most ``limit`` characters of it."""
    return json.dumps(text if len(text) <= limit else text[:limit] + "…", ensure_ascii=False)


def shown(value: object) -> str:
    """A TOML value for a message: scalars as written, anything else by its type only (it may be huge, or nest)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        # str() of an integer of thousands of digits raises; a hexadecimal one may have them.
        return str(value) if abs(value) < 10**20 else "a huge integer"
    if isinstance(value, float):
        return str(value)
    return type_of(value)


def type_of(value: object) -> str:
    """TOML's word for the type of a value."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a float"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    return "a date or time"
