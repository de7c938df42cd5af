"""What make deb builds: the same bytes from the same commit, for machines that this one is not, as Debian wants it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.clean import REPOSITORY, build, script

pytestmark = pytest.mark.package

AARCH64 = 183
"""ELF's number of the machine."""
ABI = re.compile(r"\.(cpython-[\w-]+|abi3)\.so$")


def _contents(site: Path) -> set[str]:
    """The compiled modules, without what they were compiled for, and the distributions with their versions."""
    modules = {ABI.sub("", str(path.relative_to(site))) for path in site.rglob("*.so")}
    return modules | {path.name for path in site.glob("*.dist-info")}


@pytest.fixture(scope="module")
def arm64() -> Path:
    return build("noble-arm64")


def _not_sources(folder: str, names: list[str]) -> set[str]:
    made = {".venv", "build", "dist", ".hypothesis"} if Path(folder) == REPOSITORY else set()
    return {name for name in names if name in made or name == "__pycache__" or name.endswith("_cache")}


def test_the_same_commit_gives_the_same_bytes(arm64: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(REPOSITORY, copy, symlinks=True, ignore=_not_sources)
    for tool in ("pip", "runtime"):  # they run here, and nothing of them is packed
        shutil.copytree(REPOSITORY / "build" / tool, copy / "build" / tool, symlinks=True)
    for folder, _, files in os.walk(copy):
        for file in files:
            os.utime(Path(folder, file), (1, 1), follow_symlinks=False)
    again = script("sh", "-c", "umask 077; packaging/deb noble-arm64", cwd=copy, TZ="Asia/Tokyo", LANG="de_DE.UTF-8")
    assert Path(again).name == arm64.name
    assert (copy / again).read_bytes() == arm64.read_bytes()


def test_nothing_of_this_machine_is_in_it(arm64: Path, tmp_path: Path) -> None:
    script("dpkg-deb", "-x", str(arm64), str(tmp_path))
    modules = list(tmp_path.rglob("*.so"))
    assert len(modules) > 5
    for module in modules:
        head = module.read_bytes()[:20]
        assert head[:5] == b"\x7fELF\x02", module
        assert int.from_bytes(head[18:20], "little") == AARCH64, module
        assert ".cpython-312-aarch64" in module.name or ".abi3" in module.name
    site = tmp_path / "usr/lib/spark-modeld/venv/lib/python3.12/site-packages"
    assert (site / "spark_modeld" / "app.py").exists()
    (ours,) = (REPOSITORY / "build" / "runtime").glob("lib/python3*/site-packages")
    assert _contents(site) == _contents(ours), "the same packages as on this machine, and as much of them compiled"
    assert not list(tmp_path.rglob("*.pyc"))
    traces = subprocess.run(
        ["grep", "-rlF", str(REPOSITORY), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert traces.stdout == ""
    assert (tmp_path / "usr/lib/spark-modeld/venv/bin/python3").readlink() == Path("../../../../bin/python3")


def test_it_asks_for_the_python_it_was_built_for(arm64: Path) -> None:
    fields = script("dpkg-deb", "-f", str(arm64))
    assert "Architecture: arm64" in fields
    assert "python3 (>= 3.12~), python3 (<< 3.13~), python3-gi" in fields
    conffiles = script("dpkg-deb", "-I", str(arm64), "conffiles")
    assert conffiles == "/etc/spark-modeld/spark-modeld.toml"


def test_lintian_finds_nothing(arm64: Path) -> None:
    assert script("lintian", "--allow-root", "--fail-on", "error,warning", str(arm64)) == ""
