"""What a model can leave behind outside its unit's control group: what escaped, containers,
and whoever listens on its port."""

from spark_modeld.remains.brands import Brands
from spark_modeld.remains.remains import HostRemains

__all__ = ["Brands", "HostRemains"]
