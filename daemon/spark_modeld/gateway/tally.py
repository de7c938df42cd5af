"""The gateway's metrics."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.gateway.record import Record
from spark_modeld.metrics import FIRST_BYTE_BUCKETS, Metrics

_PREFIX = "spark_modeld_gateway_"


class Tally:
    """Counts requests and how long their first byte took. A request that is about no model has the model ""."""

    def __init__(self, metrics: Metrics, wrong_tokens: Callable[[], int]) -> None:
        self._requests = metrics.counter(
            f"{_PREFIX}requests_total", "Requests that ended, by model and HTTP status; 499: hung up", ("model", "code")
        )
        self._first_bytes = metrics.histogram(
            f"{_PREFIX}first_byte_seconds",
            "Seconds from a complete request to its answer's first byte",
            ("model",),
            FIRST_BYTE_BUCKETS,
        )
        metrics.gauge(
            f"{_PREFIX}wrong_tokens",
            "Requests since the start with a token that is none",
            (),
            lambda: {(): float(wrong_tokens())},
        )

    def add(self, record: Record) -> None:
        """One request that has ended."""
        model = record.model or ""
        self._requests.add(model, str(record.status))
        if record.first_byte is not None:
            self._first_bytes.observe(record.first_byte, model)
