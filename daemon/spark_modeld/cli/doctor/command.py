"""The command itself, and what it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from spark_modeld.cli.failures import FAILED, local, refused
from spark_modeld.cli.options import Ctl, common, pass_ctl
from spark_modeld.cli.text import clean, is_unicode, paint

if TYPE_CHECKING:
    from spark_modeld.cli.doctor.facts import Setting
    from spark_modeld.cli.doctor.finding import Finding
    from spark_modeld.core.catalog import Catalog

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "unseen": "dim"}
_WIDEST = 13
_UNKNOWN_MODEL = 5


@click.command()
@click.option("--polkit-rule", is_flag=True, help="Print the rule for units of your own, to be installed by root.")
@click.option(
    "--drop-in", metavar="MODEL", help="Print what has all ended that a unit of your own starts, for root to install."
)
@click.option("--config", metavar="DIR", help="The configuration's folder.")
@common
@pass_ctl
def doctor(ctl: Ctl, polkit_rule: bool, drop_in: str | None, config: str | None) -> None:
    """Look at all that the daemon needs and say what to mend, with the command that mends it.

    It changes nothing and starts nothing. As root it sees most. Exit status 1 where an error was found.
    """
    from spark_modeld.cli.doctor import look_config

    try:
        setting = look_config.setting(per_user=ctl.user, config=config, socket=ctl.socket_path)
    except ValueError as error:
        raise local("failed", "No per-user systemd", str(error), FAILED) from error
    if polkit_rule:
        _print_rule(ctl, setting.config)
        return
    if drop_in is not None:
        _print_drop_in(ctl, setting, drop_in)
        return
    from spark_modeld.cli.doctor.gather import gather
    from spark_modeld.cli.doctor.judge import judge

    found = judge(gather(setting))
    good = all(finding.level != "error" for finding in found)
    ctl.say(
        {"ok": good, "findings": [_shown(each, setting) for each in found]},
        *([] if ctl.json else _screen(found, setting)),
    )
    if not good:
        sys.exit(FAILED)


def _print_rule(ctl: Ctl, folder: str) -> None:
    from spark_modeld.cli.doctor.facts import OWN_RULE, VERBS
    from spark_modeld.cli.doctor.polkit_rule import own_units, rule

    units = own_units(_catalog(folder))
    if not units:
        detail = f"No model in {folder} names a unit of your own (`unit = …`): the daemon needs no rule but its own."
        raise local("failed", "No rule is needed", detail, FAILED)
    text = rule(units, path=OWN_RULE, verbs=VERBS)
    ctl.say({"path": OWN_RULE, "units": list(units), "verbs": list(VERBS), "rule": text}, text.rstrip("\n"))


def _print_drop_in(ctl: Ctl, setting: Setting, name: str) -> None:
    from spark_modeld.cli.doctor.drop_in import drop_in, not_needed, path
    from spark_modeld.cli.doctor.run import run

    model = _catalog(setting.config).models.get(name)
    if model is None:
        raise local("unknown-model", "No such model", f"No model in {setting.config} is called {name}.", _UNKNOWN_MODEL)
    if detail := not_needed(model):
        raise local("failed", "No drop-in is needed", detail, FAILED)
    if not setting.per_user:
        user = run("systemctl", "show", "--value", "--property=User", "--", model.unit)
        if user.good and user.out.strip() in {"", "root", "0"}:
            detail = f"{model.unit} runs as root, and no process of root's is ended: give it a User= first."
            raise local("failed", "A drop-in would not help", detail, FAILED)
    text, place = drop_in(model, per_user=setting.per_user), path(model.unit, per_user=setting.per_user)
    ctl.say({"path": place, "unit": model.unit, "drop_in": text}, text.rstrip("\n"))


def _catalog(folder: str) -> Catalog:
    from pathlib import Path

    from spark_modeld.config.load import ConfigDirectory
    from spark_modeld.core.errors import SparkError

    try:
        return ConfigDirectory(Path(folder)).load()
    except SparkError as error:
        raise refused(error.problem.as_dict()) from error


def _shown(finding: Finding, setting: Setting) -> dict[str, Any]:
    return {
        "area": finding.area,
        "code": finding.code,
        "level": finding.level,
        "message": finding.message,
        "fix": finding.command(root=setting.root, per_user=setting.per_user) or None,
        "note": finding.note or None,
    }


def _screen(found: list[Finding], setting: Setting) -> Iterator[str]:
    marks = {"ok": "✔", "warning": "!", "error": "✘", "unseen": "?"} if is_unicode() else {"ok": "+", "error": "x"}
    marks = {"warning": "!", "unseen": "?"} | marks
    for each in found:
        mark = paint(marks[each.level], _COLOURS[each.level])
        yield f"{mark} {paint(each.area.ljust(_WIDEST), 'dim')} {clean(each.message)}"
        if command := each.command(root=setting.root, per_user=setting.per_user):
            yield f"  {'':{_WIDEST}} {paint('$ ' + clean(command), 'bold')}"
        if each.note:
            yield f"  {'':{_WIDEST}} {paint(clean(each.note), 'dim')}"
    counts = {level: sum(each.level == level for each in found) for level in ("error", "warning", "unseen")}
    names = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "unseen": ("not seen", "not seen")}
    told = [f"{number} {names[level][number != 1]}" for level, number in counts.items() if number]
    yield ""
    yield ", ".join(told) + "." if told else "All is well."
