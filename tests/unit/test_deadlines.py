"""At shutdown each model has its own stop time: what that is, since when, and what becomes of it afterwards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support.launcher import Config, load, run

deadlines: Any = load("deadlines")
pytestmark = pytest.mark.unit

UNIT = "spark-model@alpha.service"
OTHER = "spark-model@beta.service"
NEVER = float("inf")


class Scene:
    """systemd and a clock, played: a unit is down once its time has come, or once it was killed."""

    def __init__(self, **ends: float) -> None:
        self.now = 1000.0
        self.ends = {f"spark-model@{model}.service": at for model, at in ends.items()}
        self.starts: dict[str, float | None] = {}
        self.killed: list[tuple[str, float]] = []

    def stopping(self) -> list[str]:
        return [unit for unit, at in self.ends.items() if at > self.now]

    def began(self, units: list[str]) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for unit in units:
            start = self.starts.get(unit, 1000.0)
            found[unit] = start if start is None or start <= self.now else None
        return found

    def wait(self, units: list[str], seconds: float | None) -> None:
        over = max(self.ends[unit] for unit in units)
        assert seconds is not None or over < NEVER, "it waits for ever"
        self.now = min(over, NEVER if seconds is None else self.now + seconds)

    def kill(self, unit: str) -> None:
        self.killed.append((unit, self.now))
        self.ends[unit] = self.now


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(tmp_path)
    write(config, "alpha", 'stop_timeout = "20s"\n')
    return config


def write(config: Config, model: str, content: str) -> None:
    config.file(model).write_text(content)
    config.file(model).chmod(0o644)


def hold(scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines.time, "monotonic", lambda: scene.now)
    deadlines.hold(scene, str(config.folder), os.getuid())


def test_what_does_not_stop_is_killed_when_its_time_is_over(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    write(config, "beta", 'stop_timeout = "50s"\n')
    scene = Scene(alpha=NEVER, beta=NEVER)
    hold(scene, config, monkeypatch)
    assert scene.killed == [(UNIT, 1020.0), (OTHER, 1050.0)]


def test_what_stops_in_its_time_is_not_touched(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(alpha=1019.0)
    hold(scene, config, monkeypatch)
    assert (scene.killed, scene.now) == ([], 1019.0)


def test_time_begins_with_its_own_stop(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun before the machine's, or later, because something else has to be down before it."""
    scene = Scene(alpha=NEVER, beta=NEVER)
    scene.starts = {UNIT: 990.0, OTHER: 1015.0}
    write(config, "beta", 'stop_timeout = "10s"\n')
    hold(scene, config, monkeypatch)
    assert scene.killed == [(UNIT, 1010.0), (OTHER, 1025.0)]


def test_what_was_still_starting_has_its_time_too(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(alpha=NEVER)
    scene.starts = {UNIT: 0.0}  # systemd knows no moment at which it ceased to be active
    hold(scene, config, monkeypatch)
    assert scene.killed == [(UNIT, 1020.0)]


def test_the_stop_time_is_what_the_daemon_goes_by(config: Config) -> None:
    def seconds(model: str) -> float:
        return float(deadlines.stop_timeout(f"spark-model@{model}.service", str(config.folder), os.getuid()))

    assert seconds("alpha") == 20.0
    assert seconds("beta") == 120.0  # it has left the catalog
    settings = config.folder / "spark-modeld.toml"
    settings.write_text('[slot]\nstop_timeout = "500ms"\n')
    settings.chmod(0o644)
    assert (seconds("alpha"), seconds("beta")) == (20.0, 0.5)
    write(config, "beta", 'stop_timeout = "soon"\n')
    assert seconds("beta") == NEVER
    settings.write_text("[slot\n")
    assert seconds("alpha") == NEVER
    settings.unlink()
    config.file().chmod(0o666)
    assert seconds("alpha") == NEVER  # anybody could have written it


SYSTEMCTL = """\
#!/bin/sh
case "$*" in
  *list-jobs*) printf '%s\\n' '12 spark-model@alpha.service stop running' '13 spark-model@beta.service start waiting' \
    '14 dbus.service stop waiting' ;;
  *show*) printf '%s\\n' Id=spark-model@alpha.service ActiveState=deactivating InactiveExitTimestampMonotonic=2000000 \
    ActiveExitTimestampMonotonic=3500000 '' Id=spark-model@beta.service ActiveState=active \
    InactiveExitTimestampMonotonic=2000000 ActiveExitTimestampMonotonic=0 '' Id=spark-model@c.service \
    ActiveState=deactivating InactiveExitTimestampMonotonic=2000000 ActiveExitTimestampMonotonic=1000000 ;;
esac
"""


def test_what_systemctl_says_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    systemd = deadlines.Systemd(user_mode=False)
    assert systemd.stopping() == [UNIT]
    assert systemd.began([UNIT, OTHER]) == {UNIT: 3.5, OTHER: None, "spark-model@c.service": 0.0}


def test_without_systemd_it_says_so_and_ends(tmp_path: Path) -> None:
    done = run("spark-model-deadlines", str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 73
    assert "systemd cannot be asked" in done.stderr
    assert run("spark-model-deadlines", str(tmp_path), "nobody").returncode == 64
