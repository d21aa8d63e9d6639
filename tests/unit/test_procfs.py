"""procfs.py and zram.py on made-up trees, with files missing, garbled and hostile."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truezram.engine.device.sanity import implausible
from truezram.engine.machine import procfs, zram
from truezram.engine.model import MachineSnapshot, Pressure, SwapArea, Zswap

MEMINFO = """MemTotal:       16000000 kB
MemFree:         1000000 kB
MemAvailable:    4000000 kB
SwapTotal:       2097148 kB
SwapFree:        1048576 kB
Zswap:               400 kB
Zswapped:           1600 kB
HugePages_Total:       7
"""
SWAPS = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/dev/vda2                               partition\t2097148\t\t1048576\t\t-2\n"
    "/a\\040dir/swap\\011file                 file\t\t1024\t\t0\t\t5\n"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/swaps": SWAPS,
            "proc/pressure/memory": "some avg10=1.50 avg60=0.10 avg300=0.00 total=1\nfull avg10=0.25 avg60=0 total=0\n",
            "proc/pressure/io": "some avg10=12.00 avg60=0.10 avg300=0.00 total=1\n",
            "proc/sys/vm/swappiness": "180\n",
            "proc/sys/vm/page-cluster": "0\n",
            "proc/sys/kernel/osrelease": "6.12.95+deb13-amd64\n",
            "sys/devices/system/cpu/online": "0-2,5\n",
            "sys/module/zswap/parameters/enabled": "Y\n",
            "sys/module/zswap/parameters/compressor": "zstd\n",
            "sys/module/zswap/parameters/max_pool_percent": "20\n",
        },
    )


def test_machine(tree: Path) -> None:
    machine = procfs.machine(tree)
    assert (machine.mem_total, machine.mem_available) == (16000000 << 10, 4000000 << 10)
    assert (machine.swap_total, machine.swap_free) == (2097148 << 10, 1 << 30)
    assert machine.swaps == (
        SwapArea(path="/dev/vda2", type="partition", size=2097148 << 10, used=1 << 30, priority=-2),
        SwapArea(path="/a dir/swap\tfile", type="file", size=1 << 20, used=0, priority=5),
    )
    assert machine.pressure == Pressure(memory_some=1.5, memory_full=0.25, io_some=12.0, cpu_some=None)
    assert machine.zswap.enabled
    assert machine.zswap.compressor == "zstd"
    # debugfs is not there: the sizes are those of /proc/meminfo.
    assert (machine.zswap.pool_bytes, machine.zswap.stored_pages) == (400 << 10, 400)
    assert (machine.swappiness, machine.page_cluster, machine.cpus) == (180, 0, 4)
    assert machine.kernel == "6.12.95+deb13-amd64"
    assert procfs.mem_available(tree) == 4000000 << 10


def test_machine_where_nothing_is_there(tmp_path: Path) -> None:
    machine = procfs.machine(tmp_path)
    assert machine == MachineSnapshot(time=machine.time, cpus=os.cpu_count() or 1)
    assert procfs.pids(tmp_path) == []
    assert list(procfs.processes(tmp_path)) == []
    assert zram.devices(tmp_path) == []


def test_machine_here() -> None:
    machine = procfs.machine()
    assert 0 < machine.mem_available <= machine.mem_total
    assert machine.kernel == os.uname().release
    assert machine.swappiness is not None


def test_unreadable_file_is_absent(tree: Path) -> None:
    (tree / "proc/meminfo").unlink()
    (tree / "proc/meminfo").mkdir()
    assert procfs.meminfo(tree) == {}
    assert procfs.read_bytes("bad\0name") is None


@given(st.text())
def test_garbage_is_no_exception(text: str) -> None:
    procfs.expand_list(text)
    procfs.kernel_version(text)
    procfs._cgroup(text)
    procfs._average(text, "some")
    procfs._int(text)
    procfs.unescape(text)


@given(st.lists(st.integers(0, 5000), unique=True))
def test_expand_list(numbers: list[int]) -> None:
    numbers.sort()
    text, start = [], 0
    for index in range(len(numbers)):
        if index + 1 == len(numbers) or numbers[index + 1] != numbers[index] + 1:
            first, last = numbers[start], numbers[index]
            text.append(str(first) if first == last else f"{first}-{last}")
            start = index + 1
    assert procfs.expand_list(",".join(text) + "\n") == numbers


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1))
def test_unescape_undoes_the_kernels_escaping(name: str) -> None:
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in name)
    assert procfs.unescape(escaped) == name


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.12.95+deb13-amd64", (6, 12)), ("7.2", (7, 2)), ("5.10-rc1", (5, 10)), ("", (0, 0)), ("vendor", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert procfs.kernel_version(release) == version


def status(name: str, uid: int = 0, rss: int | None = 100, anon: int = 60, swap: int = 8) -> str:
    sizes = "" if rss is None else f"VmRSS:\t{rss:8} kB\nRssAnon:\t{anon} kB\nRssFile:\t1 kB\nVmSwap:\t{swap} kB\n"
    return f"Name:\t{name}\nUmask:\t0022\nUid:\t{uid}\t1\t1\t1\n{sizes}Threads:\t1\n"


def test_processes(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/12/status": status("a b\\n)", uid=4294000000),
            "proc/12/cgroup": "0::/user.slice/a:b\n",
            "proc/3/status": status("v1"),
            "proc/3/cgroup": "4:cpu,memory:/lim\n0::/\n",
            "proc/2/status": status("kthreadd", rss=None),
            "proc/7/status": "half a fi",
            "proc/self/status": status("self"),
            "proc/version": "x",
        },
    )
    (tmp_path / "proc/9").mkdir()  # ended between listing and reading
    third, twelfth = procfs.processes(tmp_path)
    assert (third.pid, third.comm, third.cgroup, third.user) == (3, "v1", "/lim", "root")
    assert (twelfth.pid, twelfth.comm, twelfth.cgroup) == (12, "a b\n)", "/user.slice/a:b")
    assert (twelfth.uid, twelfth.user) == (4294000000, "4294000000")
    assert (twelfth.rss, twelfth.rss_anon, twelfth.swapped) == (100 << 10, 60 << 10, 8 << 10)
    assert [process.pid for process in procfs.processes(tmp_path, only=[12, 99])] == [12]


def test_own_process() -> None:
    own = procfs.process(os.getpid())
    assert own is not None
    assert own.uid == os.getuid()
    assert own.rss_anon > 1 << 20


def zram_tree(root: Path, name: str, **files: str) -> Path:
    given = {
        "disksize": "1073741824\n",
        "mm_stat": "  409600  100000  131072  0  262144  5  2  7  9\n",
        "io_stat": "1 2 3 4\n",
        "stat": " 10 0 800 0 20 0 1600 0 0 5 5 3 0 80 1 0 0\n",
        "comp_algorithm": "lzo-rle lzo [lz4] zstd\n",
        "dev": "252:0\n",
        **files,
    }
    return write(root, {f"sys/block/{name}/{key}": text for key, text in given.items()})


def test_zram(tmp_path: Path) -> None:
    zram_tree(tmp_path, "zram10")
    zram_tree(tmp_path, "zram2", dev="252:2\n")
    zram_tree(tmp_path, "zram1", disksize="0\n")
    write(
        tmp_path,
        {
            "sys/block/zramx/disksize": "9",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/zram10 partition 1048572 512 100\n",
            "proc/self/mountinfo": "30 1 252:2 / /mnt/a\\040b rw - ext4 /dev/zram2 rw\n",
        },
    )
    second, tenth = zram.devices(tmp_path)
    assert (second.name, second.mountpoints, second.swap_priority) == ("zram2", ("/mnt/a b",), None)
    assert (tenth.name, tenth.kind, tenth.path, tenth.algorithm) == ("zram10", "zram", "/dev/zram10", "lz4")
    assert (tenth.orig_data_size, tenth.compr_data_size, tenth.mem_used_total) == (409600, 100000, 131072)
    assert (tenth.mem_used_max, tenth.same_pages, tenth.pages_compacted, tenth.huge_pages) == (262144, 5, 2, 7)
    total = tenth.total
    assert (total.num_reads, total.num_writes, total.num_discards) == (10, 20, 3)
    assert (total.pages_read, total.pages_written, total.pages_discarded) == (100, 200, 10)
    assert (total.failed_reads, total.failed_writes, total.invalid_io, total.huge_pages_since) == (1, 2, 3, 9)
    assert (tenth.swap_priority, tenth.swap_used) == (100, 512 << 10)
    assert tenth.ratio == 409600 / 131072


def test_zram_of_older_kernels_and_vanishing(tmp_path: Path) -> None:
    zram_tree(tmp_path, "zram0", mm_stat="4096 50 4096 0 4096 0 0\n", stat="1 0 8 0 0 0 0 0 0 0 0\n")
    (device,) = zram.devices(tmp_path)
    assert (device.orig_data_size, device.huge_pages, device.total.num_discards) == (4096, 0, 0)
    (tmp_path / "sys/block/zram0/mm_stat").unlink()
    (device,) = zram.devices(tmp_path)
    assert device.orig_data_size == 0
    assert zram.device("zram7", tmp_path) is None


MACHINE = MachineSnapshot(
    mem_total=8 << 30,
    swap_total=4 << 30,
    zswap=Zswap(enabled=True, compressor="lzo", max_pool_percent=20, stored_pages=1000, pool_bytes=1 << 20),
)


def test_zswap_as_a_device(tmp_path: Path) -> None:
    write(tmp_path, {"proc/vmstat": "zswpin 7\nnr_free 3\nzswpout 1234\nzswpwb x\n"})
    device = zram.zswap(MACHINE, tmp_path)
    assert device is not None
    assert (device.name, device.kind, device.transport, device.algorithm) == ("zswap", "zswap", "kernel", "lzo")
    assert (device.disksize, device.mem_limit) == (4 << 30, (8 << 30) // 5)
    assert (device.orig_data_size, device.mem_used_total) == (4096000, 1 << 20)
    assert (device.total.pages_read, device.total.pages_written) == (7, 1234)
    assert implausible(device) == ""


def test_zswap_is_no_device_when_it_is_off_and_empty(tmp_path: Path) -> None:
    assert (
        zram.zswap(
            replace(
                MACHINE, zswap=Zswap(enabled=False, compressor="lzo", max_pool_percent=20, stored_pages=0, pool_bytes=0)
            ),
            tmp_path,
        )
        is None
    )
    assert zram.zswap(replace(MACHINE, zswap=Zswap()), tmp_path) is None
    # Switched off, it keeps what it has; and it may hold more than the swap areas that are left.
    kept = zram.zswap(
        replace(
            MACHINE,
            zswap=Zswap(enabled=False, compressor="lzo", max_pool_percent=20, stored_pages=5, pool_bytes=4096),
            swap_total=0,
        ),
        tmp_path,
    )
    assert kept is not None
    assert kept.disksize == kept.orig_data_size == 5 * 4096
    assert implausible(kept) == ""
