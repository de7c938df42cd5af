"""The options every command has, before or after its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from spark_modeld.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])
SYSTEM_SOCKET = "/run/spark-modeld/control.sock"


class Ctl:
    """How this run was asked to behave."""

    def __init__(self) -> None:
        self.json = False
        self.user = False
        self.socket: str | None = None

    @property
    def client(self) -> Client:
        """Talks to the daemon this run is about."""
        return Client(self.socket_path, user=self.user)

    def patient_client(self, seconds: float) -> Client:
        """The same, for an answer within so many seconds."""
        return Client(self.socket_path, user=self.user, seconds=seconds)

    def say(self, document: Any, *lines: str) -> None:
        """The JSON document, or with no ``--json`` the lines for people."""
        if self.json:
            click.echo(json.dumps(document, ensure_ascii=False))
        else:
            for line in lines:
                click.echo(line)

    @property
    def socket_path(self) -> str:
        """The control socket of the daemon this run is about."""
        if self.socket is not None:
            return self.socket
        if self.user:
            runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
            return f"{runtime}/spark-modeld/control.sock"
        return SYSTEM_SOCKET


pass_ctl = click.make_pass_decorator(Ctl, ensure=True)


def common(command: F) -> F:
    """Adds ``--json``, ``--socket`` and ``--user``."""
    for option in (
        click.option("--user", is_flag=True, expose_value=False, callback=_take, help="The per-user daemon."),
        click.option(
            "--socket",
            metavar="PATH",
            envvar="SPARK_MODELD_SOCKET",
            expose_value=False,
            callback=_take,
            help="The daemon's control socket.",
        ),
        click.option("--json", is_flag=True, expose_value=False, callback=_take, help="JSON, in the API's shapes."),
    ):
        command = option(command)
    return command


def _take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # Given once is given: the same option is on the group and on the command. The program's own object is the one that
    # both have, also where nothing was given before the command's name.
    if value and parameter.name is not None:
        setattr(context.find_root().ensure_object(Ctl), parameter.name, value)
