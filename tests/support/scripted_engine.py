#!/usr/bin/env python3
"""An engine that does what the request's ``script`` says, and otherwise tells what it was sent.

It loads, stops and listens as ``bad_engine.py`` does, with the same switches. ``"script"`` in the body of a chat:

``status``: answers with this status and OpenAI's envelope · ``hold``: waits before the second piece of a stream, or
before the whole answer, while this file exists · ``pieces``: how many a stream has · ``tool``: calls the first tool ·
``cut``: breaks the connection after so many pieces · ``silence``: seconds before the first byte
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from typing import Any

from bad_engine import Engine, arguments, await_removal, chunk, problem, send

CHAT = "/v1/chat/completions"


class ScriptedEngine(Engine):
    """One bad engine with a script for each request."""

    def _answer(self, client: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        ready = self.loaded and path == CHAT
        request = json.loads(body) if ready else {}
        if "script" not in request:
            return super()._answer(client, method, path, headers, body)
        script = request.pop("script")
        time.sleep(script.get("silence", 0))
        if "status" in script:
            return send(client, script["status"], problem("as the script wants it", code="scripted"))
        if request.get("stream"):
            return self._pieces(client, request, script)
        await_removal(script.get("hold"))
        if "authorization" in headers:  # known again, but not told to whoever reads it
            headers["authorization"] = hashlib.sha256(headers["authorization"].encode()).hexdigest()
        message = {"role": "assistant", "content": json.dumps({"headers": headers, "body": request})}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        if script.get("tool"):
            choice |= {"finish_reason": "tool_calls", "message": {**message, "content": None, **_call(request)}}
        return send(client, 200, self._completion(choice))

    def _pieces(self, client: socket.socket, request: dict[str, Any], script: dict[str, Any]) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        deltas: list[dict[str, Any]] = [{"content": f"{number} "} for number in range(script.get("pieces", 4))]
        if script.get("tool"):
            deltas = _call_in_pieces(request)
        for index, delta in enumerate(deltas):
            if index == script.get("cut"):
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                return
            if index == 1:
                await_removal(script.get("hold"))
            ends = "tool_calls" if script.get("tool") and index == len(deltas) - 1 else None
            choice = {"index": 0, "delta": delta, "finish_reason": ends}
            piece = {**self._completion(choice), "object": "chat.completion.chunk"}
            chunk(client, f"data: {json.dumps(piece)}\n\n".encode())
        chunk(client, b"data: [DONE]\n\n")
        client.sendall(b"0\r\n\r\n")

    def _completion(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        return {
            **{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.name},
            **{"choices": [choice], "usage": usage},
        }


def _tool(request: dict[str, Any]) -> str:
    tool = request["tools"][0]
    return str(tool.get("function", tool)["name"])


def _call(request: dict[str, Any]) -> dict[str, Any]:
    function = {"name": _tool(request), "arguments": '{"city": "Ulm"}'}
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}


def _call_in_pieces(request: dict[str, Any]) -> list[dict[str, Any]]:
    name = {"index": 0, "id": "call_1", "type": "function", "function": {"name": _tool(request), "arguments": ""}}
    halves = ('{"city":', ' "Ulm"}')
    rest = [{"tool_calls": [{"index": 0, "function": {"arguments": half}}]} for half in halves]
    return [{"role": "assistant", "tool_calls": [name]}, *rest]


if __name__ == "__main__":
    ScriptedEngine(arguments()).run()
