"""Heads that come again: on one connection the same client asks with the same head, but for its body's length."""

from __future__ import annotations

import re

from spark_modeld.gateway.heads import Request, parse_request

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")
_DIGITS = re.compile(rb"[0-9]{1,15}")
_LIMIT = 2048


class Familiar:
    """The last head of one connection. Kept with the connection only, because there is a secret in it."""

    __slots__ = ("_after", "_before", "_digits", "_request")

    def __init__(self) -> None:
        self._before = b""
        self._digits = b""
        self._after = b""
        self._request: Request | None = None

    def read(self, head: bytes) -> Request:
        """The request whose head these bytes are. ``Malformed``.

        A head that differs from one that was well formed in the digits of its length only is well formed as well, and
        means the same.
        """
        request = self._request
        if request is not None and head.startswith(self._before) and head.endswith(self._after):
            digits = head[len(self._before) : len(head) - len(self._after)]
            if digits == self._digits:
                return request
            if self._after and _DIGITS.fullmatch(digits) is not None:
                self._digits = digits
                self._request = request = request.with_length(int(digits))
                return request
        request = parse_request(head)
        if len(head) <= _LIMIT:
            self._keep(head, request)
        return request

    def _keep(self, head: bytes, request: Request) -> None:
        match = _LENGTH.search(head)
        if match is None:
            self._before, self._digits, self._after = head, b"", b""
        else:
            self._before, self._digits, self._after = head[: match.start(1)], match[1], head[match.end(1) :]
        self._request = request
