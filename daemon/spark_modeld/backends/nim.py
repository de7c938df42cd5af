"""NVIDIA NIM. Its readiness has a path of its own, 503 until then."""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.backends.marks import prometheus
from spark_modeld.core.model import EngineKind

ENGINE = Engine(
    kind=EngineKind.NIM,
    health_path="/v1/health/ready",
    names=openai_names,
    generations=OPENAI_GENERATIONS,
    name_set_by="NIM_SERVED_MODEL_NAME",
    marks=(("/v1/metrics", prometheus),),
)
