"""How a command fails: with the API's problem, or with one of its own in the same shape, and an exit status."""

from __future__ import annotations

from typing import Any

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 6, 130


class Failure(Exception):
    """A problem to show, and the exit status to end with."""

    def __init__(self, problem: dict[str, Any], exit_code: int) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem
        self.exit_code = exit_code


def local(code: str, title: str, detail: str, exit_code: int) -> Failure:
    """A failure that the daemon had no part in."""
    problem = {"type": f"urn:spark-modeld:problem:{code}", "title": title, "detail": detail, "code": code}
    return Failure(problem, exit_code)


def refused(problem: dict[str, Any]) -> Failure:
    """What the daemon answered, with the exit status that its code stands for."""
    from spark_modeld.core.errors import Code, Problem

    try:
        exit_code = Problem(Code(problem.get("code", "")), "").exit_code
    except ValueError:  # a newer daemon knows more codes
        exit_code = FAILED
    return Failure(problem, exit_code)
