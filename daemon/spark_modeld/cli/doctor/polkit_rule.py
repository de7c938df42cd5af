"""The polkit rule that lets the daemon act on units of the user's own: exactly these, and only what it needs."""

from __future__ import annotations

import json
from collections.abc import Iterable

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import OwnUnit

_RULE = """\
// {path}
// Lets the daemon start, stop, kill and reset the units of your own that its catalog names, and nothing else.
// Written by `spark-modelctl doctor --polkit-rule`; make it again when the catalog names other units. To install it:
//   spark-modelctl doctor --polkit-rule | sudo install -m 644 /dev/stdin {path}.new
//   sudo mv {path}.new {path}
polkit.addRule(function (action, subject) {{
    if (action.id !== "org.freedesktop.systemd1.manage-units" || subject.user !== "spark-modeld") {{
        return polkit.Result.NOT_HANDLED;
    }}
    var units = {units};
    var verbs = {verbs};
    var known = units.indexOf(action.lookup("unit")) >= 0 && verbs.indexOf(action.lookup("verb")) >= 0;
    return known ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
}});
"""


def own_units(catalog: Catalog) -> tuple[str, ...]:
    """The units of the user's own that the catalog names, each once."""
    return tuple(sorted({model.run.unit for model in catalog.models.values() if isinstance(model.run, OwnUnit)}))


def rule(units: Iterable[str], *, path: str, verbs: Iterable[str]) -> str:
    """The content of the file, with these names as polkit has to see them, letter by letter."""
    # A JSON string is a JavaScript string, whatever is in it.
    return _RULE.format(path=path, units=json.dumps(list(units)), verbs=json.dumps(list(verbs)))
