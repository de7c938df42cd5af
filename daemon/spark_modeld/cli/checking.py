"""The command that says what is wrong with a model before it is tried."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from spark_modeld.cli import check_screen
from spark_modeld.cli.completion import complete_model_or_path
from spark_modeld.cli.failures import FAILED, Failure, local
from spark_modeld.cli.options import Ctl, common, pass_ctl

_UNKNOWN_MODEL = 5
_LONGEST_CHECK_SECONDS = 60.0


@click.command()
@click.argument("target", metavar="MODEL|PATH", shell_complete=complete_model_or_path)
@common
@pass_ctl
def check(ctl: Ctl, target: str) -> None:
    """Say what is wrong with MODEL before it is tried, and what it will need.

    For the PATH of a checkpoint folder or .gguf in no catalog, also print the model file that would add it; this
    needs no daemon. Exit status 1 where an error was found.
    """
    from spark_modeld.cli.docker_look import with_docker

    models, away = _models(ctl)
    model = _named(target, models) or _at(target, models)
    if model is not None:
        path = f"/api/models/{quote(model['id'], safe='')}/check"
        shown = with_docker(ctl.patient_client(_LONGEST_CHECK_SECONDS).call("GET", path))
    elif _is_path(target):
        shown = _local(ctl, target, models, reachable=away is None)
    elif away is not None:
        raise away
    else:
        detail = f"There is no model {target!r}, and no such file. `spark-modelctl models` lists what there is."
        raise local("unknown-model", "No such model", detail, _UNKNOWN_MODEL)
    ctl.say(shown, *([] if ctl.json else check_screen.check(shown)))
    if not shown["ok"]:
        sys.exit(FAILED)


def _models(ctl: Ctl) -> tuple[list[dict[str, Any]], Failure | None]:
    """The catalog; none, and why, where the daemon does not answer or has no good configuration."""
    try:
        return list(ctl.client.call("GET", "/api/models")["models"]), None
    except Failure as failure:
        return [], failure


def _named(target: str, models: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((m for m in models if target in {m["id"], m["served_model_name"], *m["aliases"]}), None)


def _at(target: str, models: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The model whose checkpoint this is."""
    if not _is_path(target):
        return None
    place = os.path.realpath(target)
    return next((m for m in models if m.get("path") and os.path.realpath(m["path"]) == place), None)


def _is_path(target: str) -> bool:
    return "/" in target or target in {".", ".."} or target.endswith(".gguf") or Path(target).exists()


def _local(ctl: Ctl, target: str, models: list[dict[str, Any]], *, reachable: bool) -> dict[str, Any]:
    from spark_modeld.cli.local_check import check_path

    memory = None
    if reachable:
        with contextlib.suppress(Failure):
            memory = ctl.client.call("GET", "/api/memory")
    return check_path(str(Path(target).absolute()), memory, models)
