"""Reads a checkpoint folder or .gguf, and never more of it than is needed: headers, no weights."""

from spark_modeld.checkpoint.read import read

__all__ = ["read"]
