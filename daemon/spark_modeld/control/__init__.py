"""The control API: HTTP over the engine's public face, for operators, dashboards and scripts."""
