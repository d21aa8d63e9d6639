"""`truezram benchmark device`: block devices under real I/O, ours beside the floor and beside kernel zram.

A target is a device that is made for it: of ours, kernel zram, a ublk device of our server that answers without a store
(null: what a request costs before a store is asked), the kernel's null_blk; or one that is there, which is only read.
All exist at the same time. Those that keep pages are filled with real ones. Then rounds: each case (a workload with a
block size, a depth and a number of jobs) runs on every target before the next one begins, in rotating order, for a
round's share of the runtime. Each round gives one sample; results are medians. Every page that is read is compared.

The load is C (native/python/bench_device.c): threads with an io_uring each, O_DIRECT, `depth` requests in flight. `run`
does all of it. It blocks, releases the GIL while it measures, and may run on any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.algorithms import default_algorithm
from truezram.engine.device.create import need_ublk
from truezram.engine.device.settings import DEFAULT_MODE, parse_data_mode
from truezram.engine.errors import Failed, UsageError
from truezram.engine.machine import procfs
from truezram.engine.measure import benchmark, device_fio, device_swap, device_targets, store_bench
from truezram.engine.measure.device_results import (
    READS,
    SWAP,
    WORKLOADS,
    Case,
    DeviceProgress,
    DeviceReport,
    DeviceResult,
    Fio,
    ProgressCallback,
    Sample,
    SwapDetail,
)
from truezram.engine.measure.device_targets import NULL, OURS, Target, Wanted
from truezram.engine.measure.results import Cancelled
from truezram.engine.measure.store_bench import Pages, latency
from truezram.engine.measure.store_results import NotMeasured
from truezram.engine.units import MAX_SIZE, PAGE, format_size

DEFAULT_SIZE = 256 << 20
DEFAULT_AGAINST = ("null", "zram:lz4", "zram:zstd")
DEFAULT_WORKLOADS = ("randread", "randwrite", "mixed")
DEFAULT_DEPTHS = (1, 32)
DEFAULT_RUNTIME = 2.0
DEFAULT_ROUNDS = 5
MAX_ROUNDS = 100
MAX_RUNTIME = 3600.0
NOTHING = "none"
FILL_BLOCK, FILL_DEPTH = 32, 8
MAX_QUEUE_DEPTH = 64
"""Requests at a time up to which a device has its default depth."""
_SLICE_MS = 200
"""How long a call of the C code takes at most: what an interrupt waits for."""
_PROGRESS_SECONDS = 0.1
_WHAT = "cannot measure"
_KINDS = {
    "randread": lib.TZ_LOAD_RANDREAD, "randwrite": lib.TZ_LOAD_RANDWRITE, "read": lib.TZ_LOAD_READ,
    "write": lib.TZ_LOAD_WRITE, "mixed": lib.TZ_LOAD_MIXED,
}  # fmt: skip


def _load(case: Case, ms: int, seed: int) -> Any:
    kind, block = _KINDS[case.workload], case.block // PAGE
    return ffi.new(
        "struct tz_load *",
        {"kind": kind, "block": block, "depth": case.depth, "jobs": case.jobs, "ms": ms, "seed": seed},
    )


class Course:
    """A case on a target: what has been measured of it."""

    def __init__(self, target: Target, case: Case) -> None:
        self.target = target
        self.case = case
        self.samples: list[Sample] = []
        self.lat = ffi.new("struct tz_load_tally *")
        self.fio: Fio | None = None

    def keep(self, tally: Any, server_ns: int | None) -> None:
        """Adds a round."""
        found = latency(tally.lat)
        if found is None:
            raise Failed(f"{self.target.name} is broken on this machine", "it answered nothing")
        self.samples.append(Sample(tally.requests, tally.ns, found.p50, tally.cpu_ns, server_ns))
        self.lat.compared += tally.compared
        for index, count in enumerate(tally.lat):
            if count:
                self.lat.lat[index] += count

    def result(self) -> DeviceResult | None:
        """None before its first round."""
        found = latency(self.lat.lat)
        if found is None:
            return None
        return _result(self.target, self.case, self.samples, found, self.lat.compared, fio=self.fio)


def _result(target: Target, case: Case, samples: Sequence[Sample], *rest: Any, **more: Any) -> DeviceResult:
    more["data_mode"] = target.wanted.data_mode
    return DeviceResult(
        target.wanted.kind, target.algorithm, target.mode, target.queues, case, tuple(samples), *rest, **more
    )


def _broken(target: Target, text: str, code: int, place: int) -> Failed:
    what = f"{target.name} is broken on this machine"
    if code == -errno.EILSEQ:
        why = f"what was read of page {place} differs from what was written there"
        return Failed(what, why, "Do not use it for data, and report this")
    if code == -errno.EINVAL:
        why = f"{text} takes more blocks than it has, or larger ones than there are pages"
        return Failed(f"{_WHAT} {target.name}", why, "Choose a larger --size, or a smaller --depth or --block-size")
    return Failed(what, f"{text}: page {place}: {os.strerror(-code)}")


class _Measurement:
    """One call of `measure`."""

    def __init__(
        self,
        targets: Sequence[Target],
        cases: Sequence[Case],
        report: DeviceReport,
        pages: Pages,
        progress: ProgressCallback | None,
        cancelled: Callable[[], bool] | None,
        fio: bool,
    ) -> None:
        self.targets = targets
        self.pages = pages
        self.empty = report
        self.report: DeviceReport | None = None
        self.progress = progress
        self.cancelled = cancelled
        self.fio = fio
        loads = [case for case in cases if case.workload != SWAP]
        self.courses = [[Course(target, case) for target in targets if _can(target, case)] for case in loads]
        self.swaps = [case for case in cases if case.workload == SWAP]
        self.dwellers: list[device_swap.Dweller] = []
        self.seed = 0
        self.done, self.shown_at = 0.0, 0.0
        courses = sum(map(len, self.courses))
        self.all = courses * report.runtime * (1 + fio) + (0.5 + len(self.swaps) * 2) * len(targets) or 1.0

    def step(self, text: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("the measurement was cancelled")
        if self.progress is not None and time.monotonic() - self.shown_at >= _PROGRESS_SECONDS:
            self.shown_at = time.monotonic()
            self.progress(DeviceProgress(min(0.99, self.done / self.all), text, self.report))

    def update(self) -> DeviceReport:
        found = [course.result() for courses in self.courses for course in courses]
        found += [self._of_swap(dweller) for dweller in self.dwellers]
        self.report = replace(self.empty, results=tuple(result for result in found if result is not None))
        return self.report

    def fill(self) -> None:
        """Real pages on all that keeps them: so many blocks at a time that an interrupt does not wait for long."""
        for target in self.targets:
            if target.keeps and target.writable:
                block = FILL_BLOCK if target.places // FILL_BLOCK > FILL_DEPTH else 1
                self._fill(target, min(block, self.pages.count))
            self.done += 0.5

    def _fill(self, target: Target, block: int) -> None:
        tally, place = ffi.new("struct tz_load_tally *"), ffi.new("uint32_t *")
        load = _load(Case("write", block * PAGE, min(FILL_DEPTH, target.places // block - 1), 1), _SLICE_MS, 0)
        blocks = target.places // block
        while tally.requests < blocks:
            self.step(f"filling {target.name}")
            load.seed += 1
            if code := lib.tz_disk_run(target.disk, load, tally, place):
                raise _broken(target, "filling it", code, place[0])

    def round(self, number: int) -> None:
        for courses in self.courses:
            for index in range(len(courses)):
                self.run_one(courses[(number + index) % len(courses)], number)
                self.update()

    def run_one(self, course: Course, number: int) -> None:
        """One round of a case on a target."""
        target, case = course.target, course.case
        tally, place = ffi.new("struct tz_load_tally *"), ffi.new("uint32_t *")
        left = max(1, round(1000 * self.empty.runtime / self.empty.rounds))
        before = target.server_ns()
        while left > 0:
            self.step(f"round {number + 1} of {self.empty.rounds}, {case.text}, {target.name}")
            self.seed += 1
            ms = min(left, _SLICE_MS)
            if code := lib.tz_disk_run(target.disk, _load(case, ms, self.seed), tally, place):
                raise _broken(target, case.text, code, place[0])
            left -= ms
            self.done += ms / 1000
        after = target.server_ns()
        course.keep(tally, None if before is None or after is None else after - before)

    def cross_check(self) -> None:
        """The same loads once more, with fio: those that only read, as fio would write other pages."""
        for courses in self.courses:
            for course in courses:
                if course.case.workload in READS:
                    self.step(f"fio, {course.case.text}, {course.target.name}")
                    course.fio = device_fio.measure(
                        course.target.path, course.case, course.target.places, self.empty.runtime, self.step
                    )
                self.done += self.empty.runtime
        self.update()

    def swap(self) -> None:
        missing = list(self.empty.not_measured)
        with ffi.from_buffer("uint8_t[]", self.pages.data) as source:
            for target in self.targets:
                error = device_swap.why_not(target)
                if error is None:
                    self.dwellers.append(device_swap.Dweller(self.pages, source, target))
                else:
                    name, why = target.algorithm or "", f"as swap, {error.why}"
                    missing.append(NotMeasured(target.wanted.kind, name, why, error.remedy))
            self.empty = replace(self.empty, not_measured=tuple(missing))
            for number in range(self.empty.rounds):
                for index in range(len(self.dwellers)):
                    dweller = self.dwellers[(number + index) % len(self.dwellers)]
                    dweller.round(number + 1, self.step)
                    self.done += 2 / self.empty.rounds
                    self.update()

    def _of_swap(self, dweller: device_swap.Dweller) -> DeviceResult | None:
        tally = dweller.tally
        found = latency(tally.lat)
        if found is None:
            return None
        detail = SwapDetail(tally.out_pages, device_swap.out_mb_s(tally), tally.major)
        return _result(dweller.target, self.swaps[0], dweller.samples, found, tally.compared, swap=detail)

    def run(self) -> DeviceReport:
        self.fill()
        for number in range(self.empty.rounds if self.courses else 0):
            self.round(number)
        if self.fio:
            self.cross_check()
        if self.swaps:
            self.swap()
        found = self.update()
        if self.progress is not None:
            self.progress(DeviceProgress(1.0, "done", found))
        return found


def _can(target: Target, case: Case) -> bool:
    return target.writable or case.workload in READS


# ---- what was asked for ----


def _choose(values: Sequence[int], default: Sequence[int], least: int, most: int, what: str) -> list[int]:
    for value in values:
        if not least <= value <= most:
            raise UsageError(_WHAT, f"a {what} of {value} was asked for", f"Choose {least} to {most}")
    return list(dict.fromkeys(values or default))


def cases_of(
    workloads: Sequence[str], blocks: Sequence[int], depths: Sequence[int], jobs: Sequence[int], only_reads: bool
) -> list[Case]:
    """Every combination; `swap`, which has no such settings, once and last. `blocks` in bytes. Raises `UsageError`."""
    default = READS if only_reads else DEFAULT_WORKLOADS
    names = list(dict.fromkeys(workloads or default))
    for name in names:
        if name not in WORKLOADS:
            raise UsageError(_WHAT, f"{name[:40]!r} is not a workload", f"Choose from {', '.join(WORKLOADS)}")
        if only_reads and name not in READS:
            why = f"{name} writes, and the device was there already"
            raise UsageError(_WHAT, why, "Choose randread and read, or give --destructive: what is on it is lost then")
    for block in blocks:
        if block % PAGE:
            raise UsageError(_WHAT, f"a block size of {block} is no multiple of {PAGE}", "Choose 4K or 128K")
    sizes = _choose([block // PAGE for block in blocks], [1], 1, lib.TZ_LOAD_BLOCK, "block size in pages")
    depths = _choose(depths, DEFAULT_DEPTHS, 1, lib.TZ_LOAD_DEPTH, "depth")
    jobs = _choose(jobs, [1], 1, lib.TZ_LOAD_JOBS, "number of jobs")
    found = [
        Case(name, size * PAGE, depth, job)
        for name in names
        if name != SWAP
        for size in sizes
        for job in jobs
        for depth in depths
    ]
    return [*found, *([Case(SWAP, PAGE, 1, 1)] if SWAP in names else [])]


def parse_against(against: Sequence[str] | None) -> tuple[list[Wanted], list[NotMeasured]]:
    """The baselines to measure, and those that cannot be. None: `DEFAULT_AGAINST`, as far as this machine has them.
    Raises `UsageError`, and the reason why one that was asked for by name cannot be measured."""
    words = [part.strip() for text in (DEFAULT_AGAINST if against is None else against) for part in text.split(",")]
    if words == [NOTHING]:
        return [], []
    wanted, missing = [], []
    for item in dict.fromkeys(map(device_targets.parse_against, words)):
        error = device_targets.why_not(item)
        if error is None:
            wanted.append(item)
        elif against is None:
            missing.append(NotMeasured(item.kind, item.algorithm or "", error.why, error.remedy))
        else:
            raise error
    return wanted, missing


def _size(size: int | None, pages: Pages, stored: int, least: int) -> int:
    """Bytes of each device: what was asked for, or the default, or what memory allows. Raises `UsageError`."""
    room = max(procfs.mem_available() - (256 << 20), 64 << 20) * 0.7
    most = int(room / max(1, stored) * min(pages.ratio(), 8.0) / 1.25) >> 20 << 20
    if size is None:
        return max(min(DEFAULT_SIZE, most), least)
    if size % PAGE or not least <= size <= MAX_SIZE:
        why = f"{size} bytes are not a multiple of {PAGE}" if size % PAGE else f"{format_size(size)} is out of range"
        raise UsageError(f"{_WHAT} with this size", why, f"Choose {format_size(least)} or more")
    if size > most:
        why = f"{stored} devices of {format_size(size)} do not fit into the memory available"
        raise UsageError(f"{_WHAT} with this size", why, f"Choose a --size up to {format_size(most)}")
    return size


def _least(cases: Sequence[Case]) -> int:
    """Bytes that a device must have for all cases: each job has more blocks than requests in flight."""
    return max(case.block * case.jobs * (case.depth + 1) * 2 for case in cases)


def _notes(pages: Pages, targets: Sequence[Target], size: int) -> tuple[str, ...]:
    notes = []
    if pages.count * PAGE < size:
        notes.append(f"The pages are repeated to fill {format_size(size)}.")
    if any(target.pid is not None for target in targets):
        notes.append(
            "CPU is that of the threads that send the requests, and of the device's server; work that the kernel does"
            " elsewhere is not in it."
        )
    return tuple(notes)


@contextlib.contextmanager
def _opened(
    wanted: Sequence[Wanted], pages: Pages, size: int, queue_depth: int, destructive: bool, step: Callable[[str], None]
) -> Iterator[list[Target]]:
    """All of them, ours first: null has as many queues and as much depth as ours of the same number of queues."""
    with contextlib.ExitStack() as stack:
        found: list[Target] = []
        for item in sorted(wanted, key=lambda item: item.kind != OURS):
            step(f"making {item.kind}" if not item.kind.startswith("/") else f"opening {item.kind}")
            like = next((t for t in found if t.wanted.kind == OURS and t.wanted.queues == item.queues), None)
            opened = device_targets.opened(item, pages, size, queue_depth, like, destructive)
            found.append(stack.enter_context(opened))
        yield sorted(found, key=lambda target: wanted.index(target.wanted))


def run(
    pages: Sequence[str | Path] = (),
    algorithms: Sequence[str] = (),
    against: Sequence[str] | None = None,
    *,
    path: str | None = None,
    destructive: bool = False,
    workloads: Sequence[str] = (),
    blocks: Sequence[int] = (),
    depths: Sequence[int] = (),
    jobs: Sequence[int] = (),
    queues: Sequence[int] = (),
    modes: Sequence[str] = (),
    data_modes: Sequence[str] = (),
    size: int | None = None,
    runtime: float = DEFAULT_RUNTIME,
    rounds: int = DEFAULT_ROUNDS,
    fio: bool = False,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> DeviceReport:
    """`truezram benchmark device`: see the top of this file. `algorithms`: ours (if empty, the default of a new
    device); `path`: a block device that is there, instead; `destructive`: it may be written to; `blocks`: bytes of a
    request; `queues`: of devices of ours and of null, each number is measured (if empty, as many as they have by
    default); `modes`: of devices of ours, each is measured (if empty, the default); `data_modes`: of
    these and of null, likewise; `size`: bytes of each device, None:
    `DEFAULT_SIZE`, or what memory allows; `runtime`: seconds for each case and target, over all rounds; `fio`: the
    loads that only read once more, with fio.

    `progress` is called about ten times a second, `cancelled` between two calls of the C code. Raises `Cancelled`;
    `UsageError` for what is out of range; `PermissionDenied` or `Unsupported` where no device can be made; the errors
    of `parse_against`, `benchmark.read_inputs` and `benchmark.sample_inputs`; `Failed` for a device that fails or does
    not return what was written."""
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError(_WHAT, f"{rounds} rounds were asked for", f"Choose 1 to {MAX_ROUNDS}")
    if not 0 < runtime <= MAX_RUNTIME:
        raise UsageError(_WHAT, f"a runtime of {runtime:g} s was asked for", f"Choose up to {MAX_RUNTIME:g}")
    if path is not None and (algorithms or modes or data_modes):
        why = "a device that is there has its algorithm and its modes"
        raise UsageError(_WHAT, why, "Leave the path out, or --algorithm, --mode and --data-mode")
    moves: list[str | None] = [*dict.fromkeys(map(parse_data_mode, data_modes))]
    if destructive and path is None:
        raise UsageError(_WHAT, "--destructive is for a device that is there", "Give its path, or leave it out")
    cases = cases_of(workloads, blocks, depths, jobs, path is not None and not destructive)
    counts: list[int | None] = [
        *_choose(queues, (), 1, min(lib.TZ_MAX_QUEUES, os.cpu_count() or 1), "number of queues")
    ]
    baselines, missing = parse_against(against)
    if path is None:
        named = algorithms or [default_algorithm()]
        found = (
            device_targets.ours(name, count, mode, data)
            for count in counts or [None]
            for name in named
            for mode in modes or [DEFAULT_MODE]
            for data in moves or [None]
        )
        wanted = list(dict.fromkeys(found))
    else:
        wanted = [Wanted(path)]
    if any(item.kind in (OURS, NULL) for item in [*wanted, *baselines]):
        need_ublk()
    wanted += [
        replace(item, queues=count, data_mode=data)
        for item in baselines
        for count in (counts or [None] if item.kind == NULL else [None])
        for data in (moves or [None] if item.kind == NULL else [None])
    ]
    if fio:
        device_fio.program()
    return _measure(wanted, missing, cases, pages, size, runtime, rounds, destructive, fio, progress, cancelled)


def _measure(
    wanted: Sequence[Wanted],
    missing: Sequence[NotMeasured],
    cases: Sequence[Case],
    paths: Sequence[str | Path],
    size: int | None,
    runtime: float,
    rounds: int,
    destructive: bool,
    fio: bool,
    progress: ProgressCallback | None,
    cancelled: Callable[[], bool] | None,
) -> DeviceReport:
    def step(text: str) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled("the measurement was cancelled")
        if progress is not None:
            progress(DeviceProgress(0.0, text, None))

    found = store_bench.read_pages(paths, lambda item: step(item.text), cancelled)
    stored = sum(item.kind in (OURS, device_targets.ZRAM) for item in wanted) + any(c.workload == SWAP for c in cases)
    size = _size(size, found, stored, _least(cases))
    depth = max(case.depth for case in cases)
    if any(case.block > found.count * PAGE for case in cases):
        raise UsageError(_WHAT, f"there are only {found.count} pages for a request", "Choose a smaller --block-size")
    cluster = procfs.read_int("/proc/sys/vm/page-cluster")
    with _opened(wanted, found, size, depth if depth > MAX_QUEUE_DEPTH else 0, destructive, step) as targets:
        report = DeviceReport(
            benchmark.host(), found.infos, size, runtime, rounds, cluster, (), tuple(missing),
            _notes(found, targets, size),
        )  # fmt: skip
        return _Measurement(targets, cases, report, found, progress, cancelled, fio).run()
