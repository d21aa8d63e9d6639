"""Trains a zstd dictionary on pages, and measures its worth on other pages of the same inputs.

Training is done by zstd (the `zstandard` package); our own codec is measured, with and without the dictionary. The
pages are drawn at random: two thirds for training, one third for measuring. They come from the same processes or files,
so the result is the best case; the programs' next run will gain less, and other programs may lose (docs/benchmarks.md).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from truezram.codec import DICTIONARY_SIZES, Compressor
from truezram.engine.device.dictionary import id_of, memory_of
from truezram.engine.errors import Failed, UsageError
from truezram.engine.measure import page_files
from truezram.engine.measure.estimate import Scope, select
from truezram.engine.measure.sampling import allocate, is_same_filled, sample_pages
from truezram.engine.units import PAGE, format_size

DEFAULT_SIZE = 32 << 10
DEFAULT_LEVEL = 3
MIN_SIZE = 1024
"""Smallest dictionary to train, in bytes: its tables alone take several hundred."""
MAX_PAGES = 16384
"""Most pages that are used; training on them takes seconds."""
LEAST_PAGES = 64
_TIMES = 8
"""Training needs at least this many times the dictionary's size."""
_BATCH = 128
WORTH = 0.02
"""Share of the objects' bytes that a dictionary must save to be recommended; less is within the variation between two
runs of a program."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Pages of one file, or of all processes of one name, without same-filled ones."""

    name: str
    pages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out pages of one source, or of all."""

    name: str
    pages: int
    plain: int
    """Bytes of their objects; a page that does not shrink counts as 4096."""
    trained: int
    """The same with the dictionary."""

    @property
    def ratio(self) -> float:
        return self.pages * PAGE / self.plain

    @property
    def trained_ratio(self) -> float:
        return self.pages * PAGE / self.trained

    @property
    def saved(self) -> float:
        """Share of the bytes that the dictionary saves; negative if objects become larger."""
        return 1 - self.trained / self.plain


@dataclass(frozen=True, slots=True)
class Times:
    """Microseconds per page, on one core."""

    compress: float
    decompress: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A dictionary and its measured effect."""

    data: bytes
    level: int
    training_pages: int
    total: Measured
    sources: tuple[Measured, ...]
    """The one with the most pages first."""
    plain_times: Times
    trained_times: Times
    memory: int
    """Bytes that a device needs for it, including its tables at this level."""

    @property
    def id(self) -> int:
        return id_of(self.data)

    @property
    def pays_from(self) -> int | None:
        """Bytes of such pages that a device must hold before the savings exceed `memory`; None if it saves nothing."""
        saved = self.total.plain - self.total.trained
        return None if saved <= 0 else -(-self.memory * self.total.pages // saved) * PAGE

    @property
    def is_worth_it(self) -> bool:
        return self.total.saved >= WORTH


def check(size: int, level: int) -> None:
    """Raises `UsageError` for a size or level that is out of range, `Unsupported` without libzstd."""
    from truezram.engine.algorithms import parse_algorithm

    largest = DICTIONARY_SIZES[-1]
    if not MIN_SIZE <= size <= largest:
        bounds = f"Choose {format_size(MIN_SIZE)} to {format_size(largest)}"
        raise UsageError("cannot train a dictionary", f"its size is {format_size(size)}", bounds)
    parse_algorithm(f"zstd:{level}")


# ---- where pages come from ----


def _source(name: str, data: memoryview, count: int) -> Source:
    """`count` pages of the data, drawn at random, minus the same-filled ones among them."""
    numbers = range(len(data) // PAGE)
    chosen = sorted(random.Random(name).sample(numbers, min(count, len(numbers))))
    views = (data[i * PAGE : (i + 1) * PAGE] for i in chosen)
    return Source(name, tuple(bytes(view) for view in views if not is_same_filled(view)))


def from_files(paths: Sequence[str | Path]) -> list[Source]:
    """Pages of files and folders, at most `MAX_PAGES`. Raises the errors of `page_files.find` and `page_files.read`."""
    files = page_files.read(page_files.find(paths))
    counts = allocate([item.pages for item in files], MAX_PAGES)
    return [_source(item.name, item.data, count) for item, count in zip(files, counts, strict=True)]


def from_processes(pids: Sequence[str] = (), progress: Progress | None = None) -> list[Source]:
    """Pages of these running processes, or of all that this user may read, at most `MAX_PAGES`. Raises `UsageError`,
    `NotFound`, and `Failed` if none can be read."""
    from truezram.engine.machine import procfs

    wanted = None
    if pids:
        wanted = [process.pid for process in select(Scope("pid", ",".join(pids)), procfs.processes())]
    sampled = sample_pages(wanted, MAX_PAGES, progress=progress)
    if not len(sampled):
        why = sampled.skipped[0].why if sampled.skipped else "no process has a page that this user may read"
        raise Failed("there are no pages to train on", why, "Run it with sudo, or give --pages FILE")
    by_name: dict[str, list[bytes]] = {}
    for index, source in enumerate(sampled.sources):
        page = sampled.page(index)
        if not is_same_filled(page):
            by_name.setdefault(sampled.processes[source].process.comm, []).append(bytes(page))
    return [Source(name, tuple(pages)) for name, pages in by_name.items()]


# ---- training and measuring ----


def _split(source: Source) -> tuple[list[bytes], list[bytes]]:
    """(pages for training, pages for measuring)."""
    pages = list(source.pages)
    random.Random(source.name).shuffle(pages)
    cut = len(pages) - len(pages) // 3
    return pages[:cut], pages[cut:]


def _train(pages: list[bytes | bytearray | memoryview], size: int, level: int, progress: Progress) -> bytes:
    """Trains in another thread, while this one reports the elapsed time and can be interrupted."""
    import zstandard

    made: list[bytes | BaseException] = []

    def work() -> None:
        try:
            made.append(zstandard.train_dictionary(size, pages, level=level).as_bytes())
        except BaseException as error:
            made.append(error)

    worker, began = threading.Thread(target=work, daemon=True), time.monotonic()
    worker.start()
    while worker.is_alive():
        progress(0.5, f"training on {len(pages)} pages, {time.monotonic() - began:.0f} s")
        worker.join(0.2)
    if isinstance(made[0], zstandard.ZstdError):
        raise Failed("cannot train a dictionary", str(made[0]), "Give more pages, or a smaller --size")
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


class _Meter:
    """One compressor, measured on the held-out pages."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self.bytes = self.pages = self.compress_ns = self.decompress_ns = 0

    def add(self, pages: bytes) -> int:
        """The size of the objects of these pages in bytes. Raises `Failed` if a page is not reproduced."""
        began = time.thread_time_ns()
        packed = self.compressor.compress_pages(pages)
        half = time.thread_time_ns()
        back = self.compressor.decompress_pages(packed.data, packed.offsets)
        self.decompress_ns += time.thread_time_ns() - half
        self.compress_ns += half - began
        self.pages += len(packed)
        if bytes(back) != pages:
            what = f"{self.compressor!r} did not reproduce a page"
            raise Failed(what, "", "Please report this, with `doctor --json`")
        return len(packed.data)

    @property
    def times(self) -> Times:
        return Times(self.compress_ns / self.pages / 1000, self.decompress_ns / self.pages / 1000)


def _measure(name: str, pages: list[bytes], plain: _Meter, trained: _Meter) -> Measured:
    sums = [0, 0]
    for first in range(0, len(pages), _BATCH):
        batch = b"".join(pages[first : first + _BATCH])
        for index, meter in enumerate((plain, trained)):
            sums[index] += meter.add(batch)
    return Measured(name, len(pages), sums[0], sums[1])


def train(
    sources: Sequence[Source],
    size: int = DEFAULT_SIZE,
    level: int = DEFAULT_LEVEL,
    progress: Progress = lambda fraction, text: None,
) -> Trained:
    """Trains a dictionary of up to `size` bytes on two thirds of the pages and measures it with `zstd:level` on the
    rest. Raises `UsageError`, `Failed` (too few pages)."""
    check(size, level)
    parts = [(source.name, *_split(source)) for source in sources]
    training: list[bytes | bytearray | memoryview] = [page for _, pages, _ in parts for page in pages]
    least = max(LEAST_PAGES, _TIMES * size // PAGE)
    if len(training) < least:
        why = f"there are {len(training)} pages to train on, and {format_size(size)} needs {least}"
        remedy = f"Give more pages ({least * 3 // 2} that are not same-filled), or a smaller --size"
        raise Failed("cannot train a dictionary", why, remedy)
    data = _train(training, size, level, progress)
    plain, trained = _Meter(Compressor(f"zstd:{level}")), _Meter(Compressor(f"zstd:{level}", dictionary=data))
    measured = []
    for done, (name, _, pages) in enumerate(parts):
        progress(0.8 + 0.2 * done / len(parts), f"measuring on other pages of {name}")
        if pages:
            measured.append(_measure(name, pages, plain, trained))
    total = Measured(
        "total",
        sum(item.pages for item in measured),
        sum(item.plain for item in measured),
        sum(item.trained for item in measured),
    )
    order = sorted(measured, key=lambda item: (-item.pages, item.name))
    return Trained(
        data=data,
        level=level,
        training_pages=len(training),
        total=total,
        sources=tuple(order),
        plain_times=plain.times,
        trained_times=trained.times,
        memory=memory_of(len(data), level),
    )
