"""TensorRT-LLM's trtllm-serve. Connections are refused until it is loaded.

It serves a model under the name of its folder, or as it was given on the command line.
"""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.core.model import EngineKind

ENGINE = Engine(kind=EngineKind.TRTLLM, names=openai_names, generations=OPENAI_GENERATIONS)
