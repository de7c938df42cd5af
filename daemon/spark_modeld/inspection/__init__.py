"""Looks at what a model needs to start, on this machine: who may read its checkpoint, its program, its port."""

from spark_modeld.inspection.eyes import Eyes
from spark_modeld.inspection.inspector import HostInspector

__all__ = ["Eyes", "HostInspector"]
