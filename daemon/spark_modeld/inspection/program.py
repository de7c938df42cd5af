"""Whether what starts a model is there and may be executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spark_modeld.core.finding import Finding, error
from spark_modeld.core.model import Container, Launch, Model
from spark_modeld.inspection.access import EXECUTE, READ, Account, Outcome, walk, writers
from spark_modeld.inspection.hidden import hidden

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What the launcher gives every model, unless its environment says otherwise."""
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})


def program(model: Model, who: Account) -> Iterator[Finding]:
    """Findings about the command of ``[launch]`` and the script of ``[container]``."""
    match model.run:
        case Launch(command=command) if command:
            yield from _command(model.id, command, model.run.environment.get("PATH", PATH), who)
        case Container(start_script=str(script)):
            yield from _start_script(model.id, script, who)


def _command(model: str, command: tuple[str, ...], search: str, who: Account) -> Iterator[Finding]:
    name, key = command[0], f"launch.command in models.d/{model}.toml"
    if "/" in name:
        yield from _usable(Path(name), EXECUTE, key, who)
    elif not any(walk(who, Path(folder) / name, EXECUTE).outcome is not Outcome.ABSENT for folder in search.split(":")):
        yield error(
            "command-not-found", f"{name} is in none of {search}", f"Name it with its whole path, or install it: {key}"
        )
    if name.rpartition("/")[2] in _SHELLS and len(command) > 1 and command[1].startswith("/"):
        yield from _usable(Path(command[1]), READ, key, who)


def _usable(path: Path, want: int, key: str, who: Account) -> Iterator[Finding]:
    """What speaks against this user's executing, or reading, the file that ``key`` names."""
    if hidden(str(path)):
        return
    found = walk(who, path, want)
    if found.outcome is Outcome.ABSENT:
        yield error("command-not-found", f"{path} is not there ({found.where} does not exist)", f"Correct {key}")
    elif found.outcome is Outcome.DENIED:
        verb, hint = "read", f"Let {who.name} read it"
        if want == EXECUTE:
            verb = "execute"
            hint = f"`chmod +x {path}`" if found.where == path else f"Let {who.name} through {found.where}"
        why = f"{who.name}, who runs the model, may not {verb} {path}: {found.where} has {found.why}"
        yield error("command-not-executable", why, hint)
    elif want == EXECUTE and found.outcome is Outcome.ALLOWED and path.is_dir():
        yield error("command-not-executable", f"{path} is a folder", f"Correct {key}")


def _start_script(model: str, script: str, who: Account) -> Iterator[Finding]:
    path = Path(script)
    key = f"container.start_script in models.d/{model}.toml"
    yield from _usable(path, READ, key, who)
    other = None if hidden(script) else writers(path, frozenset({0, who.uid}))
    if other is not None:
        yield error(
            "start-script-writable",
            f"Somebody else than root and {who.name} can exchange {path}: {other.where} has {other.why}",
            f"`chown {who.name}` and `chmod go-w` {other.where}: what it says is run as {who.name}",
        )
