"""Which container is which model's: the launchers' reports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spark_modeld.core.model import Docker, EngineKind, Model
from spark_modeld.memory.attribution import Owners
from spark_modeld.memory.containers import Containers

pytestmark = pytest.mark.unit

ID = "0123456789abcdef" * 4
OTHER_ID = "fedcba9876543210" * 4


def report(folder: Path, model: str, content: str) -> Path:
    """A launcher's report, replaced in one piece."""
    path = folder / model / "container"
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    return fresh.replace(path)


def test_a_containers_processes_are_the_models(tmp_path: Path) -> None:
    report(tmp_path, "qwen", f"{ID}\n")
    containers = Containers(tmp_path, owner=os.getuid())
    model = Model(
        id="qwen",
        engine=EngineKind.SGLANG,
        url="http://127.0.0.1:30001",
        run=Docker("sglang"),
        served_model_name="qwen",
    )
    owners = Owners.of([model], containers.of(["qwen"]))
    assert owners.model_of(f"docker-{ID}.scope") == "qwen"
    assert owners.model_of(f"docker-{OTHER_ID}.scope") is None


def test_reports_come_change_and_go(tmp_path: Path) -> None:
    containers = Containers(tmp_path, owner=os.getuid())
    assert containers.of(["qwen", "scout"]) == {}
    report(tmp_path, "qwen", f"{ID}\n")
    assert containers.of(["qwen", "scout"]) == {ID: "qwen"}
    report(tmp_path, "qwen", f"{OTHER_ID}\n")
    assert containers.of(["qwen", "scout"])[OTHER_ID] == "qwen"
    assert containers.of(["scout"]) == {}


def test_a_container_is_the_models_for_as_long_as_it_has_a_process(tmp_path: Path) -> None:
    """The launcher has taken its report back, or the next one is there, and the driver still lists the old one."""
    containers = Containers(tmp_path, owner=os.getuid())
    report(tmp_path, "qwen", f"{ID}\n")
    containers.of(["qwen"])
    (tmp_path / "qwen" / "container").unlink()
    assert containers.of(["qwen"]) == {ID: "qwen"}
    report(tmp_path, "qwen", f"{OTHER_ID}\n")
    assert containers.of(["qwen"]) == {ID: "qwen", OTHER_ID: "qwen"}


def test_only_so_many_are_remembered_and_never_the_one_that_is_there(tmp_path: Path) -> None:
    containers = Containers(tmp_path, owner=os.getuid())
    report(tmp_path, "scout", f"{ID}\n")
    for number in range(100):
        report(tmp_path, "qwen", f"{number:064x}\n")
        known = containers.of(["qwen", "scout"])
        assert len(known) <= 64
        assert (known[ID], known[f"{number:064x}"]) == ("scout", "qwen")


def test_an_unchanged_report_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(tmp_path, "qwen", f"{ID}\n")
    containers = Containers(tmp_path, owner=os.getuid())
    assert containers.of(["qwen"]) == {ID: "qwen"}
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("read again"))
    assert containers.of(["qwen"]) == {ID: "qwen"}


@pytest.mark.parametrize(
    "content", ["", ID, f"{ID[:-1]}\n", f"{ID}\n{ID}\n", f" {ID}\n", f"{ID.upper()}\n", "x" * 1000, "\0" * 65]
)
def test_what_is_no_report_counts_for_none(tmp_path: Path, content: str) -> None:
    report(tmp_path, "qwen", content)
    assert Containers(tmp_path, owner=os.getuid()).of(["qwen"]) == {}


def test_only_the_launchers_own_files_count(tmp_path: Path) -> None:
    path = report(tmp_path, "qwen", f"{ID}\n")
    assert Containers(tmp_path, owner=os.getuid() + 1).of(["qwen"]) == {}
    (tmp_path / "scout").mkdir()
    (tmp_path / "scout" / "container").symlink_to(path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "container")
    assert Containers(tmp_path, owner=os.getuid()).of(["qwen", "scout", "other"]) == {ID: "qwen"}
