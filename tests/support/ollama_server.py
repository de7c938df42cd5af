#!/usr/bin/env python3
"""Ollama as it behaves towards its clients, without Ollama. Standard library only: ``python3 -I -S``.

What it imitates, and where that is to be seen in Ollama:
- /api/ps lists what is loaded, also while it is still being loaded, with ``size``, ``size_vram`` and ``expires_at``; a
  model without an end has one some centuries away (server/routes.go, PsHandler; docs/api.md, List Running Models).
- /api/generate without a prompt loads (``done_reason`` "load"), with keep_alive 0 unloads ("unload"); 404
  ``model 'x' not found`` (routes.go, GenerateHandler; docs/api.md, Load a model, Unload a model).
- Any client's request for a model loads it, for five minutes unless it says otherwise; a request without keep_alive
  leaves a loaded model's as it is (server/sched.go, useLoadedRunner; docs/faq.md, How do I keep a model loaded).
- An unload waits until nobody uses the model; it leaves the list only after its runner, a child process, has ended
  (sched.go, processCompleted).
- Loading more than --max-loaded models evicts the one that was idle longest (OLLAMA_MAX_LOADED_MODELS).
- A load that fails is an HTTP 500 with ``error`` (llm/server.go, "model requires more system memory").

The files in --ills make it worse while they exist: ``stubborn`` no unload is ever done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MIB = 1 << 20
FOREVER = timedelta(days=106751)


class Runner:
    """A loaded model: a child process, as Ollama's runners are. ``keep`` None: for ever."""

    def __init__(self, name: str, size: int, keep: float | None) -> None:
        self.name, self.size, self.keep = name, size, keep
        self.users, self.used = 0, time.monotonic()
        self.ready = threading.Event()
        self.process = subprocess.Popen(["/bin/sleep", "infinity"])

    def expired(self) -> bool:
        return self.users == 0 and self.keep is not None and time.monotonic() - self.used >= self.keep

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def shown(self) -> dict[str, Any]:
        left = FOREVER if self.keep is None else timedelta(seconds=max(0.0, self.keep - time.monotonic() + self.used))
        return {
            "name": self.name,
            "model": self.name,
            "size": self.size,
            "size_vram": self.size,
            "digest": "0" * 64,
            "details": {"format": "gguf", "family": "llama"},
            "expires_at": (datetime.now(UTC) + left).isoformat(),
        }


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.models = {full(name): int(size) * MIB for name, _, size in (m.rpartition("=") for m in options.model)}
        self.runners: dict[str, Runner] = {}
        self.lock = threading.RLock()

    def ill(self, what: str) -> bool:
        return os.path.exists(os.path.join(self.options.ills, what))

    def sweep(self) -> None:
        while True:
            with self.lock:
                for name, runner in tuple(self.runners.items()):
                    if runner.expired() and not self.ill("stubborn"):
                        runner.end()
                        del self.runners[name]
            time.sleep(0.02)

    def acquire(self, name: str, keep_alive: object) -> Runner | str:
        """The model's runner, loaded and counted as used, or why there is none."""
        if self.ill("fails"):
            return "model requires more system memory (70.0 GiB) than is available (7.1 GiB)"
        with self.lock:
            runner, fresh = self.runners.get(name), False
            if runner is None:
                idle = sorted((r.used, r.name) for r in self.runners.values() if not r.users)
                if len(self.runners) >= self.options.max_loaded and idle:
                    self.runners.pop(idle[0][1]).end()
                runner = self.runners[name] = Runner(name, self.models[name], self.options.keep_alive)
                fresh = True
            runner.users += 1
            if keep_alive is not None:
                runner.keep = seconds(keep_alive)
        if fresh:
            time.sleep(self.options.load_seconds)
            runner.ready.set()
        runner.ready.wait()
        return runner

    def release(self, runner: Runner) -> None:
        with self.lock:
            runner.users -= 1
            runner.used = time.monotonic()

    def unload(self, name: str) -> None:
        with self.lock:
            if runner := self.runners.get(name):
                runner.keep = 0.0


def full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def seconds(keep_alive: object) -> float | None:
    """-1 and every other negative number is for ever; Go's durations as far as they are used here."""
    text = str(keep_alive)
    value = float(text.rstrip("smh")) * {"m": 60, "h": 3600}.get(text[-1], 1)
    return None if value < 0 else value


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            names = sorted(server.models)
            if self.path == "/":
                return self.send(200, "Ollama is running")
            if self.path == "/api/version":
                return self.send(200, {"version": "0.12.3"})
            if self.path == "/api/tags":
                return self.send(200, {"models": [{"name": n, "model": n, "size": server.models[n]} for n in names]})
            if self.path == "/api/ps":
                with server.lock:
                    return self.send(200, {"models": [r.shown() for r in server.runners.values()]})
            if self.path == "/v1/models":
                return self.send(200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})
            return self.send(404, "404 page not found")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            openai = self.path == "/v1/chat/completions"
            if not openai and self.path != "/api/generate":
                return self.send(404, "404 page not found")
            name = full(str(request.get("model", "")))
            if name not in server.models:
                error = f"model '{request.get('model')}' not found"
                return self.send(
                    404, {"error": {"message": error, "type": "api_error"}} if openai else {"error": error}
                )
            prompted = openai or bool(request.get("prompt"))
            if not prompted and request.get("keep_alive") in (0, "0"):
                server.unload(name)
                return self.send(200, {"model": name, "response": "", "done": True, "done_reason": "unload"})
            runner = server.acquire(name, request.get("keep_alive"))
            if isinstance(runner, str):
                return self.send(500, {"error": runner})
            try:
                if not prompted:
                    return self.send(200, {"model": name, "response": "", "done": True, "done_reason": "load"})
                time.sleep(server.options.answer_seconds)
                return self.answer(name, openai=openai)
            finally:
                server.release(runner)

        def answer(self, name: str, *, openai: bool) -> None:
            text = f"I am {name}"
            if openai:
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                return self.send(200, {"object": "chat.completion", "model": name, "choices": [choice]})
            return self.send(200, {"model": name, "response": text, "done": True, "done_reason": "stop"})

        def send(self, status: int, document: object) -> None:
            body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MIB", help="one it has; repeatable")
    parser.add_argument("--max-loaded", type=int, default=3)
    parser.add_argument("--keep-alive", type=float, default=300.0, help="OLLAMA_KEEP_ALIVE, in seconds")
    parser.add_argument("--load-seconds", type=float, default=0.2)
    parser.add_argument("--answer-seconds", type=float, default=0.0)
    parser.add_argument("--ills", default="/nonexistent")
    server = Server(parser.parse_args())
    threading.Thread(target=server.sweep, daemon=True).start()
    Http(("127.0.0.1", server.options.port), handler(server)).serve_forever()


if __name__ == "__main__":
    main()
