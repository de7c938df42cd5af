"""The daemon's command line; `--help` and the manual page both come from here."""

from __future__ import annotations

import argparse

from spark_modeld import __version__


def parser() -> argparse.ArgumentParser:
    """What ``spark-modeld`` understands."""
    known = argparse.ArgumentParser(
        prog="spark-modeld", description="Owns the model-serving slot of this machine and switches models."
    )
    known.add_argument("--user", action="store_true", help="serve the calling user's systemd instead of the system's")
    known.add_argument("--config", metavar="DIR", help="read the configuration there instead of /etc/spark-modeld")
    known.add_argument("--version", action="version", version=f"spark-modeld {__version__}")
    return known
