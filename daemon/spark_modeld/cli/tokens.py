"""``spark-modelctl token``: works on tokens.toml itself, so it needs root; the daemon sees the change at once."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from spark_modeld.cli.completion import complete_model
from spark_modeld.cli.failures import FAILED, local, refused
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import table

if TYPE_CHECKING:
    from spark_modeld.config.token_file import Token
    from spark_modeld.config.tokens import TokenStore

_SCOPES = ["inference", "control", "observe", "engine-admin"]
_DURATION = re.compile(r"([0-9]{1,6})(min|h|d|w|s)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _expiry(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """When the token ends, in Unix seconds, from how long it is good."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no duration such as 12h, 30d or 8w.", context, parameter)
    return time.time() + int(match[1]) * _SECONDS[match[2]]


@click.group()
@click.option("--config", metavar="DIR", help="The configuration's folder.")
@common
@click.pass_context
def token(context: click.Context, config: str | None) -> None:
    """Make, list and revoke the tokens of the TCP ports (needs root)."""
    context.meta["config"] = config


@token.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(_SCOPES), help="What it opens [inference].")
@click.option("--model", "models", multiple=True, shell_complete=complete_model, help="Only this model; may repeat.")
@click.option("--no-switch", is_flag=True, help="Its requests never bring a model into the slot.")
@click.option("--expires", callback=_expiry, metavar="DURATION", help="For how long it is good: 12h, 30d.")
@click.option("--note", default="", metavar="TEXT", help="What it is for; shown in the list.")
@click.option("--stdin", is_flag=True, help="Take the secret from standard input instead of making one.")
@common
@pass_ctl
def add(
    ctl: Ctl,
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    no_switch: bool,
    expires: float | None,
    note: str,
    stdin: bool,
) -> None:
    """Make a token called NAME. It is shown once and kept nowhere."""
    from spark_modeld.config.token_file import Scope

    secret = sys.stdin.readline().rstrip("\r\n") if stdin else None
    with _store(ctl) as store:
        made, plain = store.issue(
            name,
            scopes=[Scope(scope) for scope in scopes or ("inference",)],
            models=models or None,
            may_switch=not no_switch,
            expires=expires,
            note=note,
            secret=secret,
        )
    if stdin and not ctl.json:
        click.echo(f"Token {made.name} ({made.id}) is good now.")
        return
    ctl.say({"id": made.id, "name": made.name, "token": plain}, plain)
    if not ctl.json:
        click.echo(f"Token {made.name} ({made.id}) is good now. It is not shown again.", err=True)


@token.command("list")
@common
@pass_ctl
def list_(ctl: Ctl) -> None:
    """Every token, without its secret."""
    with _store(ctl) as store:
        if store.findings:
            from spark_modeld.config.findings import invalid_config

            raise invalid_config(store.findings)
        known = store.tokens
    rows = [_row(each) for each in known]
    header = ("ID", "NAME", "SCOPES", "EXPIRES", "SWITCHES", "MODELS", "NOTE")
    ctl.say({"tokens": [_shown(each) for each in known]}, *(table(header, rows) if rows else ["No tokens."]))


@token.command()
@click.argument("id_or_name", metavar="ID|NAME")
@common
@pass_ctl
def revoke(ctl: Ctl, id_or_name: str) -> None:
    """Make a token useless, at once."""
    with _store(ctl) as store:
        gone = store.revoke(id_or_name)
    ctl.say({"id": gone.id, "name": gone.name}, f"Token {gone.name} ({gone.id}) is revoked.")


@contextmanager
def _store(ctl: Ctl) -> Iterator[TokenStore]:
    """The tokens, with its errors told as this command's."""
    from pathlib import Path

    from spark_modeld.config.tokens import TOKENS_FILE, TokenStore
    from spark_modeld.core.errors import SparkError

    path = Path(_folder(ctl)) / TOKENS_FILE
    try:
        place = path if path.exists() else path.parent
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            raise PermissionError(13, "Permission denied")
        yield TokenStore(path)
    except SparkError as error:
        raise refused(error.problem.as_dict()) from error
    except PermissionError as error:
        detail = f"You may not read and write {path}. Run it as root: `sudo spark-modelctl token …`."
        raise local("no-access", "No access to the tokens", detail, FAILED) from error
    except OSError as error:
        raise local("failed", "Not written", f"{path}: {error.strerror or error}.", FAILED) from error


def _folder(ctl: Ctl) -> str:
    given: str | None = click.get_current_context().meta.get("config")
    if given is not None:
        return given
    if ctl.user:
        return f"{os.environ.get('XDG_CONFIG_HOME') or os.path.expanduser('~/.config')}/spark-modeld"
    return "/etc/spark-modeld"


def _time(unix: float | None) -> str | None:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if unix is not None else None


def _row(token: Token) -> tuple[str, ...]:
    expires = _time(token.expires) or "never"
    return (
        token.id,
        token.name,
        " ".join(sorted(token.scopes)),
        f"{expires} (over)" if token.expired(time.time()) else expires,
        "yes" if token.may_switch else "no",
        " ".join(sorted(token.models)) if token.models is not None else "all",
        token.note,
    )


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "models": sorted(token.models) if token.models is not None else None,
        "may_switch": token.may_switch,
        "expires": _time(token.expires),
        "created": _time(token.created),
        "note": token.note,
    }
