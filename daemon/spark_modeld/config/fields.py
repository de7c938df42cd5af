"""The field table: every key of ``spark-modeld.toml`` and of a model's file.

Parsing, error messages, JSON Schema and manual pages all come from here. A test holds the defaults
equal to those of the core's types.
"""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.config.addresses import engine_url, listen_address
from spark_modeld.config.kinds import (
    Field,
    Kind,
    Table,
    Value,
    array,
    boolean,
    choice,
    either,
    integer,
    member,
    string_table,
    text,
)
from spark_modeld.config.quantities import duration, size
from spark_modeld.core.model import MODEL_NAME, RESERVED_NAMES, EngineKind, Role

STOP_TIMEOUT_AT_MOST = "10min"  # TimeoutStopSec of spark-model@.service

# Matched as a whole; JSON Schema gets the same text between ^ and $.
_CLEAN = r"[^\x00\n\r]*"
_PATH = r"/[^\x00\n\r]{0,4095}"
# systemd's own characters for unit names; a template without instance cannot be started.
_UNIT = r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?\.service"
_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}"
_CONTAINER = r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
# What would take a container out of its unit's hands; the launcher refuses the same. -itd: flags in front of another.
_DOCKER_OPTION = rf"(?!--(?:detach|name|rm|restart|cidfile|pull|sig-proxy)(?:=|$))(?!-[iqtP]*d){_CLEAN}"


def _command() -> Kind[tuple[str, ...]]:
    allowed = 'a list such as ["python3", "-m", "sglang.launch_server"] with at least the program'
    arguments = array(_ARGUMENT, allowed, least=1)

    def parse(value: Value) -> tuple[str, ...]:
        command = arguments.parse(value)
        if not command[0]:
            raise ValueError("the program is empty")
        return command

    return replace(arguments, parse=parse)


def _never(kind: Kind[float]) -> Kind[float | None]:
    return either(Kind(kind.allowed, kind.schema, kind.parse), "never", None)


def _name() -> Kind[str]:
    reserved = " or ".join(f'"{name}"' for name in sorted(RESERVED_NAMES))
    allowed = f"1 to 128 of the characters A-Z a-z 0-9 . _ : / @ -, and not {reserved}"
    return text(MODEL_NAME.pattern, allowed, reserved=RESERVED_NAMES)


# Arguments and variables may hold keys: no message repeats them.
_ARGUMENT = replace(text(_CLEAN, "a string without NUL or line breaks"), secret=True)
_ABSOLUTE = text(_PATH, "an absolute path")
_OPTION = replace(
    text(
        _DOCKER_OPTION,
        "a string without NUL or line breaks, and none of -d --detach --name --rm --restart --cidfile --pull "
        "--sig-proxy, which are the launcher's own business",
    ),
    secret=True,
)

_SLOT = Table(
    "slot",
    "The one serving position.",
    (
        Field(
            "default",
            either(_name(), "", ""),
            'The always-on model: an id or alias, or "" for a slot that may be empty.',
            "",
        ),
        Field(
            "idle_return",
            _never(duration(zero=True)),
            "How long a model that a gateway request brought in stays without requests before the slot goes back.",
            "30min",
        ),
        Field(
            "min_residency",
            duration(zero=True),
            "How long an occupant keeps the slot before a request for another model may take it.",
            "30s",
        ),
        Field(
            "max_wait",
            duration(zero=True),
            "How long a request for another model waits at most because others keep the occupant busy.",
            "10min",
        ),
        Field(
            "drain_timeout",
            duration(zero=True),
            "How long requests in flight may go on before the model they use is stopped.",
            "60s",
        ),
        Field("start_timeout", duration(), "How long a model may take from start to ready; also per model.", "15min"),
        Field(
            "stop_timeout",
            duration(at_most=STOP_TIMEOUT_AT_MOST),
            "How long a model may take to stop before it is killed; also per model.",
            "2min",
        ),
        Field(
            "overlap",
            choice("auto", "never"),
            "Start the new model before the old one stops when both fit in memory (auto), or never.",
            "auto",
        ),
        Field("max_start_attempts", integer(1, 100), "How often a model that fails is started before giving up.", 3),
    ),
)

_MEMORY = Table(
    "memory",
    "When a model fits.",
    (
        Field("reserve", size(zero=True), "Memory that admission always leaves free.", "8GiB"),
        Field("large", size(), "Footprint from which a model is large; two large models never run together.", "24GiB"),
        Field("floor", size(zero=True), "Available memory below which a load is aborted at once.", "3GiB"),
        Field(
            "reclaim_timeout",
            duration(zero=True),
            "How long to wait after a stop until the memory has come back.",
            "2min",
        ),
        Field(
            "guard_grace",
            duration(zero=True),
            "How long memory may stay under the floor while serving before side, then on-demand models stop.",
            "30s",
        ),
    ),
)

_HEALTH = Table(
    "health",
    "When a serving model counts as dead.",
    (
        Field(
            "stall_timeout",
            duration(),
            "How long an engine may call itself healthy while it generates nothing.",
            "2min",
        ),
    ),
)

_CONTROL = Table(
    "control",
    "The control API.",
    (
        Field(
            "listen",
            array(listen_address(), 'a list of addresses such as ["127.0.0.1:30100"]'),
            "Where the control API listens when systemd passed no socket for it.",
            ["127.0.0.1:30100"],
        ),
    ),
)

_GATEWAY = Table(
    "gateway",
    "The OpenAI-compatible gateway.",
    (
        Field(
            "listen",
            array(listen_address(), 'a list of addresses such as ["127.0.0.1:30101"]'),
            "Where the gateway listens when systemd passed no socket for it.",
            ["127.0.0.1:30101"],
        ),
        Field(
            "auth",
            choice("token", "none"),
            "Whether requests need a token; none is allowed on loopback addresses only.",
            "token",
        ),
        Field(
            "loading_keepalive",
            duration(),
            "How often a stream that waits for a model gets a comment line.",
            "5s",
        ),
        Field("max_waiting", integer(1, 1_000_000), "Requests held at once; more are refused with status 429.", 256),
    ),
)

_LOG = Table(
    "log",
    "What is written to the journal.",
    (Field("level", choice("debug", "info", "warning", "error"), "The least severe lines that are written.", "info"),),
)

SETTINGS = Table(
    "",
    "Settings of spark-modeld; every key is optional.",
    (),
    (_SLOT, _MEMORY, _HEALTH, _CONTROL, _GATEWAY, _LOG),
)

_LAUNCH = Table(
    "launch",
    "A command that spark-model@<id>.service runs.",
    (
        Field(
            "command",
            _command(),
            "The program and its arguments; no shell is involved.",
            required=True,
        ),
        Field(
            "environment",
            string_table(
                text(_VARIABLE, "a variable's name: letters, digits and _, no digit first"),
                _ARGUMENT,
                'a table of strings such as { CUDA_VISIBLE_DEVICES = "0" }',
            ),
            "Variables added to the command's environment.",
            {},
        ),
    ),
)

_DOCKER = Table(
    "docker",
    "An image that spark-model@<id>.service runs in the foreground and removes after.",
    (
        Field(
            "image",
            text(_IMAGE, 'an image name such as "lmsysorg/sglang:latest-cu130"'),
            "The image.",
            required=True,
        ),
        Field("options", array(_OPTION, 'a list such as ["--gpus", "all"]'), "Options of docker run.", []),
        Field(
            "command",
            array(_ARGUMENT, "a list of strings"),
            "The command in the container, if not the image's own.",
            [],
        ),
    ),
)

_EXISTING_CONTAINER = Table(
    "container",
    "A container that exists already; spark-model@<id>.service starts and stops it by name.",
    (
        Field(
            "name",
            text(_CONTAINER, "a container name: A-Z a-z 0-9 first, then also _ . -, at least two characters"),
            "The container's name.",
            required=True,
        ),
        Field(
            "start_script",
            _ABSOLUTE,
            "A script that creates and starts the container when it is missing; writable only by root or the user.",
        ),
    ),
)

RUNS = ("unit", "launch", "docker", "container")

MODEL = Table(
    "",
    "One model; the file's name is its id. Exactly one of unit, [launch], [docker] and [container] says how it runs.",
    (
        Field("engine", member(EngineKind), "The kind of server that runs the model.", required=True),
        Field("url", engine_url(), "Where the engine answers; never one of the daemon's own addresses.", required=True),
        Field(
            "served_model_name",
            _name(),
            "The name under which the engine itself knows the model.",
            default_help="the id",
        ),
        Field(
            "aliases",
            array(_name(), 'a list of names such as ["qwen"]'),
            "Further names; ids, aliases and served names of all models share one space.",
            [],
        ),
        Field("role", member(Role), "Whether it goes into the slot or may run beside the occupant.", "slot"),
        Field("on_demand", boolean(), "Whether a gateway request may start it.", True),
        Field(
            "path",
            _ABSOLUTE,
            "The checkpoint's folder or .gguf file; read for checks and estimates.",
        ),
        Field(
            "memory",
            size(),
            "The footprint; wins over measured and estimated ones.",
            default_help="measured, else estimated from path",
        ),
        Field(
            "context",
            integer(1, 1_000_000_000, "tokens"),
            "The context length for the estimate.",
            default_help="from the launch flags, else the checkpoint",
        ),
        Field("gateway_port", integer(1024, 65535), "A further gateway port that always means this model."),
        Field("warm_up", boolean(), "Whether a model counts as ready only after it generated one token.", True),
        Field(
            "user",
            text(_USER, 'a user name such as "spark-model", never root', reserved=frozenset({"root"})),
            "The user who runs it.",
            "spark-model",
        ),
        Field("api_key_file", _ABSOLUTE, "A file with the bearer token that the engine itself wants."),
        Field(
            "start_timeout",
            duration(),
            "How long it may take from start to ready.",
            default_help="slot.start_timeout",
        ),
        Field(
            "stop_timeout",
            duration(at_most=STOP_TIMEOUT_AT_MOST),
            "How long it may take to stop before it is killed.",
            default_help="slot.stop_timeout",
        ),
        Field(
            "unit",
            text(
                rf"(?!spark-model@|spark-modeld){_UNIT}",
                'the name of a service such as "sglang-qwen.service", none of spark-model@*.service or spark-modeld*',
            ),
            "A systemd service you already have.",
        ),
    ),
    (_LAUNCH, _DOCKER, _EXISTING_CONTAINER),
)
