"""The GPU's driver, docker, and how the kernel is set up for memory."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from spark_modeld.cli.doctor.facts import Facts, MemoryFacts, NvmlFacts
from spark_modeld.cli.doctor.finding import Area, Finding, error, ok, unseen, warning
from spark_modeld.cli.doctor.judge_access import needs_docker
from spark_modeld.core.model import Container, Docker

_GIB = 1 << 30
_NO_DRIVER, _MISMATCH = 9, 18


def nvml(facts: Facts) -> Iterator[Finding]:
    """Does the driver answer? Without one, the kernel's MemAvailable counts."""
    area, seen = Area.NVML, facts.nvml
    if seen is None:
        yield unseen(area, "the driver could not be asked", "nvidia-smi")
    elif seen.hangs:
        message = "the driver's library hangs: readings come from the kernel alone, and no process is known"
        yield error(area, "nvml-hangs", message, "systemctl reboot", "A driver that hangs rarely comes back.")
    elif not seen.library:
        if seen.hardware:
            message = "there is an NVIDIA GPU and no driver library (libnvidia-ml.so.1)"
            yield error(area, "no-driver", message, "ubuntu-drivers install", "Then reboot.")
        else:
            yield ok(area, "no NVIDIA GPU here: the kernel's MemAvailable counts")
    elif seen.code != 0:
        yield from _fails(seen)
    else:
        yield from _modes(seen)
        versions = f", driver {seen.driver}" if seen.driver else ""
        yield ok(area, f"{', '.join(seen.gpus) or 'no GPU'}{versions}")


def _fails(seen: NvmlFacts) -> Iterator[Finding]:
    area = Area.NVML
    if seen.code == _MISMATCH:
        loaded = f" (loaded: {seen.kernel})" if seen.kernel else ""
        message = f"the driver's library is of another version than the kernel's module{loaded}: it was upgraded"
        yield error(area, "version-mismatch", message, "systemctl reboot", "Until then nothing can use the GPU.")
    elif seen.code == _NO_DRIVER and not seen.hardware:
        yield ok(area, "a driver's library, and no NVIDIA GPU: the kernel's MemAvailable counts")
    elif seen.code == _NO_DRIVER:
        message = "the driver's module is not loaded"
        yield error(area, "driver-not-loaded", message, "modprobe nvidia", "If that fails: dmesg says why.")
    else:
        message = f"NVML fails: {seen.message or 'it says nothing'} ({seen.code})"
        yield error(area, "nvml-fails", message, "nvidia-smi", "It says more.")


def _modes(seen: NvmlFacts) -> Iterator[Finding]:
    if seen.persistence is False:
        message = "persistence mode is off: the driver is loaded anew for every model"
        yield warning(Area.NVML, "no-persistence", message, "nvidia-smi -pm 1")
    if seen.mig:
        message = "MIG is on: a model sees a slice of the GPU, and readings are of the whole"
        yield warning(Area.NVML, "mig", message, "nvidia-smi -mig 0", "While nothing uses the GPU.")


def docker(facts: Facts) -> Iterator[Finding]:
    """Only where the catalog has containers: nothing else needs it."""
    area, seen, models = Area.DOCKER, facts.docker, needs_docker(facts)
    if seen is None:
        yield unseen(area, "docker could not be asked", "docker info")
        return
    if not models:
        yield ok(area, "not used: no model runs in a container")
        return
    who = ", ".join(models[:3]) + (" …" if len(models) > 3 else "")
    if not seen.installed:
        yield error(area, "no-docker", f"there is no docker command, and {who} need it", "apt-get install docker.io")
        return
    found = [*_docker_access(facts, who), *_containers(facts)]
    if seen.hangs:
        message = "docker does not answer"
        found.append(
            error(area, "docker-hangs", message, "systemctl restart docker.service", "It restarts containers.")
        )
    elif seen.refused and not facts.setting.root:
        found.append(unseen(area, "you may not ask docker"))
    elif not seen.version:
        found.append(
            error(area, "docker-down", f"docker does not run: {seen.trouble}", "systemctl start docker.service")
        )
    yield from found
    if not found:
        yield ok(area, f"docker {seen.version}")


def _docker_access(facts: Facts, who: str) -> Iterator[Finding]:
    seen = facts.docker
    assert seen is not None
    if not seen.group:
        message = f"there is no group docker, which the launcher gives to {who}"
        yield error(
            Area.DOCKER, "no-docker-group", message, "groupadd --system docker && systemctl restart docker.socket"
        )
    elif seen.socket and seen.socket_group not in {"", "docker"}:
        message = f"docker's socket is of group {seen.socket_group}, not docker: {who} cannot use it"
        yield error(
            Area.DOCKER, "docker-socket-group", message, "chgrp docker /run/docker.sock && chmod 660 /run/docker.sock"
        )


def _containers(facts: Facts) -> Iterator[Finding]:
    seen = facts.docker
    assert seen is not None
    for name, policy in sorted(seen.policies.items()):
        if policy not in {"", "no"}:
            message = (
                f"docker starts the container {name} again by itself (--restart {policy}), past the daemon's admission"
            )
            yield warning(Area.DOCKER, "restart-policy", message, f"docker update --restart=no {shlex.quote(name)}")
    gpus = [
        m.id for m in facts.catalog.models.values() if isinstance(m.run, Docker) and "--gpus" in " ".join(m.run.options)
    ]
    if gpus and seen.nvidia is False:
        message = f"docker knows no NVIDIA runtime, and {', '.join(sorted(gpus))} ask for --gpus"
        fix = "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker.service"
        yield warning(Area.DOCKER, "no-nvidia-runtime", message, fix, "A restart of docker restarts containers.")
    missing = [
        m.run.name
        for m in facts.catalog.models.values()
        if isinstance(m.run, Container)
        and m.run.start_script is None
        and seen.version
        and m.run.name not in seen.policies
    ]
    for name in sorted(missing) if facts.setting.root or not seen.refused else ():
        message = f"docker has no container {name}, and no start_script creates it"
        yield error(Area.DOCKER, "no-container", message, "docker ps --all")


def memory(facts: Facts) -> Iterator[Finding]:
    """What makes a full memory worse, and who else kills when it is short."""
    area, seen = Area.MEMORY, facts.memory
    if seen is None:
        yield unseen(area, "/proc/meminfo could not be read", "free -h")
        return
    found = [*_kernel(seen), *_killers(facts, seen), *_levels(facts, seen)]
    yield from found
    if not found:
        swap = f", {_gib(seen.swap_total)} of swap" if seen.swap_total else ", no swap"
        yield ok(area, f"{_gib(seen.available)} of {_gib(seen.total)} available{swap}")


def _kernel(seen: MemoryFacts) -> Iterator[Finding]:
    area = Area.MEMORY
    if seen.overcommit == 2:
        message = "vm.overcommit_memory=2: engines reserve more address space than there is memory, and fail to start"
        yield error(
            area, "no-overcommit", message, "sysctl -w vm.overcommit_memory=0", "And in /etc/sysctl.d, for good."
        )
    if seen.swap_used > _GIB:
        message = f"{_gib(seen.swap_used)} of memory are swapped out: what is available is less than it looks"
        yield warning(area, "swapping", message, "swapoff -a && swapon -a", "Only where that much memory is available.")
    if seen.swap_total and seen.zswap:
        message = "zswap keeps what is swapped out in the memory that models share"
        yield warning(area, "zswap", message, "echo N > /sys/module/zswap/parameters/enabled")
    if seen.huge_pages:
        message = f"{_gib(seen.huge_pages)} are set aside as huge pages and counted as available to nobody"
        yield warning(area, "huge-pages", message, "sysctl -w vm.nr_hugepages=0")
    if not seen.pressure:
        message = "this kernel tells of no memory pressure (PSI): the guard looks every 10 s instead"
        yield ok(area, message, "psi=1 on the kernel's command line switches it on.")


def _killers(facts: Facts, seen: MemoryFacts) -> Iterator[Finding]:
    for name in seen.killers:
        if name == "systemd-oomd.service":
            continue  # it kills in control groups that ask for it, and ours do not
        message = f"{name} kills the largest process when memory is short, which is the model that was admitted"
        limit = _gib(_reserve(facts, seen))
        note = f"The daemon's guard does that itself under memory.floor. Else set its limit below {limit}."
        yield warning(Area.MEMORY, "killer", message, f"systemctl disable --now {name}", note)


def _levels(facts: Facts, seen: MemoryFacts) -> Iterator[Finding]:
    reserve = _reserve(facts, seen)
    if reserve >= seen.total:
        message = f"memory.reserve ({_gib(reserve)}) is all there is ({_gib(seen.total)}): nothing is ever admitted"
        fix = f"editor {facts.setting.config}/spark-modeld.toml"
        yield error(Area.MEMORY, "reserve-too-large", message, fix, "Then: spark-modelctl reload")
    cached = seen.available - seen.free
    if cached > seen.total // 4 and seen.free < reserve:
        message = (
            f"{_gib(cached)} are page cache and only {_gib(seen.free)} free: older engine images count the free alone"
        )
        note = "Only where an engine says there is not enough memory and `spark-modelctl memory` says there is."
        yield ok(Area.MEMORY, message, f"{note} Then: sync && echo 3 > /proc/sys/vm/drop_caches, as root.")


def _reserve(facts: Facts, seen: MemoryFacts) -> int:
    return facts.catalog.settings.memory.reserve.of(seen.total)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.1f} GiB"
