"""What no single key can tell: rules between keys, files and models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from spark_modeld.config.addresses import is_loopback, is_wildcard, reaches, split_address
from spark_modeld.config.findings import Finding, quoted
from spark_modeld.core.model import Model, OwnUnit, Role
from spark_modeld.core.settings import Settings


class Draft(Struct, frozen=True):
    """A model's file as far as it could be read. ``values`` has the keys that were given and are right."""

    file: str
    id: str
    values: Mapping[str, Any]
    model: Model


class _Listener(Struct, frozen=True):
    key: str
    file: str
    host: str
    port: int

    @property
    def says(self) -> str:
        return f"{self.key} of {self.file}" if self.file else self.key


def check(settings: Settings, file: str, drafts: Sequence[Draft], passed: Iterable[str] = ()) -> Iterator[Finding]:
    """Every finding about how settings and models go together.

    ``file`` is the settings' own. ``passed`` are the addresses of sockets that systemd passed to the daemon.
    """
    yield from _default(settings, file, drafts)
    yield from _auth(settings, file)
    listeners = [*_listeners(settings, file), *_ports(drafts)]
    yield from _clashes(listeners)
    listeners += [_Listener("a socket passed by systemd", "", *split_address(address)) for address in passed]
    for draft in drafts:
        yield from _own_listener(draft, listeners)
    yield from _names(drafts)
    yield from _sharing(drafts)


def default_id(settings: Settings, drafts: Iterable[Draft]) -> str:
    """The id of the model that ``slot.default`` means, "" for none."""
    name = settings.slot.default
    return next((draft.id for draft in drafts if name in draft.model.names), "")


def _default(settings: Settings, file: str, drafts: Sequence[Draft]) -> Iterator[Finding]:
    name = settings.slot.default
    if not name:
        return
    found = next((draft for draft in drafts if name in draft.model.names), None)
    if found is None:
        known = sorted(draft.id for draft in drafts)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; the nearest id is {quoted(close[0])}" if close else "; no model is configured"
        yield Finding(file, "slot.default", f'must be the id or an alias of a model, or ""; is {quoted(name)}{hint}')
    elif found.model.role is not Role.SLOT:
        yield Finding(
            file, "slot.default", f'must be a model with role = "slot"; {quoted(name)} of {found.file} is a side model'
        )


def _auth(settings: Settings, file: str) -> Iterator[Finding]:
    if settings.gateway.auth != "none":
        return
    for position, address in enumerate(settings.gateway.listen, 1):
        if not is_loopback(split_address(address)[0]):
            yield Finding(
                file,
                f"gateway.listen[{position}]",
                f'must be a loopback address such as "127.0.0.1:30101" while gateway.auth is "none"; is "{address}"',
            )


def _listeners(settings: Settings, file: str) -> Iterator[_Listener]:
    for key, addresses in (("control.listen", settings.control.listen), ("gateway.listen", settings.gateway.listen)):
        for position, address in enumerate(addresses, 1):
            yield _Listener(f"{key}[{position}]", file, *split_address(address))


def _ports(drafts: Iterable[Draft]) -> Iterator[_Listener]:
    for draft in drafts:
        if draft.model.gateway_port is not None:
            yield _Listener("gateway_port", draft.file, "127.0.0.1", draft.model.gateway_port)


def _clashes(listeners: Sequence[_Listener]) -> Iterator[Finding]:
    for position, listener in enumerate(listeners):
        for earlier in listeners[:position]:
            overlap = is_wildcard(listener.host) or is_wildcard(earlier.host) or reaches(listener.host, earlier.host)
            if listener.port == earlier.port and overlap:
                yield Finding(
                    listener.file,
                    listener.key,
                    f"must be a port of its own; {listener.port} is also {earlier.says}",
                )
                break


def _own_listener(draft: Draft, listeners: Iterable[_Listener]) -> Iterator[Finding]:
    if "url" not in draft.values:
        return
    host, port = draft.model.endpoint
    for listener in listeners:
        if port == listener.port and reaches(host, listener.host):
            yield Finding(
                draft.file,
                "url",
                f"must be where the engine answers, not an address of spark-modeld itself; "
                f"port {port} is {listener.says}",
            )
            return


def _names(drafts: Iterable[Draft]) -> Iterator[Finding]:
    owners: dict[str, tuple[Draft, str]] = {}
    for draft in drafts:
        mine = dict.fromkeys(draft.model.aliases, "aliases")
        mine |= {draft.model.served_model_name: "served_model_name"}
        mine |= {draft.id: "id"}
        for name, key in mine.items():
            owner, owned_as = owners.setdefault(name, (draft, key))
            if owner is not draft:
                yield Finding(
                    draft.file,
                    "" if key == "id" else key,
                    f"{quoted(name)} must be the name of one model only; it is also {_owned_as(owned_as)} {owner.file}",
                )


def _owned_as(key: str) -> str:
    return {"id": "the id of", "aliases": "an alias in"}.get(key, "the served_model_name in")


def _sharing(drafts: Sequence[Draft]) -> Iterator[Finding]:
    for draft in drafts:
        if draft.model.role is not Role.SIDE:
            continue
        for other in drafts:
            if (
                other is draft
                or _fellows(draft.model, other.model)
                or (other.model.role is Role.SIDE and other.id > draft.id)
            ):
                continue
            if {"url"} <= draft.values.keys() & other.values.keys() and _place(draft) == _place(other):
                yield Finding(
                    draft.file, "url", f"must not be shared by a side model; {other.file} has the same host and port"
                )
            elif isinstance(draft.model.run, OwnUnit) and draft.model.run == other.model.run:
                yield Finding(draft.file, "unit", f"must not be shared by a side model; {other.file} has the same unit")


def _fellows(one: Model, other: Model) -> bool:
    """Whether both are tenants of one server: there address and unit are the server's."""
    return one.tenant and other.tenant and one.unit == other.unit


def _place(draft: Draft) -> tuple[str, int]:
    host, port = draft.model.endpoint
    return ("127.0.0.1" if is_loopback(host) or is_wildcard(host) else host), port
