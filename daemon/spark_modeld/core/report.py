"""The whole of what a check has to say about one model, as a value and as JSON."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spark_modeld.core.appraisal import Appraisal, told
from spark_modeld.core.check import blocks
from spark_modeld.core.finding import Finding
from spark_modeld.core.footprint import PartName
from spark_modeld.core.model import Basis, Container, Docker, Footprint, Model
from spark_modeld.core.reading import Reading


class Report(Struct, frozen=True, kw_only=True):
    """``findings`` include ports and memory. ``fits`` is about now, in place of what a switch replaces; None without
    a ``reading``. ``reserve`` is in bytes.
    """

    model: Model
    appraisal: Appraisal
    findings: tuple[Finding, ...]
    need: Footprint
    large: bool
    fits: bool | None = None
    reading: Reading | None = None
    reserve: int = 0

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not blocks(self.findings)

    @property
    def fits_ever(self) -> bool | None:
        """Whether it fits on this machine when nothing else runs; None where nobody can say."""
        if self.reading is None or self.need.basis is Basis.UNKNOWN:
            return None
        return self.need.bytes + self.reserve <= self.reading.total

    def members(self) -> dict[str, Any]:
        """As the API gives it: sizes in bytes, None for what is not known."""
        checkpoint, plan = self.appraisal.inspection.checkpoint, self.appraisal.estimate
        stored = checkpoint.quantization if checkpoint else None
        heard = self.appraisal.inspection.listener
        run, cache = self.model.run, plan.cache if plan else None
        return {
            "model": self.model.id,
            "ok": self.ok,
            "findings": [told(finding) for finding in self.findings],
            "quantization": str(stored) if stored else None,
            "quantization_source": stored.source if stored else None,
            **{str(name): self._bytes(name) for name in (PartName.WEIGHTS, PartName.KV_CACHE, PartName.OVERHEAD)},
            "parts": [{"name": str(part.name), "bytes": part.bytes, "source": part.source} for part in plan.parts]
            if plan
            else [],
            "estimate": plan.total if plan and plan.complete else None,
            "footprint": {"bytes": self.need.bytes, "basis": str(self.need.basis)},
            "large": self.large,
            "context": cache.context if cache else None,
            "context_bytes": cache.bytes if cache else None,
            "context_source": cache.source if cache else None,
            "notes": list(plan.notes) if plan else [],
            "fits": self.fits,
            "fits_ever": self.fits_ever,
            "total": self.reading.total if self.reading else None,
            "available": self.reading.available if self.reading else None,
            "reserve": self.reserve,
            "path": self.model.path,
            "format": str(checkpoint.format) if checkpoint else None,
            "weight_files": checkpoint.weight_files if checkpoint else None,
            "image": run.image if isinstance(run, Docker) else None,
            "container": run.name if isinstance(run, Container) else None,
            "start_script": run.start_script if isinstance(run, Container) else None,
            "listener": {"port": heard.port, "holder": heard.holder} if heard else None,
            "fingerprint": self.appraisal.inspection.fingerprint,
        }

    def _bytes(self, name: PartName) -> int | None:
        part = self.appraisal.estimate.part(name) if self.appraisal.estimate else None
        return part.bytes if part else None
