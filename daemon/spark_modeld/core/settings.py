"""``spark-modeld.toml``, defaults filled in. Durations are seconds."""

from __future__ import annotations

from msgspec import Struct

from spark_modeld.core.model import Amount


class SlotSettings(Struct, frozen=True, kw_only=True):
    """``[slot]``; ``idle_return`` is None for "never"."""

    default: str = ""
    idle_return: float | None = 1800.0
    min_residency: float = 30.0
    max_wait: float = 600.0
    drain_timeout: float = 60.0
    start_timeout: float = 900.0
    stop_timeout: float = 120.0
    overlap: str = "auto"
    max_start_attempts: int = 3


class MemorySettings(Struct, frozen=True, kw_only=True):
    """``[memory]``."""

    reserve: Amount = Amount(bytes=8 << 30)
    large: Amount = Amount(bytes=24 << 30)
    floor: Amount = Amount(bytes=3 << 30)
    reclaim_timeout: float = 120.0
    guard_grace: float = 30.0


class HealthSettings(Struct, frozen=True, kw_only=True):
    """``[health]``."""

    stall_timeout: float = 120.0


class ControlSettings(Struct, frozen=True, kw_only=True):
    """``[control]``: ``listen`` is used when no socket was passed."""

    listen: tuple[str, ...] = ("127.0.0.1:30100",)


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """``[gateway]``."""

    listen: tuple[str, ...] = ("127.0.0.1:30101",)
    auth: str = "token"
    loading_keepalive: float = 5.0
    max_waiting: int = 256


class LogSettings(Struct, frozen=True, kw_only=True):
    """``[log]``."""

    level: str = "info"


class Settings(Struct, frozen=True, kw_only=True):
    """``spark-modeld.toml``."""

    slot: SlotSettings = SlotSettings()
    memory: MemorySettings = MemorySettings()
    health: HealthSettings = HealthSettings()
    control: ControlSettings = ControlSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()
