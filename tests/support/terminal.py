"""What a program wrote to a terminal, as a page that a browser can take a picture of."""

from __future__ import annotations

import html
import re

_SGR = re.compile(r"\x1b\[([\d;]*)m")
_NAMES = {1: "bold", 2: "dim", 31: "red", 32: "green", 33: "yellow", 36: "cyan"}
_STYLE = """
body { margin: 0; padding: 28px; background: #0b0c0e; }
main { width: max-content; padding: 20px 24px 24px; background: #16181b; border-radius: 12px; }
pre { margin: 0; font: 14px/1.45 "JetBrains Mono", "DejaVu Sans Mono", monospace; color: #d9d8d4; }
pre { font-variant-ligatures: none; }
.prompt { color: #9db0ff; font-weight: 600; } .bold { font-weight: 700; color: #fff; } .dim { color: #8d8b85; }
.red { color: #ff9186; } .green { color: #63cf90; } .yellow { color: #efb55c; } .cyan { color: #6fc6d6; }
"""


def document(commands: list[tuple[str, str]]) -> str:
    """HTML of these commands, each with what it wrote. ValueError for control sequences other than colours."""
    shown = "\n".join(
        f'<span class="prompt">$</span> <b>{html.escape(c)}</b>\n{_painted(said)}' for c, said in commands
    )
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><main><pre>{shown}</pre></main>"


def _painted(said: str) -> str:
    parts = _SGR.split(said.replace("\r\n", "\n"))
    painted = [html.escape(parts[0])]
    names: list[str] = []
    for codes, text in zip(parts[1::2], parts[2::2], strict=True):
        if "\x1b" in text or "\r" in text:
            raise ValueError(f"more than colours: {text!r}")
        numbers = [int(code or 0) for code in codes.split(";")]
        names = [] if 0 in numbers else [*names, *(_NAMES[number] for number in numbers)]
        escaped = html.escape(text)
        painted.append(f'<span class="{" ".join(names)}">{escaped}</span>' if names and text else escaped)
    return "".join(painted)
