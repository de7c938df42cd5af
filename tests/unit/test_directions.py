"""Arrows run one way: which part may import which, held against every import in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGE = "spark_modeld"
ROOT = Path(__file__).resolve().parents[2] / "daemon" / PACKAGE
PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "ipaddress",
    "re",
    "shlex",
    "string",
    "struct",
    "types",
    "typing",
    "urllib.parse",
}
"""What has no clock, no I/O, no tasks and no threads."""

ENGINE_PARTS = {
    "core",
    "ports",
    "face",
    "promises",
    "leases",
    "saver",
    "deadline",
    "units",
    "publish",
    "watches",
    "chronicle",
    "postmortem",
    "tenancy",
    "appraisals",
    "strays",
}
MAY_IMPORT = {
    "core": set(),
    "ports": {"core"},
    "face": {"core"},
    "promises": {"core"},
    "saver": {"core", "ports"},
    "deadline": {"ports"},
    "units": {"core", "ports"},
    "publish": {"core", "ports", "face"},
    "health": {"core", "ports"},
    "tenancy": {"core", "ports"},
    "appraisals": {"core", "ports"},
    "leftovers": {"core", "ports"},
    "strays": {"core", "ports", "leftovers"},
    "watches": {"core", "ports", "health", "appraisals", "leftovers"},
    "chronicle": {"core"},
    "postmortem": {"core", "ports"},
    "loading": {"core", "ports"},
    "leases": {"core", "face", "promises"},
    "doing": {*ENGINE_PARTS, "loading"},
    "calls": {*ENGINE_PARTS, "doing"},
    "engine": {*ENGINE_PARTS, "calls"},
    "clock": {"core", "ports"},
    "logs": set(),
    "arguments": set(),
    "status_line": {"face"},
    "paths": set(),
    "lean": set(),
    "durable": set(),
    "state_format": {"core"},
    "state": {"core", "ports", "durable", "state_format"},
    "config": {"core", "ports", "durable"},
    "checkpoint": {"core", "ports"},
    "inspection": {"core", "ports"},
    "systemd": {"core", "ports"},
    "memory": {"core", "ports"},
    "remains": {"core", "ports"},
    "backends": {"core", "ports"},
    "programs": set(),
    "tailnet": {"core", "programs"},
    "whereabouts": {"core"},
    "metrics": set(),
    "counting": {"core", "face", "metrics"},
    "control": {"core", "face", "metrics"},
    "gateway": {"core", "face", "metrics"},
    "cli": {"core", "config", "checkpoint", "inspection", "memory", "remains", "tailnet", "paths", "programs"},
}
"""Beside itself, and what is in ``__init__``. ``app`` puts everything together."""

PURE_PARTS = {"core", "ports", "face"}
ONLY_LAZILY = {
    "cli": {"core", "config", "checkpoint", "inspection", "memory", "remains", "tailnet", "paths", "programs"}
}
LOADED_LAZILY = {"cli/doctor/": "cli/doctor/command.py"}
"""Folders of modules that are imported only where they are needed, by whom: what they import is lazy with them."""
ONLY_GLIB = {"gi": {"systemd/glib_thread.py"}}


@dataclass(frozen=True)
class Import:
    """One module named by one import statement; ``lazy``: not when the importing module is loaded."""

    module: str
    line: int
    lazy: bool


def imports_of(source: str, path: str) -> Iterator[Import]:
    """Every import in a file, also those in functions and for type checkers."""
    package = [PACKAGE, *Path(path).parts[:-1]]

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            later = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            match child:
                case ast.Import(names):
                    yield from (Import(name.name, child.lineno, lazy) for name in names)
                case ast.ImportFrom(module, names, level):
                    base = package[: len(package) - level + 1] if level else []
                    named = ".".join([*base, *([module] if module else [])])
                    if named == PACKAGE:
                        yield from (Import(f"{PACKAGE}.{name.name}", child.lineno, lazy) for name in names)
                    else:
                        yield Import(named, child.lineno, lazy)
                case ast.If(test=ast.Name("TYPE_CHECKING")):
                    yield from walk(child, True)
                case _:
                    yield from walk(child, later)

    yield from walk(ast.parse(source), False)


def violations(root: Path) -> list[str]:
    """Each import that goes against an arrow, and each part that has none."""
    found = []
    parts = {p.stem if p.is_file() else p.name for p in root.iterdir() if p.suffix == ".py" or p.is_dir()}
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        part = path.split("/", maxsplit=1)[0].removesuffix(".py")
        if part in {"__init__", "app"}:
            continue
        if part not in MAY_IMPORT:
            found.append(f"{path}: {part} has no rule: say in MAY_IMPORT what it may import")
            continue
        for imported in imports_of(file.read_text(encoding="utf-8"), path):
            wrong = _objection(path, part, imported, parts)
            if wrong:
                found.append(f"{path}:{imported.line}: {imported.module}: {wrong}")
    return found


def _objection(path: str, part: str, imported: Import, parts: set[str]) -> str | None:
    names = imported.module.split(".")
    if names[0] != PACKAGE:
        if path not in ONLY_GLIB.get(names[0], {path}):
            return f"only {', '.join(ONLY_GLIB[names[0]])} imports {names[0]}"
        if part in PURE_PARTS and names[0] not in PURE and imported.module not in PURE:
            return f"{part} is pure"
        return None
    target = names[1] if len(names) > 1 else ""
    if not imported.lazy and not _is_lazy(path) and _is_lazy(f"{'/'.join(names[1:])}.py"):
        return "imported only where it is needed"
    if target == part or target not in parts:
        return None
    if target not in MAY_IMPORT[part]:
        return f"{part} may not import {target}"
    if target in ONLY_LAZILY.get(part, set()) and not imported.lazy and not _is_lazy(path):
        return f"{part} imports {target} only where it is needed"
    return None


def _is_lazy(path: str) -> bool:
    return any(path.startswith(folder) and path != door for folder, door in LOADED_LAZILY.items())


def test_every_arrow_runs_one_way() -> None:
    assert violations(ROOT) == []


def test_every_rule_is_about_something_that_may_exist() -> None:
    for part, allowed in MAY_IMPORT.items():
        assert allowed <= MAY_IMPORT.keys() - {part}
    assert {"core", "ports", "engine", "control", "systemd", "cli"} <= {p.stem for p in ROOT.iterdir()}


GOOD = {
    "__init__.py": '__version__ = "1"\n',
    "app.py": "import asyncio\nfrom spark_modeld import engine, systemd\nimport gi_not\n",
    "core/__init__.py": "",
    "core/model.py": "import re\nfrom collections.abc import Mapping\nfrom urllib.parse import urlsplit\n",
    "core/slot.py": "from spark_modeld.core import model\nfrom . import model as m\n",
    "ports.py": "from typing import Protocol\nfrom spark_modeld.core.model import x\n",
    "engine.py": "import asyncio\nfrom spark_modeld import __version__, ports\n",
    "systemd/__init__.py": "",
    "systemd/glib_thread.py": "from gi.repository import GLib\n",
    "systemd/manager.py": "from spark_modeld.systemd.glib_thread import x\nfrom spark_modeld.ports import y\n",
    "memory/__init__.py": "",
    "control/server.py": "from spark_modeld.face import Face\n",
    "face.py": "",
    "config/tokens.py": "",
    "cli/doctor/__init__.py": "",
    "cli/doctor/command.py": "import click\ndef f():\n    from spark_modeld.cli.doctor.facts import x\n",
    "cli/doctor/facts.py": "from spark_modeld.config.tokens import x\nfrom spark_modeld.cli.doctor.run import y\n",
    "cli/main.py": "import click\nfrom spark_modeld.cli.doctor.command import doctor\n"
    "def f():\n    from spark_modeld.config.tokens import x\n",
}


def _tree(root: Path, files: dict[str, str]) -> Path:
    for path, source in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source)
    return root


def test_a_tree_that_keeps_to_it_is_found_good(tmp_path: Path) -> None:
    assert violations(_tree(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("path", "line", "objection"),
    [
        ("core/slot.py", "import asyncio", "core is pure"),
        ("core/slot.py", "from os import path", "core is pure"),
        ("core/slot.py", "def f():\n    import time", "core is pure"),
        ("core/slot.py", "import urllib.request", "core is pure"),
        ("core/slot.py", "import structlog", "core is pure"),
        ("core/slot.py", "from spark_modeld.ports import Clock", "core may not import ports"),
        ("core/slot.py", "from .. import ports", "core may not import ports"),
        ("core/slot.py", "from ..engine import x", "core may not import engine"),
        ("core/slot.py", "if TYPE_CHECKING:\n    from spark_modeld import engine", "core may not import engine"),
        ("ports.py", "import socket", "ports is pure"),
        ("ports.py", "from spark_modeld import engine", "ports may not import engine"),
        ("engine.py", "from spark_modeld.systemd.manager import Manager", "engine may not import systemd"),
        ("engine.py", "import spark_modeld.app", "engine may not import app"),
        ("systemd/manager.py", "from spark_modeld.memory import gauge", "systemd may not import memory"),
        ("systemd/manager.py", "from spark_modeld import engine", "systemd may not import engine"),
        ("systemd/manager.py", "from gi.repository import GLib", "only systemd/glib_thread.py imports gi"),
        ("memory/__init__.py", "import gi", "only systemd/glib_thread.py imports gi"),
        ("control/server.py", "from spark_modeld.systemd import manager", "control may not import systemd"),
        ("control/server.py", "from spark_modeld.engine import Engine", "control may not import engine"),
        ("cli/main.py", "from spark_modeld.config.tokens import x", "cli imports config only where it is needed"),
        ("cli/main.py", "def f():\n    import spark_modeld.engine", "cli may not import engine"),
        ("cli/doctor/command.py", "from spark_modeld.config.tokens import x", "cli imports config only where"),
        ("cli/doctor/command.py", "from spark_modeld.cli.doctor.facts import x", "only where it is needed"),
        ("cli/main.py", "from spark_modeld.cli.doctor.facts import x", "only where it is needed"),
        ("cli/doctor/facts.py", "import spark_modeld.engine", "cli may not import engine"),
        ("novelty.py", "", "novelty has no rule"),
    ],
)
def test_an_import_against_an_arrow_is_found(tmp_path: Path, path: str, line: str, objection: str) -> None:
    found = violations(_tree(tmp_path, GOOD | {path: f"{GOOD.get(path, '')}{line}\n"}))
    assert [objection in f for f in found] == [True]
    assert found[0].startswith(path)
