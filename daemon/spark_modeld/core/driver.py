"""The NVIDIA driver as readings show it, and the models that came down for want of it.

At a cold boot an engine may be started before the driver: it fails as often as it may, and is left for a person though
nobody has anything to mend. So failed starts that began while no driver answered, and whose log says that the driver is
what they lacked, are forgotten when it has come. What begins while it answers is never forgotten by that: each coming
of the driver costs a model its bounded number of tries at most.
"""

from __future__ import annotations

from collections.abc import Mapping

from spark_modeld.core.reading import MemorySource, Reading
from spark_modeld.core.transaction import Attempts

_LACKS_IT = frozenset({"no-driver", "no-gpu", "driver-too-old"})
"""Readings of a log that mean, where no driver answers, that it is missing. CUDA without one says "insufficient"."""


class Driver:
    """Whether the driver is ``there``, and what its coming is worth to ``attempts``, by model."""

    def __init__(self, attempts: Mapping[str, Attempts]) -> None:
        self.there = False
        self._attempts = attempts

    @property
    def awaited(self) -> bool:
        """Whether some model waits for it."""
        return any(tries.lacked_driver for tries in self._attempts.values())

    def look(self, reading: Reading) -> tuple[str, ...]:
        """A reading: the models whose failures it has forgotten, because a GPU answers now."""
        self.there = reading.source is not MemorySource.HOST
        if not self.there:
            return ()
        waited = tuple(model for model, tries in self._attempts.items() if tries.lacked_driver)
        for model in waited:
            self._attempts[model].forgive_driver()
        return waited

    def heard(self, model: str, reading: Mapping[str, str]) -> bool:
        """What the log of its last start is read as; True if it failed for want of the driver, as others before it."""
        tries = self._attempts.get(model)
        if tries is None or not tries.without_driver or reading.get("code") not in _LACKS_IT:
            return False
        tries.lacked_driver = True
        return True
