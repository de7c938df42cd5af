"""Which files hold the weights, how large they are, and whether they are all there.

The index's own ``total_size`` can be stale: what counts are the sizes of the files its ``weight_map`` names. Copies in
another format (``original/``, ``consolidated.*``) are not loaded, so not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from spark_modeld.checkpoint.documents import members, texts
from spark_modeld.checkpoint.files import Unreadable, content, piece, regular, size_of
from spark_modeld.core.finding import Finding, error
from spark_modeld.core.footprint import Format

MOST_INDEX_BYTES = 24 << 20
MOST_SHARDS = 2000
_TAIL = 4 << 10
_HEADER = 1 << 20
_MOST_HEADER = 100_000_000  # the format's own limit
_NUMBERED = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)")
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*([0-9]{1,18})\s*,\s*([0-9]{1,18})\s*\]')
_DTYPE = re.compile(rb'"dtype"\s*:\s*"([A-Z0-9_]{1,16})"')
_POINTER = b"version https://git-lfs"
_AGAIN = "Fetch it again: `hf download` goes on where it stopped"


class Weights(Struct, frozen=True):
    """The weights of one folder, in bytes."""

    format: Format = Format.NONE
    bytes: int | None = None
    source: str = ""
    files: int = 0
    dtypes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def folder_weights(folder: Path, names: list[str]) -> Weights:
    """The weights of a folder with these files in it."""
    present = set(names)
    for suffix, form in ((".safetensors", Format.SAFETENSORS), (".bin", Format.PYTORCH)):
        index = ("model" if form is Format.SAFETENSORS else "pytorch_model") + f"{suffix}.index.json"
        if index in present:
            try:
                wanted = _named(content(folder / index, MOST_INDEX_BYTES))
            except Unreadable as failure:
                return Weights(form, findings=(error("index-unreadable", f"{index}: {failure}", _AGAIN),))
            return _sum(folder, sorted(wanted), form, f"sizes of the {len(wanted)} files named in {index}")
        found = _loaded(names, suffix)
        if found:
            wanted = _with_siblings(found)
            words = found[0] if len(wanted) == 1 else f"{len(wanted)} files *{suffix}"
            return _sum(folder, sorted(wanted), form, f"size of {words}")
    hint = "Fetch the checkpoint, or correct `path`"
    return Weights(findings=(error("no-weights", f"{folder} holds no weights (*.safetensors, *.gguf, *.bin)", hint),))


def _named(data: bytes) -> set[str]:
    """The files of an index. Unreadable when it names none, absurdly many, or some outside the folder."""
    section = members(data, ("weight_map",)).get("weight_map")
    raw = set() if section is None else texts(section, MOST_SHARDS)
    wanted = {name.decode("utf-8", "replace") for name in raw}
    if not wanted:
        raise Unreadable("names no files")
    if any("/" in name or "\\" in name or name in {"", ".", ".."} or "\0" in name for name in wanted):
        raise Unreadable("names files outside the folder")
    return wanted


def _loaded(names: list[str], suffix: str) -> list[str]:
    found = [name for name in names if name.endswith(suffix)]
    if suffix == ".bin":
        return [name for name in found if name.startswith(("pytorch_model", "model"))]
    return [name for name in found if not name.startswith(("consolidated", "adapter_"))] or found


def _with_siblings(found: Iterable[str]) -> set[str]:
    """These files and those that their numbering (00001-of-00003) promises."""
    wanted = set(found)
    for name in tuple(wanted):
        match = _NUMBERED.fullmatch(name)
        if match is not None and int(match[3]) <= MOST_SHARDS:
            wanted |= {f"{match[1]}-{i:05}-of-{match[3]}{match[4]}" for i in range(1, int(match[3]) + 1)}
        if len(wanted) > MOST_SHARDS:
            break
    return wanted


def siblings(path: Path) -> list[Path]:
    """A split GGUF's parts, in order; the file itself where it is not split."""
    return [path.with_name(name) for name in sorted(_with_siblings([path.name]))]


def _sum(folder: Path, wanted: list[str], form: Format, source: str) -> Weights:
    sizes = {name: size_of(folder / name) for name in wanted}
    missing = [name for name, size in sizes.items() if size is None]
    findings: list[Finding] = []
    if missing:
        findings.append(unfinished(f"{_some(missing)} of {len(wanted)} files are not there"))
    cut = [name for name, size in sizes.items() if size is not None and _is_cut(folder / name, size, form)]
    if cut:
        findings.append(unfinished(f"{_some(cut)} of {len(wanted)} files are cut short"))
    there = [size for size in sizes.values() if size is not None]
    dtypes = _dtypes(folder / wanted[0]) if form is Format.SAFETENSORS and not missing and not cut else ()
    return Weights(form, sum(there), source, len(there), dtypes, tuple(findings))


def unfinished(what: str) -> Finding:
    """The finding for weights that are not all there."""
    return error("unfinished-download", f"The download is not finished: {what}", _AGAIN)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_cut(path: Path, size: int, form: Format) -> bool:
    """Whether a file is smaller than its own header says, or stands in for one that was never fetched."""
    try:
        with regular(path) as (descriptor, _):
            if size < 1024 and piece(descriptor, 0, len(_POINTER)) == _POINTER:
                return True
            if form is not Format.SAFETENSORS:
                return size == 0
            length = int.from_bytes(piece(descriptor, 0, 8), "little")
            if size < 8 or not 2 <= length <= min(_MOST_HEADER, size - 8):
                return True
            # Tensors are written in the header's order: the last offset near its end is where the file must reach.
            tail = piece(descriptor, 8 + max(0, length - _TAIL), min(length, _TAIL))
            ends = [int(match[2]) for match in _OFFSETS.finditer(tail)]
            return bool(ends) and 8 + length + max(ends) > size
    except Unreadable:
        return True


def _dtypes(path: Path) -> tuple[str, ...]:
    try:
        with regular(path) as (descriptor, _):
            length = int.from_bytes(piece(descriptor, 0, 8), "little")
            header = piece(descriptor, 8, min(length, _HEADER))
    except Unreadable:
        return ()
    return tuple(sorted({match[1].decode("ascii") for match in _DTYPE.finditer(header)}))[:32]
