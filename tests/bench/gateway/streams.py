"""Many streams at once: ``streams.py URL-PORT TOKEN MODEL STREAMS TOKENS``; prints what came, and how soon, as JSON.

With ``hold`` as the last argument it says "open" when every stream flows, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

TOKEN = b"data: {"
DONE = b"[DONE]"


class Stream(asyncio.Protocol):
    """One request; counts events."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.tokens = 0
        self.first: float | None = None
        self.said = b""
        self.tail = b""
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
        self.tail = seen[1 - len(TOKEN) :]
        self.tokens += seen.count(TOKEN)
        if self.tokens:
            self.begun.set()
        if DONE in seen:
            self.done.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun.set()
        self.done.set()


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
        await asyncio.gather(*(protocol.begun.wait() for protocol in protocols))
        refused(protocols)
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        return
    await asyncio.gather(*(protocol.done.wait() for protocol in protocols))
    refused(protocols)
    total = sum(protocol.tokens for protocol in protocols)
    seconds = time.perf_counter() - begun
    print(json.dumps({"tokens": total, "seconds": seconds, "first": [protocol.first for protocol in protocols]}))


if __name__ == "__main__":
    port, token, model, streams, tokens, *rest = sys.argv[1:]
    asyncio.run(main(int(port), token, model, int(streams), int(tokens), rest == ["hold"]))
