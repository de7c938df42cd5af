"""What is read out of Tailscale's JSON, and what asking its command can come to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from spark_modeld import tailnet
from spark_modeld.core.tailnet import Served, Tailnet, served_of, tailnet_of

pytestmark = pytest.mark.unit

NAME = "spark.tail1234.ts.net"
STATUS = {
    "Version": "1.90.1",
    "BackendState": "Running",
    "MagicDNSSuffix": "tail1234.ts.net",
    "Self": {"HostName": "spark", "DNSName": f"{NAME}.", "TailscaleIPs": ["100.64.87.102", "fd7a::1"], "Online": True},
}
SERVE = {
    "TCP": {
        **{"443": {"HTTPS": True}, "8080": {"HTTP": True}, "8443": {"HTTPS": True}},
        **{"2222": {"TCPForward": "127.0.0.1:22"}},
    },
    "Web": {
        f"{NAME}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:30101"}, "/files": {"Path": "/srv"}}},
        f"{NAME}:8080": {"Handlers": {"/raw": {"Proxy": "http://localhost:30001"}}},
        f"{NAME}:8443": {"Handlers": {"/": {"Proxy": "https+insecure://127.0.0.1:30100"}}},
    },
    "AllowFunnel": {f"{NAME}:8443": True, f"{NAME}:443": False},
}  # fmt: skip


def test_the_machine_has_a_name_addresses_and_what_it_hands_on() -> None:
    found = tailnet_of(STATUS, SERVE)
    assert found is not None
    assert (found.name, found.addresses) == (NAME, ("100.64.87.102", "fd7a::1"))
    assert found.served == (
        Served(f"https://{NAME}:8443", "127.0.0.1", 30100, True, "tailscale funnel --https=8443 off"),
        Served(f"http://{NAME}:8080/raw", "127.0.0.1", 30001, False, "tailscale serve --http=8080 --set-path=/raw off"),
        Served(f"https://{NAME}", "127.0.0.1", 30101, False, "tailscale serve --https=443 off"),
        Served("tcp://*:2222", "127.0.0.1", 22, False, "tailscale serve --tcp=2222 off"),
    )


def test_what_runs_in_a_terminal_and_services_count_too() -> None:
    web = {f"{NAME}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:30101"}}}}
    tcp = {"10000": {"TCPForward": "[::1]:30101", "TerminateTLS": NAME}}
    there = {"Foreground": {"session": {"TCP": tcp, "Web": web}}, "Services": {"svc:llm": {"Web": web}}}
    offs = {each.url: each.off for each in served_of(there)}
    assert offs == {f"https://{NAME}": "tailscale serve --service=svc:llm --https=443 off", f"tcp://{NAME}:10000": ""}
    assert {(each.host, each.port) for each in served_of(there)} == {("127.0.0.1", 30101)}


@pytest.mark.parametrize("state", ["NeedsLogin", "Stopped", "Starting", None])
def test_while_it_is_not_up_there_is_no_tailnet(state: str | None) -> None:
    assert tailnet_of({**STATUS, "BackendState": state}, SERVE) is None


@pytest.mark.parametrize("status", [None, [], "x", 3, {"BackendState": "Running", "Self": [1], "TailscaleIPs": "x"}])
@pytest.mark.parametrize(
    "serve",
    [
        None,
        [1],
        {"TCP": [], "Web": {"no port": {"Handlers": {"/": {"Proxy": 7}}}}, "AllowFunnel": "x", "Foreground": {"a": 1}},
        {"Web": {"a:443": {"Handlers": {"/": {"Proxy": "http://[broken"}, "/b": {"Proxy": "unix:/run/x.sock"}}}}},
        {"TCP": {"1": {"TCPForward": "127.0.0.1:99999"}}, "Services": {"svc:x": None}},
    ],
)
def test_whatever_the_json_nothing_is_raised(status: Any, serve: Any) -> None:
    found = tailnet_of(status, serve)
    assert found is None or found == Tailnet("")
    assert served_of(serve) == ()


def test_a_bare_port_is_this_machines() -> None:
    (found,) = served_of({"Web": {"h:443": {"Handlers": {"/": {"Proxy": "3000"}}}}})
    assert (found.host, found.port) == ("127.0.0.1", 3000)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "tailscale"


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_command_is_asked(program: Path) -> None:
    said = '{"BackendState":"Running","Self":{"DNSName":"a.b."}}'
    write(program, f"case $1 in status) echo '{said}';; *) echo '{{}}';; esac")
    assert tailnet.ask() == tailnet.Answer(installed=True, tailnet=Tailnet("a.b"))


def test_a_command_that_fails_is_told(program: Path) -> None:
    write(program, "echo nothing good; exit 1")
    assert "fails" in tailnet.ask().trouble


def test_a_command_that_hangs_is_left(program: Path) -> None:
    write(program, "exec sleep 60")
    begun = time.monotonic()
    answer = tailnet.ask(0.2)
    assert time.monotonic() - begun < 5
    assert (answer.installed, answer.tailnet) == (True, None)
    assert "0.2 s" in answer.trouble


def test_without_the_command_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tailnet.ask() == tailnet.Answer(installed=False)
