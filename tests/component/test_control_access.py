"""Who may call what: the unix socket, tokens and scopes, Host and Origin, the gate."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spark_modeld.control.table import ROUTES
from spark_modeld.core.errors import Code
from support.control import Answer, Control, open_folder, running

pytestmark = pytest.mark.component


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


def assert_refused(answer: Answer, status: int) -> None:
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status, answer.json["status"], answer.json["code"]) == (status, status, str(Code.NOT_AUTHORIZED))
    assert ("www-authenticate" in answer.headers) == (status == 401)
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


CALLS = [(route.method, route.path.format(id="qwen", name="app.js"), route.anyone) for route in ROUTES]


@pytest.mark.parametrize(("method", "path", "anyone"), CALLS)
async def test_without_a_token_only_health_and_the_dashboard_answer(
    control: Control, method: str, path: str, anyone: bool
) -> None:
    answer = await control.call(method, path, tcp=True)
    if anyone:
        assert answer.status == 200
    else:
        assert_refused(answer, 401)
    assert control.face.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        bearer("smd_wrong"),
        bearer(""),
        {"Authorization": "Bearer"},
        {"Authorization": "Basic c21kX2NvbnRyb2w6"},
        {"Authorization": "smd_control"},
        {"authorization": "Bearer smd_control\r\nAuthorization: Bearer smd_control"},
    ],
)
async def test_bad_tokens(control: Control, headers: dict[str, str]) -> None:
    assert_refused(await control.call("GET", "/api/status", headers=headers, tcp=True), 401)


@pytest.mark.parametrize("path", ["/nothing", "/api/models/%zz", "/api/status?x=1"])
async def test_strangers_learn_nothing_of_the_paths(control: Control, path: str) -> None:
    assert_refused(await control.call("GET", path, tcp=True), 401)
    assert_refused(await control.call("POST", "/health", tcp=True), 401)


@pytest.mark.parametrize(("method", "path", "anyone"), CALLS)
async def test_observe_reads_and_changes_nothing(control: Control, method: str, path: str, anyone: bool) -> None:
    if path == "/api/events":
        method = "HEAD"
    answer = await control.call(method, path, headers=bearer("smd_observe"), tcp=True)
    if method in {"GET", "HEAD"}:
        assert answer.status in {200, 404}
        assert "switch" not in [asked.call for asked in control.face.asked]
    else:
        assert_refused(answer, 403)
        assert control.face.asked == []


async def test_control_does_both_and_is_the_actor(control: Control) -> None:
    assert (await control.call("GET", "/api/status", headers=control.auth, tcp=True)).status == 200
    answer = await control.call("POST", "/api/switch", {"model": "llama"}, headers=control.auth, tcp=True)
    assert (answer.status, answer.json["actor"]) == (202, "token control")


async def test_inference_may_not_even_read(control: Control) -> None:
    assert_refused(await control.call("GET", "/api/status", headers=bearer("smd_inference"), tcp=True), 403)


async def test_a_large_body_from_a_stranger_is_not_looked_at(control: Control) -> None:
    assert_refused(await control.call("POST", "/api/switch", raw=b" " * 2_000_000, tcp=True), 401)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:30100",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "user@localhost",
        "192.168.1.1",
        "spark.tail1234.ts.net",
        "0.0.0.0",
        "[::1",
        "[fe80::1]",
        "localhost/x",
        "localhost:x",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/api/status", "/nothing"])
async def test_a_foreign_host_is_refused_before_anything_else(control: Control, host: str, path: str) -> None:
    assert_refused(await control.call("GET", path, headers={"Host": host, **control.auth}, tcp=True), 403)


async def test_no_host_or_two_are_refused(control: Control) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
        answer = await control.send(b"GET /health HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n", tcp=True)
        assert answer.status in {400, 403}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:30100", "localhost", "LOCALHOST:1", "[::1]:30100", "127.9.9.9"]
)
async def test_loopback_hosts_are_fine(control: Control, host: str) -> None:
    assert (await control.call("GET", "/health", headers={"Host": host}, tcp=True)).status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://localhost:30100", "http://localhost:3000", "http://localhost", "file://"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_foreign_origin_is_refused(control: Control, origin: str, method: str) -> None:
    headers = {"Host": "localhost:30100", "Origin": origin, **control.auth}
    assert_refused(await control.call(method, "/api/status", headers=headers, tcp=True), 403)


async def test_our_own_origin_is_fine(control: Control) -> None:
    headers = {"Host": "localhost:30100", "Origin": "http://localhost:30100", **control.auth}
    assert (await control.call("GET", "/api/status", headers=headers, tcp=True)).status == 200


async def test_the_unix_socket_needs_neither_token_nor_host(control: Control) -> None:
    assert (await control.call("GET", "/api/status", headers={"Host": "whatever"})).status == 200


async def test_the_gate_is_closed_on_tcp_even_with_a_token(control: Control) -> None:
    assert_refused(await control.call("POST", "/api/gate/qwen", headers=control.auth, tcp=True), 403)
    assert control.face.asked == []


_AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(f"POST {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n".encode())
s.sendall(b'Content-Length: 17\\r\\n\\r\\n{"model":"llama"}')
while data := s.recv(4096):
    sys.stdout.buffer.write(data)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can call as somebody else")
async def test_the_kernel_says_who_calls() -> None:
    async def as_nobody(path: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _AS_NOBODY, str(control.path), path, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()

    with open_folder() as folder:
        async with running(folder) as control:
            os.chmod(control.path, 0o666)
            assert "403 Forbidden" in await as_nobody("/api/gate/qwen")
            assert control.face.asked == []
            assert '"actor":"uid 65534"' in await as_nobody("/api/switch")
