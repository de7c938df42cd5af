"""Heads of HTTP/1 messages, read strictly: what two readers could understand in two ways is refused.

One expression per kind of head decides what is well formed, so nothing lenient is left to differ about: no bare CR or
LF, no NUL, no space before a colon, no folded lines. Field names come out in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache

from msgspec import Struct

HEAD_LIMIT = 64 * 1024
_TARGET_LIMIT = 8 * 1024
_FIELDS_LIMIT = 128

# Possessive only where one character class is repeated: early releases of Python 3.11 get repeated groups wrong.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+\r\n"
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb")*)\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([01])\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + _VALUE + rb")|\r\n)" + _FIELDS)
FIELD_LINE = re.compile(_TOKEN + rb":" + _VALUE)
# What no longer message can mend: a line end that is none, a NUL.
_HOPELESS = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_END = b"\r\n\r\n"
_NONE: Set[bytes] = frozenset()
# Fields whose values are few; what is not among them may be a secret, or another one each time.
_KEPT = frozenset(
    b"accept accept-encoding accept-language access-control-allow-origin cache-control connection content-type host "
    b"keep-alive openai-organization origin server transfer-encoding user-agent x-stainless-arch x-stainless-async "
    b"x-stainless-lang x-stainless-os x-stainless-package-version x-stainless-runtime x-stainless-runtime-version "
    b"x-stainless-retry-count x-accel-buffering vary".split()
)
_KNOWN: dict[bytes, tuple[bytes, bytes]] = {}
_KNOWN_LIMIT = 512
_KNOWN_LINE = 128

Fields = list[tuple[bytes, bytes]]
Single = dict[bytes, bytes | None]
"""The value of each field, None for one that is there more than once."""


class Malformed(Exception):
    """Not HTTP as it should be; ``status`` is what a client is answered before its connection is closed."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class Request(Struct):
    """A request's head. ``length`` is its body's length in bytes, None for a chunked one.

    ``path`` is the target without its query, ``options`` are the members of its Connection. ``secret`` and
    ``forwarded`` are what others found in it, kept for the next request with the same head.
    """

    method: str
    target: str
    path: str
    http10: bool
    fields: Fields
    single: Single
    length: int | None
    close: bool
    options: Set[bytes]
    secret: str | None = None
    forwarded: bytes | None = None

    def get(self, name: bytes) -> bytes | None:
        """The value of a field that may be there once. ``Malformed`` when it is there more often."""
        return _once(self.single, name)

    def with_length(self, length: int) -> Request:
        """The same head before a body of another length. Its ``single`` still has the old one."""
        return Request(
            self.method,
            self.target,
            self.path,
            self.http10,
            self.fields,
            self.single,
            length,
            self.close,
            self.options,
            self.secret,
            self.forwarded,
        )


class Response(Struct):
    """A response's head. ``length`` is None where chunks or the connection's end say how long its body is.

    ``options`` are the members of its Connection; ``relayed`` is what others made of it for clients.
    """

    status: int
    reason: bytes
    fields: Fields
    single: Single
    length: int | None
    chunked: bool
    keep: bool
    options: Set[bytes]
    relayed: bytes | None = None

    @property
    def bodiless(self) -> bool:
        """Never followed by a body, whatever its fields say."""
        return self.status in {204, 304}


def end_of_head(buffer: bytes | bytearray) -> int:
    """Where the first head in ``buffer`` ends, -1 if there is more of it to come. ``Malformed`` if it never will."""
    end = buffer.find(_END, 0, HEAD_LIMIT)
    if end >= 0:
        return end + len(_END)
    if len(buffer) >= HEAD_LIMIT:
        raise Malformed(f"The head is over {HEAD_LIMIT // 1024} KiB.", 431)
    if _HOPELESS.search(buffer):
        raise Malformed("A line of the head does not end as HTTP wants it.")
    return -1


def parse_request(head: bytes) -> Request:
    """The request whose head these bytes are, its closing empty line included. ``Malformed``."""
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise Malformed("The head of the request is not HTTP/1.1 as it should be.")
    if len(match[2]) > _TARGET_LIMIT:
        raise Malformed(f"The target of the request is over {_TARGET_LIMIT // 1024} KiB.", 414)
    http10 = match[3] == b"0"
    fields, single = _fields(match[4])
    host = _once(single, b"host")
    if host is None and not http10:
        raise Malformed("The request has no Host.")
    length, chunked = _framing(single, http10=http10)
    options = _options(fields, single)
    target = match[2].decode("ascii")
    return Request(
        match[1].decode("ascii"),
        target,
        target.partition("?")[0],
        http10,
        fields,
        single,
        None if chunked else length or 0,
        http10 or b"close" in options,
        options,
    )


@lru_cache(maxsize=64)
def parse_response(head: bytes) -> Response:
    """The response whose head these bytes are, not to be changed: engines repeat themselves. ``Malformed``."""
    match = _RESPONSE.fullmatch(head)
    if match is None:
        raise Malformed("The head of the response is not HTTP/1.1 as it should be.")
    http10 = match[1] == b"0"
    fields, single = _fields(match[4])
    length, chunked = _framing(single, http10=http10)
    options = _options(fields, single)
    keep = b"close" not in options and (not http10 or b"keep-alive" in options)
    return Response(int(match[2]), (match[3] or b"").rstrip(), fields, single, length, chunked, keep, options)


def _options(fields: Fields, single: Single) -> Set[bytes]:
    """The members of Connection, in lower case, however many lines it takes."""
    if b"connection" not in single:
        return _NONE
    values = [value for key, value in fields if key == b"connection"]
    return {member.strip(b" \t").lower() for value in values for member in value.split(b",")}


def _fields(block: bytes) -> tuple[Fields, Single]:
    fields: Fields = []
    single: Single = {}
    if not block:
        return fields, single
    lines = block[:-2].split(b"\r\n")
    if len(lines) > _FIELDS_LIMIT:
        raise Malformed(f"The head has more than {_FIELDS_LIMIT} fields.", 431)
    for line in lines:
        field = _KNOWN.get(line) or _field(line)
        fields.append(field)
        name = field[0]
        single[name] = None if name in single else field[1]
    return fields, single


def _field(line: bytes) -> tuple[bytes, bytes]:
    """One field. Lines come again and again, from the same clients and engines; secrets are not kept."""
    name, _, value = line.partition(b":")
    field = name.lower(), value.strip(b" \t")
    if len(line) <= _KNOWN_LINE and field[0] in _KEPT:
        if len(_KNOWN) >= _KNOWN_LIMIT:
            _KNOWN.clear()
        _KNOWN[line] = field
    return field


def _once(single: Single, name: bytes) -> bytes | None:
    value = single.get(name)
    if value is None and name in single:
        raise Malformed(f"The field {name.decode()} is there more than once.")
    return value


def _framing(single: Single, *, http10: bool) -> tuple[int | None, bool]:
    """How long the body is: its length in bytes, or that it is chunked. Never both, never guessed."""
    length = _once(single, b"content-length")
    coding = _once(single, b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Malformed("There is a Content-Length beside a Transfer-Encoding.")
        if http10 or coding.lower() != b"chunked":
            raise Malformed("The only Transfer-Encoding is chunked, and only in HTTP/1.1.")
        return None, True
    if length is None:
        return None, False
    if _LENGTH.fullmatch(length) is None:
        raise Malformed("The Content-Length is not a number.")
    return int(length), False
