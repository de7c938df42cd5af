"""The units of an installation without a package (pipx, a virtual environment): written into one's own systemd."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import click

from spark_modeld.cli.failures import FAILED, local
from spark_modeld.cli.options import Ctl, common, pass_ctl

_SOCKETS = "spark-modeld.socket spark-modeld-http.socket spark-modeld-gateway.socket"
_PLAIN = re.compile(r"[A-Za-z0-9/._+@~-]+")
"""What stands for itself in ExecStart=."""


def own_units(prefix: Path) -> dict[str, str]:
    """The units that came with the environment below ``prefix``, with the programs of this environment.

    Empty where none came: the package's are in /usr/lib. ValueError for a prefix that no unit can name.
    """
    sources = sorted((prefix / "share" / "spark-modeld" / "units").glob("spark-model*"))
    if sources and not _PLAIN.fullmatch(str(prefix)):
        raise ValueError(f"{prefix} has characters that mean something else in a unit: install it elsewhere")
    moved = {
        "/usr/lib/spark-modeld/libexec/": f"{prefix}/libexec/spark-modeld/",
        "=/usr/bin/spark-modeld": f"={prefix}/bin/spark-modeld",
        "file:///usr/share/doc/spark-modeld/": f"file://{prefix}/share/doc/spark-modeld/",
    }
    units = {}
    for source in sources:
        text = source.read_text(encoding="utf-8")
        for old, new in moved.items():
            text = text.replace(old, new)
        units[source.name] = text
    return units


def user_units() -> Path:
    """The folder of one's own units."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


@click.command("install-units")
@click.option("--remove", is_flag=True, help="Remove them again.")
@common
@pass_ctl
def install_units(ctl: Ctl, remove: bool) -> None:
    """Put the units into your own systemd, where pipx installed all this, not a package."""
    try:
        units = own_units(Path(sys.prefix))
    except ValueError as error:
        raise local("failed", "No units can be written", str(error), FAILED) from error
    if not units:
        told = "The package's units are there already. Next: systemctl --user enable --now " + _SOCKETS
        raise local("failed", "No units came with this installation", told, FAILED)
    if not remove and importlib.util.find_spec("gi") is None:
        told = (
            "The daemon would not start: Python's gi is missing. It is the distribution's: apt install python3-gi, "
            "and install this with pipx install --system-site-packages."
        )
        raise local("failed", "Python's gi is missing", told, FAILED)
    folder = user_units()
    for name, text in units.items():
        if remove:
            (folder / name).unlink(missing_ok=True)
        else:
            _write(folder / name, text)
    _reload()
    done = "Removed" if remove else "Written"
    ctl.say(
        {"folder": str(folder), "units": sorted(units), "removed": remove},
        f"{done}: {len(units)} units in {folder}.",
        *([] if remove else [f"Next: systemctl --user enable --now {_SOCKETS}"]),
    )


def _write(path: Path, text: str) -> None:
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
    ) as new:
        new.write(text)
    os.chmod(new.name, 0o644)
    os.replace(new.name, path)


def _reload() -> None:
    import subprocess

    # One's own systemd keeps no devices from anybody, so that this reload costs no container its GPU.
    done = subprocess.run(["systemctl", "--user", "daemon-reload"], check=False, capture_output=True, text=True)
    if done.returncode:
        told = f"systemctl --user daemon-reload: {done.stderr.strip()}. Log in through systemd-logind, then run it."
        raise local("failed", "systemd was not told", told, FAILED)
