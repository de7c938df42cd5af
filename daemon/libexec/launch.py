"""Renders a model's configuration into the scripts that run it.

``launch.py ID CONFIGURATION_DIRECTORY REPORT_DIRECTORY system|user SIGNATURE``

Runs as root with the distribution's Python and without any of the daemon's code. What it reads must be root's own (in
user mode, the user's own) and writable by nobody else: otherwise whoever can write the configuration could choose
what runs as whom. Nothing here may come from a file that the daemon can write.

Exit 78: the configuration is wrong, standard error says what to change. 64: called wrongly.
"""

import os
import pwd
import re
import stat
import sys
import time
import tomllib
from typing import Any, NoReturn

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_USER = "spark-model"
DAEMON_USER = "spark-modeld"
SIZE_LIMIT = 1 << 20
# A file that changed this recently (seconds) could change again without its ctime showing it.
RACY = 0.1


class Refused(Exception):
    """The configuration cannot be run; the message says what to change."""


def read_owned(config: str, names: tuple[str, ...], owner: int) -> tuple[bytes, float]:
    """A file's content, and the newest ctime (Unix seconds) of what led there. Refused, OSError.

    ``names`` are the folders below ``config`` and the file.

    Everything is opened relative to what was checked before it, so that nothing can be exchanged in between.
    """
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    newest = max(os.stat(path).st_ctime for path in ("/etc/passwd", "/etc/group"))
    parent: int | None = None
    path = ""
    kinds = [*(directory for _ in names), os.O_NOFOLLOW | os.O_NONBLOCK]
    for name, flags in zip((config, *names), kinds, strict=True):
        path = os.path.join(path, name)
        try:
            opened = os.open(name, flags | os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            raise Refused(f"{path}: {error.strerror} (symbolic links are not followed)") from error
        status = os.fstat(opened)
        if status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refused(f"{path} must belong to uid {owner} and be writable by nobody else: chown and chmod go-w it")
        newest = max(newest, status.st_ctime)
        parent = opened
    assert parent is not None
    if not stat.S_ISREG(os.fstat(parent).st_mode):
        raise Refused(f"{path} is not a regular file")
    with open(parent, "rb") as file:
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise Refused(f"{path} is larger than {SIZE_LIMIT} bytes")
    return content, newest


def text(value: object, what: str) -> str:
    """The value as a string that can be an argument. Refused."""
    if not isinstance(value, str) or "\0" in value:
        raise Refused(f"{what} must be a string without NUL")
    return value


def command_of(model: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """``[launch]``: the command and the environment. Refused."""
    launch = model["launch"]
    if not isinstance(launch, dict):
        raise Refused("[launch] must be a table that says what to run")
    command = launch.get("command")
    if not isinstance(command, list) or not command:
        raise Refused("launch.command must be a list of strings, the program first")
    words = [text(word, "launch.command") for word in command]
    program = words[0]
    if not program or program.startswith("-") or ("/" in program and not program.startswith("/")):
        raise Refused(f"launch.command: {program!r} must be an absolute path or a plain name found on {PATH}")
    environment = launch.get("environment", {})
    if not isinstance(environment, dict) or not all(VARIABLE.fullmatch(name) for name in environment):
        raise Refused("launch.environment must be a table of variable names and strings")
    return words, {name: text(value, f"launch.environment.{name}") for name, value in environment.items()}


def account_of(model: dict[str, Any]) -> pwd.struct_passwd:
    """Who runs the model. Refused."""
    name = model.get("user", DEFAULT_USER)
    if not isinstance(name, str) or not USER.fullmatch(name):
        raise Refused(f"user = {name!r} is not a user name")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"user = {name!r}: there is no such user") from None
    if account.pw_uid in (0, _uid(DAEMON_USER)):
        raise Refused(f"user = {name!r} may not run models: use {DEFAULT_USER!r} or a user of your own")
    return account


def _uid(name: str) -> int:
    """The user's number, -1 if there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def quoted(word: str) -> str:
    """The word as the shell takes it literally."""
    return "'" + word.replace("'", "'\\''") + "'"


def command_script(words: list[str], environment: dict[str, str]) -> str:
    """What runs as the model's user. It comes on standard input, and no value passes through anybody's arguments."""
    variables = {"PATH": PATH, "LANG": "C.UTF-8", **environment}
    return "\n".join(
        [
            'cd "${HOME:-/}" 2>/dev/null || cd /',
            *(f"export {name}={quoted(value)}" for name, value in variables.items()),
            f"exec {' '.join(map(quoted, words))} </dev/null\n",
        ]
    )


def branding(account: pwd.struct_passwd | None, reports: str) -> str:
    """What comes first in every start: this run's brand, by which spark-model-sweep@ knows what escapes from it."""
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "brand.sh")
    uid = account.pw_uid if account else os.getuid()
    return f"uid={uid}\nreports={quoted(reports)}\n. {quoted(library)}\n"


def start_script(account: pwd.struct_passwd | None, reports: str) -> str:
    """What runs as root: brands, and drops everything; the model's environment has no part in it."""
    drop = ""
    if account is not None:
        drop = (
            f"/usr/bin/setpriv --reuid {quoted(account.pw_name)} --regid {account.pw_gid} --init-groups "
            "--no-new-privs --inh-caps=-all --bounding-set=-all --reset-env -- "
        )
    return f"{branding(account, reports)}exec {drop}/bin/sh <{quoted(f'{reports}/command')}\n"


def write(path: str, content: str) -> None:
    """Writes the file, for its owner's eyes only, so that nobody ever sees half of it. OSError."""
    temporary = f"{path}.new"
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(content)
    os.replace(temporary, path)


def way_of(model: dict[str, Any]) -> str:
    """Which table says how it runs. Refused."""
    if "unit" in model:
        raise Refused(f"unit = {model['unit']!r} runs this model; spark-model@ is for models that have no unit yet")
    ways = [way for way in ("launch", "docker", "container") if way in model]
    if len(ways) != 1:
        raise Refused("there must be exactly one of [launch], [docker] and [container] that says what to run")
    return ways[0]


def container_scripts(
    model_id: str, model: dict[str, Any], config: str, reports: str, account: pwd.struct_passwd | None
) -> tuple[dict[str, str], list[str], float]:
    """``[docker]`` and ``[container]``: the scripts, folders of the model's user, newest ctime. Refused, OSError."""
    # Not for [launch], which starts without it.
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import launch_docker  # noqa: PLC0415

    settings, newest = b"", 0.0
    if os.path.lexists(os.path.join(config, "spark-modeld.toml")):
        settings, newest = read_owned(config, ("spark-modeld.toml",), 0 if account else os.getuid())
    path = PATH if account else f"{os.path.expanduser('~')}/bin:{PATH}"
    try:
        start, clean, folders = launch_docker.scripts(model_id, model, settings, account, reports=reports, path=path)
    except ValueError as error:  # also what is no TOML, or no UTF-8
        raise Refused(str(error)) from error
    return {"start": branding(account, reports) + start, "clean": clean}, folders, newest


def render(model_id: str, config: str, reports: str, *, user_mode: bool, signature: str) -> None:
    """Writes the scripts. Refused, OSError."""
    content, newest = read_owned(config, ("models.d", f"{model_id}.toml"), os.getuid() if user_mode else 0)
    try:
        model = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{config}/models.d/{model_id}.toml: {error}") from error
    way = way_of(model)
    account = None if user_mode else account_of(model)
    if user_mode and model.get("user", DEFAULT_USER) not in (DEFAULT_USER, pwd.getpwuid(os.getuid()).pw_name):
        raise Refused("user = is somebody else, and a per-user daemon runs models as its own user only")
    directory = os.path.join(reports, model_id)
    folders: list[str] = []
    if way == "launch":
        files = {"command": command_script(*command_of(model)), "start": start_script(account, directory)}
    else:
        files, folders, newer = container_scripts(model_id, model, config, directory, account)
        newest = max(newest, newer)
    for folder in (reports, directory):
        report_folder(folder)
    for stale in {"start.sig", "clean"} - files.keys():  # with a container, there is a way to end it at any moment
        if os.path.lexists(os.path.join(directory, stale)):
            os.unlink(os.path.join(directory, stale))
    for folder in folders:
        own_folder(folder, account)
    for name, script in files.items():
        write(os.path.join(directory, name), script)
    if signature and time.time() - newest > RACY:
        write(os.path.join(directory, "start.sig"), f"{signature}\n")


def report_folder(path: str) -> None:
    """A folder of our own, which the daemon reads and nobody else writes. Refused, OSError."""
    try:
        os.makedirs(path)
    except FileExistsError:
        status = os.lstat(path)
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not mine or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refused(f"{path} is not a folder that uid {os.geteuid()} alone may write: remove it") from None
    else:
        os.chmod(path, 0o755)  # whatever the UMask= of a drop-in


def own_folder(path: str, account: pwd.struct_passwd | None) -> None:
    """A folder, empty or not, that the model's user alone may use. OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def fail(status: int, message: str) -> NoReturn:
    """Says why on standard error and exits."""
    print(f"spark-model-run: {message}", file=sys.stderr)
    sys.exit(status)


def main(arguments: list[str]) -> None:
    """Renders, or exits with what is wrong."""
    model_id, config, reports, mode, signature = arguments
    if not MODEL_ID.fullmatch(model_id) or mode not in ("system", "user"):
        fail(64, f"{model_id!r} is not a model id, or {mode!r} not a mode")
    try:
        render(model_id, config, reports, user_mode=mode == "user", signature=signature)
    except Refused as refusal:
        fail(78, f"{model_id}: {refusal}")
    except OSError as error:
        fail(73, f"{model_id}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
