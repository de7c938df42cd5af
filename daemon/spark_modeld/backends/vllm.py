"""vLLM. Connections are refused until it is loaded.

``/health`` stays 200 in a deadlock, so only a generation is proof; while it serves, its token counters are.
"""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.backends.marks import prometheus
from spark_modeld.core.model import EngineKind

ENGINE = Engine(
    kind=EngineKind.VLLM,
    names=openai_names,
    generations=OPENAI_GENERATIONS,
    name_set_by="--served-model-name",
    key_set_by="--api-key",
    marks=(("/metrics", prometheus),),
)
