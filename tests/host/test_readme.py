"""Every command of README: run here on the Spark that it was written on, or said why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from support import readme
from support.readme import README, Command
from support.readme_spark import ReadmeSpark, readme_spark
from support.spark import REPOSITORY

pytestmark = pytest.mark.host

QWEN = "qwen3-32b-nvfp4"
TEXT = README.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Here:
    """Run on the host. ``before`` is what has happened meanwhile; ``says`` is a pattern in the output."""

    before: Callable[[ReadmeSpark], None] = lambda spark: None
    status: int = 0
    says: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """Another test runs it: the file, and a word of it that would be gone if it did not."""

    test: str
    word: str


@dataclass(frozen=True)
class Not:
    """Nobody runs it, and why."""

    why: str


def added(*models: str) -> Callable[[ReadmeSpark], None]:
    """An administrator has written these models' files, as README shows them."""

    def write(spark: ReadmeSpark) -> None:
        for model in models:
            spark.host.write(shown_file(f"/etc/spark-modeld/models.d/{model}.toml").place, shown_file(model).content)

    return write


def shown_file(name: str) -> readme.File:
    return next(file for file in readme.files(TEXT) if name in file.place)


def serving_qwen(spark: ReadmeSpark) -> None:
    spark.holds(available=79, model=QWEN, gpu=29)


def with_a_notebook(spark: ReadmeSpark) -> None:
    added("gpt-oss-120b")(spark)
    spark.serving.reload()
    spark.serving.serve(QWEN)
    spark.holds(available=50, model=QWEN, gpu=29, notebook=34)


def misspelt(spark: ReadmeSpark) -> None:
    settings, file = shown_file("/etc/spark-modeld/spark-modeld.toml"), shown_file("gpt-oss-120b")
    spark.host.settings(settings.content)
    spark.host.write(file.place, file.content.replace("memory =", "memry ="))


def installed(spark: ReadmeSpark) -> None:
    """By the package, which has a test of its own; the group is there from then on."""
    spark.host.run("groupadd", "--system", "spark-modeld")


def own_unit(spark: ReadmeSpark) -> None:
    host = spark.host
    host.write("/etc/systemd/system/sglang-qwen.service", "[Service]\nExecStart=/bin/sleep infinity\nUser=nobody\n")
    host.model("qwen-own", 'engine = "sglang"\nurl = "http://127.0.0.1:30003"\nunit = "sglang-qwen.service"\n')


def lan(spark: ReadmeSpark) -> None:
    for file in readme.files(TEXT):
        if "lan.conf" in file.place:
            spark.host.write(file.place, file.content)


# The one table: how each command is run, in the order of README. The same command twice stands here twice.
HOW: tuple[tuple[str, Here | Elsewhere | Not], ...] = (
    ("make demo", Elsewhere("tests/host/test_demo.py", "tests/demo.py")),
    ("make test", Not("this is a part of it")),
    ("make deb", Elsewhere("tests/package/test_build.py", "packaging/deb")),
    ("sudo apt install ./dist/spark-modeld_*.deb", Elsewhere("tests/package/test_life.py", "apt")),
    ('sudo usermod -aG spark-modeld "$USER"', Here(installed)),
    ("sudo make install", Here(says="Installed")),
    ("sudo systemctl enable --now", Here()),
    ("sudo spark-modelctl doctor", Here()),
    ("sudo apt install pipx python3-gi gir1.2-glib-2.0 dbus-user-session", Elsewhere("packaging/build", "pipx")),
    ("make wheel", Elsewhere("tests/package/test_wheel.py", "packaging/wheel")),
    ("pipx install --python /usr/bin/python3", Elsewhere("tests/package/test_wheel.py", '"pipx", "install"')),
    ("spark-modelctl install-units", Elsewhere("tests/package/test_wheel.py", '"install-units"')),
    ("systemctl --user enable --now", Elsewhere("tests/package/test_wheel.py", '"--user", "enable", "--now"')),
    ("loginctl enable-linger", Elsewhere("tests/package/test_wheel.py", '"loginctl", "enable-linger"')),
    ("systemctl --user mask", Elsewhere("tests/host/test_user_mode.py", '"mask"')),
    ("systemctl --user enable --now spark-modeld.socket", Elsewhere("tests/host/test_user_mode.py", '"enable"')),
    ("loginctl enable-linger", Elsewhere("tests/package/test_wheel.py", '"loginctl", "enable-linger"')),
    ("sudo spark-modelctl add /srv/models/qwen3-32b-nvfp4 --write", Here()),
    ("spark-modelctl reload", Here(added(QWEN))),
    ("spark-modelctl switch qwen", Here()),
    ("spark-modelctl status", Here(serving_qwen)),
    ("sudo spark-modelctl token add --scope inference laptop", Here(says=r"^smd_\w+$")),
    ('curl -H "Authorization: Bearer $TOKEN" -H', Here(says=f"I am {QWEN}")),
    ("spark-modelctl connect openai --model qwen --token-stdin", Here()),
    ("spark-modelctl reload", Here(added("qwen3-32b-uncensored"))),
    ("spark-modelctl switch qwen3-32b-uncensored", Here(status=4)),
    ("spark-modelctl switch qwen3-32b-uncensored --force", Here(status=1)),
    ("curl --unix-socket", Here(says='"outcome":"ready"')),
    ("spark-modelctl doctor --polkit-rule | sudo install", Here(own_unit)),
    ("spark-modelctl doctor --drop-in qwen-own", Here()),
    ("sudo systemctl daemon-reload", Here()),
    ("spark-modelctl reload", Here(misspelt, status=1)),
    ("sudo spark-modelctl token add --scope inference desktop", Here(says=r"^smd_\w+$")),
    ("sudo spark-modelctl token add --scope inference --no-switch open-webui", Here(says=r"^smd_\w+$")),
    ('curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:30101/v1/models', Here(says=f'"id":"{QWEN}"')),
    (
        "ssh -N -L 30101:127.0.0.1:30101 USER@spark",
        Not("needs an sshd; the gateway sees a loopback client, as with curl"),
    ),
    ("tailscale serve --bg 30101", Not("needs a tailnet")),
    ("tailscale funnel --bg 30101", Not("needs a tailnet")),
    ("sudo systemctl daemon-reload", Here(lan)),
    ("sudo systemctl stop spark-modeld.service spark-modeld-gateway.socket", Here()),
    ("sudo systemctl start spark-modeld-gateway.socket spark-modeld.service", Here()),
    ("spark-modelctl switch gpt-oss-120b", Here(with_a_notebook, status=4)),
    ("spark-modelctl start gpt-oss-120b", Here(status=4)),
    ("spark-modelctl memory", Here()),
    ("pip install 'litellm[proxy]'", Elsewhere("packaging/requirements-clients.in", "litellm[proxy]")),
    ("sudo cp sysctl.conf", Elsewhere("tests/support/two_sparks.py", "sysctl.conf")),
    ("set -a; . ./litellm.env", Elsewhere("tests/support/two_sparks.py", "litellm.env")),
    ("litellm --config config.yaml", Elsewhere("tests/support/two_sparks.py", "litellm.proxy.proxy_cli")),
)


def test_every_command_is_in_the_table() -> None:
    commands = readme.commands(TEXT)
    assert len(commands) == len(HOW), [command.text for command in commands]
    for command, (begins, _) in zip(commands, HOW, strict=True):
        assert command.text.startswith(begins), f"the table expects {begins!r} where README has {command.text!r}"


@pytest.mark.parametrize("how", [how for _, how in HOW if isinstance(how, Elsewhere)], ids=lambda how: how.test)
def test_what_another_test_runs_is_there(how: Elsewhere) -> None:
    assert how.word in (REPOSITORY / how.test).read_text()


@pytest.fixture(scope="module")
def spark() -> Iterator[ReadmeSpark]:
    with readme_spark() as spark:
        yield spark


def test_what_readme_says_happens(spark: ReadmeSpark) -> None:
    """All of it in one go, as a reader would: each command finds what those before it have left."""
    surprises = []
    for command, (_, how) in zip(readme.commands(TEXT), HOW, strict=True):
        if isinstance(how, Here):
            how.before(spark)
            surprises += run(spark, command, how)
    assert not surprises, "\n".join(surprises)


def run(spark: ReadmeSpark, command: Command, how: Here) -> list[str]:
    """Runs one command; what is not as README has it."""
    done = spark.host.run(*spark.shell(command.text), check=False)
    said = done.stdout + done.stderr
    wrong = [f"ended with {done.returncode}, not {how.status}"] if done.returncode != how.status else []
    wrong += [f"does not say: {line}" for line in readme.missing(command.shown, said)]
    if how.says and not re.search(how.says, said, re.MULTILINE):
        wrong.append(f"does not say {how.says}")
    return [f"$ {command.text}\n  {fault}\n{said}" for fault in wrong]


def test_the_settings_are_in_force(spark: ReadmeSpark) -> None:
    assert spark.host.api("GET", "/api/status")[1]["default"] == QWEN


def test_the_lan_recipe_is_in_force(spark: ReadmeSpark) -> None:
    listening = spark.host.run("systemctl", "show", "--property=Listen", "spark-modeld-gateway.socket").stdout
    assert "10.99.0.1:30101" in listening
    allowed = spark.host.show("spark-modeld.service", "IPAddressAllow")
    assert "10.99.0.0/24" in allowed


def test_the_polkit_rule_lets_the_daemon_have_the_unit(spark: ReadmeSpark) -> None:
    host = spark.host
    host.run("systemctl", "restart", "polkit.service")
    for verb in ("start", "stop"):
        host.run("systemctl", "--no-ask-password", verb, "sglang-qwen.service", user="spark-modeld")
    refused = host.run("systemctl", "--no-ask-password", "start", "notebook", user="spark-modeld", check=False)
    assert refused.returncode != 0
