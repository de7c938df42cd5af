"""Looks at what a model needs to start, on this machine: who may read its checkpoint, its program, its port."""

from spark_modeld.inspection.inspector import HostInspector
from spark_modeld.inspection.look import Eyes, inspect_checkpoint, look

__all__ = ["Eyes", "HostInspector", "inspect_checkpoint", "look"]
