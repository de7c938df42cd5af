"""SGLang. Refused, then 503 while it loads.

``/v1/models`` answers 200 before the warm-up, so health comes first. ``/health`` itself generates one token: it takes
a second or more and gives up with 503 after 20 s, so it is not asked while the model serves. ``--api-key`` guards
everything but ``/health*`` and ``/metrics*``.
"""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.backends.marks import prometheus
from spark_modeld.core.model import EngineKind

ENGINE = Engine(
    kind=EngineKind.SGLANG,
    names=openai_names,
    generations=OPENAI_GENERATIONS,
    name_set_by="--served-model-name",
    key_set_by="--api-key",
    alive_path="/v1/models",
    marks=(("/metrics", prometheus),),
)
