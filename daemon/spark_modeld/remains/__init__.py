"""What a model can leave behind outside its unit's control group: containers, and whoever listens on its port."""

from spark_modeld.remains.remains import HostRemains

__all__ = ["HostRemains"]
