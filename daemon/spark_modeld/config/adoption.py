"""A model's file for a server that exists already, as a container or as a unit: what its command tells, and what not.

Like a proposal it is a first guess, written so that a person can correct it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from spark_modeld.config.proposal import free_name, id_of, printable, quoted
from spark_modeld.core.footprint import Flags, parse_flags
from spark_modeld.core.model import MODEL_NAME, RESERVED_NAMES, Container, EngineKind, Model, OwnUnit

_PORTS = {
    EngineKind.SGLANG: 30000,
    EngineKind.VLLM: 8000,
    EngineKind.OLLAMA: 11434,
    EngineKind.LLAMA_SERVER: 8080,
    EngineKind.TRTLLM: 8355,
    EngineKind.NIM: 8000,
    EngineKind.OPENAI: 8000,
}
"""Where each listens unless it is told otherwise."""
# In this order: a NIM has vLLM inside, and a command says more than the name of an image.
_SIGNS = (
    (EngineKind.NIM, ("nvcr.io/nim/", "/opt/nim")),
    (EngineKind.SGLANG, ("sglang",)),
    (EngineKind.TRTLLM, ("trtllm-serve", "tensorrt-llm", "tensorrt_llm")),
    (EngineKind.VLLM, ("vllm",)),
    (EngineKind.LLAMA_SERVER, ("llama-server", "llama.cpp", "llama_cpp")),
    (EngineKind.OLLAMA, ("ollama",)),
)
_LISTED = "The name it answers to; its GET /v1/models lists that."
_NAME_OF = {EngineKind.OLLAMA: "The model's name in Ollama, as `ollama list` shows it."}
_PORT = re.compile(r"(?:^|\s)--port(?:=|\s+)([0-9]{1,5})(?=\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A server as docker or systemd shows it.

    ``words`` is its command, ``ports`` says which port of the machine a port of the container is (empty where it has
    the machine's network), ``mounts`` which folder of the machine a folder of the container is. ``restart`` is its
    restart policy, "no" for none.
    """

    run: Container | OwnUnit
    words: tuple[str, ...]
    image: str = ""
    ports: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    mounts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    restart: str = "no"

    @property
    def name(self) -> str:
        """The container's, or the unit's without its kind."""
        return self.run.name if isinstance(self.run, Container) else self.run.unit.removesuffix(".service")


def adopt(found: Found, *, taken_names: Collection[str] = (), name: str | None = None) -> Model:
    """The model that this server is; ``name`` is its id where somebody has chosen one."""
    engine = _engine_of(found)
    flags = parse_flags(engine, found.words)
    model_id = name or free_name(id_of(found.name), taken_names)
    return Model(
        id=model_id,
        engine=engine,
        url=f"http://127.0.0.1:{_port_of(found, engine)}",
        run=found.run,
        served_model_name=_served_name(flags, model_id),
        path=_path_of(found, flags),
        context=flags.context,
    )


def render_adopted(model: Model, found: Found) -> str:
    """The model's file, as ``models.d/<id>.toml`` would hold it."""
    lines = [f"# {line}" for line in _about(found)]
    lines += [
        "engine = " + quoted(model.engine),
        "# Where it answers, from this machine.",
        f"url = {quoted(model.url)}",
    ]
    lines += [f"# {_NAME_OF.get(model.engine, _LISTED)}", f"served_model_name = {quoted(model.served_model_name)}"]
    if model.path is not None:
        lines += ["# Its checkpoint, so that it can be checked and its need estimated.", f"path = {quoted(model.path)}"]
    else:
        lines.append('# path = "/srv/models/…"  # its checkpoint, if you have it here: checked, and its need estimated')
    if model.context is not None:
        lines.append(f"context = {model.context}")
    lines.append('# memory = "38GiB"  # what it needs, until that was seen; without path or memory it counts as large')
    if isinstance(model.run, Container):
        lines += ["", "[container]", f"name = {quoted(model.run.name)}"]
        lines.append('# start_script = "/…"  # creates and starts it when it is missing')
    else:
        assert isinstance(model.run, OwnUnit)
        lines += [f"unit = {quoted(model.run.unit)}"]
    return "\n".join(lines) + "\n"


def _about(found: Found) -> list[str]:
    if isinstance(found.run, Container):
        lines = [
            f"The container {found.name}{f' of {found.image}' if found.image else ''}, started and stopped by name."
        ]
        if found.restart not in {"", "no"}:
            lines.append(f"It starts again by itself: docker update --restart=no {found.name}")
    else:
        lines = [f"{found.run.unit}, a unit of your own, started and stopped as it is."]
        if found.restart not in {"", "no"}:
            lines.append(f"It has Restart={found.restart}: it starts again by itself, past the daemon's admission.")
    if any(word.partition("=")[0] == "--api-key" for word in found.words):
        lines.append("It wants a key: put that into a file, and name the file in api_key_file.")
    if not found.words:
        lines.append("Its command is not to be seen: engine and port are guesses.")
    return [printable(line) for line in lines]


def _engine_of(found: Found) -> EngineKind:
    for text in (" ".join(found.words).lower(), found.image.lower(), found.name.lower()):
        for engine, signs in _SIGNS:
            if any(sign in text for sign in signs):
                return engine
    return EngineKind.OPENAI


def _port_of(found: Found, engine: EngineKind) -> int:
    said = _PORT.findall(" ".join(found.words))
    inside = int(said[-1]) if said else _PORTS[engine]
    if not said and inside not in found.ports and len(found.ports) == 1:
        return next(iter(found.ports.values()))
    return found.ports.get(inside, inside)


def _served_name(flags: Flags, model_id: str) -> str:
    """As the engine would call it: what it is told to, else the checkpoint as it was named to it."""
    for name in (*flags.served_names, flags.model_path or ""):
        if MODEL_NAME.fullmatch(name) and name not in RESERVED_NAMES:
            return name
    return model_id


def _path_of(found: Found, flags: Flags) -> str | None:
    """The checkpoint's place on this machine; None where it is a name of the hub, or out of sight."""
    path = flags.model_path
    if path is None or not path.startswith("/"):
        return None
    if not isinstance(found.run, Container):
        return path
    for inside in sorted(found.mounts, key=len, reverse=True):
        if path == inside or path.startswith(inside.rstrip("/") + "/"):
            return found.mounts[inside].rstrip("/") + path[len(inside.rstrip("/")) :]
    return None


def words_of(exec_start: str) -> Sequence[str]:
    """The words of the first command in ``ExecStart`` as ``systemctl show`` prints it."""
    match = re.search(r"argv\[\]=(.*?) ; (?:ignore_errors|flags)=", exec_start)
    return tuple(match[1].split()) if match else ()
