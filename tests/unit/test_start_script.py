"""The start script of a container: whoever could exchange it is root, or the user it runs as."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.bounds import NEEDS_ROOT, STRANGER, USER, open_folder, own
from support.launcher import load

pytestmark = [pytest.mark.unit, NEEDS_ROOT]

launch_docker = load("launch_docker")


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def attack(place: Path, group: int) -> list[str]:
    """What a stranger can change in this folder, by trying."""
    asked, told = os.pipe()
    if (child := os.fork()) == 0:
        os.close(asked)
        try:
            os.setgroups([group])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            for path in sorted(place.rglob("*")):
                try:
                    path.rename(f"{path}.moved")
                    os.rename(f"{path}.moved", path)
                    os.write(told, f"{path}\n".encode())
                except OSError:
                    pass
                if path.is_file() and not path.is_symlink():
                    try:
                        path.open("r+b").close()
                        os.write(told, f"{path}\n".encode())
                    except OSError:
                        pass
        finally:
            os._exit(0)
    os.close(told)
    with os.fdopen(asked) as answer:
        changed = answer.read().splitlines()
    os.waitpid(child, 0)
    return changed


def acl(path: Path, uid: int) -> None:
    """Lets one more user write, by an access list."""
    entries = [(0x01, 6, -1), (0x02, 7, uid), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    packed = b"".join(struct.pack("<HHI", tag, mode, who & 0xFFFFFFFF) for tag, mode, who in entries)
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)


class Ways:
    """Ways to lay a script out: real/serve/model.sh, and a link to it by way of others."""

    def __init__(self, place: Path) -> None:
        self.place = place / "scripts"
        self.real = self.place / "real" / "serve" / "model.sh"
        self.real.parent.mkdir(parents=True)
        self.real.write_text("#!/bin/sh\n")
        self.real.chmod(0o755)
        self.first, self.via = self.place / "first", self.place / "via"
        self.first.mkdir()
        self.via.mkdir()
        (self.via / "latest.sh").symlink_to(self.real)
        (self.first / "model.sh").symlink_to("../via/latest.sh")
        (self.first / "folder").symlink_to(self.via)

    @property
    def linked(self) -> Path:
        return self.first / "model.sh"


def plain(ways: Ways) -> Path:
    return ways.linked


def through_a_writable_folder(ways: Ways) -> Path:
    ways.via.chmod(0o777)
    return ways.linked


def through_a_strangers_folder(ways: Ways) -> Path:
    own(ways.via)
    return ways.linked


def through_a_strangers_link(ways: Ways) -> Path:
    os.chown(ways.via / "latest.sh", STRANGER, -1, follow_symlinks=False)
    ways.via.chmod(0o1777)
    return ways.linked


def up_again_from_behind_a_link(ways: Ways) -> Path:
    """Where this leads depends on a folder that the text of the path does not name."""
    (ways.place / "far" / "deep").mkdir(parents=True)
    (ways.first / "deep").symlink_to(ways.place / "far" / "deep")
    (ways.place / "far" / "model.sh").symlink_to(ways.real)
    (ways.place / "far").chmod(0o777)
    return ways.first / "deep" / ".." / "model.sh"


def with_an_access_list(ways: Ways) -> Path:
    acl(ways.real, STRANGER)
    return ways.real


def in_a_folder_with_an_access_list(ways: Ways) -> Path:
    acl(ways.real.parent, STRANGER)
    return ways.real


def a_hard_link_to_a_strangers(ways: Ways) -> Path:
    own(ways.real)
    (ways.first / "hard.sh").hardlink_to(ways.real)
    return ways.first / "hard.sh"


def of_the_users_group(ways: Ways) -> Path:
    os.chown(ways.real, 0, 4242)
    ways.real.chmod(0o775)
    return ways.real


BAD_WAYS = [
    through_a_writable_folder,
    through_a_strangers_folder,
    through_a_strangers_link,
    up_again_from_behind_a_link,
    with_an_access_list,
    in_a_folder_with_an_access_list,
    a_hard_link_to_a_strangers,
    of_the_users_group,
]


@pytest.mark.parametrize("way", [plain, *BAD_WAYS])
def test_no_script_is_run_that_a_stranger_can_exchange(place: Path, way: Callable[[Ways], Path]) -> None:
    ways = Ways(place)
    script = way(ways)
    reason = launch_docker.audit(str(script), USER.pw_uid)
    assert (reason is not None) == (way in BAD_WAYS), reason
    assert (attack(ways.place, 4242) != []) == (way in BAD_WAYS)


def test_links_in_a_circle_come_to_an_end(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert "too many links" in str(launch_docker.audit(str(place / "a"), USER.pw_uid))
