"""How well do files compress? The order-0 entropy of files, folders, block devices and streams, and beside it what each
algorithm really makes of them.

Order-0 entropy is the limit of every coder that writes each byte by itself, with one table for everything: bits per
byte. Codecs that find repetitions go below it; what a device takes for a page (its head, rounding, table entry) brings
them above it on what hardly compresses.

A path is a stratum of estimate.py: of one with more than a number of pages so many are drawn, at random without
replacement; the rest is as there. A file's last page is padded with zeros, as in the page cache, and its entropy is
that of its own bytes. Of a stream, whose length is not known before, pages are drawn while it is read to its end.
"""

from __future__ import annotations

import math
import os
import random
import stat
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.answers import AlgorithmEstimate
from truezram.engine.errors import Failed, NotFound, PermissionDenied, UsageError
from truezram.engine.measure.estimate import Bench, Stratum, algorithm_estimate, choose_algorithms, mean_share, measure
from truezram.engine.measure.sampling import Cancelled, Progress
from truezram.engine.units import PAGE, format_size

PAGES = 8192
"""Pages that are drawn from a path, if it has more."""
STDIN = "-"
_CHUNK = 256
"""Pages that are read, then measured, at once."""
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class PathEntropy:
    """One path, or the total."""

    path: str
    kind: str
    """"file", "folder", "block device", "stream", or "total"."""
    files: int
    bytes: int
    pages: int
    """Of 4096 bytes: what they take as pages of a disk."""
    sampled: int
    """Pages in the sample. With 0 there is nothing more to say."""
    entropy: float | None = None
    """Order-0 entropy of the bytes in the sample together, bits per byte, 0 … 8."""
    page_entropy: float | None = None
    """Mean of the pages' own: how much of it is that parts differ from each other."""
    same_filled: float = 0.0
    """Share of same-filled pages, 0 … 1."""
    algorithms: tuple[AlgorithmEstimate, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """Something in a folder that was not measured."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """The answer."""

    paths: tuple[PathEntropy, ...]
    """In the order in which they were given."""
    total: PathEntropy
    skipped: tuple[Left, ...]
    seed: int
    seconds: float


# ---- bytes ----

_XLOG = tuple(n * math.log2(n) if n else 0.0 for n in range(PAGE + 1))


def count_bytes(data: bytes | bytearray | memoryview, counts: Any) -> None:
    """Adds to ``uint64_t[256]`` how often each value occurs."""
    lib.tz_count_bytes(ffi.from_buffer("uint8_t[]", data), len(data), counts)


def entropy_of(counts: Sequence[float]) -> float:
    """Bits per symbol of a source with these counts, whose sum is not 0."""
    total = sum(counts)
    return max(0.0, math.log2(total) - sum(n * math.log2(n) for n in counts if n) / total)


@dataclass(slots=True)
class _Tally:
    """Counts of bytes, of everything and of pages."""

    counts: Any = field(default_factory=lambda: ffi.new("uint64_t[256]"))
    pages: int = 0
    entropies: float = 0.0

    def add(self, page: memoryview) -> None:
        """One page, or the part of one that has bytes."""
        own = ffi.new("uint64_t[256]")
        count_bytes(page, own)
        self.pages += 1
        self.entropies += max(0.0, math.log2(len(page)) - sum(_XLOG[n] for n in own) / len(page))
        count_bytes(page, self.counts)


def _together(tallies: Sequence[_Tally], strata: Sequence[Stratum]) -> tuple[float | None, float | None]:
    """(entropy of everything, mean of the pages'): what was drawn of a stratum stands for all of it."""
    drawn = [
        (tally, stratum.pages / tally.pages) for tally, stratum in zip(tallies, strata, strict=True) if tally.pages
    ]
    if not drawn:
        return None, None
    counts = [0.0] * 256
    for tally, weight in drawn:
        for value, count in enumerate(tally.counts):
            counts[value] += count * weight
    mean = sum(tally.entropies * weight for tally, weight in drawn) / sum(
        tally.pages * weight for tally, weight in drawn
    )
    return entropy_of(counts), mean


# ---- what there is ----


@dataclass(slots=True)
class _Source:
    """One path as it was found."""

    path: str
    kind: str
    files: list[tuple[str, int]] = field(default_factory=list)
    """(path, bytes); none of a stream."""

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)

    @property
    def pages(self) -> int:
        return sum(-(-size // PAGE) for _, size in self.files)


def _cannot_read(path: str, error: OSError) -> Failed | PermissionDenied:
    if isinstance(error, PermissionError):
        return PermissionDenied(f"cannot read {path}", error.strerror or "", "Run it as a user who may, or with sudo")
    return Failed(f"cannot read {path}", error.strerror or str(error), "Check the path")


def _find(path: str, recursive: bool, skipped: list[Left], check: Callable[[], None]) -> _Source:
    """What a path is. Raises `NotFound`, `PermissionDenied`, `UsageError`, `Failed`."""
    if path == STDIN:
        return _Source(path, "stream")
    try:
        found = os.stat(path)  # noqa: PTH116
        if stat.S_ISDIR(found.st_mode):
            files = list(_walk(path, found.st_dev, recursive, skipped, check))
            return _Source(path, "folder", files)
        if stat.S_ISREG(found.st_mode):
            return _Source(path, "file", [(path, found.st_size)])
        if stat.S_ISBLK(found.st_mode):
            return _Source(path, "block device", [(path, _size_of(path))])
    except FileNotFoundError:
        raise NotFound(f"cannot read {path}", "there is no such file or folder", "Check the path") from None
    except OSError as error:
        raise _cannot_read(path, error) from error
    if stat.S_ISFIFO(found.st_mode):
        return _Source(path, "stream")
    raise UsageError(f"cannot read {path}", "it is a device without an end, or a socket", "Read a part of it: head -c")


def _size_of(path: str) -> int:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(file, 0, os.SEEK_END)
    finally:
        os.close(file)


def _walk(
    folder: str, device: int, recursive: bool, skipped: list[Left], check: Callable[[], None]
) -> Iterator[tuple[str, int]]:
    """The regular files in a folder; with `recursive` those below as well, but no links and no other filesystems."""
    waiting = [folder]
    while waiting:
        now = waiting.pop()
        try:
            entries = sorted(os.scandir(now), key=lambda entry: entry.name)
        except OSError as error:
            if now == folder:
                raise
            skipped.append(Left(now, error.strerror or str(error)))
            continue
        below = []
        for entry in entries:
            check()
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError as error:
                skipped.append(Left(entry.path, error.strerror or str(error)))
                continue
            if stat.S_ISREG(found.st_mode):
                if os.access(entry.path, os.R_OK):
                    yield entry.path, found.st_size
                else:
                    skipped.append(Left(entry.path, "permission denied"))
            elif stat.S_ISDIR(found.st_mode) and recursive and found.st_dev == device:
                below.append(entry.path)
        waiting += reversed(below)


# ---- reading ----


class _Reader:
    """Draws pages of a source that has files, and gives them out in order."""

    def __init__(self, source: _Source, limit: int, seed: int, skipped: list[Left]) -> None:
        self.source = source
        self.skipped = skipped
        self.starts = list(accumulate((-(-size // PAGE) for _, size in source.files), initial=0))
        drawn = range(source.pages)
        if source.pages > limit:
            drawn = sorted(random.Random(f"{seed}:{source.path}").sample(drawn, limit))  # type: ignore[assignment]
        self.drawn: Sequence[int] = drawn
        self._open: tuple[str, int] | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for number in self.drawn:
                place = bisect_right(self.starts, number) - 1
                part = self._read(self.source.files[place][0], number - self.starts[place])
                if part:
                    yield part
        finally:
            self._close()

    def _read(self, path: str, page: int) -> bytes:
        """The bytes of a page; none if the file is gone or shorter by now, or cannot be read."""
        try:
            if self._open is None or self._open[0] != path:
                self._close()
                self._open = (path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            return os.pread(self._open[1], PAGE, page * PAGE)
        except OSError as error:
            if self.source.kind != "folder":
                raise _cannot_read(path, error) from error
            if not self.skipped or self.skipped[-1].path != path:
                self.skipped.append(Left(path, error.strerror or str(error)))
            return b""

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def _drawn_from_stream(
    source: _Source, limit: int, seed: int, progress: Progress | None, check: Callable[[], None]
) -> list[bytes]:
    """Reads it to its end and keeps a fair sample of its pages (Vitter's algorithm R). Sets its size."""
    draw = random.Random(f"{seed}:{source.path}")
    kept: list[bytes] = []
    size = 0
    for page in _pages_of_stream(source.path):
        number = size // PAGE
        size += len(page)
        if len(kept) < limit:
            kept.append(page)
        elif (place := draw.randrange(number + 1)) < limit:
            kept[place] = page
        if progress and number % 256 == 0:
            check()
            progress(0.0, f"reading {source.path}, {format_size(size)} so far")
    source.files = [(source.path, size)]
    return kept


def _pages_of_stream(path: str) -> Iterator[bytes]:
    """All pages of a stream, the last of which may be a part of one."""
    try:
        file = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = b""
            while data := os.read(file, _READ):
                data = left + data
                whole = len(data) // PAGE * PAGE
                yield from (data[at : at + PAGE] for at in range(0, whole, PAGE))
                left = data[whole:]
            if left:
                yield left
        finally:
            if path != STDIN:
                os.close(file)
    except (OSError, ValueError, AttributeError) as error:  # sys.stdin may be closed, or None
        why = error if isinstance(error, OSError) else OSError(0, "it is closed")
        raise _cannot_read("standard input" if path == STDIN else path, why) from error


# ---- all of it ----


def _measure(
    pages: Iterable[bytes], stratum: Stratum, benches: Sequence[Bench], check: Callable[[], None],
    report: Callable[[int], None],
) -> _Tally:  # fmt: skip
    """Runs all algorithms on the pages, some at a time, so that few are in memory."""
    tally, part = _Tally(), []
    for page in pages:
        tally.add(memoryview(page))
        part.append(memoryview(page.ljust(PAGE, b"\0")))
        if len(part) == _CHUNK:
            measure(benches, stratum, part, check)
            part = []
            report(stratum.sampled)
    measure(benches, stratum, part, check)
    return tally


def _result(
    source: _Source, strata: Sequence[Stratum], tallies: Sequence[_Tally], files: int, names: Sequence[str]
) -> PathEntropy:
    sampled = sum(stratum.sampled for stratum in strata)
    whole, mean = _together(tallies, strata)
    return PathEntropy(
        path=source.path,
        kind=source.kind,
        files=files,
        bytes=source.bytes,
        pages=sum(stratum.pages for stratum in strata),
        sampled=sampled,
        entropy=whole,
        page_entropy=mean,
        same_filled=mean_share(strata, lambda stratum: stratum.same) if sampled else 0.0,
        algorithms=tuple(algorithm_estimate(strata, name) for name in names) if sampled else (),
    )


@dataclass(slots=True)
class _Work:
    """How far it is, in pages."""

    all: int
    progress: Progress | None
    done: int = 0

    def report(self, source: _Source, pages: int) -> None:
        """So many of the source's pages are done, and all of those before it."""
        if self.progress:
            share = min(1.0, (self.done + pages) / self.all) if self.all else 0.0
            self.progress(share, f"compressing pages of {source.path}")


def entropy(
    paths: Sequence[str],
    wanted: Sequence[str] = (),
    *,
    recursive: bool = False,
    limit: int = PAGES,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> EntropyReport:
    """Measures what the `wanted` algorithms (`NAME[:LEVEL]`; all if empty) make of each path, up to `limit` pages of
    it. ``-`` is standard input. Of a folder, the files in it count, with `recursive` those below as well.

    All paths are looked up first. Raises `NotFound` for one that is not there, `PermissionDenied`, `UsageError` for
    what has no end, `Failed`; `Cancelled`. What cannot be read inside a folder is in `skipped`.
    """
    began = time.monotonic()
    if limit < 1 or not paths:
        raise UsageError("cannot measure entropy", "there must be a path, and pages to draw")
    if paths.count(STDIN) > 1:
        raise UsageError("cannot read standard input twice", "", "Give - once")
    benches = [Bench(name) for name in choose_algorithms(wanted)]
    names = [bench.name for bench in benches]
    skipped: list[Left] = []

    def check() -> None:
        if cancel is not None and cancel():
            raise Cancelled("it was cancelled")

    sources = [_find(path, recursive, skipped, check) for path in paths]
    work = _Work(sum(min(source.pages, limit) for source in sources), progress)
    results, strata, tallies = [], [], []
    for source in sources:
        work.report(source, 0)
        if source.kind == "stream":
            kept = _drawn_from_stream(source, limit, seed, progress, check)
            pages: Iterable[bytes] = kept
            work.all += len(kept)
        else:
            pages = _Reader(source, limit, seed, skipped)
        stratum = Stratum(source.pages)
        tally = _measure(pages, stratum, benches, check, partial(work.report, source))
        work.done += min(source.pages, limit)
        files = len(source.files) if source.kind != "stream" else 0
        results.append(_result(source, [stratum], [tally], files, names))
        strata.append(stratum)
        tallies.append(tally)
    whole = _Source("total", "total", [file for source in sources for file in source.files])
    total = _result(whole, strata, tallies, sum(item.files for item in results), names)
    return EntropyReport(tuple(results), total, tuple(skipped), seed, time.monotonic() - began)
