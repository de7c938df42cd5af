"""The dashboard's files as they are served: to whom, with which headers, and what may not be in them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spark_modeld.control import page
from support.control import Control, running

pytestmark = pytest.mark.component

FILES = sorted(page.FOLDER.iterdir())
CONTENT = {file.name: file.read_bytes() for file in FILES}
POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:"),
    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


async def test_the_page_needs_no_token_and_says_what_it_may_do(control: Control) -> None:
    for tcp in (True, False):
        answer = await control.call("GET", "/", tcp=tcp)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        directives = answer.headers["content-security-policy"].split("; ")
        assert set(POLICY) <= set(directives)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.body == CONTENT[page.INDEX]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_each_file_comes_with_its_kind_its_policy_and_its_tag(control: Control, file: Path) -> None:
    answer = await control.call("GET", f"/dashboard/{file.name}", tcp=True)
    kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}[file.suffix]
    assert (answer.status, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert (answer.headers["cache-control"], answer.body) == ("no-cache", CONTENT[file.name])
    assert "content-security-policy" in answer.headers
    tag = answer.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await control.call("GET", f"/dashboard/{file.name}", headers={"If-None-Match": known}, tcp=True)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag), known
    changed = await control.call("GET", f"/dashboard/{file.name}", headers={"If-None-Match": '"other"'}, tcp=True)
    assert changed.status == 200
    head = await control.call("HEAD", f"/dashboard/{file.name}", tcp=True)
    assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))


async def test_nothing_else_is_served(control: Control) -> None:
    for name in ("nope.js", "..%2f..%2fpage.py", "..%2fpage.py", "%2e%2e", "page.py", "", "index.html%00", "app.js%2f"):
        answer = await control.call("GET", f"/dashboard/{name}", tcp=True)
        assert (answer.status, answer.json["code"]) == (404, "not-found"), name
    assert (await control.call("POST", "/")).status == 405
    assert (await control.call("GET", "/dashboard/deep/app.js", tcp=True)).status == 401


async def test_a_page_of_elsewhere_gets_nothing(control: Control) -> None:
    """Neither another host's name for this port (DNS rebinding) nor another origin, for the page and the API alike."""
    token = {"Authorization": "Bearer smd_control"}
    foreign = ({"Host": "rebound.example:30100"}, {"Origin": "http://evil.example"}, {"Origin": "null"})
    for headers in foreign:
        for path in ("/", "/dashboard/app.js"):
            answer = await control.call("GET", path, headers=headers, tcp=True)
            assert (answer.status, answer.json["code"]) == (403, "not-authorized")
        answer = await control.call("POST", "/api/switch", {"model": "llama"}, headers={**token, **headers}, tcp=True)
        assert answer.status == 403
    assert control.face.asked == []


async def test_its_own_page_may_switch(control: Control) -> None:
    own = {"Authorization": "Bearer smd_control", "Origin": f"http://127.0.0.1:{control.port}"}
    assert (await control.call("POST", "/api/switch", {"model": "llama"}, headers=own, tcp=True)).status == 202


async def test_through_a_tunnel_to_the_socket_too(control: Control) -> None:
    """`ssh -L 30100:/run/spark-modeld/control.sock`: there a browser needs no token, so no other page may use it."""

    async def switch(host: str, **headers: str) -> int:
        body = {"model": "llama"}
        return (await control.call("POST", "/api/switch", body, headers={"Host": host, **headers})).status

    assert await switch("localhost:30100", Origin="http://localhost:30100") == 202
    assert await switch("anything") == 202  # no browser: curl's own choice
    asked = len(control.face.asked)
    assert await switch("localhost:30100", Origin="http://evil.example") == 403
    assert await switch("rebound.example:30100", Origin="http://rebound.example:30100") == 403
    assert await switch("localhost:30100", Origin="null") == 403
    assert len(control.face.asked) == asked


async def test_its_files_are_read_for_the_first_who_asks(tmp_path: Path) -> None:
    page._files.cache_clear()
    async with running(tmp_path) as control:
        await control.call("GET", "/health")
        assert page._files.cache_info().currsize == 0
        assert (await control.call("GET", "/")).status == 200
        assert page._files.cache_info().currsize == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_text_becomes_markup_and_nothing_is_asked_of_others(file: Path) -> None:
    content = file.read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert way not in content, way
    for store in ("localStorage", "sessionStorage", "indexedDB", "document.cookie"):
        assert store not in content, store
    others = {found for found in re.findall(r"\b(?:https?|wss?)://[^'\"`\s)]*", content) if "127.0.0.1" not in found}
    assert others <= {"http://www.w3.org/2000/svg"}
    if file.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|\bon\w+=|style=|<style", content) == []


def test_every_module_is_used_and_every_import_is_there() -> None:
    names = {file.name for file in FILES}
    imported = {
        name for file in FILES for name in re.findall(r"from '\./([\w.]+)'", file.read_text(encoding="utf-8"))
    } | set(re.findall(r'"dashboard/([\w.]+)"', (page.FOLDER / page.INDEX).read_text(encoding="utf-8")))
    assert imported | {page.INDEX} == names
