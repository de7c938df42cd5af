"""llama.cpp's llama-server. 503 while it loads.

It answers any model name with what it has loaded, so the name is compared with its list (``--alias`` sets it).
``/slots`` tells the tokens of each slot, unless it is switched off; ``/metrics`` is there only when it is switched on.
"""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.backends.marks import prometheus, slots
from spark_modeld.core.model import EngineKind

ENGINE = Engine(
    kind=EngineKind.LLAMA_SERVER,
    names=openai_names,
    generations=OPENAI_GENERATIONS,
    name_set_by="--alias",
    key_set_by="--api-key",
    marks=(("/slots", slots), ("/metrics", prometheus)),
)
