"""The command that makes a model's file: for a checkpoint, a container or a unit; checked, shown, put in force."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from spark_modeld.cli import check_screen
from spark_modeld.cli.failures import FAILED, USAGE, Failure, local
from spark_modeld.cli.options import Ctl, common, pass_ctl

_LONGEST_CHECK_SECONDS = 60.0

Shown = dict[str, Any]


class Proposal(NamedTuple):
    """A model's file that is not there yet, and what is to be said of it before it is."""

    id: str
    toml: str
    findings: Sequence[Shown] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing keeps it from being tried."""
        return all(finding["level"] != "error" for finding in self.findings)


@click.command()
@click.argument("source", metavar="PATH|CONTAINER|UNIT", type=click.Path())
@click.option("--id", "model_id", metavar="ID", help="The model's id; by default made from the source's name.")
@click.option("--write", is_flag=True, help="Write the file and reload, without a question.")
@click.option("--force", is_flag=True, help="Also where the check found errors.")
@click.option("--config", metavar="DIR", help="The configuration's folder.")
@common
@pass_ctl
def add(ctl: Ctl, source: str, model_id: str | None, write: bool, force: bool, config: str | None) -> None:
    """Make the model file for a checkpoint folder or .gguf, a container, or a unit (NAME.service) that exists.

    It is shown, and on a terminal written after a question; elsewhere it is only printed, unless --write is given. No
    file is ever overwritten. Writing needs root, as the folder is root's.
    """
    folder = _folder(ctl, config)
    _check_id(model_id, folder)
    models = _models(ctl)
    proposal = _propose(ctl, source, model_id, folder, models)
    path = folder / f"{proposal.id}.toml"
    if not ctl.json:
        _show(proposal, path)
    if not (write or _is_wanted(ctl, proposal, path, force=force)):
        _leave(ctl, proposal, path, source)
        return
    if not proposal.ok and not force:
        detail = f"{path} is not written: see the errors; --force writes it all the same."
        raise local("check-failed", "The check found errors", detail, FAILED)
    _write(path, proposal.toml, source)
    if models is not None:
        _reload(ctl, path)
    if not _tell(ctl, proposal, path, reloaded=models is not None):
        sys.exit(FAILED)


def _folder(ctl: Ctl, config: str | None) -> Path:
    from spark_modeld.paths import find

    try:
        return find(user=ctl.user, config=config).config / "models.d"
    except ValueError as error:
        raise local("usage", "No folder", str(error), USAGE) from error


def _check_id(model_id: str | None, folder: Path) -> None:
    from spark_modeld.core.model import MODEL_ID, RESERVED_NAMES

    if model_id is None:
        return
    if MODEL_ID.fullmatch(model_id) is None or model_id in RESERVED_NAMES:
        detail = f"{model_id!r} is no id: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit; not local or default."
        raise local("usage", "No id", detail, USAGE)
    if os.path.lexists(folder / f"{model_id}.toml"):
        raise _exists(folder / f"{model_id}.toml")


def _exists(path: Path) -> Failure:
    return local(
        "exists", "There already", f"{path} is there already; nothing is overwritten. Give another --id.", FAILED
    )


def _models(ctl: Ctl) -> list[Shown] | None:
    """The catalog; None where the daemon does not answer."""
    try:
        return list(ctl.client.call("GET", "/api/models")["models"])
    except Failure:
        return None


def _propose(ctl: Ctl, source: str, model_id: str | None, folder: Path, models: list[Shown] | None) -> Proposal:
    on_disk = {path.stem for path in folder.glob("*.toml")}
    if source.endswith(".service"):
        return _adopt(source, model_id, models or [], on_disk, user=ctl.user, is_unit=True)
    if "/" in source or source in {".", ".."} or source.endswith(".gguf") or Path(source).exists():
        return _from_path(ctl, source, model_id, models, on_disk)
    return _adopt(source, model_id, models or [], on_disk, user=ctl.user, is_unit=False)


def _from_path(ctl: Ctl, source: str, model_id: str | None, models: list[Shown] | None, on_disk: set[str]) -> Proposal:
    from spark_modeld.cli.local_check import check_path

    memory = None
    if models is not None:
        with contextlib.suppress(Failure):
            memory = ctl.client.call("GET", "/api/memory")
    shown = check_path(str(Path(source).absolute()), memory, models or [], name=model_id, taken=on_disk)
    proposal = shown["proposal"]
    if proposal is None:
        why = "; ".join(finding["message"] for finding in shown["findings"] if finding["level"] == "error")
        detail = f"{source} is no checkpoint that a model could be made of{f': {why}' if why else ''}."
        raise local("check-failed", "No checkpoint", detail, FAILED)
    return Proposal(proposal["id"], proposal["toml"], shown["findings"])


def _adopt(
    source: str, model_id: str | None, models: list[Shown], on_disk: set[str], *, user: bool, is_unit: bool
) -> Proposal:
    from spark_modeld.cli import found
    from spark_modeld.config.adoption import adopt, render_adopted

    server = found.unit(source, user=user) if is_unit else found.container(source)
    taken = {name for m in models for name in (m["id"], m["served_model_name"], *m["aliases"])} | on_disk
    model = adopt(server, taken_names=taken, name=model_id)
    return Proposal(model.id, render_adopted(model, server))


def _show(proposal: Proposal, path: Path) -> None:
    """The file on standard output, where it can be redirected to; what is to be said of it beside that."""
    if sys.stdout.isatty():
        click.echo(f"# {path}")
    for line in check_screen.clean_lines(proposal.toml):
        click.echo(line)
    for line in check_screen.findings(proposal.findings, "error", "warning"):
        click.echo(line, err=True)


def _is_wanted(ctl: Ctl, proposal: Proposal, path: Path, *, force: bool) -> bool:
    """Whether a person at a terminal says so."""
    asked = not ctl.json and sys.stdin.isatty() and sys.stdout.isatty()
    if not asked or not (proposal.ok or force) or not _may_write(path):
        return False
    return click.confirm(f"Write {path}, and have the daemon read it?", err=True)


def _may_write(path: Path) -> bool:
    folder = path.parent if path.parent.exists() else path.parent.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _leave(ctl: Ctl, proposal: Proposal, path: Path, source: str) -> None:
    """Nothing was written: says how to."""
    ctl.say(_document(proposal, path, written=False, reloaded=False, check=None))
    if not ctl.json:
        click.echo(f"Nothing is written. To write {path}: {_again(ctl, source, proposal.id, path)}", err=True)
    if not proposal.ok:
        sys.exit(FAILED)


def _again(ctl: Ctl, source: str, model_id: str, path: Path) -> str:
    import shlex

    sudo = "" if ctl.user or _may_write(path) else "sudo "
    where = os.path.abspath(source) if Path(source).exists() else source
    return f"{sudo}spark-modelctl {'--user ' if ctl.user else ''}add {shlex.quote(where)} --id {model_id} --write"


def _write(path: Path, text: str, source: str) -> None:
    """The whole file or none, and never in the place of another."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            os.link(fresh, path)
        finally:
            fresh.unlink()
    except FileExistsError as error:
        raise _exists(path) from error
    except PermissionError as error:
        detail = f"You may not write {path}: `sudo spark-modelctl add {source} --id {path.stem} --write`."
        raise local("not-authorized", "Not written", detail, FAILED) from error
    except OSError as error:
        raise local("failed", "Not written", f"{path} cannot be written: {error.strerror or error}.", FAILED) from error


def _reload(ctl: Ctl, path: Path) -> None:
    """Has the daemon read it. A file that it does not take is taken away again."""
    try:
        ctl.client.call("POST", "/api/reload")
    except Failure:
        path.unlink()
        raise


def _check(ctl: Ctl, model_id: str) -> Shown | None:
    """The daemon's own check of what it has just read; None where that cannot be had: the file stays all the same."""
    from spark_modeld.cli.docker_look import with_docker

    client = ctl.patient_client(_LONGEST_CHECK_SECONDS)
    with contextlib.suppress(Failure):
        return with_docker(client.call("GET", f"/api/models/{quote(model_id, safe='')}/check"))
    return None


def _tell(ctl: Ctl, proposal: Proposal, path: Path, *, reloaded: bool) -> bool:
    """Says what was done; whether the daemon finds nothing wrong with it."""
    check = _check(ctl, proposal.id) if reloaded else None
    ok = check is None or bool(check["ok"])
    ctl.say(_document(proposal, path, written=True, reloaded=reloaded, check=check))
    if ctl.json:
        return ok
    for line in check_screen.check(check) if check is not None else []:
        click.echo(line, err=True)
    then = f"It is in force. Serve it: spark-modelctl switch {proposal.id}"
    if not reloaded:
        then = "The daemon does not answer, and reads it when it starts."
    elif not ok:
        then = "Mend what is wrong in it, then: spark-modelctl reload"
    click.echo(f"{path} is written. {then}", err=True)
    return ok


def _document(proposal: Proposal, path: Path, *, written: bool, reloaded: bool, check: Shown | None) -> Shown:
    return {
        "id": proposal.id,
        "file": str(path),
        "toml": proposal.toml,
        "findings": proposal.findings,
        "written": written,
        "reloaded": reloaded,
        "check": check,
    }
