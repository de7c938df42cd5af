"""A host that looks like a GB10 to the daemon: the fake NVML library, and a /proc/meminfo that tests write."""

from __future__ import annotations

from support.nvml import GIB, FakeNvml, library_dir
from support.spark import REPOSITORY, SOURCE, SparkHost

DAEMON = "spark-modeld.service"
FOLDER = "/run/gb10"
TOTAL = 128 * GIB


class Gb10:
    """What the kernel and the driver say inside the host."""

    def __init__(self, host: SparkHost) -> None:
        self._host = host
        host.run("mkdir", "-p", FOLDER)
        self.nvml = FakeNvml(host.path(FOLDER) / "nvml")
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
        self._host.write(f"{FOLDER}/new", "\n".join([*lines, ""]))
        self._host.run("mv", f"{FOLDER}/new", f"{FOLDER}/meminfo")

    def install(self) -> None:
        """Puts both in the daemon's environment."""
        folder = f"{SOURCE}/{library_dir().relative_to(REPOSITORY)}"
        environment = f"SPARK_MODELD_MEMINFO={FOLDER}/meminfo FAKE_NVML={FOLDER}/nvml LD_LIBRARY_PATH={folder}"
        self._host.write(f"/etc/systemd/system/{DAEMON}.d/gb10.conf", f"[Service]\nEnvironment={environment}\n")
        self._host.run("systemctl", "daemon-reload")
