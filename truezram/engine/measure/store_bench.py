"""`truezram benchmark store`: stores of our own, in this process, against kernel zram: memory and speed.

A subject is an algorithm with a number of threads, in a store or on a zram device made for it. All of them exist at the
same time and hold the same pages:

1. Each is filled, and a second later its memory is read off.
2. Rounds: as many random overwrites as there are pages, then every page is read in random order. Every subject does one
   round before any starts the next, in rotating order. Each round gives one sample; results are medians.
3. More overwrites, until there were ten times as many as pages; the memory, a second later. Every page is read.
4. A random 70 % are discarded; the memory, as soon as it is at most 1.08 times the objects, or after 5 seconds. Every
   page is read; those discarded are zeros.

The timed code is C (native/python/bench_store.c), which also compares every page that it reads. Same-filled pages are
left out. `run` does all of it. It blocks, releases the GIL while it measures, and may run on any thread.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.codec import make_workspace
from truezram.engine.algorithms import algorithms as known_algorithms
from truezram.engine.algorithms import canonical
from truezram.engine.errors import Failed, TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.measure import baselines, benchmark, zram_bench
from truezram.engine.measure.results import Cancelled, Input, InputInfo, Speed
from truezram.engine.measure.store_results import (
    Latency,
    NotMeasured,
    ProgressCallback,
    StoreProgress,
    StoreReport,
    StoreResult,
    Usage,
)
from truezram.engine.units import PAGE, format_ns, format_size

DEFAULT_SIZE = 512 << 20
DEFAULT_AGAINST = ("zram:lz4", "zram:zstd", "zram:lzo-rle")
DEFAULT_ROUNDS = 5
OVERWRITES = 10
"""Times as many as there are pages, the rounds' included."""
MAX_ROUNDS = OVERWRITES
MAX_SIZE = 1 << 40
NOTHING = "none"
"""Given to `--against`: nothing else is measured."""
SAMPLE_PAGES = 16384
SETTLE_SECONDS = 1.0
"""After the last write, before the memory is read off."""
DISCARDED = 0.7
FREE_SECONDS = 5.0
FREE_AT = 1.08
"""Memory over objects at which the memory of discarded pages counts as given back."""
DISTURBED = 0.2
"""Share of interrupted timings from which on the results say so."""
_SLICE_SECONDS = 0.05
"""How long a call of the C code may take, about: what an interrupt waits for."""
_PROGRESS_SECONDS = 0.1
_CANCELLED = "the measurement was cancelled"


# ---- what is measured ----


class Pages:
    """All pages of the inputs that are not same-filled, one after another in memory."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.infos = tuple(InputInfo(name=item.name, pages=item.pages, same_filled=item.same_filled) for item in inputs)
        self.count = sum(len(item.order) for item in inputs)
        if not self.count:
            raise Failed("there is nothing to measure", "all pages are same-filled, and those are not compressed")
        self.data = memoryview(mmap.mmap(-1, self.count * PAGE))
        place = 0
        for item in inputs:
            for page in item.order:
                self.data[place : place + PAGE] = item.data[page * PAGE : (page + 1) * PAGE]
                place += PAGE

    def ratio(self, algorithm: str = "turbo", most: int = 2048) -> float:
        """About how many times smaller an algorithm makes them, by some of them."""
        codec = lib.tz_codec_by_name(algorithm.encode())
        memory, workspace = make_workspace(codec, codec.level_default)
        step = max(1, self.count // most)
        some = [bytes(self.data[i * PAGE : (i + 1) * PAGE]) for i in range(0, self.count, step)]
        out, offsets = ffi.new("uint8_t[]", (len(some) + 1) * PAGE * 2), ffi.new("uint64_t[]", len(some) + 1)
        lib.tz_compress_pages(codec, workspace, b"".join(some), len(some), out, len(out), offsets)
        del memory
        return len(some) * PAGE / max(1, int(offsets[len(some)]))


class Subject:
    """An algorithm with a number of threads, in a store or on a device, and its figures."""

    smaller = "Choose a smaller --size"
    """What to do when there is no memory for it."""

    def __init__(self, implementation: str, algorithm: str, threads: int, target: Any, folder: str = "") -> None:
        self.implementation = implementation
        self.algorithm = algorithm
        self.threads = threads
        self.target = target
        self.folder = folder
        self.window = 64
        self.filled: Usage | None = None
        self.after_overwrites: Usage | None = None
        self.after_free: Usage | None = None
        self.free_seconds = 0.0
        self.samples: dict[int, list[float]] = {lib.TZ_BENCH_OVERWRITE: [], lib.TZ_BENCH_READ: []}
        self.sums = {op: ffi.new("struct tz_bench_tally *") for op in self.samples}

    @property
    def name(self) -> str:
        text = f"{self.algorithm} of {self.implementation}" if self.implementation == "zram" else self.algorithm
        return f"{text}, {self.threads} threads" if self.threads > 1 else text

    def usage(self) -> Usage:
        """Now."""
        if self.folder:
            columns = zram_bench.mm_stat(self.folder)
            return Usage(orig=columns[0], compr=columns[1], used=columns[2], reserve=0)
        usage = ffi.new("struct tz_bench_usage *")
        if lib.tz_bench_usage(self.target, usage):
            raise Failed("cannot measure the store", "its statistics cannot be read")
        return Usage(orig=usage.orig_bytes, compr=usage.compr_bytes, used=usage.used_bytes, reserve=usage.reserve_bytes)

    def call(self, op: int, first: int, count: int, seed: int, tally: Any) -> int:
        """One call of the C code, for at most `count` places; how many were done. Raises `Failed`."""
        count = min(count, self.window * self.threads)
        place = ffi.new("uint32_t *")
        began = time.monotonic()
        code = lib.tz_bench_run(self.target, op, first, count, seed, tally, place)
        took = max(time.monotonic() - began, 1e-6)
        if code:
            raise self._broken(op, -code, place[0])
        self.window = max(16, min(lib.TZ_BENCH_WINDOW, int(self.window * _SLICE_SECONDS / took)))
        return count

    def _broken(self, op: int, number: int, place: int) -> Failed:
        what = f"{self.name} is broken on this machine"
        if number == errno.EILSEQ:
            why = f"what was read of page {place} differs from what was written there"
            return Failed(what, why, "Do not use it for data, and report this")
        verb = {lib.TZ_BENCH_READ: "reading", lib.TZ_BENCH_DISCARD: "discarding"}.get(op, "writing")
        if number in (errno.ENOMEM, errno.ENOSPC, errno.EAGAIN):
            return Failed(f"cannot measure {self.name}", f"no memory {verb} page {place}", self.smaller)
        return Failed(what, f"{verb} page {place} failed: {os.strerror(number)}")

    def keep(self, op: int, tally: Any) -> None:
        """Adds a round's figures."""
        rates = (1000 * PAGE * tally.pages[i] / tally.ns[i] for i in range(self.threads) if tally.ns[i])
        self.samples[op].append(sum(rates))
        total = self.sums[op]
        total.timings += tally.timings
        total.disturbed += tally.disturbed
        total.cpu_ns += tally.cpu_ns
        # Reading gives a store's threads nothing to do: what they do then is for what was written before.
        self.sums[lib.TZ_BENCH_OVERWRITE].other_cpu_ns += tally.other_cpu_ns
        total.pages[0] += sum(tally.pages[0 : self.threads])
        for index, count in enumerate(tally.lat):
            if count:
                total.lat[index] += count

    def result(self, size: int) -> StoreResult | None:
        """None before it is filled."""
        if self.filled is None:
            return None
        write, read = self.sums[lib.TZ_BENCH_OVERWRITE], self.sums[lib.TZ_BENCH_READ]
        return StoreResult(
            implementation=self.implementation,
            algorithm=self.algorithm,
            threads=self.threads,
            size=size,
            filled=self.filled,
            write=Speed(tuple(self.samples[lib.TZ_BENCH_OVERWRITE])),
            read=Speed(tuple(self.samples[lib.TZ_BENCH_READ])),
            write_ns=latency(write.lat),
            read_ns=latency(read.lat),
            write_cpu=_cpu_seconds_per_gib(write),
            read_cpu=_cpu_seconds_per_gib(read),
            after_overwrites=self.after_overwrites,
            after_free=self.after_free,
            free_seconds=self.free_seconds,
        )


def latency(histogram: Any) -> Latency | None:
    """Percentiles of a `tz_bench_tally`'s histogram; None if it is empty."""
    counts = list(histogram)
    total = sum(counts)
    if not total:
        return None

    def percentile(share: float) -> int:
        seen = 0
        for index, count in enumerate(counts):
            seen += count
            if seen >= share * total:
                return int(lib.tz_bench_lat_middle(index))
        raise AssertionError

    return Latency(percentile(0.5), percentile(0.99), percentile(0.999))


def _cpu_seconds_per_gib(tally: Any) -> float:
    done = tally.pages[0] * PAGE / (1 << 30)
    return (tally.cpu_ns + tally.other_cpu_ns) / 1e9 / done if done else 0.0


@contextlib.contextmanager
def opened(pages: Pages, places: int, implementation: str, algorithm: str, threads: int) -> Iterator[Subject]:
    """A subject, empty. A device made for it is removed afterwards, and all memory is given back."""
    err, why = ffi.new("int *"), ffi.new("char[256]")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(ffi.from_buffer("uint8_t[]", pages.data))
        common = (source, pages.count, places, threads, err, why, len(why))
        folder = ""
        if implementation == "zram":
            folder, descriptor = stack.enter_context(zram_bench.device(algorithm, places * PAGE))
            target = lib.tz_bench_open_device(descriptor, *common)
        else:
            target = lib.tz_bench_open_store(algorithm.encode(), *common)
        if target == ffi.NULL:
            text = ffi.string(why).decode()
            raise Failed(f"cannot measure {algorithm} of {implementation}", text or os.strerror(-err[0]))
        stack.callback(lib.tz_bench_close, target)
        yield Subject(implementation, algorithm, threads, target, folder)


# ---- the measurement ----


class _Measurement:
    """One call of `measure`."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        report: StoreReport,
        progress: ProgressCallback | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.subjects = subjects
        self.places = report.size // PAGE
        self.discarded = int(DISCARDED * self.places)
        self.empty = report
        self.report: StoreReport | None = None
        self.progress = progress
        self.cancelled = cancelled
        self.done = 0
        self.seed = 0
        self.shown_at = 0.0
        self.empty_ns = 0
        """Of a read of a page of zram that was discarded."""
        passes = 1 + 2 * report.rounds + (OVERWRITES - report.rounds) + 2
        self.all = len(subjects) * (passes * self.places + self.discarded)

    def step(self, text: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled(_CANCELLED)
        if self.progress is not None and time.monotonic() - self.shown_at >= _PROGRESS_SECONDS:
            self.shown_at = time.monotonic()
            self.progress(StoreProgress(min(0.99, self.done / self.all), text, self.report))

    def update(self, rounds: int) -> StoreReport:
        found = (subject.result(self.empty.size) for subject in self.subjects)
        self.report = replace(self.empty, rounds=rounds, results=tuple(r for r in found if r is not None))
        return self.report

    def do(self, subject: Subject, op: int, text: str, count: int = 0, shuffle: bool = True) -> Any:
        """One pass over `count` places (0: all), in a new random order or in that of the last one; its tally."""
        tally = ffi.new("struct tz_bench_tally *")
        self.seed += 1
        # The same order and the same pages for all that have as many threads.
        if shuffle:
            lib.tz_bench_shuffle(subject.target, self.seed)
        at, count = 0, count or self.places
        while at < count:
            self.step(f"{text}, {subject.name}")
            step = subject.call(op, at, count - at, self.seed * 1_000_003 + at, tally)
            at += step
            self.done += step
        return tally

    def each(self, first: int = 0) -> Iterator[Subject]:
        """All subjects, beginning with another one every time; each with the same random numbers."""
        seed = self.seed
        for index in range(len(self.subjects)):
            self.seed = seed
            yield self.subjects[(first + index) % len(self.subjects)]

    def wait(self, seconds: float, text: str) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.step(text)
            time.sleep(min(left, _SLICE_SECONDS))

    def fill(self) -> None:
        for subject in self.each():
            self.do(subject, lib.TZ_BENCH_FILL, "filling")
            self.wait(SETTLE_SECONDS, f"filling, {subject.name}")
            subject.filled = subject.usage()
            self.update(0)

    def round(self, number: int) -> None:
        for subject in self.each(number):
            for op in (lib.TZ_BENCH_OVERWRITE, lib.TZ_BENCH_READ):
                subject.keep(op, self.do(subject, op, f"round {number + 1} of {self.empty.rounds}"))
            self.update(number)

    def overwrite(self) -> None:
        """The rest of the overwrites."""
        for subject in self.each():
            for _ in range(OVERWRITES - self.empty.rounds):
                self.do(subject, lib.TZ_BENCH_OVERWRITE, "overwriting")
            self.wait(SETTLE_SECONDS, f"overwriting, {subject.name}")
            subject.after_overwrites = subject.usage()
            self.do(subject, lib.TZ_BENCH_READ, "verifying")
            self.update(self.empty.rounds)

    def discard(self) -> None:
        for subject in self.each():
            self.do(subject, lib.TZ_BENCH_DISCARD, "discarding", self.discarded)
            began = time.monotonic()
            while True:
                usage, took = subject.usage(), time.monotonic() - began
                if usage.used <= FREE_AT * usage.compr or took >= FREE_SECONDS:
                    break
                self.wait(_SLICE_SECONDS / 2, f"discarding, {subject.name}")
            subject.after_free, subject.free_seconds = usage, min(took, FREE_SECONDS)
            if subject.folder and not self.empty_ns:
                nothing = self.do(subject, lib.TZ_BENCH_READ, "verifying", self.discarded, shuffle=False)
                found = latency(nothing.lat)
                self.empty_ns = found.p50 if found else 0
            self.do(subject, lib.TZ_BENCH_READ, "verifying")
            self.update(self.empty.rounds)

    def run(self) -> StoreReport:
        self.fill()
        for number in range(self.empty.rounds):
            self.round(number)
        self.overwrite()
        self.discard()
        sums = [total for subject in self.subjects for total in subject.sums.values()]
        share = sum(total.disturbed for total in sums) / sum(total.timings for total in sums)
        if share > DISTURBED:
            note = (
                f"{share:.0%} of the timings were interrupted by other work; the CPU time of these counts for MB/s, but"
                " p99 and p99.9 contain the interruptions. Repeat it on an idle machine."
            )
            self.empty = replace(self.empty, notes=(*self.empty.notes, note))
        if self.empty_ns:
            note = (
                f"Reading a page of zram that is empty took {format_ns(self.empty_ns)} (median): the system call, the"
                " block layer and clearing the page, which is in each of its read times."
            )
            self.empty = replace(self.empty, notes=(*self.empty.notes, note))
        found = self.update(self.empty.rounds)
        if self.progress is not None:
            self.progress(StoreProgress(1.0, "done", found))
        return found


def against_zram(against: Sequence[str]) -> list[str]:
    """The compressors of kernel zram in lists such as `zram:lz4,zram:zstd`; empty for `none`. Raises `UsageError` for
    anything that is not zram."""
    names = [part.strip() for text in against for part in text.split(",")]
    if names == [NOTHING]:
        return []
    other = [name for name in names if name.partition(":")[0] != baselines.KERNEL]
    if other:
        why = f"the store is compared with kernel zram, not with {other[0][:40]!r}"
        raise UsageError("invalid baseline", why, "Write zram:lz4,zram:zstd for example, or none")
    return baselines.parse_kernel(names)


def measurable(wanted: Sequence[str]) -> tuple[list[str], list[NotMeasured]]:
    """Those of kernel zram's compressors that can be measured here, and those that cannot."""
    known: list[str] = []
    missing: list[NotMeasured] = []
    for name in wanted:
        try:
            zram_bench.check([name])
            known.append(name)
        except TruezramError as error:
            missing.append(NotMeasured(implementation="zram", algorithm=name, why=error.why, remedy=error.remedy))
    return known, missing


def parse_against(against: Sequence[str] | None) -> tuple[list[str], list[NotMeasured]]:
    """The compressors of kernel zram to measure, and those that cannot be. None: `DEFAULT_AGAINST`, as far as this
    machine has them. Raises `UsageError` for anything that is not zram, and `Unsupported` if one that was asked for by
    name cannot be measured."""
    wanted = against_zram(DEFAULT_AGAINST if against is None else against)
    if against is None:
        return measurable(wanted)
    zram_bench.check(wanted)
    return wanted, []


def _threads(threads: Sequence[int]) -> list[int]:
    most = int(lib.TZ_MAX_QUEUES)
    for number in threads:
        if not 1 <= number <= most:
            raise UsageError("cannot measure", f"{number} threads were asked for", f"Choose 1 to {most}")
    return list(dict.fromkeys(threads)) or [1]


def _size(size: int | None, pages: Pages, subjects: int, threads: int) -> int:
    """The size that was asked for, or the default, or what memory allows. Raises `UsageError`."""
    each = 1.25 / min(pages.ratio(), 8.0)
    room = max(procfs.mem_available() - (256 << 20), 64 << 20) * 0.9
    most = int(room / (subjects * each)) // PAGE * PAGE
    if size is None:
        return max(min(DEFAULT_SIZE, most), threads * PAGE)
    if size % PAGE or not threads * PAGE <= size <= MAX_SIZE:
        why = f"{size} bytes are not a multiple of {PAGE}" if size % PAGE else f"{format_size(size)} is out of range"
        remedy = f"Choose {format_size(threads * PAGE)} to {format_size(MAX_SIZE)}"
        raise UsageError("cannot measure with this size", why, remedy)
    if size > most:
        why = f"{subjects} stores of {format_size(size)} do not fit into the memory available"
        remedy = f"Choose a --size up to {format_size(most)}, or fewer algorithms"
        raise UsageError("cannot measure with this size", why, remedy)
    return size


def last_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The size of the largest cache of the first CPU; 0 if the kernel does not say."""
    found = (procfs.read_text(path) for path in root.glob("index*/size"))
    sizes = [text.strip() for text in found if text]
    return max((int(text[:-1]) << 10 for text in sizes if text.endswith("K") and text[:-1].isdigit()), default=0)


def _notes(report: StoreReport, pages: Pages) -> tuple[str, ...]:
    notes = []
    cache = last_cache_bytes()
    if report.size < 8 * cache:
        notes.append(
            f"The stores are small next to this CPU's cache ({format_size(cache)}): most of what they hold is in it."
            " Choose a larger size for figures with cold caches."
        )
    if not lib.tz_bench_can_be_cold():
        notes.append("There is no known way to flush the caches of this CPU; the pages written may have been in them.")
    if pages.count * PAGE < report.size:
        notes.append(
            f"The pages are repeated to fill {format_size(report.size)}; identical ones were stored as often as they"
            " were written."
        )
    return tuple(notes)


def run(
    pages: Sequence[str | Path] = (),
    algorithms: Sequence[str] = (),
    against: Sequence[str] | None = None,
    *,
    size: int | None = None,
    threads: Sequence[int] = (),
    rounds: int = DEFAULT_ROUNDS,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> StoreReport:
    """`truezram benchmark store`: see the top of this file. `algorithms`: ours (if empty, all); `pages`: files and
    folders (if empty, a sample of the memory of running processes); `size`: bytes to store, None: `DEFAULT_SIZE`, or
    what memory allows; `threads`: each number is measured (if empty, 1).

    `progress` is called about ten times a second, `cancelled` between two calls of the C code. Raises `Cancelled`;
    `UsageError` for what is out of range; the errors of `parse_against`, `benchmark.read_inputs` and
    `benchmark.sample_inputs`; `Failed` for a store or device that fails or does not return what was written."""
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError("cannot measure", f"{rounds} rounds were asked for", f"Choose 1 to {MAX_ROUNDS}")
    counts = _threads(threads)
    named = list(dict.fromkeys(map(canonical, algorithms)))
    named = named or [item.name for item in known_algorithms() if not item.unavailable]
    kernel, missing = parse_against(against)
    # Devices are opened last, and so removed first.
    wanted = [("truezram", name, n) for n in counts for name in named]
    wanted += [("zram", name, n) for n in counts for name in kernel]
    found = read_pages(pages, progress, cancelled)
    size = _size(size, found, len(wanted), max(counts))
    host = {**benchmark.host(), "cache_bytes": last_cache_bytes()}
    report = StoreReport(
        host=host,
        inputs=found.infos,
        size=size,
        rounds=rounds,
        results=(),
        not_measured=tuple(missing),
        notes=(),
    )
    report = replace(report, notes=_notes(report, found))
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(opened(found, size // PAGE, *one)) for one in wanted]
        return _Measurement(subjects, report, progress, cancelled).run()


def read_pages(
    paths: Sequence[str | Path],
    progress: Callable[[StoreProgress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Pages:
    """Those of files and folders, or without any, a sample of the memory of running processes. Raises the errors of
    `benchmark.read_inputs` and `benchmark.sample_inputs`."""

    def show(step: Any) -> None:
        if progress is not None:
            progress(StoreProgress(0.0, step.text, None))

    inputs = (
        benchmark.read_inputs(paths)
        if paths
        else benchmark.sample_inputs(SAMPLE_PAGES, progress=show, cancelled=cancelled)
    )
    return Pages(inputs)
