"""Checkpoint metadata and launch flags -> weights + KV cache + overhead, each with where it comes from."""

from spark_modeld.core.footprint.cache import CacheNeed
from spark_modeld.core.footprint.checkpoint import Architecture, CacheKind, Checkpoint, Format, Layers, Quantization
from spark_modeld.core.footprint.config import architecture
from spark_modeld.core.footprint.estimate import Estimate, Part, PartName, estimate
from spark_modeld.core.footprint.flags import Flags, flags_of, parse_flags

__all__ = [
    "Architecture",
    "CacheKind",
    "CacheNeed",
    "Checkpoint",
    "Estimate",
    "Flags",
    "Format",
    "Layers",
    "Part",
    "PartName",
    "Quantization",
    "architecture",
    "estimate",
    "flags_of",
    "parse_flags",
]
