"""What the launcher makes of [docker] and [container], and the attempts to get around it.

The supervisor (``docker.sh``) runs here against a docker CLI of our own, which is as odd as each test needs; the host
tests run it against the real one.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spark_modeld.config.fields import _OPTION
from spark_modeld.config.kinds import Wrong
from support.launcher import LIBEXEC, Config, launch, load

pytestmark = pytest.mark.unit

launch_docker = load("launch_docker")

ID = "0123456789abcdef" * 4
HARMLESS = [
    "--gpus",
    "all",
    "--ipc",
    "host",
    "-e",
    "HF_TOKEN=x y",
    "-eA=d",
    "-p",
    "8000:8000",
    "-it",
    "-v/data:/d",
    "--detach-keys=x",
    "--rmx",
    "--memory-swap",
    "-1",
    "",
    "-",
    "--",
    "--name-of",
    "d",
]
REFUSED = [
    "-d",
    "-d=true",
    "-itd",
    "-dit",
    "-qd",
    "-iqtd",
    "-Pd",
    "--detach",
    "--detach=false",
    "--name",
    "--name=x",
    "--rm",
    "--rm=false",
    "--restart=always",
    "--restart",
    "--cidfile=/x",
    "--pull=always",
    "--sig-proxy=true",
]


@pytest.mark.parametrize("word", HARMLESS)
def test_options_are_the_models_own_business(word: str) -> None:
    assert launch_docker.refused_option(word) is None
    assert _OPTION.read(word) == word


@pytest.mark.parametrize("word", REFUSED)
def test_options_that_break_the_supervision_are_refused_by_configuration_and_launcher(word: str) -> None:
    refused = launch_docker.refused_option(word)
    assert refused is not None
    assert word.startswith("--") == refused.startswith("--")
    with pytest.raises(Wrong, match="launcher's own business"):
        _OPTION.read(word)
    with pytest.raises(ValueError, match="leave it out"):
        launch_docker.checked_image({"image": "x", "options": [word]})


@pytest.mark.parametrize(
    ("model", "settings", "seconds"),
    [
        ({}, {}, 118),
        ({}, {"slot": {"stop_timeout": "30s"}}, 28),
        ({"stop_timeout": "10min"}, {"slot": {"stop_timeout": "30s"}}, 598),
        ({"stop_timeout": "500ms"}, {}, 1),
        ({"stop_timeout": "3.5s"}, {}, 1),
    ],
)
def test_docker_gets_the_stop_time_that_is_configured(
    model: dict[str, object], settings: dict[str, object], seconds: int
) -> None:
    assert launch_docker.stop_seconds(model, settings) == seconds


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("docker = 3", "[docker] must be a table"),
        ("[docker]", "docker.image must be"),
        ('[docker]\nimage = "--privileged"', "docker.image must be"),
        ('[docker]\nimage = "x"\noptions = ["-d"]', "-d is the launcher's own business"),
        ('[docker]\nimage = "x"\noptions = "-v"', "docker.options must be a list"),
        ('[docker]\nimage = "x"\ncommand = ["a\\u0000"]', "docker.command must be a list"),
        ('stop_timeout = "soon"\n[docker]\nimage = "x"', "no duration"),
        ("container = 3", "[container] must be a table"),
        ("[container]", "container.name must be"),
        ('[container]\nname = "-x"', "container.name must be"),
        ('[container]\nname = "xx"\nstart_script = "x.sh"', "an absolute path"),
    ],
)
def test_a_wrong_container_says_what_is_wrong(
    config: Config, content: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write(content, settled=False)
    monkeypatch.setitem(sys.modules, "launch_docker", launch_docker)
    monkeypatch.setattr(launch_docker, "find_docker", lambda _path: "/usr/bin/docker")
    with pytest.raises(launch.Refused) as refused:
        launch.render("alpha", str(config.folder), str(config.reports), user_mode=True, signature="x")
    assert reason in str(refused.value)
    assert not config.signature.exists()


def test_without_docker_the_launcher_says_so() -> None:
    with pytest.raises(ValueError, match="install it"):
        launch_docker.find_docker("/nowhere:/nothing")


def test_a_container_gets_an_init_where_docker_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "libexec"
    monkeypatch.setattr(launch_docker, "INIT_FOLDERS", (str(own),))
    assert launch_docker.init_option("/nowhere:/nothing") == []
    own.mkdir()
    (own / "docker-init").touch(mode=0o644)
    assert launch_docker.init_option("/nowhere") == []
    (own / "docker-init").chmod(0o755)
    assert launch_docker.init_option("/nowhere") == ["--init"]
    assert launch_docker.init_option(f"/nowhere:{own}") == ["--init"]


def test_only_the_cli_gets_the_group_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwnam("nobody")
    monkeypatch.setattr(
        launch_docker.grp, "getgrnam", {"docker": grp.struct_group(("docker", "x", 4321, []))}.__getitem__
    )
    words = launch_docker.drop(account).split()
    assert words[words.index("--groups") + 1] == f"4321,{account.pw_gid}"
    monkeypatch.setattr(launch_docker.grp, "getgrnam", dict[str, object]().__getitem__)
    with pytest.raises(ValueError, match="no group docker"):
        launch_docker.drop(account)
    for option in ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--reset-env"):
        assert option in words
    assert "docker" not in launch.start_script(account, "/run/x")


# The audit of a start script.


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script in folders that only their owner may write; pytest's own lie in a sticky /tmp."""
    folder = Path("/run") / f"audit-{os.getpid()}"
    if os.geteuid() != 0:
        pytest.skip("needs root, who owns every folder above")
    (folder / "serve").mkdir(parents=True)
    file = folder / "serve" / "model.sh"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


@pytest.fixture(autouse=True)
def _swept() -> object:
    yield
    subprocess.run(["rm", "-rf", f"/run/audit-{os.getpid()}"], check=True)
    return None


NOBODY = pwd.getpwnam("nobody").pw_uid


def test_a_script_of_root_or_of_the_user_is_fine(script: Path) -> None:
    assert launch_docker.audit(str(script), NOBODY) is None
    os.chown(script, NOBODY, -1)
    assert launch_docker.audit(str(script), NOBODY) is None
    assert "belongs to uid" in str(launch_docker.audit(str(script), NOBODY - 1))


@pytest.mark.parametrize("where", ["", ".", ".."])
@pytest.mark.parametrize("mode", [0o022, 0o002])
def test_a_script_that_others_could_change_is_not_run(script: Path, where: str, mode: int) -> None:
    path = script if not where else script.parent if where == "." else script.parent.parent
    os.chown(path, -1, 12345)
    path.chmod(path.stat().st_mode | mode)
    assert f"{path} is writable by" in str(launch_docker.audit(str(script), NOBODY))


def test_a_group_of_its_own_is_the_user(script: Path) -> None:
    os.chown(script, -1, 0)
    script.chmod(0o775)
    assert launch_docker.audit(str(script), NOBODY) is None


def test_both_ends_of_a_link_are_looked_at(script: Path) -> None:
    link = script.parent.parent / "link.sh"
    link.symlink_to(script)
    assert launch_docker.audit(str(link), NOBODY) is None
    script.parent.chmod(0o777)
    assert "everybody" in str(launch_docker.audit(str(link), NOBODY))


def test_what_is_no_file_is_not_run(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a regular file" in str(launch_docker.audit(str(script.parent), NOBODY))
    assert launch_docker.main(str(NOBODY), f"{script}.missing") == 78
    assert "No such file" in capsys.readouterr().err


# The supervisor, against a docker CLI that a test makes up.

CLI = """\
#!/bin/sh
# Remembers what it was told. A container is the file `alive`, with the PID of the CLI that follows it, which hears of
# the end no sooner than who asked for it: with docker's own either may come first, and what then follows differs.
cd {folder}
echo "$*" >>calls
ends() {{ [ -e stopper ] && read -r stopper <stopper && kill -0 "$stopper" 2>/dev/null; }}
case $1 in
  run)
    [ -e image ] || {{ echo "No such image" >&2; exit 125; }}
    [ ! -e alive ] || {{ echo "Conflict" >&2; exit 125; }}
    # Before the container is reported: from then on the test may stop it.
    trap '{on_term}' TERM
    rm -f stopper
    echo engine-says-hello
    while [ $# -gt 0 ]; do
      [ "$1" != --cidfile ] || {{ [ -e "$2" ] && exit 125; echo $$ >alive; printf {id} >"$2"; }}
      shift
    done
    while [ -e alive ] || ends; do sleep 0.02; done
    exit "$(cat status)"
    ;;
  stop) echo $$ >stopper; rm -f alive ;;
  rm) [ -e alive ] || {{ echo "Error: No such container: x" >&2; exit 1; }}; rm -f alive; echo spark-model-alpha ;;
  attach) echo engine-says-bye; while [ -e alive ]; do sleep 0.02; done ;;
  wait) while [ -e alive ]; do sleep 0.02; done; cat status ;;
  container) [ -e alive ] ;;
  image) [ -e image ] ;;
esac
"""


class Docker:
    """A made-up docker, and a model that runs in it."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.folder = config.folder.parent / "docker"
        self.folder.mkdir()
        (self.folder / "image").touch()
        (self.folder / "status").write_text("0\n")
        self.cli = self.folder / "docker"
        self.set_up()
        monkeypatch.setitem(sys.modules, "launch_docker", launch_docker)
        monkeypatch.setattr(launch_docker, "find_docker", lambda _path: str(self.cli))
        monkeypatch.setattr(launch_docker, "init_option", lambda _path: ["--init"])
        config.write('[docker]\nimage = "engine:1"\noptions = ["--gpus", "all"]\ncommand = ["it\'s", "$HOME"]\n')

    def set_up(self, on_term: str = "") -> None:
        """``on_term``: what the CLI does on SIGTERM; newer ones live on."""
        self.cli.write_text(CLI.format(folder=self.folder, id=ID, on_term=on_term or ":"))
        self.cli.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        launch.render("alpha", str(self.config.folder), str(self.config.reports), user_mode=True, signature="")
        script = self.config.reports / "alpha" / "start"
        return subprocess.Popen(
            ["/bin/sh", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def clean(self) -> subprocess.CompletedProcess[str]:
        script = self.config.reports / "alpha" / "clean"
        return subprocess.run(["/bin/sh", str(script)], check=False, capture_output=True, text=True, timeout=30)

    def report(self, name: str) -> str | None:
        try:
            return (self.config.reports / "alpha" / name).read_text()
        except FileNotFoundError:
            return None

    def await_report(self) -> None:
        deadline = time.monotonic() + 20
        while self.report("container") != f"{ID}\n":
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.005)

    def await_calls(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / "calls").exists() or len(self.calls()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        return (self.folder / "alive").exists()

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


@pytest.fixture
def docker(config: Config, monkeypatch: pytest.MonkeyPatch) -> Docker:
    return Docker(config, monkeypatch)


def end(supervisor: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = supervisor.communicate(timeout=20)
    # What the made-up CLI's own shell says of its sleep.
    return supervisor.returncode, said.replace("Terminated\n", "")


def stop_as_systemd(supervisor: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGTERM for every process of the unit at once."""
    os.killpg(supervisor.pid, signal.SIGTERM)
    return end(supervisor)


def test_the_container_is_run_as_it_was_written_and_reported(docker: Docker) -> None:
    supervisor = docker.start()
    docker.await_report()
    assert docker.report("image") == "engine:1\n"
    (call,) = docker.calls()
    assert call.startswith("run --rm --pull never --sig-proxy=false --name spark-model-alpha --cidfile ")
    assert call.endswith(" --init --gpus all engine:1 it's $HOME")
    status, said = stop_as_systemd(supervisor)
    assert (status, said) == (0, "engine-says-hello\n")
    assert docker.calls()[1:] == ["stop -t 118 spark-model-alpha"]
    assert (docker.report("container"), docker.report("exit")) == (None, "0\n")


@pytest.mark.parametrize("container_status", ["137", "143", "1"])
def test_after_a_requested_stop_every_end_is_a_clean_one(docker: Docker, container_status: str) -> None:
    supervisor = docker.start()
    docker.await_report()
    (docker.folder / "status").write_text(f"{container_status}\n")
    assert stop_as_systemd(supervisor)[0] == 0
    assert docker.report("exit") == f"{container_status}\n"
    assert docker.report("container") is None


def test_with_a_cli_that_ends_at_once_the_last_words_are_heard_and_the_removal_seen(docker: Docker) -> None:
    docker.set_up(on_term="exit 143")
    supervisor = docker.start()
    docker.await_report()
    heard = "stop) until grep -q ^attach calls && grep -q ^wait calls; do sleep 0.02; done; rm -f alive"
    script = docker.cli.read_text().replace("stop) echo $$ >stopper; rm -f alive", heard)
    docker.cli.write_text(script)
    (docker.folder / "status").write_text("3\n")
    status, said = stop_as_systemd(supervisor)
    assert status == 0
    assert docker.report("exit") == "3\n"
    assert said.splitlines() == ["engine-says-hello", "engine-says-bye"]
    assert docker.calls()[-1] == "rm --force --volumes spark-model-alpha"


def test_an_engine_that_ends_by_itself_ends_the_unit_with_its_status(docker: Docker) -> None:
    supervisor = docker.start()
    docker.await_report()
    (docker.folder / "status").write_text("7\n")
    (docker.folder / "alive").unlink()
    assert end(supervisor)[0] == 7
    assert (docker.report("exit"), docker.report("container")) == ("7\n", None)


def test_a_killed_cli_leaves_no_container(docker: Docker) -> None:
    supervisor = docker.start()
    docker.await_report()
    os.kill(int((docker.folder / "alive").read_text()), signal.SIGKILL)
    status, said = end(supervisor)
    assert status == 1
    assert "ended (137) before its container, which is removed" in said
    assert not docker.alive


def test_a_killed_supervisor_leaves_what_the_clean_script_removes(docker: Docker) -> None:
    supervisor = docker.start()
    docker.await_report()
    os.killpg(supervisor.pid, signal.SIGKILL)
    end(supervisor)
    assert docker.alive
    assert docker.clean().returncode == 0
    assert not docker.alive
    assert docker.report("container") is None
    assert docker.clean().returncode == 0


def test_what_was_left_over_is_removed_before_the_start(docker: Docker) -> None:
    (docker.folder / "alive").write_text("0\n")  # by a container that nobody reported
    supervisor = docker.start()
    docker.await_report()
    os.killpg(supervisor.pid, signal.SIGKILL)
    end(supervisor)
    again = docker.start()  # and by one that was
    docker.await_calls(6)
    docker.await_report()
    assert stop_as_systemd(again)[0] == 0
    verbs = [call.split()[0] for call in docker.calls()]
    assert verbs == ["run", "container", "rm", "run", "rm", "run", "stop"]


def test_an_absent_image_is_named_with_the_way_to_get_it(docker: Docker) -> None:
    (docker.folder / "image").unlink()
    status, said = end(docker.start())
    assert status == 125
    assert "docker pull engine:1" in said


def opened_for_writing(fifo: Path) -> int:
    """As soon as somebody reads it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.parametrize(("rendered", "status"), [("clean", 1), ("command", 143)])
def test_a_stop_before_anything_is_begun_has_a_container_cleaned_up(config: Config, rendered: str, status: int) -> None:
    """systemd takes an end by SIGTERM for a clean one, and would leave a container that runs already as it is."""
    config.write('[launch]\ncommand = ["true"]\n', settled=False)
    config.signature.parent.mkdir(parents=True)
    config.signature.with_name(rendered).touch()
    os.mkfifo(config.signature)  # it waits there for a writer
    command = [LIBEXEC / "spark-model-run", "alpha", config.folder, config.reports, "user"]
    launcher = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    writer = opened_for_writing(config.signature)
    launcher.send_signal(signal.SIGTERM)
    os.close(writer)
    assert end(launcher)[0] == status


def test_a_stop_before_there_is_a_container_leaves_none(docker: Docker) -> None:
    docker.cli.write_text(docker.cli.read_text().replace("[ -e image ] ||", "while [ ! -e go ]; do sleep 0.02; done\n"))
    supervisor = docker.start()
    docker.await_calls(1)
    assert stop_as_systemd(supervisor)[0] == 0
    assert not docker.alive


def test_the_scripts_are_for_roots_eyes_only(docker: Docker) -> None:
    supervisor = docker.start()
    docker.await_report()
    folder = docker.config.reports / "alpha"
    assert {name: (folder / name).stat().st_mode & 0o777 for name in ("start", "clean", "cli")} == {
        "start": 0o600,
        "clean": 0o600,
        "cli": 0o700,
    }
    stop_as_systemd(supervisor)
    docker.config.write('[launch]\ncommand = ["true"]\n')
    assert end(docker.start())[0] == 0
    assert not (folder / "clean").exists()
