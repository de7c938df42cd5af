#!/usr/bin/env python3
"""SGLang, vLLM, TRT-LLM and NIM as they start, serve, fail and stop, without a model. Standard library only.

``--as`` says which. Each goes through its vendor's steps: "refused" (no socket), "starting" (it listens and is not
ready), with ``--fault early`` also "early" (health says 200, generation is not there yet), then it is up. A step lasts
for as long as the file of its name exists in ``--holds``; so does "stop", after a SIGTERM. Each step says in the log
when it was first asked for its health, so that a test knows that it was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

STEPS = {
    # sglang/srt/entrypoints/http_server.py: the schedulers load before uvicorn runs; then /health is 503 while
    # server_status is Starting, until _wait_and_warmup has had its answer.
    "sglang": ("refused", "starting"),
    # vllm/entrypoints/openai/api_server.py: the engine client is built before the socket listens.
    "vllm": ("refused",),
    # tensorrt_llm/commands/serve.py: the LLM is made before the OpenAIServer runs.
    "trtllm": ("refused",),
    # docs.nvidia.com/nim, Support and FAQ: live before the model is loaded, and /v1/health/ready is 503 until then.
    "nim": ("starting",),
}
HEALTH = {"sglang": "/health", "vllm": "/health", "trtllm": "/health", "nim": "/v1/health/ready"}

LAST_WORDS = {
    # github.com/sgl-project/sglang/issues/31248: what compressed-tensors checkpoints end in.
    "scheme": ["Scheduler hit an exception: Traceback (most recent call last):", "NotImplementedError: No compressed-tensors compatible scheme was found."],  # noqa: E501
    # github.com/vllm-project/vllm/issues/20305
    "share": ["(EngineCore_DP0 pid=7) ERROR [core.py:718] ValueError: Free memory on device (31.44/47.38 GiB) on startup is less than desired GPU memory utilization (0.95, 45.01 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."],  # noqa: E501
    # torch's allocator
    "memory": ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 119.70 GiB of which 1.12 GiB is free."],  # noqa: E501
    # Python, where the model's user has no home
    "denied": ["PermissionError: [Errno 13] Permission denied: '/opt/nim/.cache/ngc'"],
}  # fmt: skip


class Vendor:
    """One engine: its step, and what it says and does in it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.kind: str = options.kind
        self.step = STEPS[self.kind][0]
        self.core = 0
        self._asked: set[str] = set()
        self._listening = False

    def run(self) -> None:
        self.say(f"pid {os.getpid()}, port {self.options.port}")
        # A thread waits for the signal: a handler could miss one that comes just before the main thread blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._fork_core()
        threading.Thread(target=self._await_sigterm, daemon=True).start()
        for step in (*STEPS[self.kind], *(["early"] if self.options.fault == "early" else [])):
            self.step = step
            if step != "refused":
                self.listen()
            self.say(f"step {step}")
            self.load(step, 1)
            self.hold(step)
            self.load(step, 2)
            if step == STEPS[self.kind][0]:
                self._fail_if_so()
        self.listen()
        self.step = "up"
        self.say("ready")
        threading.Event().wait()

    def say(self, text: str) -> None:
        print(f"{self.options.name}: {text}", flush=True)

    def load(self, step: str, shards: int) -> None:
        """What SGLang and vLLM say of their load: model_loader/weight_utils.py in both, its bar ending in a newline."""
        if step == "refused" and self.kind in {"sglang", "vllm"}:
            far = f"{50 * shards:3d}% Completed | {shards}/2 [00:0{shards}<00:01,  1.00it/s]"
            print(f"Loading safetensors checkpoint shards: {far}", flush=True)

    def hold(self, what: str) -> None:
        while self.options.holds and os.path.exists(os.path.join(self.options.holds, what)):
            time.sleep(0.01)

    def asked(self) -> None:
        if self.step not in self._asked:
            self._asked.add(self.step)
            self.say(f"asked in step {self.step}")

    def listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        server = Server(("127.0.0.1", self.options.port), handler(self))
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _fork_core(self) -> None:
        """The process that holds the memory: SGLang's scheduler, vLLM's EngineCore, TRT-LLM's worker."""
        if self.kind == "nim":
            return
        self.core = os.fork()
        if self.core:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.options.fault == "core-survives" else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if self.options.fault == "core-dies":
            # The parent blocks in wait_for_engine_startup(): github.com/vllm-project/vllm/pull/44751.
            self.hold("refused")
            self.say("EngineCore failed to start.")
            os._exit(1)
        while True:
            time.sleep(3600)

    def _fail_if_so(self) -> None:
        if self.options.fault == "core-dies":
            threading.Event().wait()
        if self.options.dies is None:
            return
        for line in LAST_WORDS[self.options.dies]:
            print(line, flush=True)
        if self.kind == "sglang":
            # sglang/srt/entrypoints/engine.py, sigquit_handler
            print("Received sigquit from a child process. It usually means the child failed.", flush=True)
            self._kill_tree()
        if self.kind == "vllm":
            # The parent's own traceback comes after the one that tells, and is longer than what people are shown.
            for line in range(40):
                print(f'(APIServer pid=1)   File "/usr/lib/python3.12/api_server.py", line {line}, in main', flush=True)
            print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        self._end(1)

    def _await_sigterm(self) -> None:
        # A SIGTERM before the handlers are there is lost: github.com/vllm-project/vllm/pull/44751, problem 2.
        while signal.sigwait({signal.SIGTERM}) and self.options.fault == "lost-sigterm" and self.step == "refused":
            self.say("lost a SIGTERM")
        self.say("stopping")
        self.hold("stop")
        self.say("stopped")
        if self.kind == "sglang":
            # tokenizer_manager.sigterm_watchdog ends in kill_process_tree of itself, which is exit 137 in a container:
            # github.com/sgl-project/sglang/pull/16484.
            self._kill_tree()
        # NIM: what a container shows whose program has no handler for SIGTERM.
        self._end(143 if self.kind == "nim" else 0)

    def _kill_tree(self) -> NoReturn:
        os.kill(self.core, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still there")

    def _end(self, status: int) -> NoReturn:
        if self.core and self.options.fault != "core-survives":
            os.kill(self.core, signal.SIGTERM)
            os.waitpid(self.core, 0)
        os._exit(status)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


def handler(vendor: Vendor) -> type[BaseHTTPRequestHandler]:
    options = vendor.options

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == HEALTH[vendor.kind]:
                return self.health()
            if self.path == "/v1/health/live" and vendor.kind == "nim":
                return self.send(200)
            if not self.allowed():
                return self.send(401)
            # SGLang lists its model before it is warm.
            if self.path == "/v1/models":
                listed = {"data": [{"id": options.name, "object": "model"}], "object": "list"}
                return self.send(503 if vendor.kind == "nim" and vendor.step == "starting" else 200, listed)
            return self.send(404)

        def health(self) -> None:
            step = vendor.step
            vendor.asked()
            if step == "starting":
                return self.send(503)
            if vendor.kind == "sglang":
                # health_generate: one token, looked for every second; 503 after SGLANG_HEALTH_CHECK_TIMEOUT, 20 s.
                time.sleep(20 if options.fault == "generation-fails" else 1)
                return self.send(503 if options.fault == "generation-fails" else 200)
            return self.send(200)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.allowed():
                return self.send(401)
            if vendor.kind == "nim" and vendor.step == "starting":
                return self.send(503)
            if vendor.step == "early":
                vendor.say("asked for a token too early")
                return self.send(503)
            # A path that the model does not have: vLLM leaves out what its task cannot (an embedding model).
            paths = {"no-chat": ("/v1/completions",), "no-generation": ()}
            if self.path not in paths.get(options.fault, ("/v1/completions", "/v1/chat/completions")):
                return self.send(404, {"detail": "Not Found"})
            if options.fault == "generation-fails":
                return self.send(500, {"error": {"message": "EngineCore encountered an issue.", "type": "error"}})
            if request.get("model", options.name) != options.name:
                return self.send(404, {"error": {"message": "no such model", "param": "model"}})
            text = f"I am {options.name}"
            words = {"message": {"role": "assistant", "content": text}} if "chat" in self.path else {"text": text}
            return self.send(200, {"model": options.name, "choices": [{"index": 0, **words}]})

        def allowed(self) -> bool:
            # sglang/srt/utils/auth.py: the key guards all but /health* and /metrics*; vLLM guards /v1/*.
            return options.api_key is None or self.headers.get("Authorization") == f"Bearer {options.api_key}"

        def send(self, status: int, document: object = None) -> None:
            body = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


FAULTS = ("early", "generation-fails", "no-chat", "no-generation", "core-dies", "core-survives", "lost-sigterm")


def main() -> None:
    parser = argparse.ArgumentParser(prog=Path(sys.argv[0]).name, description=__doc__)
    parser.add_argument("--as", dest="kind", choices=STEPS, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--holds", metavar="DIR")
    parser.add_argument("--api-key")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--dies", choices=LAST_WORDS, help="while it loads, with these last words")
    Vendor(parser.parse_args()).run()


if __name__ == "__main__":
    main()
