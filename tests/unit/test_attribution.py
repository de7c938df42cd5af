"""From control groups and units to models."""

from __future__ import annotations

import pytest

from spark_modeld.core.model import Docker, EngineKind, Launch, Model, OwnUnit, Run
from spark_modeld.memory.attribution import Owners, container_of, unit_of_cgroup

pytestmark = pytest.mark.unit

ID = "0123456789abcdef" * 4
OTHER_ID = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/sglang-qwen.service", "sglang-qwen.service"),
        ("/spark.slice/spark-models.slice/spark-model@qwen3-32b.service", "spark-model@qwen3-32b.service"),
        ("/system.slice/ollama.service/runner/1", "ollama.service"),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
        (f"/spark.slice/spark-models.slice/docker-{ID}.scope/init", f"docker-{ID}.scope"),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope"),
        (f"/docker/{ID}", f"docker-{ID}.scope"),
        (f"/system.slice/docker-{OTHER_ID}.scope/docker/{ID}", f"docker-{ID}.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sglang.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/init.scope", "init.scope"),
        ("/system.slice", None),
        ("/", None),
        ("/some/folder", None),
    ],
)
def test_unit_of_a_path(path: str, unit: str | None) -> None:
    assert unit_of_cgroup(f"0::{path}\n") == unit


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sglang.service", "sglang.service"),
        ("/user.slice/user-1000.slice/user@1000.service/spark.slice/spark-models.slice/a.service/x", "a.service"),
        ("/system.slice/sglang.service", None),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
    ],
)
def test_unit_of_a_path_beside_a_users_systemd(path: str, unit: str | None) -> None:
    assert unit_of_cgroup(f"0::{path}\n", user=True) == unit


@pytest.mark.parametrize(
    "text",
    [
        "12:devices:/docker\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n",
        "12:devices:/docker\n1:name=systemd:/system.slice/a.service\n0::/\n",
        "1:name=systemd:/system.slice/a.service\n",
    ],
)
def test_version_one_and_hybrid(text: str) -> None:
    assert unit_of_cgroup(text) == "a.service"


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "0:", "0:::"])
def test_nonsense_names_no_unit(text: str) -> None:
    assert unit_of_cgroup(text) is None


@pytest.mark.parametrize(
    ("unit", "container"),
    [
        (f"docker-{ID}.scope", ID),
        ("docker-0123.scope", None),
        (f"docker-{ID}.scope\n", None),
        (f"docker-{ID}.service", None),
        ("docker.service", None),
    ],
)
def test_container_of(unit: str, container: str | None) -> None:
    assert container_of(unit) == container


def model(name: str, run: Run) -> Model:
    return Model(id=name, engine=EngineKind.SGLANG, url="http://127.0.0.1:1", run=run, served_model_name=name)


def test_owners_of_a_catalog() -> None:
    owners = Owners.of(
        [model("a", Launch(("x",))), model("b", OwnUnit("sglang-b.service")), model("c", Docker("image"))], {ID: "c"}
    )
    assert owners.model_of("spark-model@a.service") == "a"
    assert owners.model_of("sglang-b.service") == "b"
    assert owners.model_of(f"docker-{ID}.scope") == "c"
    assert owners.model_of("spark-model@c.service") == "c"


def test_what_left_its_unit_is_known_by_its_brand() -> None:
    owners = Owners.of([model("a", Launch(("x",))), model("b", Launch(("x",)))], None, {7: "a"})
    assert owners.model_of("session-1.scope", 7) == "a"
    assert owners.model_of(None, 7) == "a"
    assert owners.model_of("spark-model@b.service", 7) == "b"
    assert owners.model_of("session-1.scope", 8) is None
    assert owners.model_of("session-1.scope") is None


def test_what_nobody_owns() -> None:
    owners = Owners.of([model("a", Launch(("x",)))], {ID: "a"})
    assert owners.model_of(None) is None
    assert owners.model_of("gnome-shell.service") is None
    assert owners.model_of("spark-model@b.service") is None
    assert owners.model_of(f"docker-{OTHER_ID}.scope") is None


def test_a_unit_that_models_share_is_none_of_theirs() -> None:
    shared = OwnUnit("ollama.service")
    owners = Owners.of([model("a", shared), model("b", shared), model("c", shared), model("d", OwnUnit("d.service"))])
    assert owners.model_of("ollama.service") is None
    assert owners.model_of("d.service") == "d"
