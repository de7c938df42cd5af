"""The OpenAI-compatible gateway: one address for every client, relayed to the model that serves."""
