"""Where the daemon's files are: what systemd says, else the contract's paths, else the caller's own (``--user``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

_NAME = "spark-modeld"


class Paths(Struct, frozen=True):
    """The directories of settings, state and sockets."""

    config: Path
    state: Path
    runtime: Path

    @property
    def control_socket(self) -> Path:
        """The control API's socket."""
        return self.runtime / "control.sock"

    @property
    def reports(self) -> Path:
        """What the launchers report of the models' units, beside the daemon's own runtime directory."""
        return self.runtime.parent / "spark-models"

    @property
    def tokens(self) -> Path:
        """The token hashes."""
        return self.config / "tokens.toml"


def find(*, user: bool, config: str | None, environ: Mapping[str, str] = os.environ) -> Paths:
    """The paths to use; ``config`` is the ``--config`` option. ValueError when ``--user`` has no runtime directory."""
    home = Path(environ.get("HOME", "/"))
    if user:
        runtime = environ.get("XDG_RUNTIME_DIR")
        if not runtime and "RUNTIME_DIRECTORY" not in environ:
            raise ValueError("XDG_RUNTIME_DIR is not set: log in through systemd-logind, or set it.")
        defaults = Paths(
            Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / _NAME,
            Path(environ.get("XDG_STATE_HOME") or home / ".local/state") / _NAME,
            Path(runtime or "/") / _NAME,
        )
    else:
        defaults = Paths(Path("/etc") / _NAME, Path("/var/lib") / _NAME, Path("/run") / _NAME)
    return Paths(
        Path(config or _first(environ.get("CONFIGURATION_DIRECTORY")) or defaults.config),
        Path(_first(environ.get("STATE_DIRECTORY")) or defaults.state),
        Path(_first(environ.get("RUNTIME_DIRECTORY")) or defaults.runtime),
    )


def _first(directories: str | None) -> str | None:
    """systemd lists several, with colons between them."""
    return directories.split(":")[0] if directories else None
