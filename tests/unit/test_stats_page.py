"""The statistics page as a reader sees it: whole, damaged, and while it is being written."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG, cost, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from truezram._native import ffi, lib
from truezram.engine.device import stats_page
from truezram.engine.device.stats_page import StatsPage, Unreadable, cpu_ns, is_running, process_state
from truezram.engine.model import MEMORY


def start_time() -> int:
    return process_state(os.getpid())[1]


def make(path: Path, queues: int = 2) -> tuple[Any, mmap.mmap]:
    """A page of a live local0 of this process, and its mapping."""
    size = lib.tz_stats_size(queues)
    with path.open("w+b") as file:
        file.truncate(size)
        page = mmap.mmap(file.fileno(), size)
    stats = ffi.cast("struct tz_stats *", ffi.from_buffer(page, require_writable=True))
    assert lib.tz_stats_init(stats, size, queues) == 0
    stats.name, stats.transport, stats.state = b"local0", 1, 1
    stats.pid, stats.pid_start = os.getpid(), start_time()
    return stats, page


def test_sums_and_gauges(tmp_path: Path) -> None:
    stats, _page = make(tmp_path / "local0.stats", 3)
    for index, now in enumerate((10, -4, 1)):
        queue = lib.tz_stats_queue(stats, index)
        queue.pages_now = now
        queue.kind_pages_now[1] = 2 * now
        queue.kind_pages_now[4] = now
        queue.num_reads = 100
        queue.read_lat[199] = 1
        queue.cpu = 0xFFFFFFFF if index else 5
        queue.compr_bytes_now = 1000 * now
        queue.object_bytes_now = 1100 * now
        queue.kind_pages_now[9], queue.kind_bytes_now[9] = now, 100 * now
        queue.kind_pages_now[12], queue.kind_bytes_now[12] = 16 * now, 300 * now
    stats.segment_bytes, stats.overhead_bytes, stats.reserve_target = 1 << 17, 4096, 1 << 20
    stats.table_bytes, stats.reserve_bytes, stats.mem_used_total = 8192, 1 << 19, 12 << 20
    collector = lib.tz_stats_queue(stats, 3)  # not a queue, but part of the sums
    collector.pages_now, collector.slots_freed = -2, 2
    stats.flags = 1 | 8
    device = StatsPage(tmp_path / "local0.stats").snapshot((7, 4096), ("/mnt",))
    assert device.state == "live"
    assert device.orig_data_size == 5 * 4096
    assert device.total.slots_freed == 2
    assert (device.same_pages, device.huge_pages) == (14, 7)
    assert dict(device.kind_pages) == {"same": 14, "huge": 7, "dense": 7, "cold": 112}
    assert dict(device.kind_bytes) == {"dense": 700, "cold": 2100}
    assert (device.group_pages, device.group_bytes) == (112, 2100)
    assert device.total.num_reads == 300
    assert device.total.read_lat[199] == 3
    assert [queue.cpu for queue in device.queues] == [5, None, None]
    assert (device.compr_data_size, device.object_bytes, device.segment_bytes) == (7000, 7700, 1 << 17)
    assert (device.overhead_bytes, device.reserve_bytes, device.reserve_target) == (4096, 1 << 19, 1 << 20)
    assert {part.key: part.of(device) for part in MEMORY} == {
        "compressed": 7000,
        "rounding": 700,
        "holes": (1 << 17) - 7700,
        "table": 8192,
        "reserve": 1 << 19,
        "allocator": 4096,
    }
    assert device.packing == ((12 << 20) - (1 << 19)) / 7000
    assert (device.memory_locked, device.noswap_tmpfs, device.io_flusher) == (True, False, True)
    assert (device.swap_priority, device.swap_used, device.mountpoints) == (7, 4096, ("/mnt",))
    assert device.path == "local:0"


def test_tiers_and_steps(tmp_path: Path) -> None:
    """Where the pages are now, what came there, and for which CPU time: a figure of each is its own."""
    stats, _page = make(tmp_path / "local0.stats", 1)
    queue = lib.tz_stats_queue(stats, 0)
    queue.pages_now, queue.object_bytes_now = 1000, 50_000
    for kind, (pages, size) in {1: (100, 0), 6: (300, 30_000), 9: (200, 12_000), 12: (400, 8000)}.items():
        queue.kind_pages_now[kind], queue.kind_bytes_now[kind] = pages, size
    (stats.dense.pages, stats.dense.saved, stats.dense.cpu_ns) = (700, 60_000, 5)
    (stats.dense.no_room, stats.cold.no_room) = (3, 4)
    (stats.cold.pages, stats.cold.saved, stats.cold.cpu_ns) = (500, 9000, 6)
    device = StatsPage(tmp_path / "local0.stats").snapshot()
    assert device.tiers == (("hot", 300, 30_000, 0), ("dense", 200, 12_000, 60_000), ("cold", 400, 8000, 9000))
    assert (device.dense_pages, device.dense_saved, device.dense_cpu_ns) == (700, 60_000, 5)
    assert (device.dense_no_room, device.cold_no_room) == (3, 4)
    assert (device.cold_pages, device.cold_saved, device.cold_cpu_ns) == (500, 9000, 6)
    assert (device.recompressed_pages, device.recompressed_saved, device.recompress_cpu_ns) == (1200, 69_000, 11)
    for number, name in enumerate(("", "mem_limit", "memory", "")):
        stats.pressure, stats.pressures = number, 7
        device = StatsPage(tmp_path / "local0.stats").snapshot()
        assert (device.pressure, device.pressures) == (name, 7)
    queue.pages_now = 0  # of another instant
    assert StatsPage(tmp_path / "local0.stats").snapshot().tiers[0].pages == 0


def test_gauges_of_different_instants_give_nothing_below_zero(tmp_path: Path) -> None:
    stats, _page = make(tmp_path / "local0.stats", 2)
    for queue in (lib.tz_stats_queue(stats, 0), lib.tz_stats_queue(stats, 1)):
        queue.compr_bytes_now, queue.object_bytes_now = 5000, 4000
    stats.segment_bytes, stats.reserve_bytes, stats.mem_used_total = 4096, 1 << 20, 4096
    device = StatsPage(tmp_path / "local0.stats").snapshot()
    assert [part.of(device) for part in MEMORY] == [10000, 0, 0, 0, 1 << 20, 0]
    assert device.packing is None
    lib.tz_stats_queue(stats, 0).object_bytes_now = -9000
    device = StatsPage(tmp_path / "local0.stats").snapshot()
    assert [part.of(device) for part in MEMORY][:3] == [10000, 0, 4096]


@pytest.mark.parametrize("transport", [0, 1])
def test_slot_tracking(tmp_path: Path, transport: int) -> None:
    """By name, with the server's words; a local device is never swap. Numbers of a later version are not known."""
    stats, _page = make(tmp_path / "local0.stats")
    stats.transport = transport
    for number, name in enumerate(("off", "on", "testing", "unavailable", "unavailable")):
        stats.slot_tracking, stats.slot_tracking_text = number, b"why \x1b"
        device = StatsPage(tmp_path / "local0.stats").snapshot()
        assert device.slot_tracking == ("" if transport else name)
        assert device.slot_tracking_text.startswith("why ")
        assert "\x1b" not in device.slot_tracking_text


def test_every_counter_arrives_under_its_name(tmp_path: Path) -> None:
    stats, _page = make(tmp_path / "local0.stats", 1)
    queue = lib.tz_stats_queue(stats, 0)
    names = [name for name in StatsPage(tmp_path / "local0.stats").snapshot().total.__slots__ if hasattr(queue, name)]
    names = [name for name in names if name not in ("read_lat", "write_lat", "cpu", "tid")]
    assert len(names) == 29
    for value, name in enumerate(names, start=1000):
        setattr(queue, name, value)
    total = StatsPage(tmp_path / "local0.stats").snapshot().total
    assert {name: getattr(total, name) for name in names} == {name: v for v, name in enumerate(names, start=1000)}


def test_dead_server_and_reused_pid(tmp_path: Path) -> None:
    stats, _page = make(tmp_path / "local0.stats")
    page = StatsPage(tmp_path / "local0.stats")
    assert page.snapshot().state == "live"
    stats.pid_start += 1
    assert page.snapshot().state == "dead"
    assert page.snapshot((5, 4096), ("/mnt",)).swap_priority == 5


def test_a_device_that_another_server_takes_over(tmp_path: Path) -> None:
    """ "recovering" while there is a standby, and alive again for a reader that has seen it dead."""
    stats, _page = make(tmp_path / "local0.stats")
    pid, start = stats.pid, stats.pid_start
    page = StatsPage(tmp_path / "local0.stats")
    stats.pid_start = start + 1
    stats.standby = pid
    assert page.snapshot().state == "dead"  # not one that can be recovered
    stats.flags = lib.TZ_FLAG_RECOVERABLE
    assert page.snapshot().state == "dead"  # nothing of a dead device is read again
    page = StatsPage(tmp_path / "local0.stats")
    assert (page.snapshot().state, page.snapshot().standby) == ("recovering", pid)
    stats.standby = 0
    assert page.snapshot().state == "dead"
    stats.pid_start = start
    stats.state = lib.TZ_STATE_RECOVERING
    assert page.snapshot().state == "recovering"
    stats.state, stats.recoveries = lib.TZ_STATE_LIVE, 1
    assert (page.snapshot().state, page.snapshot().recoveries) == ("live", 1)


@pytest.mark.parametrize(
    ("transport", "flags", "mode", "why"),
    [
        ("ublk", lib.TZ_FLAG_USER_COPY, "user_copy", "requests of up to 128 KiB"),
        ("ublk", 0, "driver_copy", "no USER_COPY"),
        ("ublk", lib.TZ_FLAG_DATA_ASKED, "driver_copy", "it was asked for"),
        ("ublk", lib.TZ_FLAG_DATA_ASKED | lib.TZ_FLAG_USER_COPY, "user_copy", "it was asked for"),
        ("local", 0, "", ""),
    ],
)
def test_data_mode_and_why(tmp_path: Path, transport: str, flags: int, mode: str, why: str) -> None:
    stats, _page = make(tmp_path / "local0.stats")
    stats.transport, stats.flags = stats_page.TRANSPORT_NAMES.index(transport), flags
    device = StatsPage(tmp_path / "local0.stats").snapshot()
    assert device.data_mode == mode
    assert why in device.data_mode_why
    assert bool(device.data_mode_why) == bool(why)


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    start = process_state(child.pid)[1]
    wait_until(lambda: process_state(child.pid)[0] == "Z")
    assert process_state(child.pid) == ("Z", start)
    assert not is_running(child.pid, start)
    child.wait()
    assert not is_running(child.pid, start)


def test_cpu_clock_counts() -> None:
    before = cpu_ns(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert 40_000_000 < cpu_ns(os.getpid()) - before < 2_000_000_000
    assert cpu_ns(2**22 - 1) == 0


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("magic", 1, "magic"),
        ("version", 10, "version"),
        ("nr_queues", 0, "queues"),
        ("nr_queues", 65, "queues"),
        ("nr_queues", 3, "cut short"),
        ("queue_offset", 8, "layout"),
        ("queue_offset", 1 << 20, "cut short"),
        ("queue_stride", 0, "layout"),
        ("queue_stride", 0xFFFFFFC0, "cut short"),
        ("size", 0xFFFFFFFF, "cut short"),
        ("name", b"local1", "local1"),
        ("name", b"\x1b[2J", r"\?\[2J"),
    ],
)
def test_damage_is_told(tmp_path: Path, field: str, value: object, why: str) -> None:
    stats, _page = make(tmp_path / "local0.stats")
    setattr(stats, field, value)
    with pytest.raises(Unreadable, match=why):
        StatsPage(tmp_path / "local0.stats").snapshot()


def test_files_that_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "local0.stats"
    for content in (b"", b"x" * 100, b"\0" * 50000, os.urandom(50000)):
        path.write_bytes(content)
        with pytest.raises(Unreadable):
            StatsPage(path).snapshot()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreadable):
        StatsPage(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(Unreadable):
        StatsPage(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Unreadable):
        StatsPage(path)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=12), st.binary(max_size=40))
def test_scribbles_never_crash(tmp_path_factory: pytest.TempPathFactory, writes: list[Any], tail: bytes) -> None:
    path = tmp_path_factory.mktemp("s") / "local0.stats"
    _stats, page = make(path, 2)
    for offset, value in writes:
        page[offset] = value
    page[len(page) - len(tail) :] = tail
    # A scribbled page is shown or refused; anything else fails the test.
    with contextlib.suppress(Unreadable):
        StatsPage(path).snapshot()


def test_replaced_and_cut_files_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "local0.stats"
    make(path)
    page = StatsPage(path)
    assert page.is_current()
    os.truncate(path, 100)
    assert not page.is_current()
    path.unlink()
    assert not page.is_current()
    make(path)
    assert not page.is_current()


def test_a_writer_that_died_half_way_is_still_shown(tmp_path: Path) -> None:
    stats, _page = make(tmp_path / "local0.stats")
    stats.seq = 3
    # It would wait for ever, if it waited for the end of that writing.
    device = StatsPage(tmp_path / "local0.stats").snapshot()
    assert device.state == "live"


WRITER = """
import mmap, sys
from truezram._native import ffi, lib
with open(sys.argv[1], "r+b") as file:
    page = mmap.mmap(file.fileno(), 0)
stats = ffi.cast("struct tz_stats *", ffi.from_buffer(page, require_writable=True))
queue = lib.tz_stats_queue(stats, 0)
value = 0
while stats.state == 1:
    value += 1
    queue.seq += 1
    queue.num_reads = value
    queue.pages_read = value
    queue.busy_ns = value
    queue.pages_now = value
    queue.size_pages_now[64] = value
    queue.seq += 1
"""


def test_never_torn_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(The last of all tries may be: a writer that has lost its CPU is not waited for for ever.)"""
    monkeypatch.setattr(stats_page, "RETRIES", 1000)
    stats, _page = make(tmp_path / "local0.stats", 1)
    writer = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(WRITER), str(tmp_path / "local0.stats")])
    try:
        page = StatsPage(tmp_path / "local0.stats")
        seen = set()
        hangs = time.monotonic() + HANG
        while len(seen) < 1000:
            assert time.monotonic() < hangs
            device = page.snapshot(queues=False)
            total = device.total
            values = {
                total.num_reads,
                total.pages_read,
                total.busy_ns,
                device.orig_data_size // 4096,
                device.size_pages[64],
            }
            assert len(values) == 1
            seen |= values
    finally:
        stats.state = 3
        assert writer.wait(HANG) == 0


def test_eight_devices_are_cheap(tmp_path: Path) -> None:
    """The target is 8 devices at 4 Hz in 1 % of a CPU: 2.5 ms, 12 of `cost`'s units. It takes 3."""
    pages = []
    for _ in range(8):
        make(tmp_path / "local0.stats", 4)
        pages.append(StatsPage(tmp_path / "local0.stats"))
    assert cost(lambda: [page.snapshot() for page in pages]) < 7
