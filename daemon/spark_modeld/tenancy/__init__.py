"""Servers that hold many models, each model shown to the core as a unit of its own."""
