"""The key that an engine itself wants."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.core.model import Model


def key_of(model: Model, read_key: Callable[[str], str]) -> tuple[str | None, str]:
    """The key in the model's ``api_key_file`` and what is wrong with the file ("": nothing).

    Neither matters to an engine that asks for none. ``read_key`` reads a file, or raises OSError.
    """
    if model.api_key_file is None:
        return None, ""
    try:
        key = read_key(model.api_key_file).strip()
    except (OSError, UnicodeDecodeError) as error:
        return None, getattr(error, "strerror", None) or "it is not text"
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        return None, "it must hold one key on one line"
    return key, ""
