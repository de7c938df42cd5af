"""The configuration directory: what is right comes out typed, what is wrong comes out as findings, all of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spark_modeld.config.fields import SETTINGS
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, SparkError
from spark_modeld.core.model import Amount, Container, Docker, EngineKind, Launch, OwnUnit, Role
from spark_modeld.core.settings import Settings

pytestmark = pytest.mark.unit

PLAIN = 'engine = "sglang"\nurl = "http://127.0.0.1:30001"\n'
UNIT = 'unit = "a.service"\n'


def write(directory: Path, settings: str | None = None, **models: str) -> Path:
    (directory / "models.d").mkdir(exist_ok=True)
    if settings is not None:
        (directory / "spark-modeld.toml").write_text(settings)
    for name, text in models.items():
        (directory / "models.d" / f"{name.replace('_', '-')}.toml").write_text(text)
    return directory


def findings(directory: Path, **options: Any) -> list[tuple[str, str, str]]:
    """File name, key and message of each; fails if the configuration is taken."""
    with pytest.raises(SparkError) as caught:
        ConfigDirectory(directory, **options).load()
    assert caught.value.problem.code is Code.INVALID_CONFIG
    assert caught.value.problem.status == 503
    told = caught.value.problem.extra["findings"]
    assert all(set(entry) == {"file", "key", "message"} for entry in told)
    for entry in told[:20]:
        assert entry["file"] in caught.value.problem.detail
        assert entry["message"] in caught.value.problem.detail
    return [(Path(entry["file"]).name, entry["key"], entry["message"]) for entry in told]


def one(directory: Path, **options: Any) -> tuple[str, str, str]:
    told = findings(directory, **options)
    assert len(told) == 1, told
    return told[0]


def test_nothing_there_is_defaults_and_no_model(tmp_path: Path) -> None:
    assert ConfigDirectory(tmp_path / "missing").load() == Catalog()
    assert ConfigDirectory(tmp_path).load() == Catalog()


def test_the_tables_defaults_are_the_cores() -> None:
    settings = Settings()
    for table in SETTINGS.tables:
        section = getattr(settings, table.key)
        assert {field.key for field in table.fields} == set(section.__slots__)
        for field in table.fields:
            assert field.kind.read(field.default) == getattr(section, field.key), field.key


def test_every_setting(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        [slot]
        default = "big"
        idle_return = "never"
        min_residency = "500ms"
        max_wait = "1.5h"
        drain_timeout = "0s"
        start_timeout = "20min"
        stop_timeout = "10min"
        overlap = "never"
        max_start_attempts = 1
        [memory]
        reserve = "10%"
        large = "1.5GB"
        floor = "512MiB"
        reclaim_timeout = "1min"
        guard_grace = "1s"
        [health]
        stall_timeout = "3min"
        [control]
        listen = ["[::1]:4000", "localhost:4001"]
        [gateway]
        listen = []
        auth = "none"
        loading_keepalive = "1s"
        max_waiting = 1
        [log]
        level = "debug"
        """,
        qwen=PLAIN + UNIT + 'aliases = ["big"]',
    )
    settings = ConfigDirectory(tmp_path).load().settings
    assert settings.slot.default == "qwen"
    assert settings.slot.idle_return is None
    assert settings.slot.min_residency == 0.5
    assert settings.slot.max_wait == 5400.0
    assert settings.slot.drain_timeout == 0.0
    assert settings.slot.stop_timeout == 600.0
    assert settings.slot.max_start_attempts == 1
    assert settings.memory.reserve == Amount(percent=10.0)
    assert settings.memory.large == Amount(bytes=1_500_000_000)
    assert settings.memory.floor == Amount(bytes=512 << 20)
    assert settings.control.listen == ("[::1]:4000", "localhost:4001")
    assert settings.gateway.listen == ()
    assert settings.gateway.auth == "none"
    assert settings.log.level == "debug"


def test_every_key_of_a_model(tmp_path: Path) -> None:
    write(
        tmp_path,
        full="""
        engine = "llama-server"
        url = "https://[::1]:30009/"
        served_model_name = "org/Full:1"
        aliases = ["f", "full"]
        role = "side"
        on_demand = false
        path = "/srv/full.gguf"
        memory = "38GiB"
        context = 32768
        gateway_port = 31001
        warm_up = false
        user = "spark"
        api_key_file = "/etc/key"
        start_timeout = "1h"
        stop_timeout = "3min"
        [launch]
        command = ["x", "", "--flag=ü"]
        environment = { A_1 = "b" }
        """,
    )
    model = ConfigDirectory(tmp_path).load().models["full"]
    assert model.engine is EngineKind.LLAMA_SERVER
    assert model.url == "https://[::1]:30009"
    assert model.endpoint == ("127.0.0.1", 30009)
    assert model.names == {"full", "org/Full:1", "f"}
    assert model.role is Role.SIDE
    assert not model.on_demand
    assert not model.warm_up
    assert model.memory == Amount(bytes=38 << 30)
    assert (model.context, model.gateway_port, model.user) == (32768, 31001, "spark")
    assert (model.start_timeout, model.stop_timeout) == (3600.0, 180.0)
    assert model.run == Launch(("x", "", "--flag=ü"), {"A_1": "b"})
    assert model.unit == "spark-model@full.service"


def test_a_models_defaults_come_from_its_id_and_the_settings(tmp_path: Path) -> None:
    write(tmp_path, '[slot]\nstart_timeout = "7s"\nstop_timeout = "8s"', a=PLAIN + UNIT)
    model = ConfigDirectory(tmp_path).load().models["a"]
    assert (model.served_model_name, model.start_timeout, model.stop_timeout) == ("a", 7.0, 8.0)
    assert (model.role, model.on_demand, model.warm_up, model.user) == (Role.SLOT, True, True, "spark-model")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ('unit = "my-engine@one.service"', OwnUnit("my-engine@one.service")),
        ('[launch]\ncommand = ["a"]', Launch(("a",))),
        ('[docker]\nimage = "a/b:c"\noptions = ["--x"]', Docker("a/b:c", ("--x",))),
        ('[container]\nname = "sglang-scout"\nstart_script = "/s.sh"', Container("sglang-scout", "/s.sh")),
        ('[container]\nname = "sglang-scout"', Container("sglang-scout")),
    ],
)
def test_ways_to_run(tmp_path: Path, run: str, expected: object) -> None:
    write(tmp_path, a=PLAIN + run)
    assert ConfigDirectory(tmp_path).load().models["a"].run == expected


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ('[slot]\ndefualt = "x"', "slot.defualt", 'nearest known key is "slot.default"'),
        ("[slots]", "slots", 'nearest known key is "slot"'),
        ('reserve = "1GiB"', "reserve", 'nearest known key is "memory.reserve"'),
        ('[slot]\nreserve = "1GiB"', "slot.reserve", 'nearest known key is "memory.reserve"'),
        ('["a b"]', '"a b"', "nearest known key"),
        ("slot = 3", "slot", "must be a table, written as [slot]; is an integer"),
        ('[slot]\ndefault = "nobody"', "slot.default", "must be the id or an alias of a model"),
        ('[slot]\ndefault = "local"', "slot.default", "reserved"),
        ("[slot]\nidle_return = 30", "slot.idle_return", 'or "never"; is 30'),
        ('[slot]\nmax_wait = "10 min"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "1h30min"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "never"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "-1s"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "١s"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "1s\\n"', "slot.max_wait", '"15min"'),
        ('[slot]\nmax_wait = "9000h"', "slot.max_wait", "too long"),
        ('[slot]\nstart_timeout = "0s"', "slot.start_timeout", "no time at all"),
        ('[slot]\nstop_timeout = "601s"', "slot.stop_timeout", "at most 10min"),
        ('[slot]\noverlap = "yes"', "slot.overlap", '"auto" or "never"'),
        ("[slot]\nmax_start_attempts = 0", "slot.max_start_attempts", "from 1 to"),
        ("[slot]\nmax_start_attempts = true", "slot.max_start_attempts", "is true"),
        ("[slot]\nmax_start_attempts = 0x" + "f" * 6000, "slot.max_start_attempts", "a huge integer"),
        ('[memory]\nreserve = "101%"', "memory.reserve", '"1%" to "100%"'),
        ('[memory]\nreserve = "0%"', "memory.reserve", '"1%" to "100%"'),
        ('[memory]\nreserve = "8 GiB"', "memory.reserve", '"38GiB"'),
        ('[memory]\nreserve = "8gib"', "memory.reserve", '"38GiB"'),
        ("[memory]\nreserve = 8.5", "memory.reserve", "is 8.5"),
        ('[memory]\nlarge = "0GiB"', "memory.large", "nothing"),
        ('[memory]\nlarge = "99999TiB"', "memory.large", "no machine"),
        ('[control]\nlisten = "127.0.0.1:1"', "control.listen", "a list of addresses"),
        ('[control]\nlisten = ["127.0.0.1"]', "control.listen[1]", "127.0.0.1:30100"),
        ('[control]\nlisten = ["127.0.0.1:0"]', "control.listen[1]", "1 to 65535"),
        ('[control]\nlisten = ["127.0.0.1:65536"]', "control.listen[1]", "1 to 65535"),
        ('[control]\nlisten = ["::1:80"]', "control.listen[1]", "[::1]:30100"),
        ('[control]\nlisten = ["[::g]:80"]', "control.listen[1]", "[::1]:30100"),
        ('[control]\nlisten = ["300.0.0.1:80"]', "control.listen[1]", "127.0.0.1"),
        ('[control]\nlisten = ["127.0.0.1:30101"]', "gateway.listen[1]", "30101 is also control.listen[1]"),
        ('[control]\nlisten = ["0.0.0.0:30101"]', "gateway.listen[1]", "30101 is also control.listen[1]"),
        ('[gateway]\nlisten = ["127.0.0.1:9", "localhost:9"]', "gateway.listen[2]", "also gateway.listen[1]"),
        ('[gateway]\nauth = "basic"', "gateway.auth", '"token" or "none"'),
        ('[gateway]\nauth = "none"\nlisten = ["0.0.0.0:1"]', "gateway.listen[1]", "loopback"),
        ('[gateway]\nauth = "none"\nlisten = ["[::1]:1", "spark:1"]', "gateway.listen[2]", "loopback"),
        ("[gateway]\nmax_waiting = 0", "gateway.max_waiting", "from 1 to"),
        ('[log]\nlevel = "trace"', "log.level", "one of debug, info, warning, error"),
        ("[log]\nlevel = 2026-01-01", "log.level", "a date or time"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: str, key: str, says: str) -> None:
    file, told_key, message = one(write(tmp_path, settings))
    assert (file, told_key) == ("spark-modeld.toml", key)
    assert says in message


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (UNIT + 'url = "http://a:1"', "engine", "is missing: must be one of sglang, vllm"),
        (UNIT + 'engine = "vllm"', "url", "is missing: must be http://"),
        (UNIT + 'url = "http://a:1"\nengine = "tgi"', "engine", "one of sglang"),
        (PLAIN, "", "exactly one of unit, [launch], [docker] and [container]; has none"),
        (PLAIN + UNIT + '[docker]\nimage = "a"', "", "has unit and [docker]"),
        (PLAIN + UNIT + "contxt = 1", "contxt", 'nearest known key is "context"'),
        (PLAIN + UNIT + 'command = ["a"]', "command", 'nearest known key is "launch.command"'),
        (PLAIN + UNIT + 'aliases = ["local"]', "aliases[1]", "reserved"),
        (PLAIN + UNIT + 'served_model_name = "default"', "served_model_name", "reserved"),
        (PLAIN + UNIT + 'aliases = ["ok", "a b", ""]', "aliases[2]", "1 to 128"),
        (PLAIN + UNIT + 'aliases = "a"', "aliases", "a list of names"),
        (PLAIN + UNIT + 'role = "main"', "role", '"slot" or "side"'),
        (PLAIN + UNIT + 'on_demand = "yes"', "on_demand", "true or false"),
        (PLAIN + UNIT + 'path = "srv/x"', "path", "absolute path"),
        (PLAIN + UNIT + 'path = "/srv\\u0000"', "path", "absolute path"),
        (PLAIN + UNIT + "context = 0", "context", "from 1"),
        (PLAIN + UNIT + "gateway_port = 80", "gateway_port", "from 1024 to 65535"),
        (PLAIN + UNIT + 'user = "root"', "user", "never root"),
        (PLAIN + UNIT + 'user = "0"', "user", "a user name"),
        (PLAIN + UNIT + 'user = "a\\n"', "user", "a user name"),
        (PLAIN + UNIT + 'stop_timeout = "11min"', "stop_timeout", "at most 10min"),
        (PLAIN + 'unit = "a"', "unit", "the name of a service"),
        (PLAIN + 'unit = "a.socket"', "unit", "the name of a service"),
        (PLAIN + 'unit = "a@.service"', "unit", "the name of a service"),
        (PLAIN + 'unit = "a/b.service"', "unit", "the name of a service"),
        (PLAIN + 'unit = "a.service\\n"', "unit", "the name of a service"),
        (PLAIN + 'unit = "spark-model@x.service"', "unit", "none of spark-model@"),
        (PLAIN + 'unit = "spark-modeld.service"', "unit", "none of spark-model@"),
        (PLAIN + "[launch]\ncommand = []", "launch.command", "at least the program"),
        (PLAIN + '[launch]\ncommand = [""]', "launch.command", "at least the program"),
        (PLAIN + '[launch]\ncommand = "a b"', "launch.command", "a list"),
        (PLAIN + '[launch]\ncommand = ["a", 3]', "launch.command[2]", "is an integer"),
        (PLAIN + '[launch]\ncommand = ["a", "x\\ny"]', "launch.command[2]", "without NUL or line breaks"),
        (
            PLAIN + '[launch]\ncommand = ["a"]\nenvironment = { "A-B" = "" }',
            "launch.environment.A-B",
            "variable's name",
        ),
        (PLAIN + '[launch]\ncommand = ["a"]\nenvironment = { A = 1 }', "launch.environment.A", "is an integer"),
        (PLAIN + "[launch]", "launch.command", "is missing"),
        (PLAIN + '[docker]\nimage = "--privileged"', "docker.image", "an image name"),
        (PLAIN + '[container]\nname = "-x"', "container.name", "a container name"),
        (PLAIN + '[container]\nname = "xx"\nstart_script = "x"', "container.start_script", "absolute path"),
        ("a = [1,\n", "", "line 2, column 1"),
        ("a = 1\nb = 'x\n", "", "line 3, column 1"),
        ("a = 1\nb = " + "9" * 5000, "", "not valid TOML"),
        ("a = " + "[" * 20000, "", "nests too deeply"),
    ],
)
def test_wrong_models(tmp_path: Path, text: str, key: str, says: str) -> None:
    told = [entry for entry in findings(write(tmp_path, a=text)) if entry[1] == key]
    assert len(told) == 1, told
    assert told[0][0] == "a.toml"
    assert says in told[0][2]


@pytest.mark.parametrize(
    "url",
    [
        "http://a:1/v1",
        "http://user:pass@a:1",
        "http://a:1?x=y",
        "ftp://a:1",
        "http://",
        "http://a b:1",
        "http://a:1\n",
        "http://a\t:1",
        "http://a:99999",
        "http://a:0",
        "http://127.1:1",
        "http://2130706433:1",
        "http://0x7f.1:1",
        "http://[::g]:1",
        "a:1",
        "",
    ],
)
def test_wrong_urls_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    write(tmp_path, a=f'engine = "vllm"\n{UNIT}url = {json.dumps(url)}')
    file, key, message = one(tmp_path)
    assert (file, key) == ("a.toml", "url")
    assert "http://127.0.0.1:30001" in message
    assert "pass" not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.9.9.9", "0.0.0.0", "[::1]", "[::]"])
@pytest.mark.parametrize("port", [30100, 30101, 31001, 40000])
def test_an_engine_is_never_at_our_own_address(tmp_path: Path, host: str, port: int) -> None:
    write(
        tmp_path,
        a=f'engine = "vllm"\nurl = "http://{host}:{port}"\n{UNIT}',
        b=f"{PLAIN}{UNIT}gateway_port = 31001",
    )
    file, key, message = one(tmp_path, passed=["127.0.0.1:40000"])
    assert (file, key) == ("a.toml", "url")
    assert str(port) in message
    assert "spark-modeld itself" in message


def test_another_machines_port_is_not_ours(tmp_path: Path) -> None:
    write(tmp_path, a=f'engine = "vllm"\nurl = "http://10.0.0.9:30100"\n{UNIT}')
    assert ConfigDirectory(tmp_path).load().models["a"].endpoint == ("10.0.0.9", 30100)


def test_gateway_ports_are_unique_and_not_a_listeners(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=f"{PLAIN}{UNIT}gateway_port = 31001",
        b=f"{PLAIN}{UNIT}gateway_port = 31001",
        c=f"{PLAIN}{UNIT}gateway_port = 30101",
    )
    told = findings(tmp_path)
    assert [(file, key) for file, key, _ in told] == [("b.toml", "gateway_port"), ("c.toml", "gateway_port")]
    assert "a.toml" in told[0][2]
    assert "gateway.listen[1]" in told[1][2]


@pytest.mark.parametrize(
    ("a", "b", "key"),
    [
        ('aliases = ["x"]', 'aliases = ["x"]', "aliases"),
        ('aliases = ["b"]', "", ""),
        ('served_model_name = "x"', 'aliases = ["x"]', "aliases"),
        ('served_model_name = "x"', 'served_model_name = "x"', "served_model_name"),
        ("", 'aliases = ["a"]', "aliases"),
        ("", 'served_model_name = "a"', "served_model_name"),
    ],
)
def test_a_name_belongs_to_one_model(tmp_path: Path, a: str, b: str, key: str) -> None:
    write(tmp_path, a=PLAIN + UNIT + a, b=PLAIN + UNIT + b)
    file, told_key, message = one(tmp_path)
    assert (file, told_key) == ("b.toml", key)
    assert str(tmp_path / "models.d" / "a.toml") in message


def test_a_models_own_names_may_repeat(tmp_path: Path) -> None:
    write(tmp_path, a=PLAIN + UNIT + 'served_model_name = "s"\naliases = ["a", "s", "x", "x"]')
    assert ConfigDirectory(tmp_path).load().models["a"].names == {"a", "s", "x"}


def test_a_side_model_shares_neither_url_nor_unit(tmp_path: Path) -> None:
    side = 'engine = "vllm"\nurl = "http://localhost:30001"\nrole = "side"\n'
    write(tmp_path, a=PLAIN + UNIT, b=side + 'unit = "b.service"')
    assert one(tmp_path)[:2] == ("b.toml", "url")
    write(tmp_path, b=side.replace("30001", "30002") + UNIT)
    assert one(tmp_path)[:2] == ("b.toml", "unit")
    write(tmp_path, b=side.replace("30001", "30002") + 'unit = "b.service"')
    assert set(ConfigDirectory(tmp_path).load().models) == {"a", "b"}


def test_two_side_models_on_one_url_are_one_finding(tmp_path: Path) -> None:
    side = PLAIN + 'role = "side"\n'
    write(tmp_path, a=side + UNIT, b=side + 'unit = "b.service"')
    assert one(tmp_path)[:2] == ("b.toml", "url")


def test_slot_models_may_share_a_url(tmp_path: Path) -> None:
    write(tmp_path, a=PLAIN + UNIT, b=PLAIN + 'unit = "b.service"')
    assert len(ConfigDirectory(tmp_path).load().models) == 2


def test_the_default_is_no_side_model(tmp_path: Path) -> None:
    write(tmp_path, '[slot]\ndefault = "a"', a=PLAIN + UNIT + 'role = "side"')
    file, key, message = one(tmp_path)
    assert (file, key) == ("spark-modeld.toml", "slot.default")
    assert "a.toml" in message


def test_a_broken_model_is_still_known_to_the_settings(tmp_path: Path) -> None:
    write(tmp_path, '[slot]\ndefault = "a"', a="x = [")
    assert one(tmp_path)[0] == "a.toml"


def test_all_findings_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, "[slot]\nx = 1\nmax_wait = 3", a="y = 1\n" + PLAIN + UNIT, b="x = [")
    assert [(file, key) for file, key, _ in findings(tmp_path)] == [
        ("spark-modeld.toml", "slot.max_wait"),
        ("spark-modeld.toml", "slot.x"),
        ("a.toml", "y"),
        ("b.toml", ""),
    ]


@pytest.mark.parametrize("name", ["Foo.toml", "-a.toml", "a b.toml", "a" * 65 + ".toml", "a\n.toml", "local.toml"])
def test_wrong_file_names(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / "models.d" / name).write_text(PLAIN + UNIT)
    assert "the file's name must be" in one(tmp_path)[2]


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/models.d/\xff.toml")).write_text("")
    assert one(tmp_path)[0] == "\\xff.toml"


@pytest.mark.parametrize("name", ["a.toml~", "README", ".a.toml", ".#a.toml", "a.toml.dpkg-old"])
def test_other_files_are_ignored(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / "models.d" / name).write_text("x = [")
    assert ConfigDirectory(tmp_path).load() == Catalog()


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    write(tmp_path, "# " + "x" * (1 << 20))
    models = tmp_path / "models.d"
    (models / "a.toml").mkdir()
    os.mkfifo(models / "b.toml")
    (models / "c.toml").symlink_to("c.toml")
    (models / "d.toml").symlink_to("nowhere")
    (models / "e.toml").write_bytes(b"# \xe4\n")
    told = {file: message for file, _, message in findings(tmp_path)}
    assert "larger than 1024 KiB" in told["spark-modeld.toml"]
    assert "regular file" in told["a.toml"]
    assert "link to nothing" in told["d.toml"]
    assert "regular file" in told["b.toml"]
    assert "cannot be read" in told["c.toml"]
    assert "line 1, column 3" in told["e.toml"]


def test_models_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "models.d").write_text("")
    assert one(tmp_path)[0] == "models.d"


def test_no_argument_or_variable_is_repeated_in_a_message(tmp_path: Path) -> None:
    run = '[launch]\ncommand = ["a", "hf_secret\\n"]\nenvironment = { HF_TOKEN = "hf_secret\\n" }'
    write(tmp_path, a=PLAIN + run)
    told = findings(tmp_path)
    assert len(told) == 2
    assert "hf_secret" not in str(told)


def test_many_findings_stay_readable_and_quick(tmp_path: Path) -> None:
    write(tmp_path, "\n".join(f"key{number} = 1" for number in range(50_000)))
    with pytest.raises(SparkError) as caught:
        ConfigDirectory(tmp_path).load()
    assert len(caught.value.problem.extra["findings"]) == 51
    assert len(caught.value.problem.detail) < 10_000
