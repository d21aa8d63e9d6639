"""sampling.py: the arithmetic on made-up input, and real samples of a child process whose memory is known."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import HANG, wait_until
from hypothesis import given
from hypothesis import strategies as st

from truezram.engine.errors import UsageError
from truezram.engine.machine import procfs
from truezram.engine.measure import sampling
from truezram.engine.measure.sampling import Cancelled, Regions, allocate, find_pages, sample_pages
from truezram.engine.units import PAGE

# The child maps three areas: TAGGED pages it has written, SAME pages of one repeated word, ABSENT pages never touched,
# each fenced off by a page without access; it names the addresses, then waits for its stdin to close.
CHILD = """
import ctypes, mmap, sys
P = 4096
tagged, same, absent = map(int, sys.argv[1:])
libc = ctypes.CDLL(None)
total = tagged + same + absent + 2
area = mmap.mmap(-1, total * P, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t(total * P), 15)  # MADV_NOHUGEPAGE: nothing but what is written
for i in range(tagged):
    area[i * P:(i + 1) * P] = (b"tz-child%08d" % i + bytes([i % 251]) * 48) * 64
at = tagged + 1
for i in range(at, at + same):
    area[i * P:(i + 1) * P] = b"SAMEWORD" * 512
for i in (tagged, at + same):
    libc.mprotect(ctypes.c_void_p(base + i * P), ctypes.c_size_t(P), 0)
print(base, base + at * P, base + (at + same + 1) * P, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Child:
    pid: int
    tagged: int
    same: int
    absent: int
    counts: tuple[int, int, int]


def start(tagged: int, same: int, absent: int) -> tuple[subprocess.Popen[bytes], Child]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", CHILD, str(tagged), str(same), str(absent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    addresses = [int(word) for word in process.stdout.readline().split()]
    assert len(addresses) == 3
    # It has done what it does once it waits for the end of its input.
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] == b"S")
    return process, Child(process.pid, addresses[0], addresses[1], addresses[2], (tagged, same, absent))


def stop(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=HANG)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    process, found = start(3000, 1000, 2000)
    yield found
    stop(process)


def in_memory(pid: int, start: int, pages: int) -> int:
    """How many of the pages are present, from the page map itself."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
        entries = os.pread(file.fileno(), 8 * pages, start // PAGE * 8)
    return sum(entry >> 7 for entry in entries[7::8])


def minor_faults(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rsplit(b")", 1)[1].split()[7])


SCANS = pytest.mark.parametrize("scan", [True, False], ids=["PAGEMAP_SCAN", "entries"])


@SCANS
def test_finds_exactly_the_pages_that_are_there(child: Child, scan: bool) -> None:
    regions = find_pages(child.pid, scan=scan)
    addresses = {regions.address(index) for index in range(len(regions))}
    assert len(addresses) == len(regions)
    tagged, same, absent = child.counts
    assert {child.tagged + i * PAGE for i in range(tagged)} <= addresses
    assert {child.same + i * PAGE for i in range(same)} <= addresses
    # Neither the guard pages nor the area that was never touched.
    after = {child.absent + i * PAGE for i in range(-1, absent)} | {child.tagged + tagged * PAGE}
    assert not after & addresses
    status = procfs.process(child.pid)
    assert status is not None
    # What the kernel counts as resident anonymous memory (it keeps this count per CPU: exact to some pages).
    assert abs(len(regions) * PAGE - status.rss_anon) <= 64 * PAGE


@SCANS
def test_all_pages_of_a_child(child: Child, scan: bool) -> None:
    sampled = sample_pages([child.pid], limit=1 << 20, scan=scan)
    (process,) = sampled.processes
    assert sampled.complete
    assert sampled.skipped == ()
    assert (process.process.pid, process.sampled, process.unreadable) == (child.pid, process.pages, 0)
    assert len(sampled) == process.pages
    assert set(sampled.sources) == {0}
    assert len(sampled.data) == len(sampled) * PAGE
    contents = Counter(bytes(sampled.page(i)) for i in range(len(sampled)))
    tagged, same, _ = child.counts
    for i in range(tagged):
        assert contents[(b"tz-child%08d" % i + bytes([i % 251]) * 48) * 64] >= 1
    assert contents[b"SAMEWORD" * 512] == same
    assert process.same_filled == sum(n for page, n in contents.items() if page == page[:8] * 512) >= same


@SCANS
def test_nothing_is_faulted_in_or_written(child: Child, scan: bool) -> None:
    assert in_memory(child.pid, child.absent, child.counts[2]) == 0
    faults = minor_faults(child.pid)
    for seed in range(5):
        sample_pages([child.pid], limit=4000, seed=seed, scan=scan)
    assert in_memory(child.pid, child.absent, child.counts[2]) == 0
    assert in_memory(child.pid, child.tagged, child.counts[0]) == child.counts[0]
    assert minor_faults(child.pid) == faults


@pytest.mark.needs_swap
@SCANS
def test_swapped_pages_stay_swapped(scan: bool) -> None:
    process, pageout = start(2000, 0, 0)
    try:
        page_out(pageout.pid, pageout.tagged, 1000)
        left = in_memory(pageout.pid, pageout.tagged, 2000)
        assert 0 < left < 2000, "MADV_PAGEOUT did nothing: is the swap area full?"
        for seed in range(3):
            sampled = sample_pages([pageout.pid], limit=1 << 20, seed=seed, scan=scan)
            tagged = {
                bytes(sampled.page(i)[8:16]) for i in range(len(sampled)) if bytes(sampled.page(i)[:8]) == b"tz-child"
            }
            assert len(tagged) == left
        assert in_memory(pageout.pid, pageout.tagged, 2000) == left
    finally:
        stop(process)


def page_out(pid: int, start: int, pages: int) -> None:
    """process_madvise(MADV_PAGEOUT)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    vector = (ctypes.c_size_t * 2)(start, pages * PAGE)
    done = libc.syscall(
        ctypes.c_long(440), pidfd, ctypes.byref(vector), ctypes.c_size_t(1), ctypes.c_int(21), ctypes.c_uint(0)
    )
    os.close(pidfd)
    assert done >= 0, os.strerror(ctypes.get_errno())


def test_copy_leaves_out_pages_that_went_away_since_they_were_drawn(child: Child) -> None:
    """Addresses of absent and unmapped pages between good ones: what `copy` is handed when memory changes meanwhile."""
    tagged, _, _ = child.counts
    good = [child.tagged + i * PAGE for i in range(300)]
    bad = [child.absent + i * PAGE for i in range(300)] + [child.tagged + tagged * PAGE, 0x10000]
    mixed = [address for pair in zip(good, bad[:300], strict=True) for address in pair] + bad[300:]
    room = memoryview(bytearray(len(mixed) * PAGE))
    copied = sampling._Reader().copy(child.pid, mixed, room, lambda: None)
    assert copied == 300
    assert [bytes(room[i * PAGE : i * PAGE + 16]) for i in range(300)] == [b"tz-child%08d" % i for i in range(300)]
    assert in_memory(child.pid, child.absent, child.counts[2]) == 0


@pytest.mark.parametrize("barred", ["missing", "EPERM"])
def test_reads_through_proc_mem_where_process_vm_readv_is_barred(child: Child, barred: str) -> None:
    reader = sampling._Reader()
    if barred == "missing":
        reader._call = None
    else:

        def refuse(*_: object) -> int:
            ctypes.set_errno(1)
            return -1

        reader._call = refuse
    addresses = [child.tagged + i * PAGE for i in range(200)]
    room = memoryview(bytearray(200 * PAGE))
    assert reader.copy(child.pid, addresses, room, lambda: None) == 200
    assert bytes(room[199 * PAGE : 199 * PAGE + 16]) == b"tz-child00000199"


def test_unreadable_pages_are_stepped_over(child: Child) -> None:
    """read() itself, without the page map's protection: a page without access in the middle of a batch."""
    tagged = child.counts[0]
    addresses = [child.tagged, child.tagged + tagged * PAGE, child.tagged + PAGE, 0x10000]
    room = memoryview(bytearray(4 * PAGE))
    assert sampling._Reader().read(child.pid, addresses, room) == 2
    assert bytes(room[PAGE : PAGE + 16]) == b"tz-child00000001"


def test_same_seed_same_pages(child: Child) -> None:
    first, again, other = (bytes(sample_pages([child.pid], 500, seed).data) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == 500 * PAGE


def test_sample_is_uniform(child: Child) -> None:
    """Shares of the two areas in a sample of a quarter of the pages are those of the whole, within five standard
    errors."""
    whole = sample_pages([child.pid], limit=1 << 20)
    share = whole.processes[0].same_filled / len(whole)
    sampled = sample_pages([child.pid], limit=1500, seed=3)
    error = (share * (1 - share) / 1500) ** 0.5
    assert abs(sampled.processes[0].same_filled / 1500 - share) < 5 * error


def test_two_processes_share_the_limit_by_their_size(child: Child) -> None:
    process, small = start(200, 0, 10)
    try:
        sampled = sample_pages([child.pid, small.pid], limit=1000)
        assert [item.process.pid for item in sampled.processes] == sorted([child.pid, small.pid])
        counts = Counter(sampled.sources)
        population = sum(item.pages for item in sampled.processes)
        for index, item in enumerate(sampled.processes):
            assert counts[index] == item.sampled
            share = item.pages / population * 1000
            assert abs(item.sampled - share) <= sampling.LEAST + 1
        assert list(sampled.sources) == sorted(sampled.sources)
        assert len(sampled) == 1000
    finally:
        stop(process)


def test_gone_process_and_kernel_threads_are_left_out(child: Child) -> None:
    process, gone = start(10, 0, 0)
    stop(process)
    sampled = sample_pages([gone.pid, 2, child.pid], limit=10)
    assert [item.process.pid for item in sampled.processes] == [child.pid]
    assert sampled.skipped == ()


def test_process_that_ends_between_search_and_read() -> None:
    process, doomed = start(400, 0, 0)
    ended: list[str] = []

    def end(_: float, text: str) -> None:
        if text.startswith("reading") and not ended:
            ended.append(text)
            stop(process)

    sampled = sample_pages([doomed.pid], limit=100, progress=end)
    assert ended
    assert len(sampled) == 0
    assert sampled.data.nbytes == 0


def test_refused_process_is_named(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Regions:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sampling, "find_pages", refuse)
    sampled = sample_pages([child.pid], limit=10)
    (skipped,) = sampled.skipped
    assert skipped.process.pid == child.pid
    assert "not permitted" in skipped.why
    assert len(sampled) == 0


def test_progress_cancel_and_time(child: Child) -> None:
    seen: list[float] = []
    sample_pages([child.pid], limit=100, progress=lambda fraction, _: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    class Enough(Exception):
        pass

    def stop_it(*_: object) -> None:
        raise Enough

    with pytest.raises(Enough):
        sample_pages([child.pid], limit=100, progress=stop_it)
    with pytest.raises(Cancelled) as caught:
        sample_pages([child.pid], limit=100, cancel=lambda: True)
    assert caught.value.exit_code == 130
    late = sample_pages([child.pid], limit=100, seconds=1e-9)
    assert not late.complete
    assert late.skipped[0].why == "the time ran out"


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1.0), (-5, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_senseless_limits(limit: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        sample_pages([], limit=limit, seconds=seconds)


def test_own_memory_can_be_sampled() -> None:
    mark = random.Random(5).randbytes(PAGE)
    held = bytearray(mark * 64)
    sampled = sample_pages([os.getpid()], limit=1 << 20)
    # At whatever offset into a page it lies: every complete copy but the first and last is in neighbouring pages.
    assert bytes(sampled.data).count(mark[:256]) >= len(held) // PAGE - 2


# ---- arithmetic ----

SIZES = st.lists(st.integers(0, 100_000), max_size=60)


@given(SIZES, st.integers(1, 20_000))
def test_allocation(sizes: list[int], limit: int) -> None:
    given_ = allocate(sizes, limit)
    assert len(given_) == len(sizes)
    assert all(0 <= count <= size for count, size in zip(given_, sizes, strict=True))
    assert sum(given_) == min(limit, sum(sizes))
    strata = sum(1 for size in sizes if size)
    if 2 * strata * sampling.LEAST <= limit:
        assert all(count >= min(size, sampling.LEAST) for count, size in zip(given_, sizes, strict=True)), (
            "every process gets its least"
        )
    order = sorted(zip(sizes, given_, strict=True))
    assert all(a[1] <= b[1] + 1 for a, b in pairwise(order)), "more memory, more pages"


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=20), st.data())
def test_regions_are_indexed_page_by_page(parts: list[tuple[int, int]], data: st.DataObject) -> None:
    ranges, at = [], 0
    for pages, gap in parts:
        at += gap * PAGE
        ranges.append((at, at + pages * PAGE))
        at += pages * PAGE
    regions = Regions.of(iter(ranges))
    expected = [address for start, end in ranges for address in range(start, end, PAGE)]
    assert [regions.address(i) for i in range(len(regions))] == expected
    count = data.draw(st.integers(0, len(expected)))
    drawn = sampling._draw(regions, count, "seed")
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    assert set(drawn) <= set(expected)


RANGES = st.lists(st.integers(0, 60), unique=True, max_size=20).map(
    lambda edges: [(a, b) for a, b in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


@given(RANGES, RANGES)
def test_intersection(ranges: list[tuple[int, int]], allowed: list[tuple[int, int]]) -> None:
    def points(parts: list[tuple[int, int]]) -> list[int]:
        return [point for start, end in parts for point in range(start, end)]

    got = points(list(sampling._intersect(iter(ranges), allowed)))
    assert got == sorted(set(points(ranges)) & set(points(allowed)))


def test_areas() -> None:
    maps = b"""55d0c0000000-55d0c0001000 r-xp 00000000 fe:01 131 /usr/bin/x
55d0c0001000-55d0c0003000 rw-p 00001000 fe:01 131 /usr/bin/x
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 ---p 00000000 00:00 0
7f0000001000-7f0000002000 rw-p 00000000 00:00 0
7f0000002000-7f0000003000 rw-s 00000000 00:01 9 /dev/shm/x
7f0000003000-7f0000004000 rw-p 00000000 00:06 9 /dev/mem
7f0000004000-7f0000005000 rw-p 00000000 00:01 9 /dev/zero (deleted)
7f0000005000-7f0000205000 rw-p 00000000 00:0f 9 /anon_hugepage (deleted)
7fff00000000-7fff00004000 r--p 00000000 00:00 0 [vvar]
7fff00004000-7fff00006000 r-xp 00000000 00:00 0 [vdso]
7fff10000000-7fff10021000 rw-p 00000000 00:00 0 [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""
    assert sampling.areas(maps) == [
        (0x55D0C0000000, 0x55D0C0003000),
        (0x55D0C1000000, 0x55D0C1021000),
        (0x7F0000001000, 0x7F0000002000),
        (0x7F0000004000, 0x7F0000005000),
        (0x7FFF10000000, 0x7FFF10021000),
    ]


@given(st.binary(max_size=400))
def test_areas_of_garbage(text: bytes) -> None:
    sampling.areas(text)


@given(st.binary(min_size=8, max_size=8), st.integers(0, PAGE - 1), st.integers(1, 255))
def test_same_filled(word: bytes, at: int, change: int) -> None:
    page = bytearray(word * (PAGE // 8))
    assert sampling.is_same_filled(memoryview(page))
    page[at] ^= change
    assert not sampling.is_same_filled(memoryview(page))
