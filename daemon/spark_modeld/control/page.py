"""The dashboard: a page and what it is made of, as files of the package, read when somebody first asks for them.

They tell nothing of this machine, so they need no token; the page asks for one and calls the API with it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from aiohttp import web
from msgspec import Struct

from spark_modeld.control.call import Call
from spark_modeld.core.errors import Code, refuse

FOLDER = Path(__file__).with_name("dashboard")
INDEX = "index.html"
KINDS: Mapping[str, str] = MappingProxyType({".html": "text/html", ".css": "text/css", ".js": "text/javascript"})

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # Asked for again each time, by its tag: after an upgrade no page is made of old and new files.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)


class File(Struct, frozen=True):
    """One file as it is served; ``tag`` changes with its content."""

    content: bytes
    media: str
    tag: str


@cache
def _files() -> Mapping[str, File]:
    """All of them at once, by name: what belongs together is of one version."""
    found = {}
    for path in FOLDER.iterdir():
        if media := KINDS.get(path.suffix):
            content = path.read_bytes()
            found[path.name] = File(content, media, hashlib.sha256(content).hexdigest()[:32])
    return found


async def index(call: Call) -> web.StreamResponse:
    """The page."""
    return await _serve(call, INDEX)


async def part(call: Call) -> web.StreamResponse:
    """A style sheet or a module of it."""
    return await _serve(call, call.path["name"])


async def _serve(call: Call, name: str) -> web.StreamResponse:
    file = (await asyncio.to_thread(_files)).get(name)
    if file is None:
        raise refuse(Code.NOT_FOUND, "The dashboard has no such file. GET / is its page.")
    headers = {**HEADERS, "ETag": f'"{file.tag}"'}
    if any(tag.value in {file.tag, "*"} for tag in call.request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.content, content_type=file.media, charset="utf-8", headers=headers)
