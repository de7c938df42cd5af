"""Any other server that speaks OpenAI's API; ``transformers serve`` is one.

It may have no health path, and its model list may be empty: then the first answer is the only proof. Nothing it
counts is known either, so while it serves only answers prove that it is well.
"""

from spark_modeld.backends.engine import OPENAI_GENERATIONS, Engine, openai_names
from spark_modeld.core.model import EngineKind

ENGINE = Engine(
    kind=EngineKind.OPENAI,
    health_optional=True,
    names=openai_names,
    names_optional=True,
    generations=OPENAI_GENERATIONS,
)
