"""spark-modelctl, the operator's command. It imports little: a shell prompt may be waiting for it."""
