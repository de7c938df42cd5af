from __future__ import annotations

import errno
import fcntl
import grp
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from spark_modeld.systemd import sockets

pytestmark = pytest.mark.unit

FIRST = 200  # far from what pytest has open


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's address has room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="s-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def given() -> Iterator[list[socket.socket]]:
    """Four listeners, also at the descriptors FIRST to FIRST + 3, as systemd would pass them."""
    with ExitStack() as stack:
        made = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(4)]
        for index, sock in enumerate(made):
            os.dup2(sock.fileno(), FIRST + index)
        yield made
        for index in range(4):
            close_if_open(FIRST + index)


def close_if_open(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def environment(names: str, *, count: str = "4", pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names, "HOME": "/"}


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_names_decide_and_not_the_order(given: list[socket.socket], order: list[int]) -> None:
    names = ["control", "http", "port-31001", "http"]
    environ = environment(":".join(names[index] for index in order))
    with closing(sockets.passed(environ, first_fd=FIRST)) as taken:
        addresses = [given[order.index(index)].getsockname() for index in range(4)]
        assert [s.getsockname() for s in taken.control] == [addresses[0]]
        assert {s.getsockname() for s in taken.http} == {addresses[1], addresses[3]}
        assert {port: [s.getsockname() for s in found] for port, found in taken.ports.items()} == {
            31001: [addresses[2]]
        }
        assert taken.gateway == ()
        assert taken.get("gateway", []) == []
        assert environ == {"HOME": "/"}
        for found in taken.by_name.values():
            for sock in found:
                assert sock.gettimeout() == 0
                assert fcntl.fcntl(sock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not any(is_open(FIRST + index) for index in range(4))


@pytest.mark.parametrize(("protocol", "taken"), [(4, True), (0, False)])
def test_who_listens_is_asked_beside_the_control_socket(given: list[socket.socket], protocol: int, taken: bool) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as asked:
        os.dup2(asked.fileno(), FIRST)
    with closing(sockets.passed(environment("control:control", count="2"), first_fd=FIRST)) as passed:
        assert [s.getsockname() for s in passed.control] == [given[1].getsockname()]
        assert (passed.diagnostics is not None) == taken
        assert passed.diagnostics is None or passed.diagnostics.proto == 4


def test_meant_for_another_process(given: list[socket.socket]) -> None:
    environ = environment("control:http:gateway:port-1", pid=1)
    assert sockets.passed(environ, first_fd=FIRST) == sockets.Sockets()
    assert environ == {"HOME": "/"}
    assert is_open(FIRST)


@pytest.mark.parametrize("count", ["", "x", "-1", "²"])
def test_not_a_count(count: str) -> None:
    assert sockets.passed(environment("control", count=count), first_fd=FIRST) == sockets.Sockets()


def test_nothing_passed() -> None:
    assert sockets.passed({}) == sockets.Sockets()


def test_what_is_of_no_use_is_closed(given: list[socket.socket]) -> None:
    with socket.socket() as mute, open("/dev/null", "rb") as null:
        os.dup2(mute.fileno(), FIRST + 1)
        os.dup2(null.fileno(), FIRST + 2)
        environ = environment("port-123456:http:gateway", count="6")
        with closing(sockets.passed(environ, first_fd=FIRST)) as taken:
            assert taken == sockets.Sockets()
        assert not any(is_open(FIRST + index) for index in range(6))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for the group")
def test_bind_unix(folder: Path) -> None:
    path = folder / "control.sock"
    with closing(sockets.bind_unix(path, mode=0o640, group="daemon")) as sock:
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert found.st_gid == grp.getgrnam("daemon").gr_gid
        assert sock.gettimeout() == 0
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))


def test_bind_unix_replaces_a_stale_file(folder: Path) -> None:
    path = folder / "control.sock"
    sockets.bind_unix(path).close()
    assert path.exists()
    with closing(sockets.bind_unix(path)), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))


def test_bind_unix_leaves_a_living_socket(folder: Path) -> None:
    path = str(folder / "control.sock")
    with closing(sockets.bind_unix(path)) as first:
        with pytest.raises(OSError, match="answers") as refused:
            sockets.bind_unix(path)
        assert refused.value.errno == errno.EADDRINUSE
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(path)
            assert first.accept()[0].close() is None


def test_bind_unix_leaves_other_files(folder: Path) -> None:
    path = folder / "control.sock"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        sockets.bind_unix(path)
    assert path.read_text() == "mine"


def test_bind_unix_with_an_unknown_group(folder: Path) -> None:
    with pytest.raises(OSError, match="no group"):
        sockets.bind_unix(folder / "s", group="no-such-group")
    assert not (folder / "s").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_bind_tcp(host: str) -> None:
    with closing(sockets.bind_tcp(f"{host}:0")) as sock:
        name = sock.getsockname()
        with closing(socket.create_connection(name[:2])):
            pass
        with pytest.raises(OSError, match="in use"):
            sockets.bind_tcp(f"{host}:{name[1]}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), ("spark.local:65535", ("spark.local", 65535))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert sockets.split_address(text) == parts


@pytest.mark.parametrize(
    "text", ["", "80", ":80", "a:", "a:65536", "::1:80", "[::1]", "a:80\n", "a:8 0", "a b:80", "a:+80", "[a]b:80"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        sockets.split_address(text)
