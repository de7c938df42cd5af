"""What ``launch.py`` renders for ``[docker]`` and ``[container]``, and the audit of a start script.

``launch_docker.py UID SCRIPT``: exit 0 if nobody but root and this user can change what the script is, else 78 and why.
"""

import contextlib
import grp
import os
import pwd
import re
import stat
import sys
import tomllib
from typing import Any

REFUSED = frozenset({"--detach", "--name", "--rm", "--restart", "--cidfile", "--pull", "--sig-proxy"})
"""Options of `docker run` that would take the container out of its unit's hands, or that the launcher sets itself."""
DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|min|h)")
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}")
MOST_LINKS = 40
"""On the way to a start script; the kernel follows no more."""
STOP_TIMEOUT = "2min"
STOP_MARGIN = 2.0
"""Seconds that docker needs around the container's own end, before the daemon kills the unit."""
INIT = "docker-init"
INIT_FOLDERS = ("/usr/local/libexec/docker", "/usr/libexec/docker", "/usr/local/lib/docker", "/usr/lib/docker")
"""Where docker looks for it beside the PATH (moby, daemon/config/config_linux.go, lookupBinPath)."""


def refused_option(word: str) -> str | None:
    """The option in this word that a model's container cannot have, None if there is none.

    Every word is looked at, also one that is another option's value: no option of docker's that we do not know of can
    hide one that we refuse.
    """
    if word.startswith("--"):
        name = word.partition("=")[0]
        return name if name in REFUSED else None
    if word.startswith("-"):
        flags = word[1:].partition("=")[0]
        # -iqtd: flags without a value in front of it; behind any other letter there is a value.
        return "-d" if flags.lstrip("iqtP").startswith("d") else None
    return None


def stop_timeout(model: dict[str, Any], settings: dict[str, Any]) -> float:
    """How long the model may take to stop, in seconds. ValueError for a value that is no duration."""
    slot = settings.get("slot")
    given = model.get(
        "stop_timeout", slot.get("stop_timeout", STOP_TIMEOUT) if isinstance(slot, dict) else STOP_TIMEOUT
    )
    match = DURATION.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise ValueError(f"stop_timeout = {given!r} is no duration such as '2min'")
    return float(match[1]) * SECONDS[match[2]]


def stop_seconds(model: dict[str, Any], settings: dict[str, Any]) -> int:
    """How long the container may take to stop. ValueError for a value that is no duration."""
    return max(1, int(stop_timeout(model, settings) - STOP_MARGIN))


def find_docker(path: str) -> str:
    """The docker CLI. ValueError if there is none."""
    for folder in path.split(":"):
        program = f"{folder}/docker"
        if os.access(program, os.X_OK):
            return program
    raise ValueError(f"there is no docker on {path}: install it, or use [launch]")


def init_option(path: str) -> list[str]:
    """``--init``, where docker has what it needs for that; a later ``--init=false`` of the model's own prevails.

    The first process of a container cannot end itself by a signal: an engine that does, as SGLang after a stop or when
    its scheduler died, would stay until docker's own SIGKILL. Behind an init it ends at once, and with the same status.
    """
    folders = (*path.split(":"), *INIT_FOLDERS)
    return ["--init"] if any(os.access(f"{folder}/{INIT}", os.X_OK) for folder in folders) else []


def drop(account: pwd.struct_passwd | None) -> str:
    """What goes in front of a command that the model's user runs with group docker. ValueError without that group.

    Such a command ends when its supervisor is killed: else it would keep the unit, and its container, for a while.
    """
    if account is None:
        return "/usr/bin/setpriv --pdeathsig KILL -- "
    try:
        docker = grp.getgrnam("docker").gr_gid
    except KeyError:
        raise ValueError("there is no group docker: install docker") from None
    groups = sorted({*own_groups(account), docker})
    return (
        f"/usr/bin/setpriv --reuid {account.pw_uid} --regid {account.pw_gid} --groups {','.join(map(str, groups))} "
        "--no-new-privs --inh-caps=-all --bounding-set=-all --pdeathsig KILL --reset-env -- "
    )


def own_groups(account: pwd.struct_passwd) -> set[int]:
    """The groups that this user is in without our help."""
    return set(os.getgrouplist(account.pw_name, account.pw_gid))


def docker_cli(account: pwd.struct_passwd | None, *, reports: str, path: str) -> str:
    """The docker CLI as the model's user. ValueError where there is no docker, or no group for it.

    Whom group docker is only lent to must not steer the CLI by files: a context of theirs has it run ssh, and ssh what
    their own configuration says, all with that group, which is as good as root. It gets a folder that nobody can make.
    """
    words = drop(account) + find_docker(path)
    if account is None or grp.getgrnam("docker").gr_gid in own_groups(account):
        return words
    return f"{words} --config {reports}/no-configuration"


def checked_image(docker: Any) -> tuple[str, list[str]]:
    """``[docker]``: the image, and all the words after our own options. ValueError."""
    if not isinstance(docker, dict):
        raise ValueError("[docker] must be a table")
    image = docker.get("image")
    if not isinstance(image, str) or not IMAGE.fullmatch(image):
        raise ValueError("docker.image must be the name of an image")
    options, command = docker.get("options", []), docker.get("command", [])
    for key, words in (("options", options), ("command", command)):
        if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
            raise ValueError(f"docker.{key} must be a list of strings without NUL")
    for word in options:
        if (refused := refused_option(word)) is not None:
            raise ValueError(f"docker.options: {refused} is the launcher's own business, leave it out")
    return image, [*options, image, *command]


def checked_container(container: Any) -> tuple[str, str]:
    """``[container]``: its name, and its start script or "". ValueError."""
    if not isinstance(container, dict):
        raise ValueError("[container] must be a table")
    name, script = container.get("name"), container.get("start_script", "")
    if not isinstance(name, str) or not CONTAINER.fullmatch(name):
        raise ValueError("container.name must be the name of a container")
    if script != "" and (not isinstance(script, str) or not script.startswith("/") or "\0" in script):
        raise ValueError("container.start_script must be an absolute path")
    return name, script


def audit(path: str, uid: int) -> str | None:
    """Why somebody else than root and this user could change what the script is; None if nobody could. OSError.

    Goes the way that the kernel goes, through every link on it. What was found good stays good: whoever could exchange
    any of it is root or this user, and as this user it runs.
    """
    current, ahead, links = "/", ["", *_names(path)], 0
    while ahead:
        name = ahead.pop(0)
        current = os.path.dirname(current) if name == ".." else os.path.join(current, name)
        status = os.lstat(current)
        if (reason := _changeable(current, status, uid)) is not None:
            return reason
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                return f"{path} leads through too many links"
            target = os.readlink(current)
            ahead[:0] = _names(target)
            current = "/" if target.startswith("/") else os.path.dirname(current)
    return None if stat.S_ISREG(status.st_mode) else f"{path} is not a regular file"


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _changeable(path: str, status: os.stat_result, uid: int) -> str | None:
    """Why others than root and this user may write here, where no link is followed."""
    if status.st_uid not in (0, uid):
        return f"{path} belongs to uid {status.st_uid}: it must be root's or the model's user's"
    if stat.S_ISLNK(status.st_mode):
        return None  # only the folder it lies in says who may change it
    if status.st_mode & stat.S_IWOTH:
        return f"{path} is writable by everybody: chmod o-w it"
    if status.st_mode & stat.S_IWGRP:
        # With an access list these bits are its mask, and say nothing of whom it names.
        with contextlib.suppress(OSError):
            os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
            return f"{path} is writable by an access list: setfacl -b it"
        if not _private(status.st_gid, uid):
            return f"{path} is writable by group {status.st_gid}, which others are in: chmod g-w it"
    return None


def _private(gid: int, uid: int) -> bool:
    """Whether a group has no other members than root and this user: so are the files of most people's homes."""
    trusted = {0, uid}
    if any(account.pw_gid == gid and account.pw_uid not in trusted for account in pwd.getpwall()):
        return False
    try:
        return all(pwd.getpwnam(name).pw_uid in trusted for name in grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False


def main(uid: str, path: str) -> int:
    """The exit status."""
    try:
        reason = audit(path, int(uid))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    if reason is not None:
        print(f"spark-model-run: the start script is not run: {reason}", file=sys.stderr)
    return 0 if reason is None else 78


def quoted(word: str) -> str:
    """The word as the shell takes it literally."""
    return "'" + word.replace("'", "'\\''") + "'"


def scripts(
    model_id: str, model: dict[str, Any], settings: bytes, account: pwd.struct_passwd | None, *, reports: str, path: str
) -> tuple[str, str, list[str]]:
    """The scripts ``start`` and ``clean``, and the folders that the model's user needs in ``reports``. ValueError."""
    drops = drop(account)
    variables = {
        "docker": docker_cli(account, reports=reports, path=path),
        "as_user": drops,
        "reports": reports,
        "seconds": str(stop_seconds(model, tomllib.loads(settings.decode()))),
    }
    words: list[str] = []
    folders: list[str] = []
    if "docker" in model:
        image, words = checked_image(model["docker"])
        words = [*init_option(path), *words]
        variables |= {"name": f"spark-model-{model_id}", "image": image, "cli": f"{reports}/cli"}
        run, clean = 'run_image "$@"', "clean_image"
        folders = [variables["cli"]]
    else:
        name, script = checked_container(model["container"])
        uid = account.pw_uid if account else os.getuid()
        auditor = f"/usr/bin/python3 -I -S {os.path.abspath(__file__)} {uid}"
        variables |= {"name": name, "script": script, "audit": auditor}
        run, clean = "follow_container", "clean_container"
    library = os.path.join(os.path.dirname(os.path.abspath(__file__)), "docker.sh")
    head = "".join(f"{key}={quoted(value)}\n" for key, value in variables.items())
    # `|| exit`: a function that ends is the script's end, whatever the shell that sourced it would do next.
    head += f"PATH={quoted(path)}\nexport PATH\n. {quoted(library)}\n"
    listed = f"set -- {' '.join(map(quoted, words))}\n" if words else ""
    return f"{head}{listed}{run}\nexit\n", f"{head}{clean}\n", folders


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
