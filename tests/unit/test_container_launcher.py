"""A model in a container that exists already: it is followed to its end, against a docker CLI that a test makes up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.launcher import LIBEXEC, Config, launch, load

launch_docker = load("launch_docker")
pytestmark = pytest.mark.unit

NAME = "sglang-scout"
ID = "c" * 64
CLI = """\
#!/bin/sh
# Remembers what it was told. The container is the file `state`; `policy` is of restarts, `status` what it ends with.
# While there is the file `silent`, docker does not answer; one that has the file `once` fails once. Like newer CLIs it
# lives on when systemd signals the unit.
trap '' TERM
cd {folder}
echo "$*" >>calls
[ ! -e silent ] || {{ echo "Cannot connect to the Docker daemon" >&2; exit 1; }}
runs() {{ case $(cat state 2>/dev/null) in running | paused | restarting) ;; *) return 1 ;; esac; }}
case $1 in
  container)
    [ -e state ] || {{ echo "Error: No such container: $3" >&2; exit 1; }}
    echo "$(cat state) {id} engine:1 $(cat policy)"
    ;;
  start | unpause) echo running >new; mv new state ;;
  logs) echo engine-says-hello; while runs; do sleep 0.02; done ;;
  wait)
    [ -e state ] || {{ echo "Error: No such container" >&2; exit 1; }}
    echo $$ >waiter.new; mv waiter.new waiter
    while runs; do sleep 0.02; done
    [ ! -e state ] || cat status
    ;;
  stop) [ ! -e once ] || {{ rm once; exit 1; }}; [ ! -e state ] || {{ echo exited >new; mv new state; }} ;;
  kill) [ ! -e once ] || {{ rm once; exit 1; }}; echo exited >new; mv new state ;;
esac
"""


class Docker:
    """A made-up docker with one container, and the model that is in it."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self._config = config
        self._auditor = "true"
        self._begun: list[subprocess.Popen[str]] = []
        self.folder = config.folder.parent / "docker"
        self.folder.mkdir()
        self.script = self.folder / "serve.sh"
        for name, content in {"state": "exited", "policy": "no", "status": "0"}.items():
            self.put(name, content)
        cli = self.folder / "docker"
        cli.write_text(CLI.format(folder=self.folder, id=ID))
        cli.chmod(0o755)
        monkeypatch.setitem(sys.modules, "launch_docker", launch_docker)
        monkeypatch.setattr(launch_docker, "find_docker", lambda _path: str(cli))
        config.write(f'[container]\nname = "{NAME}"\n', settled=False)

    def put(self, name: str, content: str = "") -> None:
        (self.folder / name).write_text(f"{content}\n")

    def creates_it(self, script: str, *, executable: bool = True, audit: str = "true") -> None:
        """It is missing, and this is its start script, which the auditor thinks so of."""
        (self.folder / "state").unlink()
        self.script.write_text(script)
        self.script.chmod(0o755 if executable else 0o644)
        self._auditor = audit
        self._config.write(f'[container]\nname = "{NAME}"\nstart_script = "{self.script}"\n', settled=False)

    def start(self) -> subprocess.Popen[str]:
        launch.render("alpha", str(self._config.folder), str(self._config.reports), user_mode=True, signature="")
        start = self._config.reports / "alpha" / "start"
        real = f"audit='/usr/bin/python3 -I -S {LIBEXEC}/launch_docker.py {os.getuid()}'"
        text = start.read_text()
        assert real in text
        start.write_text(text.replace(real, f"audit=/bin/{self._auditor}"))
        supervisor = subprocess.Popen(
            ["/bin/sh", str(start)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._begun.append(supervisor)
        return supervisor

    def close(self) -> None:
        """Ends what a test that failed has left."""
        for supervisor in self._begun:
            if supervisor.returncode is None:
                os.killpg(supervisor.pid, signal.SIGKILL)
                supervisor.communicate()

    def clean(self) -> int:
        script = self._config.reports / "alpha" / "clean"
        return subprocess.run(["/bin/sh", str(script)], check=False, timeout=30).returncode

    def report(self, name: str) -> str | None:
        try:
            return (self._config.reports / "alpha" / name).read_text().strip()
        except FileNotFoundError:
            return None

    def calls(self, verb: str = "") -> list[str]:
        try:
            told = (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [call for call in told if call.startswith(verb)]

    def follow(self) -> subprocess.Popen[str]:
        """Starts the supervisor; returns when it hears the container and waits for its end."""
        supervisor = self.start()
        until(lambda: (self.calls("wait") and self.calls("logs")) or supervisor.poll() is not None)
        assert supervisor.poll() is None, supervisor.communicate()
        until((self.folder / "waiter").exists)
        return supervisor


def until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def end(supervisor: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = supervisor.communicate(timeout=20)
    return supervisor.returncode, said.replace("Terminated\n", "").replace("Killed\n", "")


def stop_as_systemd(supervisor: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGTERM for every process of the unit at once."""
    os.killpg(supervisor.pid, signal.SIGTERM)
    return end(supervisor)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    with closing(Docker(Config(tmp_path), monkeypatch)) as docker:
        yield docker


def test_it_is_started_heard_from_then_on_reported_and_stopped(docker: Docker) -> None:
    before = time.time()
    supervisor = docker.follow()
    assert [docker.report(name) for name in ("container", "image", "restart", "exit")] == [ID, "engine:1", "no", None]
    (heard,) = docker.calls("logs")
    assert heard.split()[:3] == ["logs", "--follow", "--since"]
    assert before - 1 <= float(heard.split()[3]) <= time.time()
    docker.put("status", "143")
    status, said = stop_as_systemd(supervisor)
    assert (status, docker.report("exit")) == (0, "143")
    assert "engine-says-hello" in said
    assert docker.calls("start") == [f"start {NAME}"]
    assert docker.calls("stop") == [f"stop -t 118 {NAME}"]
    assert docker.calls("rm") == [], "it is the user's, and stays"


@pytest.mark.parametrize(("state", "verb"), [("paused", "unpause"), ("created", "start"), ("exited", "start")])
def test_whatever_does_not_run_is_made_to(docker: Docker, state: str, verb: str) -> None:
    docker.put("state", state)
    supervisor = docker.follow()
    assert [call.split()[0] for call in docker.calls()][:2] == ["container", verb]
    assert stop_as_systemd(supervisor)[0] == 0


@pytest.mark.parametrize("state", ["running", "restarting"])
def test_what_runs_already_is_taken_over(docker: Docker, state: str) -> None:
    docker.put("state", state)
    supervisor = docker.follow()
    assert "runs already: it is taken over as it is" in stop_as_systemd(supervisor)[1]
    assert docker.calls("start") == []
    assert docker.calls("stop")


def test_what_is_past_help_is_named(docker: Docker) -> None:
    docker.put("state", "dead")
    status, said = end(docker.start())
    assert (status, f"the container {NAME} is dead" in said) == (1, True)


def test_its_own_end_is_the_units_end_with_its_status(docker: Docker) -> None:
    docker.put("status", "7")
    supervisor = docker.follow()
    docker.put("state", "exited")
    assert end(supervisor)[0] == 7
    assert docker.report("exit") == "7"
    assert docker.calls("stop") == []


def test_one_that_docker_would_start_again_is_kept_from_it(docker: Docker) -> None:
    docker.put("policy", "unless-stopped")
    docker.put("status", "7")
    supervisor = docker.follow()
    assert docker.report("restart") == "unless-stopped"
    docker.put("state", "exited")
    assert end(supervisor)[0] == 7
    assert docker.calls("stop") == [f"stop -t 118 {NAME}"]


def test_one_that_somebody_removes_is_down(docker: Docker) -> None:
    supervisor = docker.follow()
    (docker.folder / "state").unlink()
    assert end(supervisor)[0] == 1


def test_a_killed_follower_is_replaced(docker: Docker) -> None:
    supervisor = docker.follow()
    os.kill(int((docker.folder / "waiter").read_text()), signal.SIGKILL)
    until(lambda: len(docker.calls("wait")) == 2)
    assert supervisor.poll() is None
    docker.put("status", "5")
    docker.put("state", "exited")
    assert end(supervisor)[0] == 5


def test_docker_that_says_nothing_is_no_container_that_is_missing(docker: Docker) -> None:
    docker.creates_it("#!/bin/sh\ntouch created\n")
    docker.put("silent")
    status, said = end(docker.start())
    assert (status, "Cannot connect to the Docker daemon" in said) == (1, True)
    assert not (docker.folder / "created").exists()


def test_a_stop_that_docker_did_not_take_is_asked_for_again(docker: Docker) -> None:
    supervisor = docker.follow()
    docker.put("once")
    assert stop_as_systemd(supervisor)[0] == 0
    assert docker.calls("stop") == [f"stop -t 118 {NAME}"] * 2
    assert (docker.folder / "state").read_text() == "exited\n"


# The script that creates it.


@pytest.mark.parametrize("executable", [True, False])
def test_a_missing_one_is_created_by_its_script_which_may_stay(docker: Docker, executable: bool) -> None:
    shebang = "#!/bin/sh\n" if executable else ""
    docker.creates_it(
        f"{shebang}cd {docker.folder}; echo run >>created; echo running >state; exec sleep 1000", executable=executable
    )
    supervisor = docker.follow()
    assert docker.report("container") == ID
    assert docker.calls("start") == []
    status, said = stop_as_systemd(supervisor)
    assert (status, f"there is no container {NAME}: running {docker.script}" in said) == (0, True)
    assert (docker.folder / "created").read_text() == "run\n"


def test_without_a_script_a_missing_one_is_told(docker: Docker) -> None:
    (docker.folder / "state").unlink()
    status, said = end(docker.start())
    assert (status, f"there is no container {NAME}, and no start_script" in said) == (1, True)


@pytest.mark.parametrize(
    ("script", "status", "words"), [("exit 9", 9, "ended with 9"), ("true", 1, "ended well, but there is no container")]
)
def test_a_script_that_creates_nothing_is_told(docker: Docker, script: str, status: int, words: str) -> None:
    docker.creates_it(f"#!/bin/sh\n{script}\n")
    ended, said = end(docker.start())
    assert (ended, words in said) == (status, True)


def test_a_script_that_the_auditor_refuses_is_not_run(docker: Docker) -> None:
    docker.creates_it(f"#!/bin/sh\ntouch {docker.folder}/created\n", audit="false")
    assert end(docker.start())[0] == 78
    assert not (docker.folder / "created").exists()


def test_a_stop_while_the_script_runs_starts_nothing(docker: Docker) -> None:
    docker.creates_it("#!/bin/sh\nexec sleep 1000\n")
    supervisor = docker.start()
    until(lambda: len(docker.calls("container")) > 1)
    assert stop_as_systemd(supervisor)[0] == 0
    assert docker.calls("stop") == docker.calls("start") == []


# What is left when its supervisor was killed.


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
def test_what_a_killed_supervisor_leaves_is_killed_but_not_removed(docker: Docker, state: str) -> None:
    supervisor = docker.follow()
    os.killpg(supervisor.pid, signal.SIGKILL)
    end(supervisor)
    docker.put("state", state)
    docker.put("once")
    assert docker.clean() == 0
    assert (docker.folder / "state").read_text() == "exited\n"
    assert docker.calls("kill") == [f"kill {NAME}"] * 2
    assert docker.clean() == 0
    assert len(docker.calls("kill")) == 2
