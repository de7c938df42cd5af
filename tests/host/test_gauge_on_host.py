"""The gauge in the real daemon: every way in which a driver answers, fails, hangs, comes late and recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.gb10 import DAEMON, FOLDER, TOTAL, Gb10
from support.nvml import DRIVER_NOT_LOADED, GIB, GPU_LOST, SONAME, VERSION_MISMATCH, Gpu, Process, library_dir
from support.serving import Events, Serving, await_that, bad_model
from support.spark import CONTROL_SOCKET, REPOSITORY, SOURCE, SparkHost

pytestmark = pytest.mark.host

CONTAINER = "0123456789abcdef" * 4
HELD = 1200 << 20
HOLDER = f"import time; held = bytearray({HELD}); time.sleep(3600)"


@pytest.fixture(scope="module")
def gb10(installed_host: SparkHost) -> Gb10:
    gb10 = Gb10(installed_host)
    gb10.install()
    installed_host.tiny("alpha", port=8001, memory="60GiB")
    installed_host.tiny("huge", port=8002, memory="500GiB")
    installed_host.enable()
    Serving(installed_host).serve("alpha")
    return gb10


@pytest.fixture
def serving(gb10: Gb10, installed_host: SparkHost) -> Iterator[Serving]:
    """The daemon beside a GB10 in order, alpha serving. It is the same process before and after."""
    serving = Serving(installed_host)
    gb10.reset()
    memory_when(serving, lambda memory: memory["source"] == "unified" and not memory["notes"], "the driver to be back")
    before = (daemon_pid(serving), serving.pid("alpha"))
    yield serving
    gb10.reset()
    assert (daemon_pid(serving), serving.pid("alpha")) == before
    assert serving.slot() == ("alpha", "serving")


def daemon_pid(serving: Serving) -> str:
    return serving.host.show(DAEMON, "MainPID")


def threads(serving: Serving) -> int:
    lines = serving.host.path(f"/proc/{daemon_pid(serving)}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))


def memory_of(serving: Serving) -> dict[str, Any]:
    status, memory = serving.host.api("GET", "/api/memory")
    assert status == 200, memory
    return dict(memory)


def memory_when(serving: Serving, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        memory = memory_of(serving)
        return memory if wanted(memory) else None

    return await_that(look, what)  # type: ignore[return-value]


def metric(serving: Serving, name: str) -> str:
    """The metric's lines, without what they all begin with."""
    prefix = f"spark_modeld_{name}"
    shown = serving.host.run("curl", "-sSf", "--unix-socket", CONTROL_SOCKET, "http://localhost/metrics").stdout
    return " ".join(line.removeprefix(prefix) for line in shown.splitlines() if line.startswith(prefix))


def told(serving: Serving) -> list[str]:
    """What the status warns of, in words."""
    return [each["message"] for each in serving.status()["warnings"] if each["code"].startswith("gauge")]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (DRIVER_NOT_LOADED, "Driver Not Loaded"),
        (GPU_LOST, "GPU is lost"),
        (VERSION_MISMATCH, "RM has detected an NVML/RM version mismatch"),
    ],
)
def test_a_driver_that_fails_is_told_and_recovers_without_a_restart(
    serving: Serving, gb10: Gb10, code: int, words: str
) -> None:
    gb10.nvml.init_fails(code)
    memory = memory_of(serving)
    assert (memory["source"], memory["gpu"], memory["available"]) == ("host", None, 110 * GIB)
    assert any(words in note for note in memory["notes"])
    assert any(words in message for message in told(serving))
    assert metric(serving, "memory_source_info") == '{gpu="",source="host"} 1.0'
    assert words in serving.ctl("memory")
    gb10.nvml.works()
    memory = memory_when(serving, lambda memory: memory["source"] == "unified", "the driver to be found again")
    assert (memory["gpu"], memory["notes"], told(serving)) == ("NVIDIA GB10", [], [])


def test_a_driver_that_hangs_costs_neither_answers_nor_threads(serving: Serving, gb10: Gb10) -> None:
    gb10.nvml.processes([Process("llama-server", 55 * GIB)])
    assert memory_of(serving)["processes"][0]["model"] == "alpha"
    before = threads(serving)
    gb10.nvml.hang()
    gb10.available(50 * GIB)
    for _ in range(30):
        memory = memory_of(serving)
        assert (memory["stale"], memory["source"], memory["available"]) == (True, "unified", 50 * GIB)
        assert memory["processes"][0]["bytes"] == 55 * GIB  # those of before
    assert threads(serving) == before
    assert metric(serving, "memory_reading_stale") == " 1.0"
    assert "does not answer" in serving.ctl("memory")
    assert serving.ctl("status")
    gb10.nvml.works()
    memory_when(serving, lambda memory: not memory["stale"], "the driver to answer again")
    assert told(serving) == []


def test_a_load_is_killed_at_the_floor_also_while_the_driver_hangs(serving: Serving, gb10: Gb10) -> None:
    """A machine that runs out of memory is the one whose driver hangs."""
    serving.host.model("slow", bad_model("slow", 8003, "--never-ready", memory="10GiB"))
    serving.reload()
    with Events(serving.host) as events:
        switch = serving.begin("slow")  # beside alpha: there is room for both
        events.phase("slow", "warming")
        gb10.nvml.hang()
        gb10.available(2 * GIB)
        events.phase("slow", "stopping")
    gb10.reset()
    ended = serving.ended(switch)
    assert (ended["error"]["code"], ended["error"]["available"]) == ("memory-refused", 2 * GIB)
    assert serving.active("slow") in {"inactive", "failed"}


def test_two_gpus_are_one_pool_and_a_process_on_both_is_one(serving: Serving, gb10: Gb10) -> None:
    gb10.nvml.lost()  # GPUs that come and go are found when NVML is opened again
    assert memory_of(serving)["source"] == "host"
    gb10.nvml.two_gpus()
    gb10.nvml.processes([Process("llama-server", 3 * GIB)], gpu=0)
    gb10.nvml.processes([Process("llama-server", 11 * GIB)], gpu=1)
    memory = memory_when(serving, lambda memory: memory["source"] == "discrete", "the other GPUs")
    assert (memory["total"], memory["available"]) == (40 * GIB, 24 * GIB)
    assert memory["gpu"] == "NVIDIA RTX 4090, NVIDIA RTX 4080"
    assert [process["bytes"] for process in memory["processes"]] == [14 * GIB]
    assert memory["notes"][0].startswith("the memory is the sum of several GPUs")


def test_a_gpu_whose_name_means_nothing_is_told_apart_by_its_answers(serving: Serving, gb10: Gb10) -> None:
    gb10.nvml.gpus(Gpu("NVIDIA GB10", (24 * GIB, 20 * GIB), bar1=24 * GIB))
    assert memory_when(serving, lambda memory: memory["source"] == "discrete", "a discrete one")["total"] == 24 * GIB
    gb10.nvml.gpus(Gpu("Nobody's Accelerator"))
    assert memory_when(serving, lambda memory: memory["source"] == "unified", "a unified one")["total"] == TOTAL


def test_a_pid_in_both_lists_counts_once_and_unknown_bytes_are_unknown(serving: Serving, gb10: Gb10) -> None:
    pid = serving.pid("alpha")
    gb10.nvml.processes([Process(pid, 9 * GIB), Process(pid, 2 * GIB, "graphics"), Process(1, None, "graphics")])
    memory = memory_of(serving)
    assert [(each["pid"], each["bytes"]) for each in memory["processes"]] == [(pid, 9 * GIB), (1, None)]
    assert [(each["user"], each["command"]) for each in memory["processes"]] == [
        ("spark-model", "llama-server"),
        ("root", "systemd"),
    ]


def test_reserved_huge_pages_are_reported_and_refuse_nothing(serving: Serving, gb10: Gb10) -> None:
    gb10.available(100 * GIB, huge_pages=4096)
    memory = memory_of(serving)
    assert memory["huge_pages"] == {"reserved": 8 * GIB, "free": 4 * GIB, "page": 2 << 20}
    assert memory["available"] == 100 * GIB
    assert "8.0 GiB are reserved as 4096 huge pages" in serving.ctl("memory")


def test_a_container_that_the_launcher_reports_is_the_models(serving: Serving, gb10: Gb10) -> None:
    scope = f"docker-{CONTAINER}.scope"
    host = serving.host
    host.run("systemd-run", "--unit=fake-docker", "systemd-run", "--scope", f"--unit={scope}", "sleep", "3600")
    host.run("mkdir", "-p", "/run/spark-models/huge")
    try:
        gb10.nvml.processes([Process("sleep", 7 * GIB)])
        process = memory_when(
            serving, lambda memory: [p["unit"] for p in memory["processes"]] == [scope], "the container's process"
        )["processes"][0]
        assert (process["model"], process["command"], process["user"]) == (None, "sleep", "root")
        host.write("/run/spark-models/huge/container", f"{CONTAINER}\n")
        assert memory_of(serving)["processes"][0]["model"] == "huge"
    finally:
        host.run("rm", "-rf", "/run/spark-models/huge")
        host.run("systemctl", "stop", scope)


def test_a_stray_server_is_named_with_its_user_where_memory_is_refused(serving: Serving, gb10: Gb10) -> None:
    host = serving.host
    host.run("systemd-run", "--unit=stray", "--uid=daemon", "/usr/bin/python3", "-c", HOLDER)
    try:
        memory = memory_when(
            serving, lambda memory: [s for s in memory["strangers"] if s["bytes"] >= HELD], "the stray's memory"
        )
        (stranger,) = memory["strangers"]
        assert stranger["pid"] == int(host.show("stray.service", "MainPID"))
        assert (stranger["user"], stranger["unit"]) == ("daemon", "stray.service")
        assert stranger["command"].startswith("python3")
        status, problem = serving.switch("huge")
        assert status == 507
        assert [each["user"] for each in problem["holders"]] == ["daemon"]
        assert "of daemon) 1.2 GiB of host memory" in problem["detail"]
        assert "stray.service" in serving.ctl("memory")
    finally:
        host.run("systemctl", "stop", "stray.service")


def test_a_driver_that_hangs_does_not_keep_the_daemon_from_ending(gb10: Gb10, installed_host: SparkHost) -> None:
    """Its library would clean up at the end of the process, and wait for whoever hangs inside it."""
    serving = Serving(installed_host)
    gb10.nvml.hang()
    assert memory_when(serving, lambda memory: memory["stale"], "the driver to hang")
    pid = daemon_pid(serving)
    installed_host.run("systemctl", "restart", "--no-block", DAEMON)
    await_that(lambda: daemon_pid(serving) not in {"0", pid}, "the daemon to be another")
    assert memory_of(serving)["stale"]
    assert serving.slot()[0] == "alpha"
    installed_host.run("systemctl", "stop", "--no-block", DAEMON)
    await_that(lambda: installed_host.show(DAEMON, "ActiveState") == "inactive", "the daemon to end")
    assert installed_host.show(DAEMON, "Result") == "success"
    gb10.nvml.works()
    serving.await_slot("alpha", "serving")


def test_a_library_that_is_installed_late_is_found_without_a_restart(gb10: Gb10, installed_host: SparkHost) -> None:
    host, serving = installed_host, Serving(installed_host)
    gb10.reset()
    environment = f"SPARK_MODELD_MEMINFO={FOLDER}/meminfo FAKE_NVML={FOLDER}/nvml"
    host.write(f"/etc/systemd/system/{DAEMON}.d/gb10.conf", f"[Service]\nEnvironment={environment}\n")
    host.run("systemctl", "daemon-reload")
    serving.restart_daemon()
    pid = daemon_pid(serving)
    memory = memory_of(serving)
    assert (memory["source"], memory["gpu"], memory["stale"], memory["notes"]) == ("host", None, False, [])
    library = f"{SOURCE}/{library_dir().relative_to(REPOSITORY)}/{SONAME}"
    host.run("sh", "-c", f'cp {library} "/usr/lib/$(uname -m)-linux-gnu/"')
    memory = memory_when(serving, lambda memory: memory["source"] == "unified", "the library to be found")
    assert (memory["gpu"], daemon_pid(serving)) == ("NVIDIA GB10", pid)
