"""What the documents say in passing: commands, keys, links. The commands that stand by themselves are run on a host."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from spark_modeld.cli.main import cli
from spark_modeld.config.fields import MODEL, SETTINGS
from spark_modeld.config.kinds import Table
from support.readme import README, commands, files, inline, missing, normal

pytestmark = pytest.mark.unit

ROOT = README.parent
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "packaging/guide").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TABLES = {table.key for table in SETTINGS.tables}


def ids(path: Path) -> str:
    return path.name


def mistakes(words: list[str]) -> list[str]:
    """What spark-modelctl would not understand in this command line; values are not looked at."""
    command: click.Command = cli
    known = set[str]()
    found = []
    for word in words:
        known |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        if isinstance(command, click.Group) and not word.startswith("-"):
            inner = command.commands.get(word)
            if inner is None:
                return [f"there is no command {word}"]
            command = inner
        elif word.startswith("-") and word not in known | {"--help", "--version"}:
            found.append(f"{command.name} has no {word}")
    return found


def told(command: str) -> list[str] | None:
    """The words behind spark-modelctl, if that is what the command runs; brackets of what is optional are dropped."""
    plain = re.sub(r"[\[\]…]", "", command)
    match = re.fullmatch(r"(?:sudo )?(?:\S+/)?spark-modelctl (.+?)(?: [<|>].*)?", plain)
    return shlex.split(match[1]) if match else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_command_is_one(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    candidates = [*inline(text), *(command.text for command in commands(text))]
    checked = [(command, words) for command in candidates if (words := told(command)) is not None]
    assert [f"{command}: {fault}" for command, words in checked for fault in mistakes(words)] == []
    assert checked or document != README


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_make_target_is_one(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    named = {
        match[1]
        for command in [*inline(text), *(command.text for command in commands(text))]
        if (match := re.match(r"(?:sudo )?make ([a-z-]+)", command))
    }
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_key_is_known(document: Path) -> None:
    """``table.key`` of the settings, and ``key = value`` of a model's file."""

    def keys(table: Table) -> set[str]:
        return {field.key for field in table.fields}.union(*map(keys, table.tables))

    settings = {f"{table.key}.{field.key}" for table in SETTINGS.tables for field in table.fields}
    for code in inline(document.read_text(encoding="utf-8")):
        if (match := re.fullmatch(r"([a-z]+)\.([a-z_]+)(?: = .*)?", code)) and match[1] in _TABLES:
            assert f"{match[1]}.{match[2]}" in settings
        elif match := re.match(r"([a-z_]+) = ", code):
            assert match[1] in keys(MODEL) | keys(SETTINGS), code


def test_blocks_are_read_as_they_stand() -> None:
    text = (
        "```sh\nsudo a --b \\\n   c   # why\n# only a comment\nd\n```\n"
        "```console\n$ e f\nsaid\n\nmore\n$ g\n```\n"
        "```toml\n# /etc/x.toml\na = 1\n# /etc/y.toml\nb = 2\n```\n`h`\n"
    )
    assert [(c.text, c.shown) for c in commands(text)] == [
        ("sudo a --b c", ()),
        ("d", ()),
        ("e f", ("said", "", "more")),
        ("g", ()),
    ]
    assert [(f.place, f.content) for f in files(text)] == [
        ("/etc/x.toml", "# /etc/x.toml\na = 1\n"),
        ("/etc/y.toml", "# /etc/y.toml\nb = 2\n"),
    ]
    assert inline(text) == ["h"]


def test_only_what_varies_may_differ() -> None:
    said = "  0.3 s  warming\nsleep (PID 7 of me) 34.0 GiB\nend\n"
    assert missing(("   1.5 s  warming", "...", "end"), said) == []
    assert missing(("sleep (PID 99 of me) 34.0 GiB",), said) == []
    assert missing(("sleep (PID 99 of me) 35.0 GiB",), said) == ["sleep (PID 99 of me) 35.0 GiB"]
    assert missing(("end", "0.0 s  warming"), said) == ["0.0 s  warming"], "another order"
    assert normal("took 2.1 s at 2026-11-23 05:53:17Z by sw-1f") == "took TIME at MOMENT by SWITCH"


@pytest.mark.parametrize(
    "command", ["spark-modelctl fly", "spark-modelctl switch --gently", "sudo spark-modelctl token make x"]
)
def test_a_command_that_is_none_is_found(command: str) -> None:
    words = told(command)
    assert words is not None
    assert mistakes(words)
