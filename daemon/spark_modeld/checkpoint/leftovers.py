"""What downloads leave beside a checkpoint while they are under way, or when they were broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spark_modeld.checkpoint.files import Unreadable, names
from spark_modeld.core.finding import Finding, error, warning

_SUFFIXES = (".incomplete", ".part", ".aria2", ".crdownload")
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_HUB = Path(".cache") / "huggingface" / "download"
_AGAIN = "Fetch it again: `hf download` goes on where it stopped"


def leftovers(folder: Path, present: list[str]) -> Iterator[Finding]:
    """Findings about half-fetched files: an error where the weights' whole file is not there, else a warning.

    ``hf download --local-dir`` keeps them below ``.cache``, under names that do not say which file they become.
    """
    whole = set(present)
    halves = [name for name in present if name.endswith(_SUFFIXES)]
    lacking = [
        name for name in halves if name.rpartition(".")[0].endswith(_WEIGHTS) and name.rpartition(".")[0] not in whole
    ]
    if lacking:
        what = f"{lacking[0]} is all there is of {lacking[0].rpartition('.')[0]}"
        yield error("unfinished-download", f"The download is not finished: {what}", _AGAIN)
        return
    hidden = [str(_HUB / name) for name in _names(folder / _HUB) if name.endswith(_SUFFIXES)]
    if halves or hidden:
        first, count = (halves or hidden)[0], len(halves) + len(hidden)
        more = f" and {count - 1} more" if count > 1 else ""
        message = f"{first}{more}: a download is under way, or was broken off"
        yield warning("download-under-way", message, "Wait for it, or delete what is left of an old one")


def _names(folder: Path) -> list[str]:
    try:
        return names(folder)
    except Unreadable:
        return []
