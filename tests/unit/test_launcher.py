"""The gate and the launcher of spark-model@.service, and the attempts to get around them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spark_modeld.systemd.marks import Marks
from support.launcher import Config, launch, run

pytestmark = pytest.mark.unit

BAD_IDS = [
    "",
    "-rf",
    ".hidden",
    "..",
    "a/b",
    "a b",
    "Alpha",
    "alpha\n",
    "alpha\nbeta",
    "a" * 65,
    "a;id",
    "$(id)",
    "ä",
    "alpha@x",
    "../x",
    "a/../../x",
    "alpha\r",
    "%i",
    "a%n",
    "a\\x2fb",
    "a\u0661",
    "\uff41lpha",
    "\u0430lpha",
    "alpha\u200b",
    "a" * 100_000,
]


class Gate:
    """A runtime directory, and a daemon that answers as told and remembers what it was asked."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime.resolve()
        self.asked: list[str] = []

    def run(self, model: str) -> subprocess.CompletedProcess[str]:
        return run("spark-model-gate", model, str(self.runtime), str(self.runtime / "reports"))

    @contextmanager
    def daemon(self, answer: bytes) -> Iterator[None]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.runtime / "control.sock"))
            listener.listen()

            def serve() -> None:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # shut down: nobody asked
                with connection:
                    self.asked.append(connection.recv(65536).decode().split("\r\n")[0])
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def mark(self, content: str, model: str = "alpha") -> Path:
        path = self.runtime / "admitted" / model
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


@pytest.mark.parametrize("model", BAD_IDS)
@pytest.mark.parametrize("program", ["spark-model-gate", "spark-model-run"])
def test_a_name_that_is_no_id_is_refused_at_once(program: str, model: str) -> None:
    done = run(program, model)
    assert done.returncode == 64
    assert "is not a model id" in done.stderr


def test_a_mark_admits_once(gate: Gate) -> None:
    marks = Marks(gate.runtime)
    marks.put("alpha")
    assert gate.run("alpha").returncode == 0
    again = gate.run("alpha")
    assert again.returncode == 1
    assert "systemctl start spark-modeld.socket" in again.stderr


def test_a_mark_is_for_one_model(gate: Gate) -> None:
    Marks(gate.runtime).put("alpha")
    assert gate.run("alph").returncode == 1
    assert gate.run("alpha").returncode == 0


def test_a_mark_taken_back_admits_nothing(gate: Gate) -> None:
    marks = Marks(gate.runtime)
    marks.put("alpha")
    marks.take_back("alpha")
    marks.take_back("alpha")
    assert gate.run("alpha").returncode == 1


def test_a_mark_expires(gate: Gate) -> None:
    Marks(gate.runtime, clock=lambda: uptime() - 21).put("alpha")
    assert gate.run("alpha").returncode == 1
    assert not (gate.runtime / "admitted" / "alpha").exists()


@pytest.mark.parametrize(
    "content", ["", "\n", "soon\n", "-5\n", "1e99\n", "99999999999999999999\n", "9999999999\n", "0x7f\n"]
)
def test_a_mark_that_makes_no_sense_admits_nothing(gate: Gate, content: str) -> None:
    gate.mark(content)
    assert gate.run("alpha").returncode == 1


def test_a_mark_without_a_line_end_or_with_decimals_is_fine(gate: Gate) -> None:
    gate.mark(f"{uptime() + 20:.2f}")
    assert gate.run("alpha").returncode == 0


def test_a_pipe_is_no_mark_and_holds_nothing_up(gate: Gate) -> None:
    (gate.runtime / "admitted").mkdir()
    os.mkfifo(gate.runtime / "admitted" / "alpha")
    assert gate.run("alpha").returncode == 1


def test_a_link_is_no_mark(gate: Gate) -> None:
    good = gate.mark(f"{uptime() + 20}", "beta")
    (gate.runtime / "admitted" / "alpha").symlink_to(good)
    assert gate.run("alpha").returncode == 1
    assert good.exists()


def test_a_linked_folder_is_not_entered(gate: Gate, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    victim = elsewhere / "alpha"
    victim.write_text(f"{uptime() + 20}\n")
    (gate.runtime / "admitted").symlink_to(elsewhere)
    assert gate.run("alpha").returncode == 1
    assert victim.exists()


def test_without_a_mark_the_daemon_is_asked(gate: Gate) -> None:
    with gate.daemon(b"HTTP/1.1 204 No Content\r\n\r\n"):
        assert gate.run("alpha").returncode == 0
    assert gate.asked == ["POST /api/gate/alpha HTTP/1.1"]


def test_a_refusal_is_told_in_the_daemons_words(gate: Gate) -> None:
    body = json.dumps({"detail": "beta is large too: stop it first"}).encode()
    with gate.daemon(b"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\n\r\n" + body):
        done = gate.run("alpha")
    assert done.returncode == 1
    assert done.stderr == "refused: beta is large too: stop it first\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\1",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\n\r\n[1]",
    ],
)
def test_anything_but_204_is_a_refusal(gate: Gate, answer: bytes) -> None:
    with gate.daemon(answer):
        done = gate.run("alpha")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def test_every_argument_arrives_as_it_was_written(config: Config) -> None:
    nasty = [
        "",
        "a b",
        "it's",
        '"',
        "$HOME",
        "`id`",
        "$(id)",
        "a\nb\n",
        "\\",
        "*",
        ";",
        "-n",
        "'\\''",
        "ünï",
        "\t",
        "#x",
        "~",
    ]
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    config.launch(["/usr/bin/python3", "-c", script, *nasty])
    for _ in range(2):
        assert json.loads(config.run().stdout) == nasty
    assert "\n" in "".join(nasty)


def test_the_environment_arrives_and_not_through_arguments(config: Config) -> None:
    config.launch(["/usr/bin/env"], SECRET="it's $HOME\n`id`", PATH="/nowhere:/usr/bin")
    seen = config.run().stdout
    assert "SECRET=it's $HOME\n`id`\n" in seen
    assert "PATH=/nowhere:/usr/bin\n" in seen
    start = (config.reports / "alpha" / "start").read_text()
    assert "SECRET" not in start
    assert (config.reports / "alpha" / "command").stat().st_mode & 0o077 == 0


def test_standard_input_is_empty(config: Config) -> None:
    config.launch(["cat"])
    done = config.run()
    assert (done.returncode, done.stdout) == (0, "")


def test_the_exit_status_is_the_commands(config: Config) -> None:
    config.launch(["sh", "-c", "exit 7"])
    assert config.run().returncode == 7


def test_unchanged_configuration_is_not_read_again(config: Config) -> None:
    config.write('[launch]\ncommand = ["echo", "one"]\n')
    assert config.run().stdout == "one\n"
    first = config.signature.stat()
    assert config.run().stdout == "one\n"
    assert config.signature.stat().st_ino == first.st_ino


def test_a_file_put_back_with_its_old_times_is_read_again(config: Config) -> None:
    config.write('[launch]\ncommand = ["echo", "one"]\n')
    assert config.run().stdout == "one\n"
    before = config.file().stat()
    config.write('[launch]\ncommand = ["echo", "two"]\n', settled=False)
    os.utime(config.file(), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert config.run().stdout == "two\n"
    replacement = config.file().with_suffix(".new")
    replacement.write_text('[launch]\ncommand = ["echo", "six"]\n')
    replacement.chmod(0o644)
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.rename(config.file())
    assert config.run().stdout == "six\n"


def test_a_file_that_has_just_changed_is_not_remembered(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write('[launch]\ncommand = ["echo", "one"]\n', settled=False)
    changed = config.file().stat().st_ctime
    for age, remembered in ((launch.RACY / 2, False), (launch.RACY * 2, True), (launch.RACY / 2, False)):
        monkeypatch.setattr(launch.time, "time", lambda age=age: changed + age)
        launch.render("alpha", str(config.folder), str(config.reports), user_mode=True, signature="x")
        assert config.signature.exists() == remembered


def test_a_removed_file_is_not_run_from_memory(config: Config) -> None:
    config.write('[launch]\ncommand = ["echo", "one"]\n')
    assert config.run().stdout == "one\n"
    config.file().unlink()
    done = config.run()
    assert (done.returncode, done.stdout) == (78, "")


def test_a_file_that_others_may_write_is_refused_even_when_remembered(config: Config) -> None:
    config.write('[launch]\ncommand = ["echo", "one"]\n')
    assert config.run().returncode == 0
    for path in (config.file(), config.file().parent, config.folder):
        for mode in (0o020, 0o002):
            kept = path.stat().st_mode
            path.chmod(kept | mode)
            done = config.run()
            assert (done.returncode, done.stdout) == (78, ""), (path, oct(mode))
            assert "writable by nobody else" in done.stderr
            path.chmod(kept)
    assert config.run().stdout == "one\n"


def test_links_are_refused(config: Config, tmp_path: Path) -> None:
    config.launch(["echo", "one"])
    real = tmp_path / "real.toml"
    config.file().rename(real)
    config.file().symlink_to(real)
    assert config.run().returncode == 78
    config.file().unlink()
    real.rename(config.file())
    config.file().parent.rename(tmp_path / "models.d")
    (config.folder / "models.d").symlink_to(tmp_path / "models.d")
    done = config.run()
    assert done.returncode == 78
    assert "symbolic links are not followed" in done.stderr


def test_a_pipe_or_a_folder_is_no_configuration(config: Config) -> None:
    os.mkfifo(config.file(), 0o644)
    assert "not a regular file" in config.run().stderr
    config.file().unlink()
    config.file().mkdir(mode=0o755)
    assert "not a regular file" in config.run().stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "exactly one of [launch], [docker] and [container]"),
        ('[launch]\ncommand = ["x"]\n[docker]\nimage = "x"', "exactly one of"),
        ("launch = 3", "[launch] must be a table"),
        ("[launch]", "launch.command must be a list"),
        ("[launch]\ncommand = []", "launch.command must be a list"),
        ('[launch]\ncommand = "echo"', "launch.command must be a list"),
        ("[launch]\ncommand = [1]", "launch.command must be a string"),
        ('[launch]\ncommand = ["a\\u0000b"]', "without NUL"),
        ('[launch]\ncommand = [""]', "absolute path or a plain name"),
        ('[launch]\ncommand = ["-c"]', "absolute path or a plain name"),
        ('[launch]\ncommand = ["./x"]', "absolute path or a plain name"),
        ('[launch]\ncommand = ["x"]\nenvironment = { "A B" = "1" }', "launch.environment"),
        ('[launch]\ncommand = ["x"]\nenvironment = { "A\\n" = "1" }', "launch.environment"),
        ('[launch]\ncommand = ["x"]\nenvironment = { A = 1 }', "launch.environment.A"),
        ('unit = "x.service"', "'x.service' runs this model"),
        ("[launch", "alpha.toml"),
        ('user = "somebody-else"\n[launch]\ncommand = ["x"]', "as its own user only"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(config: Config, content: str, reason: str) -> None:
    config.write(content, settled=False)
    done = config.run()
    assert done.returncode == 78
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not config.signature.exists()


@pytest.mark.parametrize("user", ["root", "spark-modeld", "no-such-user-here", "x y", "", "a\n", "0", "-x"])
def test_nobody_runs_models_as_root_or_as_the_daemon(user: str) -> None:
    with pytest.raises(launch.Refused):
        launch.account_of({"user": user})


def test_the_daemons_user_runs_no_models_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "DAEMON_USER", "nobody")
    with pytest.raises(launch.Refused, match="may not run models"):
        launch.account_of({"user": "nobody"})


def test_the_drop_takes_everything(config: Config) -> None:
    account = launch.account_of({"user": "nobody"})
    script = launch.start_script(account, "/run/x y")
    for option in ("--init-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--reset-env"):
        assert option in script.split()
    assert f"--reuid 'nobody' --regid {account.pw_gid} " in script
    assert script.endswith("-- /bin/sh <'/run/x y/command'\n")
