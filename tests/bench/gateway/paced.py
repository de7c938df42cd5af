"""An engine that streams at a steady pace: ``paced.py PORT NAME MILLISECONDS``. Tokens: the request's max_tokens.

A request's ``tell`` is a UDP port to be told when its connection ended.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time

EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
LAST = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, name: str, pace: float) -> None:
        self.name = name
        self.pace = pace
        self.data = b""
        self.tell = 0
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.tell:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
                mouth.sendto(repr(time.monotonic()).encode(), ("127.0.0.1", self.tell))
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, _, rest = self.data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not _ or (length is not None and len(rest) < int(length[1])):
            return
        self.data = b""
        body = json.loads(rest) if rest else {}
        self.tell = int(body.get("tell", 0))
        if body.get("stream"):
            self.task = asyncio.create_task(self.stream(int(body["max_tokens"])))
        else:
            choices = [{"index": 0, "message": {"role": "assistant", "content": "word"}, "text": "word"}]
            answer = json.dumps({"object": "list", "data": [{"id": self.name}], "choices": choices}).encode()
            answer = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer)
            self.transport.write(b"HTTP/1.1 200 OK\r\n" + answer)  # type: ignore[attr-defined]

    async def stream(self, tokens: int) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        write(HEAD)
        at = loop.time()
        for _ in range(tokens):
            at += self.pace
            await asyncio.sleep(at - loop.time())
            write(CHUNK)
        write(LAST)


async def main(port: int, name: str, pace: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(name, pace), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) / 1000))
