"""JSON Schema (draft 2020-12) of both files, generated from the field table.

``python -m spark_modeld.config.schema DIRECTORY`` writes ``spark-modeld.schema.json`` and
``model.schema.json`` there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from spark_modeld.config.fields import MODEL, RUNS, SETTINGS
from spark_modeld.config.kinds import Field, Table

SETTINGS_SCHEMA = "spark-modeld.schema.json"
MODEL_SCHEMA = "model.schema.json"


def settings_schema() -> dict[str, Any]:
    """The schema of ``spark-modeld.toml``."""
    return _document("spark-modeld.toml", SETTINGS)


def model_schema() -> dict[str, Any]:
    """The schema of ``models.d/<id>.toml``."""
    return {**_document("models.d/<id>.toml", MODEL), "oneOf": [{"required": [key]} for key in RUNS]}


def rendered(schema: dict[str, Any]) -> str:
    """The schema as the text of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(directory: Path) -> None:
    """Writes both schemas into ``directory``."""
    (directory / SETTINGS_SCHEMA).write_text(rendered(settings_schema()), encoding="utf-8")
    (directory / MODEL_SCHEMA).write_text(rendered(model_schema()), encoding="utf-8")


def _document(title: str, table: Table) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_table(table)}


def _table(table: Table) -> dict[str, Any]:
    properties = {field.key: _field(field) for field in table.fields}
    properties |= {inner.key: _table(inner) for inner in table.tables}
    schema: dict[str, Any] = {"description": table.help, "type": "object", "properties": properties}
    required = [field.key for field in table.fields if field.required]
    if required:
        schema["required"] = required
    return {**schema, "additionalProperties": False}


def _field(field: Field) -> dict[str, Any]:
    default = f" Default: {field.default_help}." if field.default_help else ""
    schema = {"description": f"{field.help} Allowed: {field.kind.allowed}.{default}", **field.kind.schema}
    return schema if field.default is None else {**schema, "default": field.default}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
