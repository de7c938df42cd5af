"""The gauge: how much memory there is, and who holds it."""
