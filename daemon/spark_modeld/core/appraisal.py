"""What is known of a model before it is tried: what was seen of it, what it will need, what speaks against it.

An inspection is what adapters saw on this machine. An appraisal is what follows from it for one model, whatever else
runs; ports and memory, which depend on that, are judged when they are asked about.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from spark_modeld.core.check import blocks, check
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.finding import Finding, Level, error, notable, sort, warning
from spark_modeld.core.footprint import Checkpoint, Estimate, Flags
from spark_modeld.core.model import Model, OwnUnit

_UNLOADABLE = frozenset({"error", "bad-setting"})
_ENABLED = frozenset({"enabled", "enabled-runtime"})


class UnitFacts(Struct, frozen=True, kw_only=True):
    """What systemd says of a unit whether it runs or not, in systemd's own words.

    ``user`` is empty for root. ``command`` are the words of its ``ExecStart=``, empty where it has none or several.
    ``brand`` is its ``LimitRTTIME=`` (microseconds; see core/brand.py).
    """

    load: str = "loaded"
    file_state: str = ""
    restart: str = "no"
    user: str = ""
    command: tuple[str, ...] = ()
    brand: int = 0


class Listener(Struct, frozen=True):
    """Somebody listens on a model's port: ``holder`` says who, as far as that can be seen.

    ``own``: it may well be the model itself, in a container that docker started and that only docker knows by its name.
    """

    port: int
    holder: str
    own: bool = False


class Inspection(Struct, frozen=True, kw_only=True):
    """What was seen of one model. ``fingerprint`` changes with its configuration and its checkpoint's files.

    ``findings`` are about the files it needs; the checkpoint brings its own.
    """

    fingerprint: str = ""
    checkpoint: Checkpoint | None = None
    flags: Flags = field(default_factory=Flags)
    findings: tuple[Finding, ...] = ()
    unit: UnitFacts | None = None
    listener: Listener | None = None


class Appraisal(Struct, frozen=True, kw_only=True):
    """What follows from an inspection. ``findings`` say nothing about ports and memory."""

    inspection: Inspection
    estimate: Estimate | None = None
    findings: tuple[Finding, ...] = ()


def appraise(model: Model, seen: Inspection, estimate: Estimate | None) -> Appraisal:
    """Every finding that holds whatever else runs on the machine, errors first."""
    found = check(model, seen.checkpoint, seen.flags, estimate, None)
    return Appraisal(inspection=seen, estimate=estimate, findings=sort((*found, *seen.findings, *_unit(model, seen))))


def port_taken(model: Model, listener: Listener) -> Finding:
    """Somebody who is no unit of the catalog's listens where this model is to answer."""
    if listener.own:
        return warning(
            "port-taken",
            f"Port {listener.port} is taken by {listener.holder}: if that is the container of {model.id}, it runs "
            "already and is taken over as it is",
            "See `docker ps`; stop it if it is another one",
        )
    return error(
        "port-taken",
        f"Port {listener.port} is taken by {listener.holder}: {model.id} could not listen there, and whoever asks it "
        "would be answered by something else",
        f"Stop it (`ss -ltnp 'sport = :{listener.port}'` as root names it), or give {model.id} a port of its own",
    )


def objection(model: str, findings: tuple[Finding, ...]) -> Problem | None:
    """Why a switch to this model is refused without ``force``; None if no finding is an error."""
    if not blocks(findings):
        return None
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    more = f" And {len(errors) - 1} more." if len(errors) > 1 else ""
    detail = f"{model} is not tried: {errors[0].message}. {errors[0].hint}.{more}"
    return Problem(
        Code.CHECK_FAILED, detail, {"model": model, "findings": [told(finding) for finding in notable(findings)]}
    )


def told(finding: Finding) -> dict[str, str]:
    """A finding as JSON."""
    return {"code": finding.code, "level": str(finding.level), "message": finding.message, "hint": finding.hint}


def _unit(model: Model, seen: Inspection) -> Iterator[Finding]:
    unit, facts = model.unit, seen.unit
    if facts is None:
        return
    own = isinstance(model.run, OwnUnit)
    if facts.load == "not-found":
        hint = f"Correct `unit` in models.d/{model.id}.toml" if own else "Install spark-modeld again: `make install`"
        yield error("unit-missing", f"systemd knows no unit {unit}", hint)
        return
    if facts.load == "masked":
        yield error("unit-masked", f"{unit} is masked: systemd will not start it", f"`systemctl unmask {unit}`")
        return
    if facts.load in _UNLOADABLE:
        yield error("unit-broken", f"systemd cannot load {unit} ({facts.load})", f"See `systemctl status {unit}`")
        return
    if model.tenant:
        return  # a server without a model holds next to nothing, and may run whenever it likes
    if facts.restart not in {"", "no"}:
        yield warning(
            "restart-policy",
            f"{unit} has Restart={facts.restart}: systemd starts it again by itself, past the daemon's admission, "
            "also when it was killed because memory ran out",
            f"`systemctl edit {unit}` and set Restart=no; the daemon starts it again where that is right",
        )
    if facts.file_state in _ENABLED:
        yield warning(
            "unit-enabled",
            f"{unit} is enabled: systemd starts it at boot, past the daemon's admission",
            f"`systemctl disable {unit}`, and set slot.default if it is to run at boot",
        )
