"""Many streams at once: ``streams.py PORT TOKEN MODEL STREAMS TOKENS``; prints what came, as JSON.

``short`` is how many ended before their end.

With ``hold`` as the last argument it says "open" when every stream flows, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

TOKEN = b"data: {"
DONE = b"[DONE]"
LAST_CHUNK = b"\r\n0\r\n\r\n"
QUIET_SECONDS = 10.0


class Stream(asyncio.Protocol):
    """One request; counts events."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.tokens = 0
        self.first: float | None = None
        self.said = b""
        self.tail = b""
        self.latest = b""
        self.whole = False
        self.begun = asyncio.Event()
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.sent = time.perf_counter()
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self.first is None:
            self.first = time.perf_counter() - self.sent
            if not data.startswith(b"HTTP/1.1 200"):
                # An error leaves the connection open: nothing else would come.
                self.said = data
                self.begun.set()
                self.done.set()
        # Either may lie across the border of two deliveries.
        seen = self.tail + data
        self.latest = seen[-200:]
        self.tail = seen[1 - len(TOKEN) :]
        self.tokens += seen.count(TOKEN)
        if self.tokens:
            self.begun.set()
        # Caddy 2.6 now and then ends a response at once, without an event in it, and keeps the connection.
        if DONE in seen or seen.endswith(LAST_CHUNK):
            self.whole |= DONE in seen
            self.begun.set()
            self.done.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun.set()
        self.done.set()


async def finished(protocols: list[Stream], what: str) -> None:
    """Returns when all have ``begun``, or are ``done``. SystemExit with what is missing when nothing comes any more."""
    while waiting := [each for each in protocols if not getattr(each, what).is_set()]:
        before = sum(each.tokens for each in protocols)
        events = [asyncio.ensure_future(getattr(each, what).wait()) for each in waiting]
        await asyncio.wait(events, timeout=QUIET_SECONDS)
        for event in events:
            event.cancel()
        if all(not event.done() for event in events) and before == sum(each.tokens for each in protocols):
            first = waiting[0]
            said = f"{len(waiting)} of {len(protocols)} streams say nothing for {QUIET_SECONDS:g} s and have not {what}"
            raise SystemExit(f"{said}, the first after {first.tokens} tokens: ...{first.latest!r}")


def refused(protocols: list[Stream]) -> None:
    if said := [protocol.said for protocol in protocols if protocol.said]:
        raise SystemExit(f"{len(said)} of {len(protocols)} got no stream, the first: {said[0]!r}")


async def main(port: int, token: str, model: str, streams: int, tokens: int, hold: bool) -> None:
    body = json.dumps({"model": model, "stream": True, "max_tokens": tokens, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    made = [loop.create_connection(lambda: Stream(head.encode() + body), "127.0.0.1", port) for _ in range(streams)]
    protocols = [protocol for _, protocol in await asyncio.gather(*made)]
    if hold:
        await finished(protocols, "begun")
        refused(protocols)
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        return
    await finished(protocols, "done")
    refused(protocols)
    total = sum(protocol.tokens for protocol in protocols)
    seconds = time.perf_counter() - begun
    short = sum(not protocol.whole for protocol in protocols)
    print(json.dumps({"tokens": total, "seconds": seconds, "short": short}))


if __name__ == "__main__":
    port, token, model, streams, tokens, *rest = sys.argv[1:]
    asyncio.run(main(int(port), token, model, int(streams), int(tokens), rest == ["hold"]))
