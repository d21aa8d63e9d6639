"""Copies a sample of the pages that running processes hold in memory, to find out how well they would compress.

It samples what could be swapped out: private anonymous memory (heaps, stacks, written copies of private file mappings).
Nothing is written, and nothing is brought back from swap: the kernel's page map says whether a page is in memory
(reading a swapped page would fault it in), and it is checked again right before every batch of copies. With
PAGEMAP_SCAN (Linux 6.7) a process is searched with a few calls; on older kernels the page map's entries are read.

The sample is stratified: every process is a stratum and gets a share of the sample in proportion to its memory (with a
minimum of a few pages); within it, pages are drawn without replacement. The same seed on the same memory draws the same
pages.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import re
import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from truezram.engine.errors import EXIT_INTERRUPTED, TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.machine.procfs import Process
from truezram.engine.units import PAGE

LEAST = 16
"""Minimum number of pages per process, if it has as many and the limit allows."""
_KERNEL_PAGE = os.sysconf("SC_PAGE_SIZE")
_BATCH = 128
_READ_ENTRIES = 1 << 14
_MAX_REGIONS = 4096

Progress = Callable[[float, str], None]
"""Called with (fraction done 0…1, what is being done); an exception from it ends the sampling."""


class Cancelled(TruezramError):
    """The caller cancelled it."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledProcess:
    """One stratum: a process, its pages, and how many of them are in the sample."""

    process: Process
    pages: int
    """Pages (4096 bytes) of swappable memory that were present."""
    sampled: int
    same_filled: int
    """Of the sampled ones: pages that repeat one 8-byte word."""
    unreadable: int
    """Drawn, but not readable: gone, swapped out or unmapped since, or refused by the kernel."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A process whose memory could not be read."""

    process: Process
    why: str


@dataclass(frozen=True, slots=True)
class SampledPages:
    """The sample. Page i is `data[i * 4096:(i + 1) * 4096]` and comes from `processes[sources[i]]`."""

    data: memoryview
    """n * 4096 bytes, read-only, the pages of one process after another in the order of their addresses."""
    sources: Sequence[int]
    """Per page the index into `processes`."""
    processes: tuple[SampledProcess, ...]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    complete: bool = True
    """False if the time ran out before all processes had been searched and read."""

    def __len__(self) -> int:
        return len(self.sources)

    def page(self, index: int) -> memoryview:
        """Page `index` (0 … n - 1), 4096 bytes, not copied."""
        if not 0 <= index < len(self.sources):
            raise IndexError(f"page {index} of {len(self.sources)}")
        return self.data[index * PAGE : (index + 1) * PAGE]


# ---- which pages there are ----

_MAPS = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) r..p [0-9a-f]+ [0-9a-f:]+ \d+ *(.*)$", re.MULTILINE)
# Memory of devices and of the kernel's own, and hugetlb pages, which are never swapped.
_NOT_SWAPPABLE = re.compile(
    rb"/dev/(?!zero|shm/)|/anon_hugepage|\[(?:vvar|vdso|vsyscall|vectors|sigpage|uprobes|gate)", re.ASCII
)


def areas(maps: bytes) -> list[tuple[int, int]]:
    """(start, end) addresses of the private readable areas in the text of /proc/PID/maps, ascending, neighbours
    joined."""
    found: list[tuple[int, int]] = []
    for start_text, end_text, name in _MAPS.findall(maps):
        if name and _NOT_SWAPPABLE.match(name):
            continue
        start, end = int(start_text, 16), int(end_text, 16)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


# linux/fs.h: struct pm_scan_arg and the categories that a page can have.
_SCAN_ARG = struct.Struct("=12Q")
_PAGEMAP_SCAN = (3 << 30) | (_SCAN_ARG.size << 16) | (ord("f") << 8) | 16
_IS_FILE, _IS_PRESENT, _IS_ZERO_PAGE = 1 << 2, 1 << 3, 1 << 5
_REGION = struct.Struct("=3Q")


def _scan(pagemap: int, start: int, end: int, deadline: float) -> Iterator[tuple[int, int]]:
    """Ranges of present anonymous pages in [start, end), by PAGEMAP_SCAN. The shared zero page is left out, because it
    takes no memory. Raises OSError (ENOTTY: the kernel is older), TimeoutError at `deadline`."""
    vector = ctypes.create_string_buffer(_REGION.size * _MAX_REGIONS)
    unwanted = _IS_FILE | _IS_ZERO_PAGE
    while start < end:
        # size, flags, start, end, walk_end; vec, vec_len, max_pages; category inverted, mask, anyof mask, return mask
        where = (_SCAN_ARG.size, 0, start, end, 0)
        into = (ctypes.addressof(vector), _MAX_REGIONS, 0)
        arg = bytearray(_SCAN_ARG.pack(*where, *into, unwanted, _IS_PRESENT | unwanted, 0, _IS_PRESENT))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, arg)
        for first, last, _ in _REGION.iter_unpack(vector.raw[: count * _REGION.size]):
            yield first, last
        walked: int = _SCAN_ARG.unpack(arg)[4]
        if walked <= start:
            return
        start = walked
        _in_time(deadline)


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError


# The uppermost byte of an entry: bit 63 (0x80) present, 62 swapped, 61 (0x20) a file's or shared memory.
_WANTED = bytes(1 if byte & 0x80 and not byte & 0x60 else 0 for byte in range(256))
_RUN = re.compile(rb"\x01+")


def _read_entries(pagemap: int, start: int, end: int, deadline: float) -> Iterator[tuple[int, int]]:
    """The same by reading the page map's entries, one of 8 bytes per page."""
    entry, last = start // _KERNEL_PAGE, end // _KERNEL_PAGE
    while entry < last:
        data = os.pread(pagemap, 8 * min(_READ_ENTRIES, last - entry), 8 * entry)
        if not data:
            return
        top = data[7::8] if sys.byteorder == "little" else data[0::8]
        for match in _RUN.finditer(top.translate(_WANTED)):
            yield (entry + match.start()) * _KERNEL_PAGE, (entry + match.end()) * _KERNEL_PAGE
        entry += len(data) // 8
        _in_time(deadline)


def _intersect(ranges: Iterator[tuple[int, int]], allowed: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of `ranges` that lie in `allowed`; both ascending."""
    index = 0
    for start, end in ranges:
        while index < len(allowed) and allowed[index][1] <= start:
            index += 1
        at = index
        while at < len(allowed) and allowed[at][0] < end:
            yield max(start, allowed[at][0]), min(end, allowed[at][1])
            at += 1


@dataclass(slots=True)
class Regions:
    """Address ranges of present pages; 4096-byte page k of them is at `address(k)`."""

    starts: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("Q"))
    """Number of pages up to the end of each range."""

    @classmethod
    def of(cls, ranges: Iterator[tuple[int, int]]) -> Regions:
        """From ascending (start, end) addresses."""
        starts, sizes = array("Q"), []
        for start, end in ranges:
            starts.append(start)
            sizes.append((end - start) // PAGE)
        return cls(starts, array("Q", accumulate(sizes)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def address(self, index: int) -> int:
        """Where page `index` (0 … len - 1) is."""
        at = bisect_right(self.ends, index)
        return self.starts[at] + (index - (self.ends[at - 1] if at else 0)) * PAGE


def find_pages(pid: int, deadline: float = float("inf"), scan: bool = True, root: Path = procfs.ROOT) -> Regions:
    """Finds the process's present anonymous pages. `scan`: use PAGEMAP_SCAN if the kernel has it.

    Raises OSError: PermissionError, or that the process is gone; TimeoutError at `deadline` (time.monotonic()).
    """
    allowed = areas(Path(f"{root}/proc/{pid}/maps").read_bytes())
    if not allowed:
        return Regions()
    pagemap = os.open(f"{root}/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if scan:
            try:
                return Regions.of(_intersect(_scan(pagemap, allowed[0][0], allowed[-1][1], deadline), allowed))
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EFAULT):
                    raise
        return Regions.of(part for start, end in allowed for part in _read_entries(pagemap, start, end, deadline))
    finally:
        os.close(pagemap)


# ---- how many of each, and which ----


def allocate(sizes: Sequence[int], limit: int, least: int = LEAST) -> list[int]:
    """How many pages to draw from each stratum of `sizes` pages: `limit` in total, at least `least` each (or all, if it
    has fewer), the rest in proportion. With more strata than `limit`, the largest get one each."""
    if sum(sizes) <= limit:
        return list(sizes)
    counted = sum(1 for size in sizes if size)
    least = min(least, limit // (2 * counted)) if 2 * counted <= limit else 0
    given = [min(size, least) for size in sizes]
    rest, left = limit - sum(given), sum(sizes) - sum(given)
    shares = [rest * (size - has) for size, has in zip(sizes, given, strict=True)]
    given = [has + share // left for has, share in zip(given, shares, strict=True)]
    order = sorted(range(len(sizes)), key=lambda index: (-(shares[index] % left), -sizes[index], index))
    for index in order[: limit - sum(given)]:
        given[index] += 1
    return given


def _draw(regions: Regions, count: int, seed: str) -> list[int]:
    """Ascending addresses of `count` pages, drawn without replacement."""
    indices = random.Random(seed).sample(range(len(regions)), count)
    return [regions.address(index) for index in sorted(indices)]


# ---- copying them ----


class _Reader:
    """Copies pages of other processes: with process_vm_readv, or through /proc/PID/mem if that call is blocked."""

    def __init__(self) -> None:
        call = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
        if call is not None:
            call.restype = ctypes.c_ssize_t
            address, number = ctypes.c_void_p, ctypes.c_ulong
            call.argtypes = [ctypes.c_int, address, number, address, number, number]
        self._call = call

    def read(self, pid: int, addresses: Sequence[int], out: memoryview, mem: int | None = None) -> int:
        """Copies the readable pages of `addresses`, packed, to `out`; returns their number.

        Raises PermissionError, or ProcessLookupError when the process is gone.
        """
        base = ctypes.addressof(ctypes.c_char.from_buffer(out))
        done, at = 0, 0
        while at < len(addresses):
            part = addresses[at:]
            if self._call is None or mem is not None:
                got = self._read_mem(mem, part[0], out[done * PAGE : (done + 1) * PAGE])
                done, at = done + got, at + 1
                continue
            remote = array("Q" if ctypes.sizeof(ctypes.c_void_p) == 8 else "L", [0]) * (2 * len(part))
            remote[0::2] = array(remote.typecode, part)
            remote[1::2] = array(remote.typecode, [PAGE]) * len(part)
            local = array(remote.typecode, [base + done * PAGE, len(part) * PAGE])
            got = self._call(pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(part), 0)
            if got < 0:
                code = ctypes.get_errno()
                if code != errno.EFAULT:
                    raise OSError(code, os.strerror(code))
                got = 0
            # It stops at the first page that cannot be read: skip that one and continue after it.
            done += got // PAGE
            at += got // PAGE + 1
        return done

    @staticmethod
    def _read_mem(mem: int | None, address: int, out: memoryview) -> int:
        if mem is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        try:
            return 1 if os.preadv(mem, [out], address) == PAGE else 0
        except OSError as error:
            if error.errno in (errno.EIO, errno.EFAULT):
                return 0
            raise

    def copy(self, pid: int, addresses: Sequence[int], out: memoryview, check: Callable[[], None]) -> int:
        """Copies the pages that are still present; returns their number. `check` is called before every batch."""
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        mem: int | None = None
        done = 0
        try:
            for first in range(0, len(addresses), _BATCH):
                check()
                batch = addresses[first : first + _BATCH]
                present = [address for address in batch if _is_present(pagemap, address)]
                room = out[done * PAGE : (done + len(batch)) * PAGE]
                try:
                    done += self.read(pid, present, room, mem)
                except OSError as error:
                    if mem is not None or error.errno not in (errno.ENOSYS, errno.EPERM):
                        raise
                    mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
                    done += self.read(pid, present, room, mem)
        finally:
            os.close(pagemap)
            if mem is not None:
                os.close(mem)
        return done


def _is_present(pagemap: int, address: int) -> bool:
    entry = os.pread(pagemap, 8, address // _KERNEL_PAGE * 8)
    return len(entry) == 8 and int.from_bytes(entry, sys.byteorder) >> 61 & 7 == 4


def is_same_filled(page: memoryview) -> bool:
    """Whether a page repeats one 8-byte word."""
    return page[:64] == page[8:72] and bytes(page) == bytes(page[:8]) * (PAGE // 8)


# ---- all of it ----


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        scope = procfs.read_int("/proc/sys/kernel/yama/ptrace_scope") or 0
        yama = f" (kernel.yama.ptrace_scope is {scope}: only a process's parents may)" if scope and os.geteuid() else ""
        return f"not permitted to read its memory{yama}"
    return error.strerror or str(error)


_GONE = (errno.ENOENT, errno.ESRCH)


@dataclass(slots=True)
class _Sampler:
    """One call of `sample_pages`."""

    progress: Progress | None
    cancel: Callable[[], bool] | None
    deadline: float
    skipped: list[Skipped] = field(default_factory=list)
    complete: bool = True

    def check(self) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled("sampling was cancelled")
        _in_time(self.deadline)

    def report(self, fraction: float, text: str) -> None:
        if self.progress is not None:
            self.progress(fraction, text)

    def search(self, candidates: Sequence[Process], scan: bool) -> list[tuple[Process, Regions]]:
        """The processes that have pages, and where these are."""
        found = []
        for number, process in enumerate(candidates):
            try:
                self.check()
                self.report(0.5 * number / len(candidates), f"looking for pages of {process.comm} ({process.pid})")
                regions = find_pages(process.pid, self.deadline, scan)
            except TimeoutError:
                self.complete = False
                self.skipped += [Skipped(left, "the time ran out") for left in candidates[number:]]
                break
            except OSError as error:
                if error.errno not in _GONE:
                    self.skipped.append(Skipped(process, _why(error)))
                continue
            if len(regions):
                found.append((process, regions))
        return found

    def read(self, reader: _Reader, process: Process, addresses: Sequence[int], room: memoryview) -> int | None:
        """The number of pages copied to `room`; None if the process cannot be read."""
        try:
            return reader.copy(process.pid, addresses, room, self.check)
        except TimeoutError:
            self.complete = False
            self.skipped.append(Skipped(process, "the time ran out"))
        except OSError as error:
            if error.errno not in _GONE:
                self.skipped.append(Skipped(process, _why(error)))
        return None


def sample_pages(
    pids: Sequence[int] | None = None,
    limit: int = 8192,
    seed: int = 0,
    *,
    include_self: bool = False,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    seconds: float = 20.0,
    scan: bool = True,
) -> SampledPages:
    """Copies up to `limit` pages of the processes `pids`, or of all that this user may read (this one only with
    `include_self`).

    Takes at most about `seconds`; processes that could not be read by then are in `skipped`. `cancel` is called often
    and ends it with `Cancelled`. `scan=False` does not use PAGEMAP_SCAN. Processes that end in the meantime are left
    out. A process that cannot be read is not an error: see `skipped`. Raises `UsageError` for a limit or a time that is
    not positive.
    """
    if limit < 1 or not seconds > 0:
        raise UsageError("cannot sample", "the number of pages and the seconds must be greater than zero")
    began = time.monotonic()
    sampler = _Sampler(progress, cancel, began + seconds)
    own = os.getpid()
    found = sorted(procfs.processes(only=pids), key=lambda process: process.pid)
    candidates = [item for item in found if pids is not None or include_self or item.pid != own]
    strata = sampler.search(candidates, scan)
    counts = allocate([len(regions) for _, regions in strata], limit)
    room = memoryview(bytearray(PAGE * sum(counts)))
    reader, sources, done = _Reader(), array("I"), 0
    sampled: list[SampledProcess] = []
    for number, ((process, regions), count) in enumerate(zip(strata, counts, strict=True)):
        sampler.report(0.5 + 0.5 * number / len(strata), f"reading pages of {process.comm} ({process.pid})")
        got = 0
        if count:
            addresses = _draw(regions, count, f"{seed}:{process.pid}")
            copied = sampler.read(reader, process, addresses, room[done * PAGE : (done + count) * PAGE])
            if copied is None:
                continue
            got = copied
        pages = [room[at * PAGE : (at + 1) * PAGE] for at in range(done, done + got)]
        same = sum(map(is_same_filled, pages))
        sources.extend([len(sampled)] * got)
        sampled.append(
            SampledProcess(process=process, pages=len(regions), sampled=got, same_filled=same, unreadable=count - got)
        )
        done += got
    sampler.report(1.0, f"{done} pages read")
    return SampledPages(
        data=room[: done * PAGE].toreadonly(),
        sources=sources,
        processes=tuple(sampled),
        skipped=tuple(sampler.skipped),
        seconds=time.monotonic() - began,
        complete=sampler.complete,
    )
