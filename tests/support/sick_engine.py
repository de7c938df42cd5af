#!/usr/bin/env python3
"""An engine that says it is healthy whatever happens, and falls ill on demand. Standard library only.

It has one slot: an answer waits for the one before. ``--style vllm`` shows vLLM's counters at /metrics (they move with
every token), ``--style plain`` nothing. The files in ``--ills`` say what is wrong with it for as long as they exist:
``freeze`` no token comes any more (a deadlock: /health stays 200), ``fail`` every generation is an HTTP 500, ``deaf``
it does not listen any more although it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.slot = threading.Lock()
        self.tokens = 0
        self.running = 0

    def ill(self, what: str) -> bool:
        return os.path.exists(os.path.join(self.options.ills, what))

    def token(self) -> None:
        while self.ill("freeze"):
            time.sleep(0.01)
        self.tokens += 1

    def metrics(self) -> str:
        # vllm/v1/metrics/loggers.py: gauges and counters carry model_name and engine.
        labels = f'{{engine="0",model_name="{self.options.name}"}}'
        return (
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{labels} {float(self.running)}\n"
            f"# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{labels} {float(self.tokens)}\n"
        )


def handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/health":
                self.send(200, b"")
            elif self.path == "/metrics" and engine.options.style == "vllm":
                self.send(200, engine.metrics().encode())
            elif self.path == "/v1/models":
                self.send(200, json.dumps({"data": [{"id": engine.options.name}]}).encode())
            else:
                self.send(404, b"")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if engine.ill("fail"):
                return self.send(500, b'{"error":{"message":"inference is broken"}}')
            with engine.slot:
                engine.running += 1
                try:
                    self.generate(request)
                finally:
                    engine.running -= 1

        def generate(self, request: dict[str, Any]) -> None:
            stream, text = request.get("stream", False), []
            if stream:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
            for index in range(request.get("max_tokens", 4)):
                engine.token()
                text.append(("I ", "am ", engine.options.name, ". ")[index % 4])
                if stream:
                    piece = {"choices": [{"index": 0, "delta": {"content": text[-1]}}]}
                    self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
                    time.sleep(engine.options.token_seconds)
            if stream:
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True
            else:
                message = {"role": "assistant", "content": "".join(text).strip()}
                self.send(200, json.dumps({"choices": [{"index": 0, "message": message}]}).encode())

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--style", choices=("vllm", "plain"), default="vllm")
    parser.add_argument("--ills", default="/nonexistent")
    parser.add_argument("--token-seconds", type=float, default=0.05)
    engine = Engine(parser.parse_args())
    server = Server(("127.0.0.1", engine.options.port), handler(engine))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not engine.ill("deaf"):
        time.sleep(0.01)
    server.shutdown()
    server.socket.shutdown(socket.SHUT_RDWR)
    server.server_close()
    threading.Event().wait()


if __name__ == "__main__":
    main()
