"""The units that an installation without a package writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from spark_modeld.cli.own_units import own_units

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(prefix: Path) -> Path:
    """What the wheel puts below the prefix of its environment."""
    folder = prefix / "share" / "spark-modeld" / "units"
    folder.mkdir(parents=True)
    for unit in (REPOSITORY / "units" / "user").iterdir():
        (folder / unit.name).write_text(unit.read_text())
    return prefix


def test_every_program_is_the_environments_own(tmp_path: Path) -> None:
    units = own_units(environment(tmp_path))
    assert units.keys() == {unit.name for unit in (REPOSITORY / "units" / "user").iterdir()}
    assert f"ExecStart={tmp_path}/bin/spark-modeld --user\n" in units["spark-modeld.service"]
    assert f"ExecStart={tmp_path}/libexec/spark-modeld/spark-model-run " in units["spark-model@.service"]
    for text in units.values():
        assert "/usr/lib/spark-modeld" not in text
        assert "/usr/bin/spark-model" not in text


def test_what_the_units_name_is_in_the_wheel(tmp_path: Path) -> None:
    named = {word for text in own_units(environment(tmp_path)).values() for word in text.split() if "/libexec/" in word}
    assert named
    for word in named:
        assert (REPOSITORY / "daemon" / "libexec" / word.rpartition("/")[2]).exists()


def test_none_came_with_a_package(tmp_path: Path) -> None:
    assert own_units(tmp_path) == {}


@pytest.mark.parametrize("name", ["a b", "50%", 'quo"te', "back\\slash", "dollar$"])
def test_a_prefix_that_a_unit_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="install it elsewhere"):
        own_units(environment(tmp_path / name))
