"""A finding: one thing that is wrong, or worth knowing, about a model before it is tried."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How much a finding matters: errors block a switch unless forced, warnings and infos are shown."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(Struct, frozen=True):
    """``message`` says what is the case, ``hint`` what to do about it; ``code`` is stable, for programs."""

    code: str
    level: Level
    message: str
    hint: str = ""


def sort(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Errors first, then warnings, each in the order in which they were found."""
    order = list(Level)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def notable(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Without the infos, which only a whole report is the place for."""
    return tuple(finding for finding in findings if finding.level is not Level.INFO)


def error(code: str, message: str, hint: str) -> Finding:
    """A finding that blocks a switch."""
    return Finding(code, Level.ERROR, message, hint)


def warning(code: str, message: str, hint: str) -> Finding:
    """A finding that is shown."""
    return Finding(code, Level.WARNING, message, hint)


def info(code: str, message: str, hint: str = "") -> Finding:
    """A finding that asks for nothing."""
    return Finding(code, Level.INFO, message, hint)
