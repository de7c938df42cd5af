"""Tries what inference engines do of their machine, one after the other, and says as JSON what it got.

``demanding_engine.py FOLDER``: FOLDER is one that its user may write. A value is true, or why it was refused.
"""

import ctypes
import errno
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
MACHINE = {"x86_64": {"perf_event_open": 298, "pidfd_getfd": 438, "io_uring_setup": 425, "mbind": 237}}
NUMBERS = MACHINE.get(
    os.uname().machine, {"perf_event_open": 241, "pidfd_getfd": 438, "io_uring_setup": 425, "mbind": 235}
)


def must(result: int, *, fine: tuple[int, ...] = ()) -> int:
    """OSError for a call of the C library that failed, unless with one of these."""
    if result < 0 and (number := ctypes.get_errno()) not in fine:
        raise OSError(number, os.strerror(number))
    return result


def anonymous(size: int) -> ctypes.c_void_p:
    """New memory, its own until the end."""
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(size), writable, private, -1, 0))


def compile_while_running() -> None:
    """As the CUDA driver, Triton and every JIT: memory that is written and executed."""
    mmap.mmap(-1, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    must(libc.mprotect(anonymous(4096), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC))


def run_what_was_compiled(folder: Path) -> None:
    """As ptxas and ninja: a program from the cache."""
    program = folder / "compiled"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    subprocess.run([program], check=True)


def share_memory() -> None:
    """As NCCL and the workers of vLLM: by name, System V, and by an anonymous file."""
    name = Path("/dev/shm") / f"demanding-{os.getpid()}"
    name.write_bytes(b"x" * 4096)
    name.unlink()
    segment = must(libc.shmget(0, 4096, 0o1600))
    must(libc.shmctl(segment, 0, None))
    os.close(os.memfd_create("x"))


def lock_memory() -> None:
    """As pinned memory: more than the 8 MiB that everybody may."""
    size = 32 << 20
    memory = anonymous(size)
    must(libc.mlock(memory, size))
    must(libc.munlockall())


def look_for_interfaces() -> None:
    """As NCCL and RDMA."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
    assert socket.if_nameindex()


def listen() -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0))):
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen()


def pass_memory_on() -> None:
    """As CUDA's virtual memory between two processes."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        pidfd = os.pidfd_open(child.pid)
        os.close(must(libc.syscall(NUMBERS["pidfd_getfd"], pidfd, 0, 0)))
        must(libc.ptrace(16, child.pid, None, None))
    finally:
        child.kill()
        child.wait()


def bind_to_nodes() -> None:
    """As numactl: ENOSYS where the kernel has one node only."""
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)
    must(libc.syscall(NUMBERS["mbind"], anonymous(4096), ctypes.c_long(4096), 0, None, 0, 0), fine=(errno.ENOSYS,))


def count_cycles() -> None:
    """As perf, where the machine lets its users."""
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 2:
        must(libc.syscall(NUMBERS["perf_event_open"], None, 0, -1, -1, 0), fine=(errno.EFAULT,))


def read_by_ring() -> None:
    must(libc.syscall(NUMBERS["io_uring_setup"], 0, None), fine=(errno.EFAULT, errno.EINVAL, errno.ENOSYS))


def write_caches(folder: Path) -> None:
    for where in (Path.home(), folder, Path("/tmp"), Path("/var/tmp")):
        with tempfile.TemporaryDirectory(dir=where) as made:
            Path(made).chmod(0o2770)  # a cache that a group shares


def make_namespaces() -> None:
    """As Apptainer and Enroot, where the machine lets its users."""
    if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode:
        raise OSError(errno.EPERM, "no user namespace")


def look_around() -> None:
    for path in (
        "/proc/meminfo",
        "/proc/1/stat",
        "/sys/devices/system/cpu/online",
        "/sys/fs/cgroup/cgroup.controllers",
    ):
        Path(path).read_text()


# What no engine does.


def write_the_system() -> None:
    Path("/usr/local/lib/engine-was-here").touch()


def set_the_clock() -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time())


def sniff() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def odd_sockets() -> None:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


def tune_the_kernel() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("0\n")


def told(attempt: Callable[[], None]) -> object:
    """True if it went well, else why not."""
    try:
        attempt()
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return True


def main(folder: str) -> None:
    """Tries all of it."""
    attempts: list[Callable[[], None]] = [
        *(compile_while_running, share_memory, lock_memory, look_for_interfaces, listen, pass_memory_on, bind_to_nodes),
        *(count_cycles, read_by_ring, make_namespaces, look_around),
        *(write_the_system, set_the_clock, sniff, odd_sockets, tune_the_kernel),
    ]
    answers = {attempt.__name__: told(attempt) for attempt in attempts}
    answers["run_what_was_compiled"] = told(lambda: run_what_was_compiled(Path(folder)))
    answers["write_caches"] = told(lambda: write_caches(Path(folder)))
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
