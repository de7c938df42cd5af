"""Which processes a model's unit started, wherever they are by now: those that carry the brand of its runs.

The launcher reports it in /run/spark-models/<id>/brand; that of a unit of the user's own comes from the unit's name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct

from spark_modeld.core.brand import brand_in, brand_of
from spark_modeld.core.model import Model, OwnUnit

_RECORD = re.compile(rb"([0-9]{19}) ([0-9]{1,10}) [0-9]{1,20}\n")
_ZOMBIE = b"Z"
_LOOKS = 5


class Brand(Struct, frozen=True):
    """The brand, and the uid that the model runs as; None: anybody's but root's."""

    number: int
    uid: int | None


class Brands:
    """Reads the records below ``folder``, which ``owner`` alone may write; each again only when it has changed.

    ``user``: beside a user's own systemd, where everything runs as that user.
    """

    def __init__(self, folder: Path, *, owner: int, user: bool = False) -> None:
        self._folder = folder
        self._owner = owner
        self._user = user
        self._known: dict[str, tuple[tuple[int, int, int], Brand | None]] = {}

    def of(self, spec: Model) -> Brand | None:
        """This model's brand; None if it has not run since the machine started, or what is there is no record.

        Whether a unit of the user's own has been given its brand shows in its processes alone.
        """
        if isinstance(spec.run, OwnUnit):
            # A server of many models stays when one of them goes.
            return None if spec.tenant else Brand(brand_of(spec.unit), self._owner if self._user else None)
        model = spec.id
        path = f"{self._folder}/{model}/brand"
        try:
            status = os.lstat(path)
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            known = self._known.get(model)
            if known is None or known[0] != version:
                known = self._known[model] = (version, self._read(path))
        except OSError:
            self._known.pop(model, None)
            return None
        return known[1]

    def _read(self, path: str) -> Brand | None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            trusted = os.fstat(descriptor).st_uid == self._owner
            match = _RECORD.fullmatch(os.read(descriptor, 128)) if trusted else None
        finally:
            os.close(descriptor)
        return Brand(int(match[1]), int(match[2])) if match else None


def carriers(brand: Brand, folder: Path = Path("/proc")) -> list[int]:
    """The PIDs of the living processes that carry it and run as the model's user."""
    found: list[int] = []
    for _ in range(_LOOKS):
        steady = True
        for name in filter(str.isdecimal, os.listdir(folder)):
            process = f"{folder}/{name}"
            try:
                # A look at the owner is cheap, and leaves few whose limits have to be read.
                if not _may_carry(os.stat(process).st_uid, brand) or not _carries(process, brand):
                    continue
                if _lives(process):
                    found.append(int(name))
                else:
                    steady = False
            except OSError:
                steady = False  # it has ended, and may have forked another since they were listed
        if found or steady:
            break
    return found


def _may_carry(uid: int, brand: Brand) -> bool:
    return uid == brand.uid if brand.uid is not None else uid != 0


def _carries(process: str, brand: Brand) -> bool:
    with open(f"{process}/limits", "rb", buffering=0) as file:
        return brand_in(file.read(1 << 12)) == brand.number


def _lives(process: str) -> bool:
    """Whether it is more than an end that nobody has taken note of."""
    with open(f"{process}/stat", "rb", buffering=0) as file:
        return not file.read(1024).rpartition(b")")[2].lstrip().startswith(_ZOMBIE)
