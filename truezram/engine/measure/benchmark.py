"""Measures page codecs on this machine: ours and, in the same process, liblz4, libzstd and memcpy; then kernel zram
(zram_bench.py).

The timed code is C calling C (native/python/bench.c). Pages are processed in groups of 64: every codec does one group
before any starts the next, in rotating order, so that changes of the CPU's clock and other load affect all of them
alike. Each round over all pages gives one sample; results are medians. Every page is verified in every round.
Same-filled pages are left out. A timing that another thread interrupted is repeated up to three times; after that, the
thread's CPU time is used.

`run` does all of it. It blocks, releases the GIL while it measures, and may run on any thread; it calls `progress` and
`cancelled` on that thread.
"""

from __future__ import annotations

import os
import platform
import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram._version import __version__
from truezram.codec import ISAS, AlgorithmError, make_dictionary_workspace, make_workspace
from truezram.engine.algorithms import algorithms as known_algorithms
from truezram.engine.algorithms import canonical, parse_algorithm
from truezram.engine.device.dictionary import Dictionary, load
from truezram.engine.errors import Failed, Unsupported, UsageError
from truezram.engine.machine import procfs
from truezram.engine.measure import baselines, page_files, zram_bench
from truezram.engine.measure.baselines import Subject
from truezram.engine.measure.results import (
    TOTAL,
    WITH_DICTIONARY,
    Cancelled,
    DictionaryInfo,
    Input,
    InputInfo,
    Progress,
    ProgressCallback,
    Report,
    Result,
    Speed,
)
from truezram.engine.units import PAGE

DEFAULT_ROUNDS = 5
MAX_ROUNDS = 10_000
MAX_SECONDS = 86400.0
SAMPLE_PAGES = 8192
_PROGRESS_SECONDS = 0.1


# ---- what to measure, and on what ----


def make_input(name: str, data: bytes | memoryview) -> Input:
    """Makes an input of n * 4096 bytes, n > 0. A memoryview is used as it is; bytes are copied to a page boundary."""
    if not len(data) or len(data) % PAGE:
        raise UsageError(f"cannot take pages from {name}", f"{len(data)} bytes are not a multiple of {PAGE}")
    view = data if isinstance(data, memoryview) else page_files.aligned(data)
    count = len(view) // PAGE
    order = array("I", bytes(4 * count))
    with ffi.from_buffer("uint8_t[]", view) as pages, ffi.from_buffer("uint32_t[]", order) as indices:
        kept = lib.tz_bench_select(pages, count, indices)
    return Input(name, view, order[:kept])


def read_inputs(paths: Sequence[str | Path]) -> list[Input]:
    """Files and folders of pages as inputs. Raises the errors of `page_files.find` and `page_files.read`."""
    return [make_input(item.name, item.data) for item in page_files.read(page_files.find(paths))]


def sample_inputs(
    limit: int = SAMPLE_PAGES,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Input]:
    """Pages of running processes that this user may read, as one input called `memory`.

    Raises `Failed` when there are none.
    """
    from truezram.engine.measure import sampling

    def sampling_progress(fraction: float, text: str) -> None:
        if progress is not None:
            progress(Progress(0.0, text, None))

    try:
        sampled = sampling.sample_pages(limit=limit, seed=seed, progress=sampling_progress, cancel=cancelled)
    except sampling.Cancelled as error:
        raise Cancelled("the measurement was cancelled") from error
    if not len(sampled):
        raise Failed(
            "cannot sample memory",
            "no process has a page that this user may read",
            "Run it with sudo, or give --pages FILE",
        )
    return [make_input("memory", page_files.aligned(sampled.data))]


def _subject(name: str, codec: Any, memory: Any, workspace: Any) -> Subject:
    """One of our codecs with its workspace, which is in `memory`."""
    struct = ffi.new("struct tz_bench_subject *")
    struct.compress, struct.decompress, struct.context = codec.compress, codec.decompress, workspace
    version = ""
    if codec.kind in (lib.TZ_KIND_ZSTD, lib.TZ_KIND_ZSTD_DICT):
        version = f"libzstd {baselines.version_text(lib.tz_zstd_version())} (this system's)"
    return Subject(
        algorithm=name,
        implementation="truezram",
        struct=struct,
        isa=ISAS[codec.isa],
        version=version,
        keep=(memory, workspace),
    )


def open_algorithm(text: str) -> Subject:
    """One of our algorithms, `NAME[:LEVEL]`. Raises the errors of `parse_algorithm`."""
    algorithm, level = parse_algorithm(text)
    codec = lib.tz_codec_by_name(algorithm.name.encode())
    return _subject(canonical(text), codec, *make_workspace(codec, level))


def open_with_dictionary(text: str, dictionary: Dictionary) -> Subject:
    """`zstd[:LEVEL]` with a dictionary. Raises `Failed` when that cannot be used."""
    algorithm, level = parse_algorithm(text)
    plain = lib.tz_codec_by_name(algorithm.name.encode())
    try:
        made = make_dictionary_workspace(plain, level, dictionary.data)
    except AlgorithmError as error:
        raise Failed(f"cannot use the dictionary {dictionary.path}", str(error)) from None
    return _subject(canonical(text) + WITH_DICTIONARY, *made)


def _open_named(named: Sequence[str], dictionary: Dictionary | None) -> list[Subject]:
    """Our algorithms; each `zstd` is followed by the same with the dictionary, if there is one."""
    if dictionary is None:
        return [open_algorithm(text) for text in named]
    subjects = []
    for text in named:
        subjects.append(open_algorithm(text))
        if text.partition(":")[0] == "zstd":
            subjects.append(open_with_dictionary(text, dictionary))
    if len(subjects) == len(named):
        remedy = "Add --algorithm zstd:3, or leave --dictionary out"
        raise UsageError("cannot measure a dictionary", "none of the algorithms is zstd", remedy)
    return subjects


def open_subjects(
    algorithms: Sequence[str] = (),
    against: Sequence[str] = baselines.DEFAULT,
    dictionary: Dictionary | None = None,
) -> tuple[list[Subject], tuple[str, str]]:
    """What to measure: our `algorithms` (`NAME[:LEVEL]`; if empty, all that can run here; `zstd` with the `dictionary`
    too), then the baselines of `against`. The second value is the (implementation, algorithm) to compare with, the
    first of the baselines. Kernel zram is not included, because it cannot be called as code (`zram_bench.add`).

    Raises `UsageError` for a name or level that does not exist, `Unsupported` for a library that is missing, `Failed`
    for a dictionary that cannot be used.
    """
    named = list(dict.fromkeys(map(canonical, algorithms)))
    named = named or [item.name for item in known_algorithms() if not item.unavailable]
    others = [baselines.open_baseline(name, level) for name, level in baselines.parse(against)]
    kernel = baselines.parse_kernel(against)
    subjects = [*_open_named(named, dictionary), *others]
    if baselines.kernel_first(against):
        return subjects, (baselines.KERNEL, kernel[0])
    return subjects, (others[0].implementation, others[0].algorithm)


def default_baselines() -> tuple[str, ...]:
    """The default baselines: `baselines.DEFAULT`, and kernel zram if a device can be created."""
    known = zram_bench.compressors()
    return (*baselines.DEFAULT, *(f"{baselines.KERNEL}:{name}" for name in ("lz4", "zstd") if name in known))


def _cpu(cpuinfo: str) -> str:
    """`AMD EPYC (family 26, model 2)`: in virtual machines the name alone often does not identify the generation."""
    first = cpuinfo.partition("\n\n")[0].splitlines()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
    name = values.get("model name") or platform.machine()
    family, model = values.get("cpu family"), values.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def host() -> dict[str, str | int | float]:
    """This machine, as described in results."""
    return {
        "cpu": _cpu(procfs.read_text("/proc/cpuinfo") or ""),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "isa": ISAS[lib.tz_cpu_isa()],
        "kernel": procfs.kernel(),
        "load": round(os.getloadavg()[0], 2),
        "truezram": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# ---- measuring ----


@dataclass(slots=True)
class _Tally:
    """One subject's figures on one input: a sum per round, the last one being accumulated."""

    compress_ns: list[int] = field(default_factory=list)
    decompress_ns: list[int] = field(default_factory=list)
    object_bytes: int = 0
    raw_pages: int = 0


class _Measurement:
    """One call of `measure`."""

    def __init__(
        self, inputs: Sequence[Input], subjects: Sequence[Subject], baseline: tuple[str, str], cold: bool
    ) -> None:
        self.inputs = [item for item in inputs if len(item.order)]
        self.infos = tuple(InputInfo(name=item.name, pages=item.pages, same_filled=item.same_filled) for item in inputs)
        self.subjects = subjects
        self.baseline = baseline
        self.cold = cold
        self.host = host()
        self.tallies = {item.name: [_Tally() for _ in subjects] for item in self.inputs}
        self.groups = self.timings = self.disturbed = 0
        self._structs = ffi.new("struct tz_bench_subject[]", [subject.struct[0] for subject in subjects])
        self._times = ffi.new("struct tz_bench_time[]", len(subjects))
        self._room = ffi.new("uint8_t[]", lib.TZ_BENCH_ROOM)
        self._where = ffi.new("unsigned *"), ffi.new("uint32_t *")

    def do_group(self, item: Input, pages: Any, order: Any, count: int) -> None:
        """Times every subject on `count` pages and adds the times to the tallies. Raises `Failed` for a broken
        codec."""
        subject, page = self._where
        first = self.groups % len(self.subjects)
        fault = lib.tz_bench_group(
            self._structs, len(self.subjects), first, pages, order, count, self.cold, self._room, self._times,
            subject, page,
        )  # fmt: skip
        self.groups += 1
        if fault:
            broken = self.subjects[subject[0]]
            why = {
                lib.TZ_BENCH_REFUSED: "its decompressor rejects the object that its compressor made of",
                lib.TZ_BENCH_DIFFERS: "the decompressed data differs from the original in",
            }[fault]
            raise Failed(
                f"{broken.algorithm} ({broken.implementation}) is broken on this machine",
                f"{why} page {page[0]} of {item.name}",
                "Do not use it for data, and report this with the page",
            )
        for tally, took in zip(self.tallies[item.name], self._times, strict=True):
            tally.compress_ns[-1] += took.compress_ns
            tally.decompress_ns[-1] += took.decompress_ns
            tally.object_bytes += took.object_bytes
            tally.raw_pages += took.raw_pages
            self.timings += 2
            self.disturbed += took.disturbed

    def groups_of(self, item: Input, number: int) -> list[array[int]]:
        """Indices of the pages of round `number`, in groups; in random order for cold caches."""
        order = item.order
        if self.cold:
            order = array("I", random.Random(f"{number}:{item.name}").sample(order, len(order)))
        return [order[i : i + _GROUP] for i in range(0, len(order), _GROUP)]

    def begin(self, item: Input) -> None:
        for tally in self.tallies[item.name]:
            tally.compress_ns.append(0)
            tally.decompress_ns.append(0)
            tally.object_bytes = tally.raw_pages = 0

    def report(self, rounds: int) -> Report:
        """The results after `rounds` complete rounds."""
        results: list[Result] = []
        whole = [item for item in self.inputs if len(self.tallies[item.name][0].compress_ns) >= max(1, rounds)]
        for item in whole:
            results += self._results(item.name, [item], rounds)
        if rounds:
            results += self._results(TOTAL, self.inputs, rounds)
        share = self.disturbed / self.timings if self.timings else 0.0
        return Report(
            host=self.host,
            inputs=self.infos,
            results=tuple(results),
            baseline=self.baseline,
            cold=self.cold,
            rounds=rounds,
            disturbed=share,
        )

    def _results(self, name: str, items: Sequence[Input], rounds: int) -> list[Result]:
        size = PAGE * sum(len(item.order) for item in items)
        count = max(1, rounds)
        found = []
        for index, subject in enumerate(self.subjects):
            tallies = [self.tallies[item.name][index] for item in items]
            compress, decompress = (
                Speed(tuple(1000 * size / sum(parts) for parts in zip(*columns, strict=True)))
                for columns in (
                    [tally.compress_ns[:count] for tally in tallies],
                    [tally.decompress_ns[:count] for tally in tallies],
                )
            )
            ratio = size / sum(tally.object_bytes for tally in tallies)
            raw = sum(tally.raw_pages for tally in tallies)
            found.append(
                Result(
                    algorithm=subject.algorithm,
                    implementation=subject.implementation,
                    isa=subject.isa,
                    input=name,
                    ratio=ratio,
                    raw_pages=raw,
                    compress=compress,
                    decompress=decompress,
                    version=subject.version,
                )
            )
        return found


_GROUP: int = lib.TZ_BENCH_GROUP


@dataclass(slots=True)
class _Plan:
    """When to stop: after a number of rounds, or after as many as fit into `seconds`."""

    rounds: int
    seconds: float | None
    groups: int
    """In one round."""
    began: float = field(default_factory=time.monotonic)

    def goes_on(self, done: int) -> bool:
        if self.seconds is None or done == 0:
            return done < self.rounds
        elapsed = time.monotonic() - self.began
        return done < MAX_ROUNDS and elapsed + elapsed / done <= self.seconds

    def fraction(self, groups: int) -> float:
        if self.seconds is None:
            return groups / (self.groups * self.rounds)
        return min(0.99, max((time.monotonic() - self.began) / self.seconds, 0.0), groups / self.groups)

    def text(self, done: int) -> str:
        return f"round {done + 1} of {self.rounds}" if self.seconds is None else f"round {done + 1}"


def measure(
    inputs: Sequence[Input],
    subjects: Sequence[Subject],
    baseline: tuple[str, str],
    *,
    rounds: int = DEFAULT_ROUNDS,
    seconds: float | None = None,
    cold: bool = False,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Report:
    """Times `subjects` on `inputs`, `rounds` times over all pages; with `seconds`, as many rounds as fit in about that
    time (at least one).

    `progress` is called about ten times a second, `cancelled` between groups. Raises `Cancelled`; `Failed` for a codec
    that does not reproduce its pages and for inputs of same-filled pages only; `Unsupported` for `cold` on a CPU whose
    caches cannot be flushed; `UsageError` for rounds or seconds that are out of range.
    """
    _check(rounds, seconds, cold)
    work = _Measurement(inputs, subjects, baseline, cold)
    if not work.inputs:
        raise Failed("there is nothing to measure", "all pages are same-filled, and those are not compressed")
    plan = _Plan(rounds, seconds, sum(-(-len(item.order) // _GROUP) for item in work.inputs))
    done, reported, latest = 0, 0.0, None
    while plan.goes_on(done):
        for item in work.inputs:
            work.begin(item)
            with ffi.from_buffer("uint8_t[]", item.data) as pages:
                for part in work.groups_of(item, done):
                    if cancelled is not None and cancelled():
                        raise Cancelled("the measurement was cancelled")
                    with ffi.from_buffer("uint32_t[]", part) as order:
                        work.do_group(item, pages, order, len(part))
                    if progress is not None and time.monotonic() - reported >= _PROGRESS_SECONDS:
                        reported = time.monotonic()
                        text = f"{plan.text(done)}, {item.name}"
                        progress(Progress(plan.fraction(work.groups), text, latest))
            if progress is not None and done == 0:
                latest = work.report(0)
        done += 1
        if progress is not None:
            latest = work.report(done)
    final = latest or work.report(done)
    if progress is not None:
        progress(Progress(1.0, "done", final))
    return final


def _check(rounds: int, seconds: float | None, cold: bool) -> None:
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError("cannot measure", f"{rounds} rounds were asked for", f"Choose 1 to {MAX_ROUNDS}")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UsageError("cannot measure", f"{seconds:g} seconds were asked for", f"Choose up to {MAX_SECONDS:.0f}")
    if cold and not lib.tz_bench_can_be_cold():
        raise Unsupported("cannot measure with cold caches", "there is no known way to flush the caches of this CPU")


def run(
    pages: Sequence[str | Path] = (),
    algorithms: Sequence[str] = (),
    against: Sequence[str] | None = None,
    *,
    rounds: int = DEFAULT_ROUNDS,
    seconds: float | None = None,
    cold: bool = False,
    dictionary: str | Path | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Report:
    """`truezram benchmark codec`: measures `algorithms` (if empty, all; `zstd` also with the dictionary in the file
    `dictionary`) and the baselines `against` (figures are compared with the first one; None: `default_baselines()`) on
    the files and folders `pages` (if empty, a sample of the memory of running processes). Raises the errors of
    `dictionary.load`, `open_subjects`, `read_inputs`, `sample_inputs`, `measure` and `zram_bench.add`."""
    _check(rounds, seconds, cold)
    against = default_baselines() if against is None else against
    known = None if dictionary is None else load(dictionary)
    subjects, baseline = open_subjects(algorithms, against, known)
    kernel = baselines.parse_kernel(against)
    zram_bench.check(kernel)
    inputs = read_inputs(pages) if pages else sample_inputs(progress=progress, cancelled=cancelled)
    first_part = progress
    if progress is not None and kernel:

        def first_part(step: Progress) -> None:
            progress(replace(step, fraction=step.fraction * zram_bench.SHARE))

    found = measure(
        inputs,
        subjects,
        baseline,
        rounds=rounds,
        seconds=seconds,
        cold=cold,
        progress=first_part,
        cancelled=cancelled,
    )
    if known is not None:
        found = replace(found, dictionary=DictionaryInfo(file=known.path.name, bytes=len(known.data), id=known.id))
    if not kernel:
        return found
    whole = zram_bench.add(found, inputs, kernel, progress, cancelled)
    if whole is None:
        raise Cancelled("the measurement was cancelled")
    return whole
