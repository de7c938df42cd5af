"""Reads what a request carries: its query and its body, each checked before any handler sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache

import msgspec
from aiohttp import web

from spark_modeld.control.routes import Route, decode
from spark_modeld.core.errors import Code, SparkError, refuse

LARGEST_BODY = 1 << 20
SLOWEST_BODY = 30.0


def check_size(request: web.BaseRequest) -> None:
    """Refuses a body that says it is too large, on every route, unread. SparkError ``too-large``."""
    if (request.content_length or 0) > LARGEST_BODY:
        raise _too_large()


def query(request: web.BaseRequest, route: Route) -> Mapping[str, str]:
    """The query, decoded. SparkError ``invalid-request`` for a parameter that is unknown or there twice."""
    known = {parameter.name for parameter in route.query}
    values: dict[str, str] = {}
    for part in request.rel_url.raw_query_string.split("&"):
        if not part:
            continue
        name, _, value = (decode(piece.replace("+", " "), "query") for piece in part.partition("="))
        if name not in known:
            possible = f"Possible: {', '.join(sorted(known))}." if known else "It takes none."
            raise refuse(Code.INVALID_REQUEST, f"This call has no parameter {name[:80]!r}. {possible}")
        if name in values:
            raise refuse(Code.INVALID_REQUEST, f"The parameter {name!r} is given twice.")
        values[name] = value
    return values


def whole(name: str, text: str, least: int, most: int) -> int:
    """The value of a query parameter that is a whole number. SparkError ``invalid-request``."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise refuse(Code.INVALID_REQUEST, f"?{name}={text[:40]} is not possible: use a number from {least} to {most}.")
    return int(text)


async def body(request: web.BaseRequest, route: Route) -> object:
    """The route's body as its Struct; None for a route without one. SparkError ``invalid-request``, ``too-large``."""
    if route.body is None:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await _invite(request)
    sent = await _read(request)
    try:
        return _decoder(route.body).decode(sent)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(sent, error) from error


async def _invite(request: web.BaseRequest) -> None:
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # aiohttp takes any output for the start of the answer; the invitation is none.
    request.writer.output_size = 0


async def _read(request: web.BaseRequest) -> bytes:
    sent = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            while chunk := await request.content.readany():
                sent += chunk
                if len(sent) > LARGEST_BODY:
                    raise _too_large()
    except TimeoutError as error:
        raise refuse(Code.INVALID_REQUEST, "The body did not arrive in time.", http_status=408) from error
    except web.RequestPayloadError as error:
        raise refuse(Code.INVALID_REQUEST, "The body does not arrive as its headers say.") from error
    return bytes(sent)


@cache
def _decoder(kind: type) -> msgspec.json.Decoder[object]:
    return msgspec.json.Decoder(kind)


def _malformed(sent: bytes, error: Exception) -> SparkError:
    if not sent.strip():
        return refuse(Code.INVALID_REQUEST, "The body is empty; this call wants a JSON object.")
    if isinstance(error, msgspec.ValidationError):
        return refuse(Code.INVALID_REQUEST, f"The body is not what this call takes: {error}.")
    what = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
    return refuse(Code.INVALID_REQUEST, f"The body is not JSON: {what}.")


def _too_large() -> SparkError:
    return refuse(Code.TOO_LARGE, f"The body is larger than {LARGEST_BODY >> 20} MiB.")
