"""The drop-in that brands what a unit of the user's own starts, so that root can end what of it escapes."""

from __future__ import annotations

import shlex

from spark_modeld.core.brand import brand_of
from spark_modeld.core.model import Model, OwnUnit

_DROP_IN = """\
# {path}
# What {unit} starts is known by this limit, which limits nothing, wherever it goes. What of it still runs when the unit
# is down is ended before another model starts, sessions and scopes that the unit opened included.
# Written by `spark-modelctl doctor --drop-in {model}`; it is for this unit alone. To install it:
#   spark-modelctl doctor --drop-in {model} | {sudo}install -D -m 644 /dev/stdin {quoted}
#   {sudo}{systemctl} daemon-reload{caution}
# It is in force from the unit's next start.
[Unit]
After=spark-model-sweep@{model}.service
[Service]
LimitRTTIME={brand}us
"""
_CAUTION = "   # takes the GPU from containers that run: do it when none does"


def path(unit: str, *, per_user: bool) -> str:
    """Where it belongs."""
    folder = "~/.config/systemd/user" if per_user else "/etc/systemd/system"
    return f"{folder}/{unit}.d/50-spark-modeld.conf"


def drop_in(model: Model, *, per_user: bool) -> str:
    """The content of the file."""
    return _DROP_IN.format(
        path=path(model.unit, per_user=per_user),
        quoted=path(shlex.quote(model.unit), per_user=per_user),
        unit=model.unit,
        model=model.id,
        sudo="" if per_user else "sudo ",
        systemctl="systemctl --user" if per_user else "systemctl",
        caution="" if per_user else _CAUTION,
        brand=brand_of(model.unit),
    )


def not_needed(model: Model) -> str:
    """Why a model has no use for one; empty where it has."""
    if not isinstance(model.run, OwnUnit):
        return f"{model.id} runs by {model.unit}, whose launcher brands all that it starts."
    if model.tenant:
        return f"{model.unit} is a server that stays when {model.id} goes: nothing of it is to be ended."
    return ""
