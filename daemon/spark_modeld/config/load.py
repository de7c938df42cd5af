"""The configuration directory as a catalog."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from spark_modeld.config.fields import MODEL, RUNS, SETTINGS
from spark_modeld.config.findings import Finding, invalid_config
from spark_modeld.config.reader import Reader
from spark_modeld.config.rules import Draft, check, default_id
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import MODEL_ID, RESERVED_NAMES, Container, Docker, EngineKind, Launch, Model, OwnUnit, Run
from spark_modeld.core.settings import (
    ControlSettings,
    GatewaySettings,
    HealthSettings,
    LogSettings,
    MemorySettings,
    Settings,
    SlotSettings,
)

SETTINGS_FILE = "spark-modeld.toml"
MODELS_DIRECTORY = "models.d"
# Stands in for a way to run that is missing or wrong, so that the rest of the file is still checked.
_NO_RUN = Launch(())


class ConfigDirectory:
    """Reads ``spark-modeld.toml`` and ``models.d/*.toml`` below ``path``.

    ``passed`` are the TCP addresses ("127.0.0.1:30100") of sockets that systemd passed: no engine may be there.
    """

    def __init__(self, path: Path, *, passed: Iterable[str] = ()) -> None:
        self._path = path
        self._passed = tuple(passed)

    def load(self) -> Catalog:
        """The configuration on disk; what is missing has its default. SparkError ``invalid-config`` with every finding.

        Blocking.
        """
        settings_file = self._path / SETTINGS_FILE
        settings, findings = _load_settings(settings_file)
        drafts, more = _load_models(self._path / MODELS_DIRECTORY, settings)
        findings += more
        findings += check(settings, str(settings_file), drafts, self._passed)
        if findings:
            raise invalid_config(findings)
        slot = replace(settings.slot, default=default_id(settings, drafts))
        return Catalog(replace(settings, slot=slot), MappingProxyType({draft.id: draft.model for draft in drafts}))


def _load_settings(path: Path) -> tuple[Settings, list[Finding]]:
    reader = Reader(str(path))
    raw = reader.load(path)
    values = reader.read(SETTINGS, raw) if raw is not None else {}
    settings = Settings(
        slot=SlotSettings(**values.get("slot", {})),
        memory=MemorySettings(**values.get("memory", {})),
        health=HealthSettings(**values.get("health", {})),
        control=ControlSettings(**values.get("control", {})),
        gateway=GatewaySettings(**values.get("gateway", {})),
        log=LogSettings(**values.get("log", {})),
    )
    return settings, reader.findings


def _load_models(directory: Path, settings: Settings) -> tuple[list[Draft], list[Finding]]:
    reader = Reader(str(directory))
    try:
        # A leading dot marks what editors leave behind.
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml") and not name.startswith("."))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        reader.add("", f"cannot be read: {error.strerror}")
        return [], reader.findings
    drafts: list[Draft] = []
    findings: list[Finding] = []
    for name in names:
        draft, more = load_model(directory / name, settings)
        findings += more
        if draft is not None:
            drafts.append(draft)
    return drafts, findings


def load_model(path: Path, settings: Settings) -> tuple[Draft | None, list[Finding]]:
    """One model's file, on its own. There is a draft whenever the file's name is an id, however wrong the rest."""
    # A file name may be any bytes; what is shown must be text.
    reader = Reader(os.fsencode(path).decode("utf-8", "backslashreplace"))
    model_id = path.name.removesuffix(".toml")
    if MODEL_ID.fullmatch(model_id) is None:
        reader.add("", "the file's name must be an id and .toml; an id is 1 to 64 of a-z 0-9 . _ -, first a-z or 0-9")
        return None, reader.findings
    if model_id in RESERVED_NAMES:
        reader.add("", f'the file\'s name must be another id: "{model_id}" is reserved')
    raw = reader.load(path)
    if raw is None:
        if not reader.findings:  # it went away since the directory was listed
            return None, []
        values: dict[str, Any] = {}
    else:
        values = reader.read(MODEL, raw)
        _check_runs(reader, raw)
    return Draft(reader.file, model_id, values, _model(model_id, values, settings)), reader.findings


def _check_runs(reader: Reader, raw: Mapping[str, Any]) -> None:
    given = [key if key == "unit" else f"[{key}]" for key in RUNS if key in raw]
    if len(given) != 1:
        has = " and ".join(given) if given else "none"
        reader.add("", f"must have exactly one of unit, [launch], [docker] and [container]; has {has}")


def _model(model_id: str, values: Mapping[str, Any], settings: Settings) -> Model:
    rest = {key: value for key, value in values.items() if key not in RUNS}
    defaults: dict[str, Any] = {
        "engine": EngineKind.OPENAI,
        "url": "",
        "served_model_name": model_id,
        "start_timeout": settings.slot.start_timeout,
        "stop_timeout": settings.slot.stop_timeout,
    }
    return Model(id=model_id, run=_run(values), **(defaults | rest))


def _run(values: Mapping[str, Any]) -> Run:
    if "unit" in values:
        return OwnUnit(values["unit"])
    launch, docker, container = values.get("launch", {}), values.get("docker", {}), values.get("container", {})
    if "command" in launch:
        return Launch(**launch)
    if "image" in docker:
        return Docker(**docker)
    if "name" in container:
        return Container(**container)
    return _NO_RUN
