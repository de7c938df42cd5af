#!/usr/bin/env python3
"""An OpenAI server that misbehaves on demand. Standard library only, and little of it: it starts in some 40 ms.

Without switches it is a good engine: it listens once it is "loaded", lists its name and says "I am NAME".
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import threading
import time
from typing import Any

PAGE = mmap.PAGESIZE


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--name", default="bad", help="the served model name, and what it says it is")
    parser.add_argument("--load-seconds", type=float, default=0.0)
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--vllm-style", action="store_true", help="refuses connections while loading (the default)")
    style.add_argument("--503-while-loading", dest="busy", action="store_true", help="listens at once, health is 503")
    style.add_argument("--health-early", action="store_true", help="health is 200 at once, the rest 503 while loading")
    parser.add_argument("--hold-load", metavar="FILE", help="goes on loading for as long as this file exists")
    parser.add_argument("--hold-stop", metavar="FILE", help="does not end after SIGTERM while this file exists")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--die-after-seconds", type=float, help="exits while loading, with --exit-code")
    parser.add_argument("--exit-code", type=int, default=1)
    parser.add_argument("--port-taken", action="store_true", help="finds its port in use and exits")
    parser.add_argument("--without-health", action="store_true", help="404 on /health")
    parser.add_argument("--without-chat", action="store_true", help="404 on /v1/chat/completions")
    parser.add_argument("--without-generation", action="store_true", help="404 on every generation path")
    parser.add_argument("--without-names", action="store_true", help="an empty model list")
    parser.add_argument("--generation-fails", action="store_true", help="500 on every generation")
    parser.add_argument("--generation-hangs", action="store_true", help="no answer to any generation")
    parser.add_argument("--wrong-name", action="store_true", help="lists and knows another name only")
    parser.add_argument("--require-key", metavar="KEY", help="401 without this bearer, but on /health")
    parser.add_argument("--drop-stream", action="store_true", help="cuts a stream half way")
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--token-seconds", type=float, default=0.0)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--stop-seconds", type=float, default=0.0, help="how long it takes to end after SIGTERM")
    parser.add_argument("--fork-children", type=int, default=0, metavar="N", help="children that survive SIGTERM")
    parser.add_argument(
        "--eat-memory", type=int, default=0, metavar="MIB", help="takes this much, locked, while loading"
    )
    return parser.parse_args(argv)


def say(text: str) -> None:
    """One line on standard output; a reader that is gone stops nobody."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loaded = False
        self.holder: socket.socket | None = None
        self.memory: list[mmap.mmap] = []
        self.name = "somebody-else" if options.wrong_name else options.name

    def run(self) -> None:
        options = self.options
        for _ in range(options.fork_children):
            fork_survivor()
        # A thread that waits for the signal: a handler could miss one that comes just before the main thread blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._await_sigterm, daemon=True).start()
        say(f"{options.name}: pid {os.getpid()}, port {options.port}")
        if options.port_taken:
            self.holder = listen(options.host, options.port)
        if options.busy or options.health_early:
            self._serve()
            self._load()
        else:
            self._load()
            self._serve()
        self.loaded = True
        say(f"{options.name}: ready")
        threading.Event().wait()

    def _await_sigterm(self) -> None:
        while signal.sigwait({signal.SIGTERM}) and self.options.ignore_sigterm:
            say(f"{self.options.name}: SIGTERM ignored")
        say(f"{self.options.name}: stopping")
        time.sleep(self.options.stop_seconds)
        await_removal(self.options.hold_stop)
        os._exit(0)

    def _load(self) -> None:
        options = self.options
        began = time.monotonic()
        dies = options.die_after_seconds
        ends = float("inf") if options.never_ready else options.load_seconds
        steps = 20
        for step in range(1, steps + 1):
            self._eat(options.eat_memory * step // steps - options.eat_memory * (step - 1) // steps)
            share = (dies if dies is not None else min(ends, 3600.0)) * step / steps
            time.sleep(max(0.0, began + share - time.monotonic()))
        await_removal(options.hold_load)
        if dies is not None:
            say(f"{options.name}: error: out of luck while loading")
            os._exit(options.exit_code)

    def _eat(self, mebibytes: int) -> None:
        if not mebibytes:
            return
        block = mmap.mmap(-1, mebibytes << 20)
        address = ctypes.addressof(ctypes.c_char.from_buffer(block))
        if ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(block))):
            for offset in range(0, len(block), PAGE):  # not allowed to lock: touching takes it too
                block[offset] = 1
        self.memory.append(block)

    def _serve(self) -> None:
        try:
            server = listen(self.options.host, self.options.port)
        except OSError as error:
            say(f"{self.options.name}: error: cannot listen on port {self.options.port}: {error.strerror}")
            os._exit(self.options.exit_code)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            client, _ = server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader:
            try:
                while request := read_request(reader):
                    self._answer(client, *request)
            except OSError:
                return

    def _answer(self, client: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        options = self.options
        if path == "/health":
            early = self.loaded or options.health_early
            status = 404 if options.without_health else 200 if early else 503
            return send(client, status, {"status": "ok" if status == 200 else "loading"})
        if not self.loaded:
            return send(client, 503, problem("loading"))
        if options.require_key and headers.get("authorization") != f"Bearer {options.require_key}":
            return send(client, 401, problem("a key is needed"))
        if path == "/v1/models" and method == "GET":
            names = [] if options.without_names else [self.name]
            return send(client, 200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})
        known = ["/v1/completions", "/v1/chat/completions"]
        if path not in known or options.without_generation or (options.without_chat and path == known[1]):
            return send(client, 404, {"detail": "Not Found"})
        return self._generate(client, json.loads(body or b"{}"), chat=path == known[1])

    def _generate(self, client: socket.socket, request: dict[str, Any], *, chat: bool) -> None:
        options = self.options
        if options.generation_hangs:
            threading.Event().wait()
        if options.generation_fails:
            return send(client, 500, problem("inference is broken"))
        if options.wrong_name and request.get("model") != self.name:
            return send(client, 404, problem(f"The model `{request.get('model')}` does not exist.", param="model"))
        if not request.get("stream"):
            text = f"I am {self.name}"
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return send(client, 200, {"model": self.name, "choices": [{"index": 0, **choice}]})
        return self._stream(client)

    def _stream(self, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in range(self.options.tokens):
            if self.options.drop_stream and index == self.options.tokens // 2:
                client.shutdown(socket.SHUT_RDWR)
                return
            word = ["I ", "am ", self.name, "."][index % 4]
            piece = {"model": self.name, "choices": [{"index": 0, "delta": {"content": word}}]}
            chunk(client, f"data: {json.dumps(piece)}\n\n".encode())
            time.sleep(self.options.token_seconds)
        chunk(client, b"data: [DONE]\n\n")
        client.sendall(b"0\r\n\r\n")


def fork_survivor() -> None:
    """A grandchild of whoever started us: it outlives our SIGTERM and its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # before the fork: from its first moment
    if os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    while True:
        time.sleep(3600)


def await_removal(path: str | None) -> None:
    while path and os.path.exists(path):
        time.sleep(0.01)


def listen(host: str, port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(128)
    return server


def read_request(reader: Any) -> tuple[str, str, dict[str, str], bytes] | None:
    line = reader.readline().split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while text := reader.readline().strip().decode("latin-1"):
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    return line[0].decode(), line[1].decode().partition("?")[0], headers, body


def problem(message: str, **extra: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", **extra}}


def send(client: socket.socket, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def chunk(client: socket.socket, data: bytes) -> None:
    client.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")


if __name__ == "__main__":
    Engine(arguments()).run()
