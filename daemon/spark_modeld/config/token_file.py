"""The shape of ``tokens.toml``: who may do what, with hashes in place of secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import tomli_w

from spark_modeld.config.findings import Finding, dotted, type_of
from spark_modeld.config.kinds import Field, Kind, Table, Value, array, boolean, member, text
from spark_modeld.config.reader import Reader
from spark_modeld.core.model import MODEL_NAME

TOKEN_ID = r"[a-z0-9]{1,32}"
TOKEN_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}"
_HEADER = "# Written by `spark-modelctl token`. It holds hashes only: a lost token is revoked and replaced.\n\n"


class Scope(StrEnum):
    """What a token opens."""

    INFERENCE = "inference"
    CONTROL = "control"
    OBSERVE = "observe"
    ENGINE_ADMIN = "engine-admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token, without its secret. Times are Unix seconds; ``models`` None means every model."""

    id: str
    name: str
    hash: str = field(repr=False)
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    may_switch: bool = True
    expires: float | None = None
    note: str = ""
    created: float | None = None

    def expired(self, now: float) -> bool:
        """Whether it is no longer good at ``now`` (Unix seconds)."""
        return self.expires is not None and now >= self.expires


def parse(file: str, data: bytes) -> tuple[dict[str, Token], list[Finding]]:
    """The tokens by id. With any finding there are no tokens at all: half a file must not open anything."""
    reader = Reader(file)
    raw = reader.parse(data)
    tokens = _tokens(reader, raw) if raw is not None else {}
    return ({}, reader.findings) if reader.findings else (tokens, [])


def render(tokens: Mapping[str, Token]) -> bytes:
    """The content of ``tokens.toml``."""
    return (_HEADER + tomli_w.dumps({"tokens": {token.id: _entry(token) for token in tokens.values()}})).encode()


def _moment() -> Kind[float]:
    def parse_moment(value: Value) -> float:
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ValueError
        try:
            return value.timestamp()
        except OverflowError as error:
            raise ValueError("that is out of range") from error

    # Its schema is never published: only spark-modelctl writes this file.
    return Kind("a time with its offset, such as 2026-01-31T12:00:00Z", {}, parse_moment)


_TOKEN = Table(
    "",
    "One token.",
    (
        Field("name", text(TOKEN_NAME, "1 to 64 letters, digits, spaces and . _ @ + -"), "Its name.", required=True),
        Field(
            "hash",
            text("sha256:[0-9a-f]{64}", '"sha256:" and 64 hexadecimal digits'),
            "The SHA-256 of the whole token.",
            required=True,
        ),
        Field("scopes", array(member(Scope), "a list of scopes", least=1), "What it opens.", required=True),
        Field(
            "models",
            array(text(MODEL_NAME.pattern, "a model's name"), "a list of models"),
            "The models it may use.",
            default_help="every model",
        ),
        Field("may_switch", boolean(), "Whether its requests may bring a model into the slot.", True),
        Field("expires", _moment(), "When it stops being good.", default_help="never"),
        Field("note", text(r"[^\x00-\x1f\x7f]{0,500}", "one line of text"), "A note for people.", ""),
        Field("created", _moment(), "When it was made."),
    ),
)


def _tokens(reader: Reader, raw: Mapping[str, Any]) -> dict[str, Token]:
    outer = Table("", "", (), (Table("tokens", "Every token by its id.", ()),))
    reader.read(
        outer, {key: {} if key == "tokens" and isinstance(entry, dict) else entry for key, entry in raw.items()}
    )
    entries = raw.get("tokens")
    if not isinstance(entries, dict):
        return {}
    is_id = text(TOKEN_ID, "an id of a-z 0-9")
    tokens: dict[str, Token] = {}
    for token_id, entry in entries.items():
        place = dotted("tokens", token_id)
        if not isinstance(entry, dict):
            reader.add(place, f"must be a table; is {type_of(entry)}")
            continue
        before = len(reader.findings)
        values = reader.read(Table("", "", (Field("id", is_id, ""), *_TOKEN.fields)), {**entry, "id": token_id}, place)
        if len(reader.findings) == before:
            tokens[token_id] = _token(values)
    return tokens


def _token(values: Mapping[str, Any]) -> Token:
    models = values.get("models")
    scopes = frozenset(values["scopes"])
    return Token(**{**values, "scopes": scopes, "models": frozenset(models) if models is not None else None})


def _entry(token: Token) -> dict[str, Any]:
    values = {
        "name": token.name,
        "hash": token.hash,
        "scopes": sorted(token.scopes),
        "models": sorted(token.models) if token.models is not None else None,
        "may_switch": token.may_switch,
        "expires": datetime.fromtimestamp(token.expires, UTC) if token.expires is not None else None,
        "note": token.note,
        "created": datetime.fromtimestamp(token.created, UTC) if token.created is not None else None,
    }
    return {key: value for key, value in values.items() if value is not None}
