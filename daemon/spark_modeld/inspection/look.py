"""One look at one model: its checkpoint, who may read it, its program. Blocking, for a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.finding import Finding, error, info, warning
from spark_modeld.core.fingerprint import fingerprint
from spark_modeld.core.footprint import Checkpoint, Flags, flags_of, parse_flags
from spark_modeld.core.model import Container, Docker, Launch, Model, OwnUnit
from spark_modeld.inspection.access import READ, Account, Outcome, account, allows, own_account, walk
from spark_modeld.inspection.eyes import Eyes, Files
from spark_modeld.inspection.hidden import hidden
from spark_modeld.inspection.program import program
from spark_modeld.inspection.script import script_of

_READ_BY_ENGINES = (".safetensors", ".json", ".gguf", ".bin", ".model")


def look(model: Model, facts: UnitFacts | None, eyes: Eyes) -> Inspection:
    """Everything that can be seen of this model. Raises nothing."""
    findings: list[Finding] = []
    who = _runs_as(model, facts, user=eyes.user)
    if who is None and isinstance(model.run, Launch | Container) and not eyes.user:
        hint = f"Create it, or correct `user` in models.d/{model.id}.toml"
        findings.append(error("user-unknown", f"There is no user {model.user}, who is to run {model.id}", hint))
    stamp, checkpoint = "", None
    if model.path is not None:
        stamp, checkpoint, found = _checkpoint(model.path, who, eyes)
        findings += found
    if who is not None:
        findings += program(model, who)
    if isinstance(model.run, Docker | Container):
        findings.append(_not_asked(model.run, model.id))
    script = script_of(model)
    return Inspection(
        fingerprint=fingerprint(model, f"{stamp} {script.stamp}" if script else stamp),
        checkpoint=checkpoint,
        flags=script.flags if script and script.flags else _flags(model, facts),
        findings=tuple(findings),
    )


def inspect_checkpoint(path: str, user: str, eyes: Eyes) -> Inspection:
    """A look at a checkpoint that no model names; ``user`` is who would run it, if there is such a user."""
    _, checkpoint, findings = _checkpoint(path, account(user), eyes)
    return Inspection(checkpoint=checkpoint, findings=tuple(findings))


def _runs_as(model: Model, facts: UnitFacts | None, *, user: bool) -> Account | None:
    """Who will read the checkpoint; None where nobody can say (in a container, that is anybody)."""
    match model.run:
        case _ if user:
            return own_account()
        case Launch() | Container():
            return account(model.user)
        case OwnUnit() if facts is not None:
            return account(facts.user or "root")
    return None


def _flags(model: Model, facts: UnitFacts | None) -> Flags:
    """A unit of the user's own has its flags in its ``ExecStart=``."""
    if isinstance(model.run, OwnUnit) and facts is not None and facts.command:
        return parse_flags(model.engine, facts.command)
    return flags_of(model)


def _checkpoint(path: str, who: Account | None, eyes: Eyes) -> tuple[str, Checkpoint | None, list[Finding]]:
    if hidden(path):
        message = f"{path} lies in a folder of which the daemon has its own: the checkpoint is not looked at"
        return "", None, [info("path-unseen", message, "Keep checkpoints outside of /tmp and /var/tmp")]
    stamp, files, checkpoint = eyes.checkpoint(path)
    unread = _unread_by_us(Path(path), files)
    denied = list(_denied(Path(path), files, who)) if who is not None else []
    if unread is None:
        return stamp, checkpoint, denied
    # What could not be read for want of permission says nothing about the checkpoint.
    return stamp, None, denied or [_unseen(unread, who)]


def _unseen(unread: str, who: Account | None) -> Finding:
    message = f"{own_account().name} may not read {unread}, so the checkpoint is not checked and no need is estimated"
    if who is not None:
        message += f"; {who.name}, who runs the model, may"
    hint = 'Let it be read by everybody, or declare memory = "..." in the model\'s file'
    return warning("path-unseen", message, hint)


def _unread_by_us(path: Path, files: Files) -> str | None:
    """What this process may not read for want of permission."""
    us = own_account()
    found = walk(us, path, READ)
    if found.outcome in {Outcome.DENIED, Outcome.UNSEEN} and not os.access(path, os.R_OK):
        return str(found.where)
    return next((file for file, entry in files.items() if not allows(us, file, entry, READ)), None)


def _denied(path: Path, files: Files, who: Account) -> Iterator[Finding]:
    """Who runs the model may not read it: this is about another user than the one that looks, so modes have to tell."""
    found = walk(who, path, READ)
    if found.outcome is Outcome.DENIED:
        message = f"{who.name}, who runs the model, may not read {path}: {found.where} has {found.why}"
        yield error("path-denied", message, f"Let {who.name} through {found.where}, or set `user` to who owns it")
        return
    wanted = ((file, entry) for file, entry in files.items() if file.endswith(_READ_BY_ENGINES))
    closed = [file for file, entry in wanted if not allows(who, file, entry, READ)]
    if closed:
        more = f" and {len(closed) - 1} more files" if len(closed) > 1 else ""
        message = f"{who.name}, who runs the model, may not read {closed[0]}{more}, by their mode bits"
        yield error("path-denied", message, f"`chmod -R a+rX {path}`, or set `user` to who owns them")


def _not_asked(run: Docker | Container, model: str) -> Finding:
    what = f"the image {run.image}" if isinstance(run, Docker) else f"the container {run.name}"
    return info(
        "docker-not-asked",
        f"The daemon never talks to docker: whether {what} is there was not looked at",
        f"`spark-modelctl check {model}` asks docker, where you may",
    )
