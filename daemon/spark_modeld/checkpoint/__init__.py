"""Reads a checkpoint folder or .gguf, and never more of it than is needed: headers, no weights."""

from spark_modeld.checkpoint.read import read
from spark_modeld.checkpoint.stamp import Stamp, stamp

__all__ = ["Stamp", "read", "stamp"]
