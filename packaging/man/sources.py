"""The parts of the manual that the program itself knows, each as lines of man(7)."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import roff

from spark_modeld.arguments import parser
from spark_modeld.cli.failures import INTERRUPTED
from spark_modeld.cli.main import cli
from spark_modeld.config.fields import MODEL, SETTINGS
from spark_modeld.config.kinds import Field, Table
from spark_modeld.core.errors import Code, Problem
from spark_modeld.counting import Counting
from spark_modeld.face import Snapshot
from spark_modeld.gateway.tally import Tally
from spark_modeld.metrics import Counter, Gauge, Histogram, Metrics

_SHAPES = Path(__file__).with_name("json-shapes.json")
_WIDTH = 66
_WORDS = re.compile(r"(--?[A-Za-z][A-Za-z-]*)")


def daemon_options() -> list[str]:
    """The options of spark-modeld, as its --help tells them."""
    lines: list[str] = []
    for action in parser()._actions:  # argparse has no other way to list them
        value = f" {roff.italic(action.metavar)}" if isinstance(action.metavar, str) else ""
        name = ", ".join(roff.bold(option) for option in action.option_strings)
        told = (action.help or "").removesuffix(".")
        lines += roff.item(f"{name}{value}", f"{told[:1].upper()}{told[1:]}.")
    return lines


def commands() -> list[str]:
    """Every command of spark-modelctl with its arguments and the options that are its own."""
    context = click.Context(cli, info_name="spark-modelctl")
    return [line for command, inside in _every(cli, context) for line in _command(command, inside)]


def common_options() -> list[str]:
    """The options that every command takes."""
    context = click.Context(cli, info_name="spark-modelctl")
    return [line for option in cli.get_params(context) for line in _option(option, context)]


def exit_status() -> list[str]:
    """What the help of spark-modelctl says of its exit status, an item each."""
    told = re.search(r"Exit status: ([^.]+)\.", " ".join((cli.help or "").split()))
    if told is None:
        raise ValueError("the help of spark-modelctl says nothing of its exit status")
    pairs = [meaning.split(" ", 1) for meaning in told[1].split(", ")]
    pairs.append([str(INTERRUPTED), "interrupted by Ctrl-C; what was begun goes on"])
    return [line for status, meaning in pairs for line in roff.item(roff.bold(status), f"{_sentence(meaning)}.")]


def problem_codes() -> list[str]:
    """Every code of a problem, with the statuses that stand for it."""
    problems = [Problem(code, "") for code in Code]
    rows = [(str(p.code), str(p.status), str(p.exit_code), p.title) for p in problems]
    return roff.table(rows, ("code", "HTTP", "exit", "meaning"))


def json_shapes() -> list[str]:
    """What each command prints with --json; those shapes first that others name."""
    shapes: dict[str, Any] = json.loads(_SHAPES.read_text(encoding="utf-8"))
    named: dict[str, Any] = shapes.pop("")
    lines = [line for name, shape in named.items() for line in _shape(f"@{name}", shape)]
    return [*lines, *(line for command, shape in shapes.items() for line in _shape(command, shape))]


def settings_keys() -> list[str]:
    """Every key of spark-modeld.toml."""
    return _keys(SETTINGS)


def model_keys() -> list[str]:
    """Every key of a model's file."""
    return _keys(MODEL)


def metrics() -> list[str]:
    """Every metric with its labels."""
    known = Metrics()
    Counting(known, Snapshot)
    Tally(known, lambda: 0)
    lines: list[str] = []
    every: list[Counter | Histogram | Gauge] = [*known.counters, *known.histograms, *known.gauges]
    for metric in sorted(every, key=lambda metric: metric.name):
        labels = "{" + ", ".join(metric.labels) + "}" if metric.labels else ""
        lines += roff.item(f"{roff.bold(metric.name)}{roff.escaped(labels)}", f"{metric.help}.")
    return lines


def _shape(name: str, shape: Any) -> list[str]:
    # Without the quotes of JSON, which say nothing here.
    text = json.dumps(shape).replace('"', "")
    wrapped = textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [".TP", roff.bold(name), ".EX", *map(roff.escaped, wrapped.splitlines()), ".EE"]


def _every(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inside = click.Context(command, info_name=name, parent=context)
        yield command, inside
        if isinstance(command, click.Group):
            yield from _every(command, inside)


def _command(command: click.Command, context: click.Context) -> list[str]:
    path = context.command_path.removeprefix("spark-modelctl ")
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    shared = {parameter.name for parameter in cli.get_params(context)}
    own = [
        p for p in command.get_params(context) if isinstance(p, click.Option) and p.name not in shared and not p.hidden
    ]
    arguments = f" {roff.italic(' '.join(pieces))}" if pieces else ""
    lines = [f".SS {roff.bold(path)}{arguments}"]
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        lines += _paragraph(paragraph, first=number == 0)
    for option in own:
        lines += _option(option, context)
    return lines


def _paragraph(text: str, *, first: bool) -> list[str]:
    # click's mark of lines that are not to be joined
    if text.startswith("\b\n"):
        return roff.example(text.removeprefix("\b\n"))
    return [*([] if first else [".PP"]), roff.prose(text)]


def _option(option: click.Parameter, context: click.Context) -> list[str]:
    record = option.get_help_record(context) if isinstance(option, click.Option) else None
    if record is None:
        return []
    name = "".join(
        roff.bold(part) if number % 2 else roff.italic(part)
        for number, part in enumerate(_WORDS.split(record[0]))
        if part
    )
    variable = f" Also from the environment: ``{option.envvar}``." if isinstance(option.envvar, str) else ""
    return roff.item(name, f"{record[1]}{variable}")


def _keys(table: Table) -> list[str]:
    lines: list[str] = []
    for field in table.fields:
        lines += _key(field)
    for inner in table.tables:
        lines += [f".SS [{roff.escaped(inner.key)}]", roff.prose(inner.help), *_keys(inner)]
    return lines


def _key(field: Field) -> list[str]:
    needed = " Has to be there." if field.required else ""
    allowed = f"Allowed: {field.kind.allowed}.{needed}{_default(field)}"
    return roff.item(roff.bold(field.key), field.help, allowed)


def _default(field: Field) -> str:
    if field.default_help:
        return f" Default: {field.default_help}."
    return "" if field.default is None else f" Default: ``{_toml(field.default)}``."


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }" if value else "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
