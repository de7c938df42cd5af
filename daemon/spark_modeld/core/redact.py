"""Takes secrets out of text that other programs wrote. It may take too much; it must not take too little."""

from __future__ import annotations

import re
from functools import cache

MASK = "[redacted]"

_SECRET_WORD = r"(?:api[-_]?key|access[-_]?key|auth[-_]?token|token|secret|passw(?:or)?d|credentials?)"
# Not what an earlier pattern has already masked.
_VALUE = r"""(?!\[redacted\])(?:"[^"]*"|'[^']*'|[^\s"',;&)\]}]+)"""


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Each pattern's group 1 stays, the rest goes. Made when they are first needed: that takes 3 ms."""
    return (
        # Authorization: Bearer x, "authorization": "Basic x"
        re.compile(rf"""(\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token)?\s*){_VALUE}""", re.I),
        re.compile(r"(\bbearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.I),
        # --api-key X, --hf-token=X: options of a command line, and the list that Python prints of one
        re.compile(rf"""(--?[a-z0-9-]{{0,64}}{_SECRET_WORD}(?:["'],)?(?:\s*=\s*|\s+)){_VALUE}""", re.I),
        # HF_TOKEN=x, api_key: x, 'api_key': 'x', "token": "x"; not "max_tokens=5" nor "tokens: 7"
        re.compile(rf"""(\b[a-z0-9_.-]{{0,64}}{_SECRET_WORD}(?<!max_token)["']?\s*[=:]\s*){_VALUE}""", re.I),
        # user:password@host in a URL
        re.compile(r"(\b[a-z][a-z0-9+.-]{1,32}://)[^\s/@:]{0,256}:[^\s/@]{1,256}(?=@)", re.I),
        # what is a secret by its own looks
        re.compile(r"(\b)(?:hf|smd|nvapi|ghp|gho|github_pat|glpat|xox[abp])[_-][A-Za-z0-9_-]{6,}"),
        re.compile(r"(\b)sk-[A-Za-z0-9_-]{6,}"),
        re.compile(r"(\b)eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"),
    )


def redact(text: str) -> str:
    """``text`` with everything that looks like a secret replaced by ``MASK``."""
    for pattern in _patterns():
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text
