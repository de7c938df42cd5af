"""All findings, from all facts, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spark_modeld.cli.doctor import judge_access as access
from spark_modeld.cli.doctor import judge_machine as machine
from spark_modeld.cli.doctor import judge_system as system
from spark_modeld.cli.doctor import judge_tailscale, judge_units
from spark_modeld.cli.doctor.facts import Facts
from spark_modeld.cli.doctor.finding import Finding

_JUDGES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    system.systemd,
    system.bus,
    system.polkit,
    system.daemon,
    access.configuration,
    judge_units.units,
    judge_units.sockets,
    judge_units.ports,
    access.tokens,
    access.permissions,
    machine.nvml,
    machine.docker,
    machine.memory,
    judge_tailscale.tailscale,
)


def judge(facts: Facts) -> list[Finding]:
    """Every area has one finding at least."""
    return [finding for each in _JUDGES for finding in each(facts)]
