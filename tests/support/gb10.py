"""A host that looks like a GB10 to the daemon: the fake NVML library, and a /proc/meminfo that tests write."""

from __future__ import annotations

from support.nvml import GIB, FakeNvml, library_dir
from support.spark import REPOSITORY, SOURCE, SparkHost

DAEMON = "spark-modeld.service"
FOLDER = "/run/gb10"
TOTAL = 128 * GIB


class Gb10:
    """What the kernel and the driver say inside the host, by files in ``folder``."""

    def __init__(self, host: SparkHost, *, folder: str = FOLDER) -> None:
        self._host = host
        self._folder = folder
        host.run("mkdir", "-p", folder)
        self.nvml = FakeNvml(host.path(folder) / "nvml")
        self.available(110 * GIB)

    def reset(self) -> None:
        """One GB10 without processes, and 110 GiB available."""
        self.nvml.gb10()
        self.available(110 * GIB)

    def available(self, available: int, *, huge_pages: int = 0) -> None:
        """MemAvailable from now on, in bytes, and so many huge pages of 2 MiB, half of them free."""
        values = {"MemTotal": TOTAL, "MemFree": available // 2, "MemAvailable": available}
        lines = [f"{key}: {value >> 10} kB" for key, value in values.items()]
        lines += [f"HugePages_Total: {huge_pages}", f"HugePages_Free: {huge_pages // 2}", "Hugepagesize: 2048 kB"]
        self._host.write(f"{self._folder}/new", "\n".join([*lines, ""]))
        self._host.run("mv", f"{self._folder}/new", f"{self._folder}/meminfo")

    def install(self) -> None:
        """Puts both in the daemon's environment."""
        files = f"SPARK_MODELD_MEMINFO={self._folder}/meminfo FAKE_NVML={self._folder}/nvml"
        environment = f"{files} LD_LIBRARY_PATH={SOURCE}/{library_dir().relative_to(REPOSITORY)}"
        self._host.write(f"/etc/systemd/system/{DAEMON}.d/gb10.conf", f"[Service]\nEnvironment={environment}\n")
        self._host.run("systemctl", "daemon-reload")
