"""spark-modeld: owns the one always-on model-serving slot of a DGX Spark."""

__version__ = "0.1.0"
