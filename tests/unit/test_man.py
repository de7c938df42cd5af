"""The manual pages: they render without a warning, and hold everything that the program knows of itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from spark_modeld import arguments
from spark_modeld.cli.main import cli
from spark_modeld.config.fields import MODEL, SETTINGS
from spark_modeld.config.kinds import Table
from spark_modeld.config.reader import keys_of
from spark_modeld.core.errors import Code, Problem

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("spark-modeld.8", "spark-modelctl.1", "spark-modeld.toml.5", "spark-model.5")
HEADING = re.compile(r"^(?:   )?(\S.*)$")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    generator = str(ROOT / "packaging/man/generate.py")
    subprocess.run([sys.executable, generator, str(folder)], check=True, env={"SOURCE_DATE_EPOCH": "1700000000"})
    return folder


def rendered(page: Path) -> str:
    """What a reader sees; the renderer has nothing to say about it."""
    if shutil.which("man") is None:
        pytest.skip("needs man: make build")
    # man-db renders in a sandbox of its own where it can; a test's surroundings may not let it.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "120", "MAN_DISABLE_SECCOMP": "1"}
    done = subprocess.run(
        ["man", "--warnings=all", "-l", str(page)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def sections(text: str) -> dict[str, str]:
    """Each heading with the text under it, up to the next heading; a subsection ends its section's own text."""
    found: dict[str, str] = {}
    heading = ""
    for line in text.splitlines()[1:-1]:
        if match := HEADING.match(line):
            heading = match[1]
        found[heading] = f"{found.get(heading, '')}{line}\n"
    return found


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders_without_a_warning(pages: Path, name: str) -> None:
    assert len(rendered(pages / name)) > 2000


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean_to_mandoc(pages: Path, name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc: make build")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(pages / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_there_are_no_other_pages_and_nothing_is_left_unfilled(pages: Path) -> None:
    assert {page.name for page in pages.iterdir()} == set(PAGES)
    for page in pages.iterdir():
        assert re.findall(r"^@.*@$|@(?:version|date)@", page.read_text(), re.MULTILINE) == []
        assert " 2023-11-14 " in page.read_text()


def test_every_command_is_there_with_each_of_its_options(pages: Path) -> None:
    told = sections(rendered(pages / "spark-modelctl.1"))
    shared = {option for parameter in cli.params for option in parameter.opts}
    known = dict(commands(cli))
    assert len(known) > 15
    for path, command in known.items():
        under = [text for heading, text in told.items() if re.match(rf"{re.escape(path)}(?: [^a-z]|$)", heading)]
        assert len(under) == 1, f"{path} has {len(under)} sections"
        body = " ".join(under[0].split())
        assert " ".join((command.help or "?").split()).replace("`", "").replace("\b ", "") in body
        own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {option for option in own - shared if option.startswith("-")}
        missing = {option for option in options if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", body)}
        assert not missing, f"{path} lacks {missing}"
    common = told["COMMON OPTIONS"]
    assert all(option in common for option in (*shared, "--help"))


def test_every_exit_status_is_there(pages: Path) -> None:
    told = sections(rendered(pages / "spark-modelctl.1"))["EXIT STATUS"]
    statuses = set(re.findall(r"^ {7}(\d+) ", told, re.MULTILINE))
    assert statuses == {"0", "1", "2", "3", "4", "5", "6", "130"}
    rows = {words[0]: (words[1], words[2]) for line in told.splitlines() if len(words := line.split()) > 3}
    for code in Code:
        problem = Problem(code, "")
        assert rows[str(code)] == (str(problem.status), str(problem.exit_code))


def test_every_shape_of_json_is_there(pages: Path) -> None:
    told = sections(rendered(pages / "spark-modelctl.1"))["JSON"]
    shapes = json.loads((ROOT / "packaging/man/json-shapes.json").read_text())
    for name in (*(f"@{named}" for named in shapes.pop("")), *shapes):
        assert re.search(rf"^ {{7}}{re.escape(name)}(?: |$)", told, re.MULTILINE), name
    assert "outcome: string?" in " ".join(told.split())


@pytest.mark.parametrize(("name", "table"), [("spark-modeld.toml.5", SETTINGS), ("spark-model.5", MODEL)])
def test_every_key_is_there(pages: Path, name: str, table: Table) -> None:
    told = sections(rendered(pages / name))
    found = 0
    for place, inner in (("KEYS", table), *((f"[{each.key}]", each) for each in table.tables)):
        for field in inner.fields:
            assert re.search(rf"^ {{7}}{field.key}(?: |$)", told[place], re.MULTILINE), field.key
            assert " ".join(field.help.split()) in " ".join(told[place].split())
            found += 1
    assert found + len(table.tables) == len(keys_of(table))


def test_every_option_of_the_daemon_is_there(pages: Path) -> None:
    told = sections(rendered(pages / "spark-modeld.8"))
    options = [option for action in arguments.parser()._actions for option in action.option_strings]
    assert {"--user", "--config", "--version"} <= set(options)
    assert all(re.search(rf"(?<![\w-]){option}(?![\w-])", told["OPTIONS"]) for option in options)


def test_a_new_command_comes_into_the_page_by_itself(tmp_path: Path) -> None:
    """The generator knows no command by name."""
    code = (
        "import sys; sys.argv[0] = 'x'; sys.path[:0] = ['daemon', 'packaging/man']\n"
        "import click, generate\n"
        "from spark_modeld.cli.main import cli\n"
        "@cli.command()\n"
        "@click.option('--loudly', help='Wake the neighbours.')\n"
        "def sing(loudly): 'Sing a song.'\n"
        f"generate.main([{str(tmp_path)!r}])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    told = sections(rendered(tmp_path / "spark-modelctl.1"))["sing"]
    assert "Sing a song." in told
    assert "--loudly" in told
