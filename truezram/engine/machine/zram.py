"""The kernel's own compressed memory, its zram devices and zswap, read from sysfs and /proc, as the snapshots that the
app shows alongside ours. Nothing is written.

`mm_stat`, `io_stat` and the other files are described in the kernel's Documentation/admin-guide/blockdev/zram.rst.
Fields that the kernel does not give stay 0; kernels before 4.7 or so give fewer columns, later ones more.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from truezram.engine.machine import procfs, users
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, QueueSnapshot, SwapArea
from truezram.engine.units import PAGE

_SECTOR = 512


def _numbers(path: str, least: int) -> list[int]:
    """The columns of a statistics file, padded with zeros to `least`; zeros when it cannot be read."""
    found = []
    for word in (procfs.read_text(path) or "").split():
        if not (word.isascii() and word.isdigit()):
            break
        found.append(int(word))
    return found + [0] * max(0, least - len(found))


def statistics(name: str, file: str, root: Path = procfs.ROOT) -> list[int]:
    """The numbers in one of a zram device's statistics files, ``mm_stat``, ``io_stat`` or ``bd_stat``; none when it is
    not there (the last one only with CONFIG_ZRAM_WRITEBACK)."""
    return _numbers(f"{root}/sys/block/{name}/{file}", 0)


def _algorithm(text: str) -> str:
    """The one in brackets: ``lzo [lz4] zstd``."""
    match = re.search(r"\[([^\]]+)\]", text)
    return match[1] if match else text


def device(
    name: str, root: Path = procfs.ROOT, swap: SwapArea | None = None, mountpoints: Sequence[str] = ()
) -> DeviceSnapshot | None:
    """The zram device `name` ("zram0"); None when it is gone or has no size yet (not set up)."""
    folder = f"{root}/sys/block/{name}"
    disksize = procfs.read_int(f"{folder}/disksize")
    if not disksize:
        return None
    orig, compr, used, limit, used_max, same, compacted, huge, huge_since = _numbers(f"{folder}/mm_stat", 9)[:9]
    failed_reads, failed_writes, invalid_io, _ = _numbers(f"{folder}/io_stat", 4)[:4]
    stat = _numbers(f"{folder}/stat", 15)
    reads, writes = stat[2] * _SECTOR // PAGE, stat[6] * _SECTOR // PAGE
    discarded = stat[13] * _SECTOR // PAGE
    return DeviceSnapshot(
        name=name,
        path=f"/dev/{name}",
        kind="zram",
        transport="kernel",
        state="live",
        time=time.monotonic(),
        algorithm=_algorithm(procfs.read_text(f"{folder}/comp_algorithm") or ""),
        disksize=disksize,
        mem_limit=limit,
        orig_data_size=orig,
        compr_data_size=compr,
        mem_used_total=used,
        mem_used_max=used_max,
        same_pages=same,
        huge_pages=huge,
        pages_compacted=compacted,
        total=QueueSnapshot(
            num_reads=stat[0],
            num_writes=stat[4],
            num_discards=stat[11],
            pages_read=reads,
            pages_written=writes,
            pages_discarded=discarded,
            failed_reads=failed_reads,
            failed_writes=failed_writes,
            invalid_io=invalid_io,
            huge_pages_since=huge_since,
        ),
        swap_priority=swap.priority if swap else None,
        swap_used=swap.used if swap else 0,
        mountpoints=tuple(mountpoints),
    )


def devices(
    root: Path = procfs.ROOT, areas: Sequence[SwapArea] | None = None, mounts: users.Mounts | None = None
) -> list[DeviceSnapshot]:
    """All zram devices that are set up, by number. `areas`, `mounts`: the lines of /proc/swaps, and what is mounted,
    if the caller has them already."""
    try:
        entries = os.listdir(f"{root}/sys/block")  # noqa: PTH208
    except OSError:
        return []
    names = [name for name in entries if re.fullmatch(r"zram\d{1,7}", name, re.ASCII)]
    if not names:
        return []
    swaps = users.Swaps(areas, root)
    table = mounts.table() if mounts is not None else users.mount_table(root)
    found = []
    for name in sorted(names, key=lambda name: int(name[4:])):
        disks = users.family(name, root, loops=False)
        on = swaps.on(name, disks)
        points = [mount.point for mount in users.mounts_on(name, disks, table, root)]
        snapshot = device(name, root, on[0] if on else None, points)
        if snapshot is not None:
            found.append(snapshot)
    return found


def zswap(machine: MachineSnapshot, root: Path = procfs.ROOT) -> DeviceSnapshot | None:
    """zswap as if it were a device; None when it is off and empty. Every page in it has a slot in a swap area, so that
    it can hold as much as those can (``disksize``), and its pool takes at most its share of memory (``mem_limit``). Its
    objects' size and its latencies are not reported; pages in and out are those of /proc/vmstat, counted from boot."""
    now = machine.zswap
    if not now.enabled and not now.stored_pages:
        return None
    stored = (now.stored_pages or 0) * PAGE
    events = dict.fromkeys(("zswpin", "zswpout"), 0)
    for line in (procfs.read_text(f"{root}/proc/vmstat") or "").split("\n"):
        name, _, count = line.partition(" ")
        if name in events and count.isascii() and count.isdigit():
            events[name] = int(count)
    read, written = events["zswpin"], events["zswpout"]
    return DeviceSnapshot(
        name="zswap",
        path="/sys/module/zswap",
        kind="zswap",
        transport="kernel",
        state="live",
        time=time.monotonic(),
        algorithm=now.compressor,
        disksize=max(machine.swap_total, stored),
        mem_limit=machine.mem_total * now.max_pool_percent // 100,
        orig_data_size=stored,
        mem_used_total=now.pool_bytes or 0,
        total=QueueSnapshot(num_reads=read, num_writes=written, pages_read=read, pages_written=written),
    )
