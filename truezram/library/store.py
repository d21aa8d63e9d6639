"""`truezram.Store`: a device's store in this process, without a server and without root."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from truezram._native import ffi, lib
from truezram.codec import borrow
from truezram.engine.algorithms import canonical, default_algorithm
from truezram.engine.device.settings import parse_mem_limit
from truezram.engine.device.stats_page import StatsView, process_state
from truezram.engine.errors import Failed, UsageError
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import PAGE, parse_disksize

if TYPE_CHECKING:
    from typing_extensions import Buffer

_WHAT = "cannot make the store"


class Store:
    """Pages, compressed, in this process: the store that a device has, without the device.

    It is what stands behind `/dev/ublkbN`: the same page table, allocator, codecs and statistics; its memory is this
    process's, goes with it, and can be swapped out. A page that was never written reads as zeros. It is not for use in
    a child after `fork`.

        with truezram.Store("1G", "zstd:3") as store:
            store.write(0, page)
            assert store.read(0) == page
            print(store.stats().ratio)

    Any number of threads may use it; `threads` of them are in it at the same time, and the others wait. What is done is
    done without the GIL. Reading, writing and discarding raise `OSError`: EINVAL for pages that it does not have,
    ENOSPC at `mem_limit`, EIO for a page that is damaged; and `ValueError` once it is closed.
    """

    def __init__(
        self,
        size: int | str,
        algorithm: str | None = None,
        *,
        mem_limit: int | str = 0,
        dictionary: Buffer | None = None,
        dedup: bool = False,
        threads: int = 1,
    ) -> None:
        """
        Args:
            size: What can be stored, in bytes or as `"512M"`; it takes no memory before it is written.
            algorithm: `NAME` or `NAME:LEVEL`; the default is the one that a device gets.
            mem_limit: Bytes that it may take, everything counted; 0 or `"none"`: any number.
            dictionary: For zstd, as `Compressor` takes it.
            dedup: Whether identical pages share one object.
            threads: How many threads can be in it at the same time, 1 to 64.

        Raises:
            UsageError: A size, limit, algorithm, number of threads or dictionary that cannot be.
            Unsupported: The algorithm's library is not on this machine.
            Failed: There is no memory.
        """
        disksize = parse_disksize(str(size))
        limit = mem_limit if isinstance(mem_limit, int) else parse_mem_limit(mem_limit)
        if not 1 <= threads <= lib.TZ_MAX_QUEUES:
            raise UsageError(_WHAT, f"{threads} threads were asked for", f"Choose 1 to {lib.TZ_MAX_QUEUES}")
        if limit < 0:
            raise UsageError(_WHAT, "its memory limit is negative", "Give 0 for none")
        self.algorithm: str = canonical(algorithm if algorithm is not None else default_algorithm())
        """The algorithm that pages are written with."""
        self.pages: int = disksize // PAGE
        """Pages that it has."""
        self._own = _create(disksize, self.algorithm, limit, dictionary, dedup, threads)
        stats = self._own.stats
        stats.name = b"store"
        stats.pid_start = process_state(os.getpid())[1]
        self._view = StatsView(stats, self._own.stats_size)
        self._lock = threading.Lock()
        """Held while statistics are read, and by who closes it."""
        self._threads = threads
        """How many of the store's threads are not closed,"""
        self._closed = False
        """and whether they are to be."""
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of the store's threads that nobody uses."""
        for number in range(threads):
            self._free.put(number)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.pages * PAGE}, {self.algorithm!r})"

    def close(self) -> None:
        """Gives all its memory back, once the calls that are under way in other threads are done."""
        self._closed = True
        with self._lock:
            while self._threads:
                number = self._free.get()
                self._threads -= 1
                if not self._threads:
                    ffi.release(self._own)
                    self._free.put(number)  # who waits for one learns that it is closed

    def read(self, page: int, count: int = 1) -> bytes:
        """The contents of `count` pages from `page` on: `count * 4096` bytes, zeros for pages never written."""
        data = bytearray(count * PAGE if 0 <= count <= self.pages else 0)  # else it is refused
        self._request(lib.TZ_LOCAL_READ, page, count, ffi.from_buffer(data))
        return bytes(data)

    def write(self, page: int, data: Buffer) -> None:
        """Writes whole pages from `page` on: a C-contiguous buffer of a multiple of 4096 bytes, else `ValueError`."""
        with borrow(data, "data") as source:
            count, rest = divmod(len(source), PAGE)
            if rest:
                raise ValueError(f"data has {len(source)} bytes: not a multiple of {PAGE}. Pad the last page")
            self._request(lib.TZ_LOCAL_WRITE, page, count, source)

    def discard(self, page: int, count: int = 1) -> None:
        """Gives `count` pages back; they then read as zeros."""
        self._request(lib.TZ_LOCAL_DISCARD, page, count, ffi.NULL)

    def stats(self) -> DeviceSnapshot:
        """What it holds, takes and has done, as of a device: sizes in bytes, durations in nanoseconds. Its `name` is
        "store", it has no path; `server_cpu_ns` is all of this process's, and a call counts as one request."""
        with self._lock:
            self._check()
            return replace(self._view.describe(), path="")

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the store was closed")

    @contextmanager
    def _thread(self) -> Iterator[int]:
        number = self._free.get()
        try:
            self._check()
            yield number
        finally:
            self._free.put(number)

    def _request(self, op: int, page: int, count: int, data: Any) -> None:
        if page < 0 or count < 0:
            raise ValueError("negative page number or count")
        with self._thread() as thread:
            result = lib.tz_own_store_io(self._own, thread, op, page, count, data)
        if result:
            raise OSError(-result, os.strerror(-result), f"store, page {page}")


def _create(disksize: int, algorithm: str, mem_limit: int, dictionary: Buffer | None, dedup: bool, threads: int) -> Any:
    """cffi's `struct tz_own_store *`, which is destroyed when it is released or no longer used."""
    error, why = ffi.new("int *"), ffi.new("char[512]")
    name = ffi.new("char[]", algorithm.encode())
    config = ffi.new("struct tz_store_config *")
    config.disksize, config.mem_limit, config.algorithm = disksize, mem_limit, name
    config.dedup, config.nr_threads = dedup, threads
    with borrow(b"" if dictionary is None else dictionary, "dictionary") as bytes_:
        if dictionary is not None:
            config.dictionary, config.dictionary_size = bytes_, len(bytes_)
        own = lib.tz_own_store_create(config, error, why, len(why))
    if own == ffi.NULL:
        text = ffi.string(why).decode(errors="replace") or os.strerror(-error[0])
        raise (UsageError if error[0] == -errno.EINVAL else Failed)(_WHAT, text)
    return ffi.gc(own, lib.tz_own_store_destroy, disksize)
