"""What is seen of sockets, control groups and containers that outlive a unit: by the kernel of this machine."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spark_modeld.core.model import Container, Docker, EngineKind, Launch, Model, OwnUnit, Run
from spark_modeld.remains import Brands, HostRemains, cgroups
from spark_modeld.remains.sockets import asked_of, listening

pytestmark = pytest.mark.unit

SOCK_DIAG = 4
ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


def model(url: str = "http://127.0.0.1:1", run: Run | None = None, engine: EngineKind = EngineKind.VLLM) -> Model:
    return Model(id="alpha", engine=engine, url=url, run=run or Launch(("x",)), served_model_name="alpha")


@pytest.fixture
def remains(tmp_path: Path) -> HostRemains:
    reported = {ONE: "alpha", TWO: "alpha", THREE: "alpha"}
    brands = Brands(tmp_path, owner=os.getuid())
    return HostRemains(lambda models: reported if set(models) == {"alpha"} else {}, brands)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        yield made


def port(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_a_listener_is_seen_with_its_inode_owner_and_control_group(server: socket.socket) -> None:
    (found,) = [each for each in listening() if each.port == port(server)]
    assert found.address == socket.inet_aton("127.0.0.1")
    assert (found.uid, found.inode) == (os.geteuid(), os.fstat(server.fileno()).st_ino)
    assert found.cgroup is not None


def test_a_socket_that_was_passed_answers_too_whatever_was_asked_before(server: socket.socket) -> None:
    """Its last user was killed in the middle of an answer."""
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG)) as passed:
        for _ in range(2):
            _ = next(asked_of(passed))
            found = [each.inode for each in listening(passed) if each.port == port(server)]
            assert found == [os.fstat(server.fileno()).st_ino]


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET, "127.0.0.77", True),
    ],
)
def test_whoever_loopback_reaches_is_seen(
    remains: HostRemains, family: socket.AddressFamily, address: str, seen: bool
) -> None:
    with closing(socket.create_server((address, 0), family=family)) as server:
        found = remains.listeners(model(f"http://127.0.0.1:{port(server)}"))
    assert (found == {os.fstat(server.fileno()).st_ino} if server.fileno() >= 0 else bool(found)) == seen


def test_a_connection_is_no_listener(remains: HostRemains, server: socket.socket) -> None:
    spec = model(f"http://127.0.0.1:{port(server)}")
    with closing(socket.create_connection(server.getsockname())):
        server.close()
        assert remains.listeners(spec) == frozenset()


def test_another_machines_port_and_a_server_of_many_models_are_not_looked_at(
    remains: HostRemains, server: socket.socket
) -> None:
    assert not remains.listeners(model(f"http://192.0.2.1:{port(server)}"))
    assert not remains.listeners(model(f"http://127.0.0.1:{port(server)}", OwnUnit("o.service"), EngineKind.OLLAMA))


def test_a_holder_is_named(remains: HostRemains, server: socket.socket) -> None:
    spec = model(f"http://127.0.0.1:{port(server)}")
    (holder,) = remains.holders(spec, remains.listeners(spec))
    assert holder.who
    assert "1" not in remains.holders(spec, frozenset())


def test_only_containers_have_scopes_and_only_the_latest(remains: HostRemains) -> None:
    latest = (f"docker-{TWO}.scope", f"docker-{THREE}.scope")
    assert remains.scopes(model(run=Docker("image"))) == latest
    assert remains.scopes(model(run=Container("name"))) == latest
    assert remains.scopes(model()) == ()


def test_processes_are_named_by_program_and_pid(remains: HostRemains) -> None:
    own = Path("/proc/self/comm").read_text().strip()
    me = pwd.getpwuid(os.getuid()).pw_name
    assert remains.named([os.getpid()]) == f"{own} (PID {os.getpid()} of {me})"
    assert remains.named([1 << 30]) == f"a process (PID {1 << 30})"
    assert remains.named(range((1 << 30), (1 << 30) + 5)).endswith(f"(PID {(1 << 30) + 2}) and 2 more")


def test_a_control_group_is_found_by_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "a.slice" / "b.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("12\n0\n13\n")
    assert cgroups.find(folder.stat().st_ino, tmp_path) == folder
    assert cgroups.processes(folder) == [12, 13]
    assert cgroups.find(1, tmp_path) is None
    assert cgroups.processes(tmp_path / "gone") == []


@pytest.mark.parametrize(
    "place",
    [
        f"system.slice/docker-{ONE}.scope",
        f"docker/{ONE}",
        f"user.slice/user-7.slice/user@7.service/user.slice/docker-{ONE}.scope",
    ],
)
def test_a_container_is_found_where_docker_may_put_it(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("12\n")
    places = cgroups.places(f"docker-{ONE}.scope", 7, tmp_path)
    assert [pid for each in places for pid in cgroups.processes(each)] == [12]
