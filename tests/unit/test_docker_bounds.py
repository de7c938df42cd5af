"""What root does around a model's container, tried by its user and by what a file could smuggle in."""

from __future__ import annotations

import grp
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.bounds import NEEDS_ROOT, REPORT, USER, capabilities, files, open_folder
from support.launcher import LIBEXEC, Config, launch, load

pytestmark = [pytest.mark.unit, NEEDS_ROOT]

launch_docker = load("launch_docker")
ID = "0123456789abcdef" * 4
BASICS = {"HOME", "SHELL", "USER", "LOGNAME", "PATH", "PWD", "TERM", "LC_CTYPE"}
CLI = """\
#!/bin/sh
# A container that runs until it is stopped. What it is told goes to `told`, each word with a NUL behind it.
printf '%s\\0' "$@" end >>{folder}/told
[ "$1" != --config ] || shift 2
case $1 in
  run)
    shift
    until [ "$1" = --cidfile ]; do shift; done
    {put_id}
    until [ -e {folder}/stopped ]; do sleep 0.02; done ;;
  stop) : >{folder}/stopped ;;
  container) echo "Error: No such container: x" >&2; exit 1 ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def config(place: Path) -> Config:
    return Config(place, mode="system")


class Cli:
    """A made-up docker for a model whose user is nobody."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.folder = config.folder.parent / "docker"
        self.folder.mkdir(mode=0o777)
        self.folder.chmod(0o777)
        self.group = 4321
        names = {"docker": grp.struct_group(("docker", "x", self.group, []))}
        monkeypatch.setattr(launch_docker.grp, "getgrnam", names.__getitem__)
        monkeypatch.setattr(launch_docker, "find_docker", lambda _path: str(self.folder / "docker"))
        monkeypatch.setattr(launch_docker, "init_option", lambda _path: [])
        monkeypatch.setitem(sys.modules, "launch_docker", launch_docker)
        self.put_id(f'printf {ID} >"$2"')

    def put_id(self, how: str) -> None:
        (self.folder / "docker").write_text(CLI.format(folder=self.folder, put_id=how))
        (self.folder / "docker").chmod(0o755)

    def render(self, entry: str) -> Path:
        """The start script of a model with this entry."""
        self.config.write(f'user = "{USER.pw_name}"\n{entry}', settled=False)
        folders = str(self.config.folder), str(self.config.reports)
        launch.render("alpha", *folders, user_mode=False, signature="")
        return Path(folders[1]) / "alpha" / "start"

    def run(self, script: Path, *, umask: int = 0o022) -> subprocess.Popen[str]:
        """The supervisor."""
        return subprocess.Popen(
            ["/bin/sh", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=umask,
            start_new_session=True,
        )

    def start(self, entry: str, *, umask: int = 0o022) -> subprocess.Popen[str]:
        return self.run(self.render(entry), umask=umask)

    def told(self) -> list[list[str]]:
        words = (self.folder / "told").read_text().split("\0end\0")
        return [call.split("\0") for call in words if call]

    def report(self, name: str) -> Path:
        return self.config.reports / "alpha" / name


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture
def cli(config: Config, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(config, monkeypatch)


def stop(supervisor: subprocess.Popen[str]) -> str:
    os.kill(supervisor.pid, signal.SIGTERM)
    return supervisor.communicate(timeout=20)[0]


def test_every_word_reaches_docker_as_one_and_where_it_stands(cli: Cli) -> None:
    nasty = ["x -v /:/host", "a\nb", "'; id #", "$(id)", "--privileged", "-d", "--name=beta", "", "\\"]
    options = ["-e", "A=b --privileged", "-e", "B=c\n--privileged", "--label", "x -v /:/host"]
    supervisor = cli.start(
        f'[docker]\nimage = "engine:1"\noptions = {json.dumps(options)}\ncommand = {json.dumps(nasty)}\n'
    )
    until(cli.report("container").exists, "a container")
    stop(supervisor)
    told = next(call for call in cli.told() if "run" in call)
    assert told[told.index("--cidfile") + 2 :] == [*options, "engine:1", *nasty]


@pytest.mark.parametrize(
    "entry",
    [
        '[docker]\nimage = "--privileged"',
        '[docker]\nimage = "engine:1\\n--privileged"',
        '[docker]\nimage = "engine:1 --privileged"',
        '[docker]\nimage = "engine\\u0661"',
        '[container]\nname = "--all"',
        '[container]\nname = "xx\\n--all"',
        '[container]\nname = "xx yy"',
    ],
)
def test_what_is_no_name_never_reaches_docker(cli: Cli, entry: str) -> None:
    with pytest.raises(launch.Refused, match="must be the name of"):
        cli.start(entry)


def test_a_link_where_the_cli_writes_is_not_followed_by_root(cli: Cli) -> None:
    """The folder is the model's user's: it could lead anywhere, to one line of a file that only root reads."""
    secret = cli.folder / "secret"
    secret.write_text(ID + "\n")
    secret.chmod(0o600)
    cli.put_id(f'ln -s {secret} "$2"; exit 0')
    supervisor = cli.start('[docker]\nimage = "engine:1"')
    supervisor.communicate(timeout=20)
    # Else it would remove the container that it read of.
    assert [call[2] for call in cli.told()] == ["run"]
    assert not cli.report("container").exists()


def test_to_whom_group_docker_is_only_lent_has_no_say_in_the_cli(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context in the user's home could have it run a program of theirs, with that group."""
    steered = f"--config {cli.config.reports}/alpha/no-configuration"
    for group, lent in ((cli.group, True), (USER.pw_gid, False)):
        cli.group = group
        names = {"docker": grp.struct_group(("docker", "x", group, []))}
        monkeypatch.setattr(launch_docker.grp, "getgrnam", names.__getitem__)
        words = launch_docker.docker_cli(USER, reports=f"{cli.config.reports}/alpha", path="/x")
        assert words.endswith(f"/docker {steered}" if lent else "/docker")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_daemon_can_read_the_reports_of_a_container(cli: Cli, umask: int) -> None:
    supervisor = cli.start('[docker]\nimage = "engine:1"', umask=umask)
    until(cli.report("container").exists, "a container")
    for name in ("container", "image"):
        assert cli.report(name).stat().st_mode & 0o777 == 0o644, name
    stop(supervisor)


def test_a_start_script_has_the_group_docker_and_nothing_of_roots(cli: Cli, place: Path) -> None:
    script = place / "serve.sh"
    script.write_text(f"#!/bin/sh\nexec /usr/bin/python3 -I -S -c '{REPORT.replace(chr(39), chr(34))}'\n")
    script.chmod(0o755)
    supervisor = cli.start(f'[container]\nname = "boxed"\nstart_script = "{script}"')
    said = supervisor.communicate(timeout=20)[0]
    seen = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    status = seen["status"]
    assert set(status["Uid"]) == {str(USER.pw_uid)}
    assert set(status["Groups"]) == {str(USER.pw_gid), str(cli.group)}
    assert capabilities(seen) == {0}
    assert status["NoNewPrivs"] == ["1"]
    assert seen["environment"].keys() <= BASICS
    assert files(seen) == {0: "/dev/null", 1: "pipe", 2: "pipe"}


def test_a_script_that_its_user_exchanged_still_runs_as_that_user(cli: Cli, place: Path) -> None:
    """Between the look and the run there is time, but only for root and for whom it runs as anyway."""
    home = place / "home"
    home.mkdir()
    script = home / "serve.sh"
    script.write_text("#!/bin/sh\necho harmless\n")
    script.chmod(0o755)
    for path in (home, script):
        os.chown(path, USER.pw_uid, -1)
    assert launch_docker.audit(str(script), USER.pw_uid) is None
    other = home / "other.sh"
    other.write_text("#!/bin/sh\n/usr/bin/id -u\n")
    other.chmod(0o755)
    auditor = place / "auditor"
    auditor.write_text(
        f'#!/bin/sh\n/usr/bin/python3 -I -S {LIBEXEC}/launch_docker.py "$@" || exit\n'
        f"setpriv --reuid {USER.pw_uid} --clear-groups -- mv {other} {script}\n"
    )
    auditor.chmod(0o755)
    rendered = cli.render(f'[container]\nname = "boxed"\nstart_script = "{script}"')
    start, program = rendered.read_text(), f"/usr/bin/python3 -I -S {LIBEXEC}/launch_docker.py"
    assert program in start
    rendered.write_text(start.replace(program, str(auditor)))
    said = cli.run(rendered).communicate(timeout=20)[0].splitlines()
    assert str(USER.pw_uid) in said
    assert "harmless" not in said


ADOPTED = """\
#!/bin/sh
# A container that runs already.
case $1 in
  container) [ -e {folder}/stopped ] && state=exited || state=running; echo "$state {id} engine:1 no" ;;
  wait) until [ -e {folder}/stopped ]; do sleep 0.02; done; echo 0 ;;
  stop | kill) : >{folder}/stopped ;;
esac
"""


@pytest.mark.parametrize("model", ["boxed", "plain"])
def test_a_stop_while_the_configuration_is_read_is_a_stop(place: Path, model: str) -> None:
    """Also of a container that runs already: to systemd, who dies of the signal has ended well; so it fails."""
    config = Config(place)
    (place / "bin").mkdir()
    (place / "bin" / "docker").write_text(ADOPTED.format(folder=place, id=ID))
    (place / "bin" / "docker").chmod(0o755)
    way = f'[launch]\ncommand = ["touch", "{place}/ran"]' if model == "plain" else '[container]\nname = "boxed"'
    config.write(f"{way}\n", settled=False)
    launcher = subprocess.Popen(
        [LIBEXEC / "spark-model-run", "alpha", config.folder, config.reports, "user"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"HOME": str(place)},
    )

    def renders() -> bool:
        return any(is_renderer(path, launcher.pid) for path in Path("/proc").glob("[0-9]*"))

    until(renders, "the renderer")
    os.killpg(launcher.pid, signal.SIGTERM)
    launcher.communicate(timeout=20)
    assert launcher.returncode == (1 if model == "boxed" else 143)
    clean = config.reports / "alpha" / "clean"
    assert clean.exists() == (model == "boxed")
    if model == "boxed":  # what spark-model-clean@ does of a unit that failed
        subprocess.run(["/bin/sh", clean], check=True)
        assert (place / "stopped").exists()
    assert not (place / "ran").exists()


def is_renderer(process: Path, session: int) -> bool:
    """Whether this is a launcher's Python."""
    try:
        return os.getsid(int(process.name)) == session and b"/launch.py" in (process / "cmdline").read_bytes()
    except OSError:
        return False
