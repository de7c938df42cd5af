"""Where the daemon's files are: systemd's word first, then the contract's paths, or the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from spark_modeld.paths import Paths, find

pytestmark = pytest.mark.unit

USER = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/1000"}
SYSTEMD = {
    "CONFIGURATION_DIRECTORY": "/srv/etc:/srv/other",
    "STATE_DIRECTORY": "/srv/state:/srv/other",
    "RUNTIME_DIRECTORY": "/srv/run:/srv/other",
}


def test_the_contracts_paths() -> None:
    found = find(user=False, config=None, environ={"HOME": "/root", "XDG_CONFIG_HOME": "/root/.config"})
    assert found == Paths(Path("/etc/spark-modeld"), Path("/var/lib/spark-modeld"), Path("/run/spark-modeld"))
    assert found.control_socket == Path("/run/spark-modeld/control.sock")
    assert found.tokens == Path("/etc/spark-modeld/tokens.toml")


@pytest.mark.parametrize("user", [True, False])
def test_systemd_knows_best_and_the_first_of_several_counts(user: bool) -> None:
    found = find(user=user, config=None, environ=SYSTEMD)
    assert found == Paths(Path("/srv/etc"), Path("/srv/state"), Path("/srv/run"))


@pytest.mark.parametrize("user", [True, False])
def test_the_option_wins_for_the_configuration_only(user: bool) -> None:
    found = find(user=user, config="/else", environ=SYSTEMD)
    assert found == Paths(Path("/else"), Path("/srv/state"), Path("/srv/run"))


def test_a_users_own() -> None:
    found = find(user=True, config=None, environ=USER)
    assert found == Paths(
        Path("/home/ann/.config/spark-modeld"),
        Path("/home/ann/.local/state/spark-modeld"),
        Path("/run/user/1000/spark-modeld"),
    )
    xdg = {"XDG_CONFIG_HOME": "/x/config", "XDG_STATE_HOME": "/x/state"}
    found = find(user=True, config=None, environ=USER | xdg)
    assert (found.config, found.state) == (Path("/x/config/spark-modeld"), Path("/x/state/spark-modeld"))


def test_empty_variables_count_as_unset() -> None:
    empty = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "CONFIGURATION_DIRECTORY", "STATE_DIRECTORY"), "")
    assert find(user=True, config=None, environ=USER | empty) == find(user=True, config=None, environ=USER)


@pytest.mark.parametrize("runtime", [{}, {"XDG_RUNTIME_DIR": ""}])
def test_a_user_without_a_runtime_directory_is_told_what_to_do(runtime: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="XDG_RUNTIME_DIR is not set: log in"):
        find(user=True, config=None, environ={"HOME": "/home/ann", **runtime})
