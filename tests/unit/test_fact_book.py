from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.systemd.fact_book import FactBook, Question

UNIT = "spark-model@a-b.service"
ERA = object()
FACTS = UnitFacts(restart="always")


class Folders:
    """Where units are looked for, with one template in it."""

    def __init__(self, root: Path) -> None:
        self.etc, self.transient = root / "etc", root / "transient"
        self.template = self.etc / "spark-model@.service"
        self.drop_in = self.etc / "spark-model@.service.d" / "own.conf"
        for path in (self.template, self.drop_in, self.transient / "run-1.scope"):
            path.parent.mkdir(exist_ok=True)
            path.write_text("[Unit]\n")
        self.all = [str(self.etc), str(root / "absent"), str(self.transient)]

    def said(self, **changes: Any) -> dict[str, Any]:
        return {
            "Names": [UNIT],
            "FragmentPath": str(self.template),
            "DropInPaths": [str(self.drop_in)],
            "NeedDaemonReload": False,
            **changes,
        }


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def kept(folders: Folders, facts: UnitFacts = FACTS, asked_in: float = 5.0, **said: Any) -> FactBook:
    """As if systemd were asked some seconds after the files were written."""
    book = FactBook()
    asked_ns = time.time_ns() + round(asked_in * 1e9)
    book.keep(Question(UNIT, ERA, folders.all, asked_ns), facts, folders.said(**said))
    return book


def test_what_was_said_holds_in_its_era(folders: Folders) -> None:
    book = kept(folders)
    assert book.find(UNIT, ERA) == FACTS
    assert book.find(UNIT, object()) is None
    assert book.find("other.service", ERA) is None


CHANGES: dict[str, Callable[[Folders], object]] = {
    "the template is edited": lambda f: f.template.write_text("[Unit]\nDescription=new\n"),
    "the template is replaced": lambda f: os.replace(f.drop_in, f.template),
    "the template is gone": lambda f: f.template.unlink(),
    "a drop-in is edited in place": lambda f: f.drop_in.write_text("[Service]\n"),
    "a drop-in joins others": lambda f: (f.drop_in.parent / "more.conf").touch(),
    "the instance gets drop-ins": lambda f: (f.etc / f"{UNIT}.d").mkdir(),
    "all of a prefix get drop-ins": lambda f: (f.etc / "spark-.service.d").mkdir(),
    "the instance is masked": lambda f: (f.etc / UNIT).symlink_to("/dev/null"),
    "a folder appears": lambda f: (f.etc.parent / "absent").mkdir(),
    "a transient unit takes its name": lambda f: (f.transient / UNIT).touch(),
    "a transient unit's drop-ins do": lambda f: (f.transient / "service.d").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_of_its_files_has_systemd_asked_again(
    folders: Folders, change: Callable[[Folders], object]
) -> None:
    book = kept(folders)
    assert book.find(UNIT, ERA) == FACTS
    change(folders)
    assert book.find(UNIT, ERA) is None


def test_containers_that_come_and_go_change_nothing(folders: Folders) -> None:
    book = kept(folders)
    (folders.transient / "docker-1.scope").touch()
    assert book.find(UNIT, ERA) == FACTS


@pytest.mark.parametrize(
    "said",
    [
        {"NeedDaemonReload": True},  # what it said is of the file before
        {"Names": [UNIT, "alias.service"]},
        {"FragmentPath": ""},
        {"DropInPaths": ["/nowhere/own.conf"]},
    ],
)
def test_what_cannot_be_followed_is_not_kept(folders: Folders, said: dict[str, Any]) -> None:
    assert kept(folders, **said).find(UNIT, ERA) is None


def test_a_link_is_not_followed(folders: Folders) -> None:
    link = folders.etc / UNIT
    link.symlink_to(folders.template)
    assert kept(folders, FragmentPath=str(link)).find(UNIT, ERA) is None


def test_only_units_that_load_are_kept(folders: Folders) -> None:
    assert kept(folders, UnitFacts(load="bad-setting")).find(UNIT, ERA) is None


def test_files_just_written_are_not_relied_on(folders: Folders) -> None:
    assert kept(folders, asked_in=0.5).find(UNIT, ERA) is None


def test_a_refusal_to_keep_forgets_what_was_kept(folders: Folders) -> None:
    book = kept(folders)
    book.keep(Question(UNIT, ERA, folders.all, time.time_ns()), FACTS, folders.said(NeedDaemonReload=True))
    assert book.find(UNIT, ERA) is None
