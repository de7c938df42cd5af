"""What people see of a check: findings with what to do about them, the parts of the need, and a file to add."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from spark_modeld.cli.text import clean, counted, fit, paint, size, width

_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}
_LABELS = {"weights": "weights", "kv_cache": "KV cache", "overhead": "overhead", "shared_memory": "shared memory"}
_LABEL = 14


def check(shown: dict[str, Any]) -> list[str]:
    """The whole screen."""
    lines = [f"{paint(shown['model'], 'bold')}  {_verdict(shown)}"]
    if shown["path"]:
        lines.append(_labelled("checkpoint", shown["path"]))
    if shown["quantization"]:
        lines.append(_labelled("quantization", f"{shown['quantization']}  {_from(shown['quantization_source'])}"))
    elif shown["weights"]:
        lines.append(_labelled("quantization", "none"))
    lines += ["", *(line for finding in shown["findings"] for line in _finding(finding))] if shown["findings"] else []
    lines += ["", *_need(shown)]
    proposal = shown.get("proposal")
    if proposal is not None:
        add = f"spark-modelctl add {shlex.quote(shown['path'])}"
        lines += ["", paint(clean(f"In no catalog. `{add}` makes this {proposal['file']} of it:"), "dim")]
        lines += ["", *clean_lines(proposal["toml"])]
    return lines


def clean_lines(text: str) -> list[str]:
    """A file's lines as they are, without control characters."""
    return [clean(line) for line in text.rstrip("\n").split("\n")]


def findings(found: Sequence[dict[str, Any]], *levels: str) -> list[str]:
    """Findings of these levels, each with what to do about it."""
    return [line for finding in found if finding["level"] in levels for line in _finding(finding)]


def found_of(models: list[dict[str, Any]]) -> list[str]:
    """A line for each model of which something was found, and how to see it."""
    lines = []
    for model in models:
        found = model.get("findings", [])
        if found:
            level = "error" if any(finding["level"] == "error" for finding in found) else "warning"
            codes = ", ".join(finding["code"] for finding in found)
            text = fit(f"{level.ljust(8)} {model['id']}: {codes}; see `spark-modelctl check {model['id']}`", width())
            lines.append(paint(clean(text), _COLOURS[level]))
    return ["", *lines] if lines else []


def _finding(finding: dict[str, Any]) -> list[str]:
    level = paint(finding["level"].ljust(8), _COLOURS.get(finding["level"], "dim"))
    lines = [f"{level} {finding['code']}: {clean(finding['message'])}"]
    return [*lines, f"         {clean(finding['hint'])}"] if finding["hint"] else lines


def _verdict(shown: dict[str, Any]) -> str:
    if not shown["ok"]:
        count = sum(finding["level"] == "error" for finding in shown["findings"])
        return paint(f"{counted(count, 'error')}: it is not tried without --force", "red")
    if any(finding["level"] == "warning" for finding in shown["findings"]):
        return paint("nothing that keeps it from being tried; see the warnings", "yellow")
    return paint("ready to be tried", "green")


def _need(shown: dict[str, Any]) -> list[str]:
    lines = [
        _labelled(_LABELS.get(part["name"], part["name"]), f"{size(part['bytes']):>10}  {_from(part['source'])}")
        for part in shown["parts"]
    ]
    need, basis = shown["footprint"]["bytes"], shown["footprint"]["basis"]
    lines.append(_labelled("needs", "unknown" if basis == "unknown" else f"{size(need):>10}  {basis}"))
    if shown["context"]:
        takes = f"{shown['context']} tokens take {size(shown['context_bytes'])} of KV cache"
        lines.append(_labelled("context", f"{takes}  {_from(shown['context_source'])}"))
    lines += [_labelled("note", clean(note)) for note in shown["notes"]]
    if shown["total"] is not None:
        have = f"{size(shown['available'])} of {size(shown['total'])} available, {size(shown['reserve'])} stay free"
        lines.append(_labelled("fits now", f"{_answer(shown['fits'])}  {paint(have, 'dim')}"))
        lines.append(_labelled("fits ever", _answer(shown["fits_ever"])))
    return lines


def _answer(fits: bool | None) -> str:
    return {True: paint("yes", "green"), False: paint("no", "red"), None: "nobody can say"}[fits]


def _from(source: str | None) -> str:
    return paint(clean(source or ""), "dim")


def _labelled(label: str, text: str) -> str:
    return f"{paint(label.ljust(_LABEL), 'dim')}{text}"
