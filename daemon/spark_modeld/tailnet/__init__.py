"""Asks the ``tailscale`` command about this machine. Nobody needs it; it may be missing, hang or be switched off."""

from spark_modeld.tailnet.command import Answer, ask, look

__all__ = ["Answer", "ask", "look"]
