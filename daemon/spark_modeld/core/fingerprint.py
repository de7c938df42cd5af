"""What a footprint was true for: when this changes, what was measured or estimated before is forgotten."""

from __future__ import annotations

import hashlib
import json

from spark_modeld.core.model import Container, Docker, Launch, Model, OwnUnit, Run


def fingerprint(model: Model, stamp: str = "") -> str:
    """A digest of all that decides how much memory this model takes.

    That is how it is run, its checkpoint's path and its context, and ``stamp``, which changes with the checkpoint's
    files ("" where there is none, or it was not seen). Names, ports and deadlines are no part of it.
    """
    said = [str(model.engine), model.path, model.context, model.user, *_words(model.run), stamp]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _words(run: Run) -> list[object]:
    match run:
        case OwnUnit(unit):
            return ["unit", unit]
        case Launch(command, environment):
            return ["launch", *command, sorted(environment.items())]
        case Docker(image, options, command):
            return ["docker", image, options, command]
        case Container(name, start_script):
            return ["container", name, start_script]
