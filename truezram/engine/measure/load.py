"""Real load for a device: writes pages of running processes to it and reads them back in random order, all verified.

Each thread has its own part of the device and remembers which sampled page it wrote where, so every read has exactly
one right answer. Pages that were discarded, or never written, must read as zeros. At the end everything is read once
more.

Run as a program (`python -m truezram.engine.measure.load NAME THREADS SEED`) it is the demo's load while the app runs:
it writes a line of JSON twice a second and stops when its standard input is closed, so it never outlives the process
that started it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from truezram.engine.device.client import Client, Entry
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError
from truezram.engine.units import PAGE

ZERO_PAGE = bytes(PAGE)
MAX_RUN = 32
_BLKDISCARD = 0x1277
_WRITE_SHARE, _READ_SHARE = 0.42, 0.48
"""Of all requests; the rest are discards. About four fifths of the pages are then in use."""


class PageDevice(Protocol):
    """The part of a device that the load needs. Failures are `OSError`."""

    pages: int

    def read(self, page: int, count: int = 1) -> bytes:
        """`count * 4096` bytes."""

    def write(self, page: int, data: bytes) -> None:
        """Whole pages."""

    def discard(self, page: int, count: int = 1) -> None:
        """They read as zeros afterwards."""

    def close(self) -> None:
        """No more requests."""


class BlockDevice:
    """A block device, opened exclusively and with O_DIRECT, so that every request reaches the server."""

    def __init__(self, path: str) -> None:
        """Raises `Busy` if it is in use, otherwise `TruezramError`."""
        what = f"cannot use {path}"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_EXCL | os.O_CLOEXEC)
        except PermissionError:
            raise PermissionDenied(what, "only root may open it", "Run it with sudo") from None
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Busy(
                    what, "it is mounted, or in use as swap or by another program", "See `truezram list`"
                ) from None
            raise Failed(what, error.strerror or "") from None
        self.pages = os.lseek(self._fd, 0, os.SEEK_END) // PAGE
        self._buffers = threading.local()

    def close(self) -> None:
        os.close(self._fd)

    def _buffer(self) -> mmap.mmap:
        """This thread's aligned buffer for O_DIRECT."""
        buffer: mmap.mmap | None = getattr(self._buffers, "map", None)
        if buffer is None:
            buffer = self._buffers.map = mmap.mmap(-1, MAX_RUN * PAGE)
        return buffer

    def read(self, page: int, count: int = 1) -> bytes:
        with memoryview(self._buffer()) as view, view[: count * PAGE] as part:
            if os.preadv(self._fd, [part], page * PAGE) != len(part):
                raise OSError(errno.EIO, "short read")
            return bytes(part)

    def write(self, page: int, data: bytes) -> None:
        with memoryview(self._buffer()) as view, view[: len(data)] as part:
            part[:] = data
            if os.pwritev(self._fd, [part], page * PAGE) != len(part):
                raise OSError(errno.EIO, "short write")

    def discard(self, page: int, count: int = 1) -> None:
        fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", page * PAGE, count * PAGE))


def open_device(entry: Entry) -> PageDevice:
    """The device behind an entry, whatever its transport."""
    if entry.is_disk:
        return BlockDevice(entry.path)
    from truezram.engine.device.local import LocalDevice

    return LocalDevice(entry)


@dataclass(slots=True)
class Counts:
    """Counters of a load. `wrong_pages` must be 0."""

    seconds: float = 0.0
    pages_written: int = 0
    pages_read: int = 0
    pages_discarded: int = 0
    pages_verified: int = 0
    """Pages that were read with the right contents."""
    wrong_pages: int = 0
    failed_requests: int = 0
    refused_writes: int = 0
    """Write requests refused with ENOSPC (the device's mem_limit); the pages keep their contents."""
    first_wrong: str = ""
    """Description of the first wrong page or failed request."""

    def add(self, other: Counts) -> None:
        """Adds another thread's counts, except `seconds`."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_wrong = self.first_wrong or other.first_wrong

    @property
    def good(self) -> bool:
        """Whether pages were verified, all of them were right, and no request failed."""
        return self.pages_verified > 0 and not self.wrong_pages and not self.failed_requests


_COUNTERS = tuple(name for name in Counts.__dataclass_fields__ if name not in ("seconds", "first_wrong"))


@dataclass(slots=True)
class _Worker:
    """One thread, which owns pages [first, first + pages) of the device."""

    device: PageDevice
    data: bytes
    first: int
    pages: int
    random: random.Random
    counts: Counts = field(default_factory=Counts)
    wrote: list[int | None] = field(default_factory=list)
    """For each page: the index of the sampled page stored there, -1 for zeros, None for unknown (after a failed
    write)."""

    def run(self, stop: threading.Event) -> None:
        """Random requests until `stop` is set, then reads everything that was written once more."""
        self.wrote = [-1] * self.pages
        while not stop.is_set():
            self._one()
        for page in range(0, self.pages, MAX_RUN):
            if any(source is not None and source >= 0 for source in self.wrote[page : page + MAX_RUN]):
                self._read(page, min(MAX_RUN, self.pages - page))

    def _one(self) -> None:
        pick = self.random.random()
        page = self.random.randrange(self.pages)
        longest = min(MAX_RUN, self.pages - page, len(self.data) // PAGE)
        count = 1 if self.random.random() < 0.6 else self.random.randint(1, longest)
        if pick < _WRITE_SHARE:
            self._write(page, count)
        elif pick < _WRITE_SHARE + _READ_SHARE:
            self._read(page, count)
        else:
            self._discard(page, count)

    def _write(self, page: int, count: int) -> None:
        start = self.random.randrange(len(self.data) // PAGE - count + 1)
        try:
            self.device.write(self.first + page, self.data[start * PAGE : (start + count) * PAGE])
        except OSError as error:
            # A request of several pages may have been carried out in part.
            self.wrote[page : page + count] = [None] * count
            if error.errno == errno.ENOSPC:
                self.counts.refused_writes += 1
            else:
                self._failed("write", page, error)
            return
        self.wrote[page : page + count] = range(start, start + count)
        self.counts.pages_written += count

    def _discard(self, page: int, count: int) -> None:
        try:
            self.device.discard(self.first + page, count)
        except OSError as error:
            self.wrote[page : page + count] = [None] * count
            self._failed("discard", page, error)
            return
        self.wrote[page : page + count] = [-1] * count
        self.counts.pages_discarded += count

    def _read(self, page: int, count: int) -> None:
        try:
            got = self.device.read(self.first + page, count)
        except OSError as error:
            self._failed("read", page, error)
            return
        self.counts.pages_read += count
        for index in range(count):
            source = self.wrote[page + index]
            if source is None:
                continue
            want = ZERO_PAGE if source < 0 else self.data[source * PAGE : (source + 1) * PAGE]
            if got[index * PAGE : (index + 1) * PAGE] == want:
                self.counts.pages_verified += 1
            else:
                self.counts.wrong_pages += 1
                kind = "zeros were expected" if source < 0 else f"sampled page {source} was expected"
                self.counts.first_wrong = self.counts.first_wrong or f"page {self.first + page + index}: {kind}"

    def _failed(self, what: str, page: int, error: OSError) -> None:
        self.counts.failed_requests += 1
        text = f"{what} of page {self.first + page}: {error.strerror}"
        self.counts.first_wrong = self.counts.first_wrong or text
        if error.errno in (errno.ENODEV, errno.ETIMEDOUT, errno.EBADF):
            # The device is gone or hangs: continuing would only count the same failure over and over.
            raise _Gone from None


class _Gone(Exception):
    pass


def run_load(
    device: PageDevice,
    data: bytes,
    *,
    seconds: float | None = None,
    threads: int = 2,
    seed: int = 0,
    stop: threading.Event | None = None,
    progress: Callable[[Counts], None] | None = None,
    interval: float = 0.5,
) -> Counts:
    """Puts load on an empty device, for `seconds` or until `stop` is set, and verifies it; returns the counters.

    `data` holds whole sampled pages. `progress` is called every `interval` seconds from the calling thread. `seed`
    determines what each thread does, but not how the threads interleave.
    """
    if not data or len(data) % PAGE:
        raise ValueError("the data must be whole pages, and at least one")
    threads = max(1, min(threads, device.pages))
    share = device.pages // threads
    stop = stop or threading.Event()
    workers = [_Worker(device, data, i * share, share, random.Random(f"{seed}/{i}")) for i in range(threads)]
    crashed: list[BaseException] = []

    def run(worker: _Worker) -> None:
        try:
            worker.run(stop)
        except _Gone:
            stop.set()
        except BaseException as error:
            crashed.append(error)
            stop.set()

    started = time.monotonic()
    running = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in running:
            thread.start()
        while not stop.wait(interval if seconds is None else min(interval, started + seconds - time.monotonic())):
            if seconds is not None and time.monotonic() - started >= seconds:
                break
            if progress:
                progress(_sum(workers, started))
    finally:
        stop.set()
        for thread in running:
            if thread.ident is not None:
                thread.join()
    if crashed:
        raise crashed[0]
    return _sum(workers, started)


def _sum(workers: Sequence[_Worker], started: float) -> Counts:
    total = Counts(seconds=time.monotonic() - started)
    for worker in workers:
        total.add(worker.counts)
    return total


def sample(limit: int = 8192, seed: int = 0) -> tuple[bytes, int]:
    """(pages of running processes, number of processes). Raises `Failed` if this user may not read any."""
    from truezram.engine.measure.sampling import sample_pages

    sampled = sample_pages(limit=limit, seed=seed)
    if not len(sampled):  # a user with no other process than this one, and servers, which cannot be read
        sampled = sample_pages(limit=limit, seed=seed, include_self=True)
    data = bytes(sampled.data)
    if not data:
        raise Failed("cannot sample memory", "no process has a page that this user may read", "Run it with sudo")
    return data, len(sampled.processes)


def main(argv: Sequence[str]) -> int:
    """The load for the app: arguments NAME THREADS SEED; stops at the end of standard input."""
    name, threads, seed = argv[0], int(argv[1]), int(argv[2])
    stop = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()

    try:
        with Client() as client:
            entry = client.resolve(name)
        data, processes = sample(seed=seed)
        origin = {"sampled_pages": len(data) // PAGE, "processes": processes}

        def write(counts: Counts, done: bool = False) -> None:
            sys.stdout.write(json.dumps({**asdict(counts), **origin, "done": done}) + "\n")
            sys.stdout.flush()

        device = open_device(entry)
        try:
            write(run_load(device, data, threads=threads, seed=seed, stop=stop, progress=write), done=True)
        finally:
            device.close()
    except TruezramError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
