"""The kernel's numbers, and the shape they get together with NVML's."""

from __future__ import annotations

import pytest

from spark_modeld.core.reading import MemorySource
from spark_modeld.memory.meminfo import MemInfo, parse_meminfo
from spark_modeld.memory.nvml import Device
from spark_modeld.memory.shape import pool_of, shares_memory

pytestmark = pytest.mark.unit

GIB = 1 << 30
GB10_IDLE = """\
MemTotal:       127600748 kB
MemFree:        90000000 kB
MemAvailable:   118566368 kB
Buffers:          123456 kB
HugePages_Total:       0
HugePages_Free:        0
HugePages_Rsvd:        0
HugePages_Surp:        0
Hugepagesize:       2048 kB
Hugetlb:               0 kB
"""
KERNEL = MemInfo(total=128 * GIB, available=100 * GIB, free=50 * GIB)


def test_sizes_are_bytes() -> None:
    assert parse_meminfo(GB10_IDLE) == MemInfo(
        total=127600748 * 1024,
        available=118566368 * 1024,
        free=90000000 * 1024,
        huge_pages=0,
        huge_pages_free=0,
        huge_page_size=2 << 20,
    )


def test_huge_pages_are_counts_and_make_a_note() -> None:
    text = GB10_IDLE.replace("HugePages_Total:       0", "HugePages_Total:    6144")
    text = text.replace("HugePages_Free:        0", "HugePages_Free:     1024")
    info = parse_meminfo(text)
    assert (info.huge_pages, info.huge_pages_free) == (6144, 1024)
    (note,) = info.notes
    assert "12.0 GiB are reserved as 6144 huge pages of 2048 kB, 2.0 GiB of them free" in note


def test_no_huge_pages_no_note() -> None:
    assert parse_meminfo(GB10_IDLE).notes == ()


@pytest.mark.parametrize("missing", ["MemTotal", "MemFree", "MemAvailable"])
def test_a_number_that_is_needed_is_missing(missing: str) -> None:
    text = "".join(line for line in GB10_IDLE.splitlines(keepends=True) if not line.startswith(f"{missing}:"))
    with pytest.raises(ValueError, match=missing):
        parse_meminfo(text)


@pytest.mark.parametrize("text", ["", "\n\n", "MemTotal\n", "MemTotal:\n", "MemTotal: many kB\n", "\0\0"])
def test_what_is_no_meminfo_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="MemTotal"):
        parse_meminfo(text)


def test_no_device_is_the_host_shape() -> None:
    pool = pool_of((), KERNEL)
    assert (pool.source, pool.total, pool.available, pool.gpu) == (MemorySource.HOST, 128 * GIB, 100 * GIB, None)


def test_a_device_that_cannot_tell_its_memory_shares_the_machines() -> None:
    pool = pool_of((Device("NVIDIA GB10", None, None, has_bar1=False),), KERNEL)
    assert (pool.source, pool.available, pool.gpu) == (MemorySource.UNIFIED, 100 * GIB, "NVIDIA GB10")


def test_a_shim_shares_memory_and_its_free_is_not_taken() -> None:
    pool = pool_of((Device("NVIDIA GB10", 127 * GIB, 3 * GIB, has_bar1=False),), KERNEL)
    assert (pool.source, pool.total, pool.available) == (MemorySource.UNIFIED, 128 * GIB, 100 * GIB)


@pytest.mark.parametrize(
    ("total", "has_bar1", "shares"),
    [
        (128 * GIB, False, True),
        (122 * GIB, False, True),
        (134 * GIB, False, True),
        (121 * GIB, False, False),
        (80 * GIB, False, False),
        (128 * GIB, True, False),  # a GPU as large as the machine by chance
    ],
)
def test_what_shares_memory(total: int, has_bar1: bool, shares: bool) -> None:
    assert shares_memory(Device("GPU", total, GIB, has_bar1=has_bar1), KERNEL.total) is shares


def test_several_gpus_are_summed_and_named() -> None:
    one, two = Device("RTX A", 24 * GIB, 20 * GIB, has_bar1=True), Device("RTX B", 16 * GIB, 4 * GIB, has_bar1=True)
    pool = pool_of((one, two), KERNEL)
    assert (pool.source, pool.total, pool.available) == (MemorySource.DISCRETE, 40 * GIB, 24 * GIB)
    assert pool.gpu == "RTX A, RTX B"
    (note,) = pool.notes
    assert "RTX A 20.0 GiB free of 24.0 GiB, RTX B 4.0 GiB free of 16.0 GiB" in note


def test_one_gpu_needs_no_note() -> None:
    assert pool_of((Device("RTX A", 24 * GIB, 20 * GIB, has_bar1=True),), KERNEL).notes == ()


def test_a_card_beside_a_gpu_that_shares_memory_is_not_counted() -> None:
    card, gb10 = Device("RTX A", 24 * GIB, 20 * GIB, has_bar1=True), Device("NVIDIA GB10", None, None, has_bar1=False)
    pool = pool_of((gb10, card), KERNEL)
    assert (pool.source, pool.available) == (MemorySource.UNIFIED, 100 * GIB)
    assert pool.notes == ("the memory of RTX A is not counted: 20.0 GiB free of 24.0 GiB",)
