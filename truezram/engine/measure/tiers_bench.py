"""`truezram benchmark tiers`: what a device gains from compressing idle pages once more, and what it costs.

Local devices are made for it, each with a server of its own, and filled with the same pages:

- hot: without a policy; it is there all the time, for comparison;
- dense, cold: the policy works until all pages have been idle for long enough, and it has nothing left to do;
- mix: pages get their tier in runs of `RUN` neighbours, at random. First what is not hot becomes dense, then what is
  not hot and not warm goes into groups. Meanwhile hot pages are read all the time and warm ones often enough to stay
  out of groups.

Then the memory is read off, and every page is read once, in random order, and compared; pages of a tier are timed
together. The mix's hot pages are read in turns with the same pages of the device without a policy, while the policy is
at work and afterwards. Kernel zram devices are filled and read in the same way.

The clock of ages runs faster, and the policy's times are divided by as much: pages take the same steps, sooner. The
policy may take a whole core (a quarter of it while requests come): CPU time is what is measured. The timed code is C
(native/python/bench_store.c). `run` does all of it. It blocks, and may run on any thread.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.algorithms import canonical, default_algorithm, parse_algorithm
from truezram.engine.device import cold, removal
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.device.settings import POLICIES
from truezram.engine.errors import Failed, Unsupported, UsageError
from truezram.engine.measure import benchmark, store_bench, zram_bench
from truezram.engine.measure.results import Cancelled
from truezram.engine.measure.store_results import Usage
from truezram.engine.measure.tiers_results import (
    SCENARIOS,
    TIERS,
    HotReads,
    ProgressCallback,
    Reads,
    Scenario,
    TiersProgress,
    TiersReport,
    TiersResult,
)
from truezram.engine.model import MEMORY, DeviceSnapshot
from truezram.engine.units import PAGE

DEFAULT_AGAINST = ("zram:zstd", "zram:lz4")
DEFAULT_ROUNDS = 9
MAX_ROUNDS = 1000
RUN = 64
"""Neighbouring pages of one tier: 256 KiB, or less where there are few pages."""
LEAST_PAGES = 512
TURN = 1024
"""Hot pages that are timed each time while pages grow old."""
CHUNK = 128
"""Pages that are read of one device before the other has its turn."""
SPEEDS = (600, 300, 200, 150, 120, 100, 60, 50, 40, 30, 20, 12, 10, 6, 5, 4, 3, 2, 1)
"""Of the clock. With them, `balanced`'s times are whole seconds."""
CLOCK_SECONDS = 180.0
"""The shortest time between two passes of the clock."""
HOT_STEPS = 4
"""Such times after which a page may count as idle for as long as `balanced`'s idle_dense says."""
QUIET_SECONDS = 1.5
"""For how long a policy has done nothing that has nothing left to do."""
PATIENCE = 600.0
"""Seconds, and twenty times the policy's longest time, after which one that has not come to rest is broken."""
AT_WORK_NS = 1_000_000
"""CPU time of the policy in a turn in which it counts as at work."""
_PROGRESS_SECONDS = 0.1
_WHAT = "cannot measure tiers"


class _Ours:
    """A device of ours that was made for this."""

    def __init__(self, client: Client, entry: Entry, disk: LocalDevice, subject: store_bench.Subject) -> None:
        self.client = client
        self.entry = entry
        self.disk = disk
        self.subject = subject

    def now(self) -> DeviceSnapshot:
        return self.client.device(self.entry)

    def set(self, key: str, value: str) -> None:
        self.client.set(self.entry, key, value)


@contextlib.contextmanager
def _ours(pages: store_bench.Pages, algorithm: str, scenario: Scenario) -> Iterator[_Ours]:
    """A local device, empty, without a policy. It is removed afterwards."""
    err, why = ffi.new("int *"), ffi.new("char[256]")
    entry: Entry | None = None
    with zram_bench.ended_in_order():
        try:
            with zram_bench.undisturbed():
                entry = create(CreateOptions(pages.count * PAGE, algorithm, transport="local")).entry
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(ffi.from_buffer("uint8_t[]", pages.data))
                disk = stack.enter_context(LocalDevice(entry))
                client = stack.enter_context(Client([entry.directory]))
                common = (source, pages.count, pages.count, 1, err, why, len(why))
                target = lib.tz_bench_open_local(disk.client, *common)
                if target == ffi.NULL:
                    raise Failed(_WHAT, ffi.string(why).decode() or os.strerror(-err[0]))
                stack.callback(lib.tz_bench_close, target)
                subject = store_bench.Subject("truezram", f"{algorithm}, {scenario.name}", 1, target)
                subject.smaller = "Give fewer pages"
                ours = _Ours(client, entry, disk, subject)
                ours.set("policy", POLICIES["off"])
                yield ours
        finally:
            if entry is not None:
                with zram_bench.undisturbed():
                    removal.remove_entry(entry)


# ---- which page is in which tier ----


def tiers_of(count: int, shares: Sequence[float]) -> dict[str, array[int]]:
    """The places of each tier, ascending: whole runs of neighbours at random, the same ones each time. Tiers without
    any are left out."""
    window = 16
    run = max(window, min(RUN, count // 50 // window * window))
    runs = list(range(0, count, run))
    random.Random(0).shuffle(runs)
    found: dict[str, array[int]] = {}
    first, sum_of = 0, 0.0
    for tier, share in zip(TIERS, shares, strict=True):
        sum_of += share
        last = round(sum_of * len(runs))
        starts = sorted(runs[first:last])
        first = last
        if starts:
            found[tier] = array("I", (i for start in starts for i in range(start, min(start + run, count))))
    return found


def neighbours(places: Sequence[int]) -> list[tuple[int, int]]:
    """(first, count) of each run of neighbours among them; they are ascending."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and sum(found[-1]) == place:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((place, 1))
    return found


# ---- the measurement ----


@dataclass(slots=True)
class _Turns:
    """Reads of the same pages of two devices in turns."""

    samples: list[float] = field(default_factory=list)
    sums: tuple[Any, Any] = field(default_factory=lambda: (_tally(), _tally()))

    def add(self, ours: Any, other: Any) -> None:
        """A turn. Medians: on a busy machine, means are those of its interruptions."""
        a, b = store_bench.latency(ours.lat), store_bench.latency(other.lat)
        assert a is not None
        assert b is not None
        self.samples.append(a.p50 / b.p50)
        for total, tally in zip(self.sums, (ours, other), strict=True):
            for index, count in enumerate(tally.lat):
                if count:
                    total.lat[index] += count

    def result(self) -> HotReads | None:
        ours, other = (store_bench.latency(total.lat) for total in self.sums)
        return HotReads(tuple(self.samples), ours, other) if ours is not None and other is not None else None


def _tally() -> Any:
    return ffi.new("struct tz_bench_tally *")


class _Measurement:
    """One call of `run`."""

    def __init__(
        self,
        pages: store_bench.Pages,
        algorithm: str,
        report: TiersReport,
        phases: int,
        progress: ProgressCallback | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.pages = pages
        self.algorithm = algorithm
        self.report = report
        self.phases = phases
        self.progress = progress
        self.cancelled = cancelled
        self.done = 0
        self.fraction = self.shown_at = 0.0
        self.text = ""
        self.late = 0.0
        """Longest time between two turns of reading hot pages."""
        self.seed = 0
        self.everything = array("I", range(pages.count))

    # -- steps --

    def step(self, share: float, text: str) -> None:
        """share: of the phase at work. (What is waited for is a guess, which may be corrected: progress never goes
        back.)"""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("the measurement was cancelled")
        self.fraction = max(self.fraction, min(0.99, (self.done + share) / self.phases))
        if self.progress is not None and (text != self.text or time.monotonic() - self.shown_at >= _PROGRESS_SECONDS):
            self.shown_at, self.text = time.monotonic(), text
            self.progress(TiersProgress(self.fraction, text, self.report))

    def add(self, result: TiersResult) -> None:
        self.done += 1
        self.report = replace(self.report, results=(*self.report.results, result))

    def read(self, subject: store_bench.Subject, places: array[int], op: int = -1, tally: Any = None) -> Any:
        """Each of the places once, in a new random order, compared; the tally, which may be one to be added to."""
        self.seed += 1
        op = lib.TZ_BENCH_READ if op < 0 else op
        order = array("I", random.Random(self.seed).sample(places, len(places)))
        with ffi.from_buffer("uint32_t[]", order) as numbers:
            if lib.tz_bench_order(subject.target, numbers, len(order)):
                raise AssertionError("places are those of the pages")
        tally, at = _tally() if tally is None else tally, 0
        while at < len(order):
            if self.cancelled is not None and self.cancelled():
                raise Cancelled("the measurement was cancelled")
            at += subject.call(op, at, len(order) - at, self.seed, tally)
        return tally

    def fill(self, subject: store_bench.Subject, text: str) -> None:
        self.step(0.0, f"{text}: filling")
        self.read(subject, self.everything, lib.TZ_BENCH_FILL)
        time.sleep(store_bench.SETTLE_SECONDS)

    def timed(self, subject: store_bench.Subject, tiers: dict[str, array[int]]) -> tuple[tuple[str, Reads], ...]:
        """Every page, tier by tier."""
        found = []
        for tier, places in tiers.items():
            self.step(0.9, f"reading what is {tier}, {subject.name}")
            tally = self.read(subject, places)
            ns = store_bench.latency(tally.lat)
            assert ns is not None
            found.append((tier, Reads(len(places), ns)))
        return tuple(found)

    # -- ageing --

    def choose_speed(self, base: _Ours, hot: array[int]) -> None:
        """The fastest clock at which hot pages can be read often enough to stay young."""
        began = time.monotonic()
        self.touch(base, hot)
        self.turn(base, base, hot, TURN)
        turn = time.monotonic() - began + 0.2
        most = HOT_STEPS * CLOCK_SECONDS / 6 / turn
        self.report = replace(self.report, age_speed=next((s for s in SPEEDS if s <= most), SPEEDS[-1]))

    def policy(self, dense: bool, cold: bool) -> dict[str, int]:
        """`balanced` by this clock: settings, times in seconds, 0: never."""
        idle = [max(1, int(word) // self.report.age_speed) for word in POLICIES["balanced"].split(":")[:2]]
        return {"cpu_percent": 100, "idle_cold": idle[1] * cold, "idle_dense": idle[0] * dense}

    def wait(
        self, ours: _Ours, policy: dict[str, int], young: int, text: str, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Until all but so many pages are old enough for the policy, and it has come to rest. `meanwhile` is called
        again and again."""
        for key, value in policy.items():
            ours.set(key, str(value))
        idle = max(policy["idle_dense"], policy["idle_cold"])
        began = changed = time.monotonic()
        before: tuple[int, ...] = ()
        while True:
            meanwhile()
            device = cold.count_ages(ours.client, ours.entry)
            left = sum(age.pages for age in device.ages if age.least_ns < idle * 1_000_000_000) - young
            state = (device.recompressed_pages, device.recompress_cpu_ns, device.mem_used_total)
            now = time.monotonic()
            if state != before or left > 0:
                before, changed = state, now
            if now - changed >= QUIET_SECONDS:
                return
            if now - began > PATIENCE + 20 * idle:
                raise Failed(_WHAT, f"{ours.entry.name} did not come to rest within {now - began:.0f} s")
            self.step(0.1 + 0.8 * (1 - max(0, left) / self.pages.count), text)
            time.sleep(0.05)

    # -- scenarios --

    def result(
        self,
        ours: _Ours,
        scenario: Scenario,
        before: DeviceSnapshot,
        reads: Callable[[], tuple[tuple[str, Reads], ...]],
    ) -> TiersResult:
        """The device as it is now; then its pages are read."""
        now = ours.now()
        return TiersResult(
            implementation="truezram",
            algorithm=self.algorithm,
            scenario=scenario.name,
            usage=Usage(now.orig_data_size, now.compr_data_size, now.mem_used_total, now.reserve_bytes),
            memory=tuple((part.key, part.of(now)) for part in MEMORY),
            kinds=now.kind_pages,
            policy_cpu_ns=now.recompress_cpu_ns - before.recompress_cpu_ns,
            server_cpu_ns=now.server_cpu_ns - before.server_cpu_ns,
            seconds=now.time - before.time,
            reads=reads(),
        )

    def all_of_one(self, scenario: Scenario) -> None:
        """Everything dense, or everything in groups."""
        text = f"everything {scenario.name}"
        with _ours(self.pages, self.algorithm, scenario) as ours:
            self.fill(ours.subject, text)
            before = ours.now()
            ours.set("age_speed", str(self.report.age_speed))
            self.wait(ours, self.policy(True, scenario.name == "cold"), 0, f"{text}: ageing")
            ours.set("policy", POLICIES["off"])
            tiers = {scenario.name: self.everything}
            self.add(self.result(ours, scenario, before, lambda: self.timed(ours.subject, tiers)))

    def mix(self, scenario: Scenario, base: _Ours, rounds: int) -> None:
        tiers = tiers_of(self.pages.count, scenario.shares)
        at_work, after = _Turns(), _Turns()
        with _ours(self.pages, self.algorithm, scenario) as ours:
            self.fill(ours.subject, "mix")
            before = ours.now()
            self.age_mix(ours, base, tiers, at_work)
            # The policy as users have it, by a clock as users have it.
            ours.set("age_speed", "1")
            ours.set("policy", POLICIES["balanced"])
            self.add(self.result(ours, scenario, before, lambda: self.read_mix(ours, base, tiers, after, rounds)))
        notes = self.report.notes
        least = HOT_STEPS * CLOCK_SECONDS / self.report.age_speed
        if self.late > least:
            notes += (
                f"Hot pages of the mix were left alone for up to {self.late:.1f} s, and count as idle after {least:.1f}"
                " s: some became dense. Repeat it on a less busy machine.",
            )
        self.report = replace(self.report, hot_at_work=at_work.result(), hot_after=after.result(), notes=notes)

    def turn(self, ours: _Ours, base: _Ours, hot: array[int], most: int) -> tuple[Any, Any]:
        """So many hot pages of both: some of one, then the same of the other, so that both meet the same other load."""
        self.seed += 1
        order = array("I", random.Random(self.seed).sample(hot, min(most, len(hot))))
        tallies = _tally(), _tally()
        for number, at in enumerate(range(0, len(order), CHUNK)):
            both = list(zip((ours, base), tallies, strict=True))
            for one, tally in both if number % 2 else reversed(both):
                self.read(one.subject, order[at : at + CHUNK], tally=tally)
        return tallies

    def touch(self, ours: _Ours, places: array[int]) -> None:
        """Reads all of them, neighbours in one request, so that they stay young. Compared."""
        for first, count in neighbours(places):
            if ours.disk.read(first, count) != self.pages.data[first * PAGE : (first + count) * PAGE]:
                why = f"what was read of the {count} pages from {first} on differs from what was written there"
                raise Failed(f"{ours.subject.name} is broken on this machine", why, "Report this")

    def age_mix(self, ours: _Ours, base: _Ours, tiers: dict[str, array[int]], turns: _Turns) -> None:
        hot, warm = tiers["hot"], tiers["dense"]
        cpu, began = ours.now().recompress_cpu_ns, time.monotonic()

        def read_hot() -> None:
            nonlocal cpu, began
            before, began = began, time.monotonic()
            self.late = max(self.late, began - before)
            self.touch(ours, hot)
            both = self.turn(ours, base, hot, TURN)
            now = ours.now().recompress_cpu_ns
            if now - cpu >= AT_WORK_NS:
                turns.add(*both)
            cpu = now

        def read_hot_and_warm() -> None:
            self.touch(ours, warm)
            read_hot()

        ours.set("age_speed", str(self.report.age_speed))
        self.wait(ours, self.policy(True, False), len(hot), "mix: waiting for what is idle", read_hot)
        self.touch(ours, warm)
        young = len(hot) + len(warm)
        self.wait(ours, self.policy(True, True), young, "mix: waiting for what is cold", read_hot_and_warm)

    def read_mix(
        self, ours: _Ours, base: _Ours, tiers: dict[str, array[int]], turns: _Turns, rounds: int
    ) -> tuple[tuple[str, Reads], ...]:
        hot = tiers["hot"]
        for number in range(rounds):
            self.step(0.9, f"mix: reading hot pages, round {number + 1} of {rounds}")
            turns.add(*self.turn(ours, base, hot, len(hot)))
        found = turns.result()
        assert found is not None
        others = self.timed(ours.subject, {tier: tiers[tier] for tier in ("dense", "cold")})
        return (("hot", Reads(len(hot), found.ours)), *others)

    def zram(self, algorithm: str) -> None:
        with store_bench.opened(self.pages, self.pages.count, "zram", algorithm, 1) as subject:
            subject.smaller = "Give fewer pages"
            self.fill(subject, f"zram with {algorithm}")
            usage = subject.usage()
            reads = self.timed(subject, {"hot": self.everything})
        self.add(TiersResult("zram", algorithm, "", usage, reads=reads))

    def run(self, scenarios: Sequence[Scenario], kernel: Sequence[str], rounds: int) -> TiersReport:
        hot = tiers_of(self.pages.count, next(s for s in SCENARIOS if s.name == "mix").shares)["hot"]
        with _ours(self.pages, self.algorithm, SCENARIOS[0]) as base:
            self.fill(base.subject, "everything hot")
            self.choose_speed(base, hot)
            self.report = replace(self.report, policy=tuple(self.policy(True, True).items()))
            self.add(
                self.result(base, SCENARIOS[0], base.now(), lambda: self.timed(base.subject, {"hot": self.everything}))
            )
            for scenario in scenarios:
                if scenario.name == "mix":
                    self.mix(scenario, base, rounds)
                elif scenario.name != "hot":
                    self.all_of_one(scenario)
        for algorithm in kernel:
            self.zram(algorithm)
        if self.progress is not None:
            self.progress(TiersProgress(1.0, "done", self.report))
        return self.report


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise UsageError(_WHAT, f"there is no scenario {name[:40]!r}", f"Choose from {', '.join(known)}")
    found = [known[name] for name in dict.fromkeys(names)] or list(SCENARIOS)
    if any(scenario.shares[2] for scenario in found):
        try:
            parse_algorithm("zstd")
        except Unsupported as error:
            remedy = (
                "Install libzstd (Debian: apt install libzstd1; Fedora: dnf install libzstd), or add --scenario dense"
            )
            raise Unsupported(_WHAT, f"groups of cold pages take libzstd: {error.why}", remedy) from None
    return found


def run(
    pages: Sequence[str | Path] = (),
    against: Sequence[str] | None = None,
    *,
    algorithm: str | None = None,
    scenarios: Sequence[str] = (),
    rounds: int = DEFAULT_ROUNDS,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TiersReport:
    """`truezram benchmark tiers`: see the top of this file. `pages`: files and folders (if empty, a sample of the
    memory of running processes); `against`: compressors of kernel zram, which are left out where they cannot be
    measured; `algorithm`: what pages are written with; `scenarios`: names (if empty, all; `hot` is always measured).

    Raises `Cancelled`; `UsageError` for what is out of range; `Unsupported` without libzstd or the server; the errors
    of `store_bench.read_pages`; `Failed` for a device that fails or does not return what was written."""
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError(_WHAT, f"{rounds} rounds were asked for", f"Choose 1 to {MAX_ROUNDS}")
    chosen = _scenarios(scenarios)
    written = canonical(algorithm) if algorithm is not None else default_algorithm()
    wanted = store_bench.against_zram(DEFAULT_AGAINST if against is None else against)
    kernel, missing = store_bench.measurable(wanted)
    found = store_bench.read_pages(pages, None if progress is None else _sampling(progress), cancelled)
    if found.count < LEAST_PAGES:
        why = f"there are {found.count} pages that are not same-filled, and tiers take {LEAST_PAGES}"
        raise Failed(_WHAT, why, "Give more pages")
    report = TiersReport(benchmark.host(), found.infos, found.count, (), tuple(missing), notes=_notes(pages))
    phases = 1 + sum(scenario.name != "hot" for scenario in chosen) + len(kernel)
    return _Measurement(found, written, report, phases, progress, cancelled).run(chosen, kernel, rounds)


def _sampling(progress: ProgressCallback) -> Callable[[Any], None]:
    return lambda step: progress(TiersProgress(0.0, step.text, None))


def _notes(pages: Sequence[str | Path]) -> tuple[str, ...]:
    if pages:
        return ()
    return (
        "The pages are a sample of running processes: few of them are neighbours, so groups gain less than they would"
        " on a device. Give --pages with pages as programs have them, one after another.",
    )
