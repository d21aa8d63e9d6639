"""The replay finds every kind of wrong page, and none where there is none."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable

import pytest

from truezram.engine.measure.load import Counts, run_load
from truezram.engine.units import PAGE

DATA = random.Random(5).randbytes(64 * PAGE)


class MemoryDevice:
    """A right device in memory; tests break it."""

    def __init__(self, pages: int = 300) -> None:
        self.pages = pages
        self._memory = bytearray(pages * PAGE)
        self._lock = threading.Lock()
        self.requests = 0

    def read(self, page: int, count: int = 1) -> bytes:
        assert 0 <= page <= page + count <= self.pages
        with self._lock:
            self.requests += 1
            return bytes(self._memory[page * PAGE : (page + count) * PAGE])

    def write(self, page: int, data: bytes) -> None:
        assert 0 <= page <= page + len(data) // PAGE <= self.pages
        assert len(data) % PAGE == 0
        with self._lock:
            self.requests += 1
            self._memory[page * PAGE : page * PAGE + len(data)] = data

    def discard(self, page: int, count: int = 1) -> None:
        assert 0 <= page <= page + count <= self.pages
        with self._lock:
            self.requests += 1
            self._memory[page * PAGE : (page + count) * PAGE] = bytes(count * PAGE)

    def close(self) -> None:
        pass


def run(device: MemoryDevice, seconds: float = 0.4, threads: int = 2) -> Counts:
    return run_load(device, DATA, seconds=seconds, threads=threads)


@pytest.mark.parametrize("threads", [1, 3, 64])
@pytest.mark.parametrize("pages", [1, 40, 301])
def test_a_right_device_passes(threads: int, pages: int) -> None:
    counts = run(MemoryDevice(pages), threads=threads)
    assert counts.good
    assert counts.wrong_pages == counts.failed_requests == 0
    assert counts.pages_verified == counts.pages_read > 0
    assert counts.pages_written > 0
    assert counts.pages_discarded > 0
    assert counts.seconds >= 0.4


class BitFlips(MemoryDevice):
    def read(self, page: int, count: int = 1) -> bytes:
        data = bytearray(super().read(page, count))
        if self.requests % 97 == 0:
            data[-1] ^= 1
        return bytes(data)


class LostWrites(MemoryDevice):
    def write(self, page: int, data: bytes) -> None:
        if self.requests % 97 == 0:
            self.requests += 1
        else:
            super().write(page, data)


class LostDiscards(MemoryDevice):
    def discard(self, page: int, count: int = 1) -> None:
        self.requests += 1


class Misplaced(MemoryDevice):
    def read(self, page: int, count: int = 1) -> bytes:
        data = super().read(page, count)
        return data[PAGE:] + data[:PAGE] if count > 1 and self.requests % 17 == 0 else data


class NotEmpty(MemoryDevice):
    def __init__(self) -> None:
        super().__init__()
        self._memory[:] = b"\1" * len(self._memory)


@pytest.mark.parametrize("broken", [BitFlips, LostWrites, LostDiscards, Misplaced, NotEmpty])
def test_wrong_pages_are_found(broken: Callable[[], MemoryDevice]) -> None:
    counts = run(broken())
    assert counts.wrong_pages > 0
    assert not counts.good
    assert counts.first_wrong.startswith("page ")


class Full(MemoryDevice):
    def write(self, page: int, data: bytes) -> None:
        if self.requests > 200 and self.requests % 3 == 0:
            self.requests += 1
            # As a real one may: the first page was still written.
            with self._lock:
                self._memory[page * PAGE : (page + 1) * PAGE] = data[:PAGE]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(page, data)


def test_a_full_device_is_not_a_wrong_one() -> None:
    counts = run(Full())
    assert counts.refused_writes > 0
    assert counts.good
    assert counts.pages_verified < counts.pages_read


class Failing(MemoryDevice):
    code = errno.EIO

    def read(self, page: int, count: int = 1) -> bytes:
        if self.requests > 100:
            raise OSError(self.code, os.strerror(self.code))
        return super().read(page, count)


def test_failed_requests_count() -> None:
    counts = run(Failing())
    assert counts.failed_requests > 1
    assert not counts.good
    assert "Input/output error" in counts.first_wrong


def test_a_device_that_is_gone_ends_it_at_once() -> None:
    device = Failing()
    device.code = errno.ENODEV
    counts = run(device, seconds=60)
    assert counts.seconds < 5
    assert 1 <= counts.failed_requests <= 2
    assert not counts.good


def test_stop_and_progress() -> None:
    stop = threading.Event()
    seen: list[int] = []

    def progress(counts: Counts) -> None:
        seen.append(counts.pages_read)
        if len(seen) == 3:
            stop.set()

    counts = run_load(MemoryDevice(), DATA, stop=stop, progress=progress, interval=0.05)
    assert counts.good
    assert len(seen) == 3
    assert seen == sorted(seen)


def test_nothing_verified_is_not_good() -> None:
    assert not Counts().good


def test_a_bug_in_the_device_is_not_swallowed() -> None:
    class Bug(MemoryDevice):
        def write(self, page: int, data: bytes) -> None:
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        run(Bug(), seconds=30)


@pytest.mark.parametrize("data", [b"", b"x" * 100])
def test_samples_must_be_pages(data: bytes) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        run_load(MemoryDevice(), data, seconds=0.1)
