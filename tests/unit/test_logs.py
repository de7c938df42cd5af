"""Log lines: the journal's native protocol, levels, and a journal that is not there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from spark_modeld import logs

pytestmark = pytest.mark.unit

SetUp = Callable[[str], None]


def decode(datagram: bytes) -> dict[str, str]:
    """The native protocol, read as journald reads it: ``KEY=value``, or KEY, a length and as many bytes."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[key.decode()] = value.decode()
        datagram = rest
    return fields


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    if logs._Journal._socket is not None:
        logs._Journal._socket.close()
        logs._Journal._socket = None


@pytest.fixture
def under_systemd(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets up logging as if stderr were the stream that systemd connected to the journal."""

    def set_up(level: str) -> None:
        status = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.set_up(level)

    return set_up


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in the journal's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.setblocking(False)
        monkeypatch.setattr(logs, "_JOURNAL", str(tmp_path / "journal"))
        yield sock


@pytest.fixture
def no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_JOURNAL", str(tmp_path / "nobody"))


def test_a_line_goes_to_the_journal_with_its_fields(
    journal: socket.socket, under_systemd: SetUp, capfd: pytest.CaptureFixture[str]
) -> None:
    under_systemd("info")
    structlog.get_logger().info("switch ended", model="qwen", switch_id="sw-1", unit="", actor=None, count=0)
    assert decode(journal.recv(65536)) == {
        "MESSAGE": "switch ended",
        "PRIORITY": "6",
        "MODEL": "qwen",
        "SWITCH_ID": "sw-1",
        "COUNT": "0",
        "SYSLOG_IDENTIFIER": "spark-modeld",
    }
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["one\ntwo", "\n", "a=b\nPRIORITY=0\nMESSAGE=forged\n", "käse\nfür \U0001f600"])
def test_no_value_can_forge_a_field(journal: socket.socket, under_systemd: SetUp, text: str) -> None:
    under_systemd("info")
    structlog.get_logger().warning(text, model=text)
    assert decode(journal.recv(65536)) == {
        "MESSAGE": text,
        "PRIORITY": "4",
        "MODEL": text,
        "SYSLOG_IDENTIFIER": "spark-modeld",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_levels_are_syslogs_priorities(journal: socket.socket, under_systemd: SetUp, level: str, priority: str) -> None:
    under_systemd("debug")
    getattr(structlog.get_logger(), level)("x")
    assert decode(journal.recv(65536))["PRIORITY"] == priority


def test_what_is_under_the_level_is_not_said(journal: socket.socket, under_systemd: SetUp) -> None:
    under_systemd("warning")
    structlog.get_logger().info("x")
    with pytest.raises(BlockingIOError):
        journal.recv(65536)


def test_an_exception_comes_with_its_traceback(journal: socket.socket, under_systemd: SetUp) -> None:
    under_systemd("info")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        structlog.get_logger().exception("it broke")
        structlog.get_logger().critical("it broke", exc_info=error)
    for priority in ("3", "2"):
        fields = decode(journal.recv(65536))
        assert fields["PRIORITY"] == priority
        assert fields["MESSAGE"].startswith("it broke\nTraceback")
        assert fields["MESSAGE"].endswith("ZeroDivisionError: a bug")
        assert "EXC_INFO" not in fields


def test_a_value_of_any_kind_and_size_is_taken(journal: socket.socket, under_systemd: SetUp) -> None:
    under_systemd("info")
    structlog.get_logger().info("x", models=["a", "b"], numbers={"a": 1}, long="x" * 100_000, odd="\udcff")
    fields = decode(journal.recv(1 << 20))
    assert (fields["MODELS"], fields["NUMBERS"], fields["ODD"]) == ("['a', 'b']", "{'a': 1}", "?")
    assert 0 < len(fields["LONG"]) < 100_000


@pytest.mark.parametrize("text", ["switch ended", "one\ntwo"])
@pytest.mark.usefixtures("no_journal")
def test_without_the_journal_the_message_goes_to_stderr(
    under_systemd: SetUp, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    under_systemd("info")
    structlog.get_logger().info(text, model="qwen")
    assert capfd.readouterr().err == f"{text}\n"


def test_a_full_journal_does_not_hold_the_daemon_up(
    journal: socket.socket, under_systemd: SetUp, capfd: pytest.CaptureFixture[str]
) -> None:
    under_systemd("info")
    for number in range(2000):
        structlog.get_logger().info(f"line {number}")
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "line 1999"
    received = 0
    with contextlib.suppress(BlockingIOError):
        while journal.recv(65536):
            received += 1
    assert received + len(said) == 2000


@pytest.mark.usefixtures("no_journal")
def test_nothing_is_raised_when_stderr_is_gone_too(under_systemd: SetUp) -> None:
    under_systemd("info")
    reading, writing = os.pipe()
    saved = os.dup(2)
    os.close(reading)
    os.dup2(writing, 2)
    try:
        with pytest.raises(BrokenPipeError):
            os.write(2, b"x")
        structlog.get_logger().info("x")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writing)


@pytest.mark.parametrize("stream", ["", "1:1", "nonsense"])
def test_on_a_terminal_a_person_can_read_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    logs.set_up("info")
    structlog.get_logger().info("switch ended", model="qwen")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        structlog.get_logger().exception("it broke")
    said = capsys.readouterr().err
    assert "switch ended" in said
    assert "model=qwen" in said
    assert "ZeroDivisionError: a bug" in said


def test_a_level_that_is_none_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        logs.set_up("loud")


def test_a_journal_that_is_replaced_gets_the_next_line(
    journal: socket.socket, under_systemd: SetUp, tmp_path: Path
) -> None:
    under_systemd("info")
    logs.line("one", {"status": "200"})
    assert decode(journal.recv(65536))["MESSAGE"] == "one"
    (tmp_path / "journal").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "journal"))
        journal.close()
        logs.line("two", {"status": "200"})
        assert decode(other.recv(65536))["MESSAGE"] == "two"
