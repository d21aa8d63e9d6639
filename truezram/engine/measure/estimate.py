"""What would my memory compress to? Samples running processes, runs the codecs on the copies, and extrapolates.

For each algorithm: the memory that a device would take for these pages (including heads, rounding, holes and table
entries, as in the store), the resulting ratio, and microseconds per page on this machine. Every process is a stratum
of the sample; the estimate for a group of processes is the sum of its processes' estimates, and its 95 % interval
follows from the variance within each (docs/estimate.md). Nothing is written, and nothing is brought back from swap
(sampling.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from truezram.codec import Compressor, algorithms
from truezram.engine.algorithms import canonical
from truezram.engine.answers import AlgorithmEstimate as AlgorithmEstimate
from truezram.engine.answers import Scope as Scope
from truezram.engine.errors import Failed, NotFound, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.machine.procfs import Process
from truezram.engine.measure.sampling import (
    Cancelled,
    Progress,
    SampledPages,
    Skipped,
    is_same_filled,
    sample_pages,
)
from truezram.engine.units import PAGE

SCOPES = ("all", "user", "cgroup", "pid")
GROUPS = ("process", "user", "cgroup")
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_BATCH = 64
_ROUNDS = 2
_PARTIAL_EVERY = 0.3

# As in the store (entry.h, alloc.h, store.c): table entry, head and unit of an object, the longest object that is worth
# decompressing, the bits of a repeated word that fit an entry, a segment, and what is known of one.
ENTRY, HEAD, UNIT, HUGE, WORD_BITS, SEGMENT, SEGMENT_KNOWN = 8, 8, 16, 3840, 51, 128 << 10, 256
HOLES = 0.01
"""Share of segments that holes take, as measured; housekeeping keeps them small."""
AROUND = (1 + SEGMENT_KNOWN / SEGMENT) / (1 - HOLES)


def is_huge(size: int) -> bool:
    """Whether the store keeps a page raw if its object has `size` bytes."""
    return size > HUGE


def object_size(size: int) -> int:
    """What an object with `size` bytes takes in a segment, or the page itself if that is better."""
    return -(-(HEAD + (PAGE if is_huge(size) else size)) // UNIT) * UNIT


def cost(size: int) -> float:
    """Bytes of memory for a page whose object has `size` bytes, including its table entry and its share of holes."""
    return ENTRY + object_size(size) * AROUND


def same_filled_cost(word: bytes) -> float:
    """The same for a page that repeats `word` (8 bytes): in the entry, unless it needs more bits than that has."""
    value = int.from_bytes(word, "little", signed=True)
    most = 1 << (WORD_BITS - 1)
    in_entry = -most <= value < most or word[:4] == word[4:]
    return float(ENTRY) if in_entry else cost(len(word))


# ---- whose memory ----


def select(scope: Scope, processes: Iterable[Process]) -> list[Process]:
    """The matching ones of `processes`. Raises `UsageError` for an invalid scope, `NotFound` if none matches."""
    found = [process for process in processes if _has(scope, process)]
    if scope.kind == "pid":
        missing = set(_pids(scope)) - {process.pid for process in found}
        if missing:
            names = ", ".join(map(str, sorted(missing)))
            raise NotFound(f"no process {names}", "it has ended, or is a kernel thread without its own memory")
    if not found:
        why = {
            "user": f"none belongs to user {scope.value}",
            "cgroup": f"none is in {scope.value} or below",
        }
        raise NotFound("no matching process", why.get(scope.kind, "none is visible"))
    return found


def _has(scope: Scope, process: Process) -> bool:
    if scope.kind == "all":
        return True
    if not scope.value:
        raise UsageError(f"the {scope.kind} has no name", "it is empty", "Name one, or look at all processes")
    if scope.kind == "user":
        return scope.value in (process.user, str(process.uid))
    if scope.kind == "cgroup":
        path = "/" + scope.value.removeprefix("/sys/fs/cgroup").strip("/")
        return path == "/" or process.cgroup == path or process.cgroup.startswith(path + "/")
    if scope.kind == "pid":
        return process.pid in _pids(scope)
    raise UsageError(f"unknown scope {scope.kind!r}", "", f"Use one of {', '.join(SCOPES)}")


def _pids(scope: Scope) -> list[int]:
    words = [word.strip() for word in scope.value.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise UsageError(f"invalid pid {scope.value[:40]!r}", "a pid is a whole number")
    return [int(word) for word in words]


# ---- results ----


@dataclass(frozen=True, slots=True)
class GroupEstimate:
    """A process, a user, a cgroup, or the total."""

    name: str
    """The process's command, the user, the cgroup's path, or "total"."""
    pid: int | None
    user: str
    processes: int
    bytes: int
    """Memory that could be swapped out: its present anonymous pages."""
    sampled: int
    """Its pages in the sample; with 0, `algorithms` is empty."""
    same_filled: float
    """Share of same-filled pages, 0 … 1."""
    algorithms: tuple[AlgorithmEstimate, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer."""

    scope: Scope
    by: str
    total: GroupEstimate
    groups: tuple[GroupEstimate, ...]
    """By memory, largest first."""
    skipped: tuple[Skipped, ...] = ()
    seed: int = 0
    seconds: float = 0.0
    complete: bool = True
    """False for a partial result, or if the time ran out."""


# ---- measuring one process ----


@dataclass(slots=True)
class _Measured:
    """One algorithm on the sampled pages of one process."""

    costs: list[float] = field(default_factory=list)
    raw: int = 0
    object_bytes: int = 0
    coded: int = 0
    compress_ns: int = 0
    decompress_ns: int = 0

    def add(self, sizes: Sequence[int], compress_ns: int, decompress_ns: int) -> None:
        """One batch of pages that are not same-filled."""
        self.costs += [cost(size) for size in sizes]
        self.raw += sum(map(is_huge, sizes))
        self.object_bytes += sum(sizes)
        self.coded += len(sizes)
        self.compress_ns += compress_ns
        self.decompress_ns += decompress_ns


@dataclass(slots=True)
class Stratum:
    """A part of what is estimated, and what was measured on the pages that were drawn from it."""

    pages: int
    """All that it has."""
    same: int = 0
    """Same-filled ones among those that were drawn."""
    sampled: int = 0
    by_algorithm: dict[str, _Measured] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _OfProcess(Stratum):
    process: Process


class Bench:
    """One algorithm's compressor and its buffers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.compressor = Compressor(name)
        self.objects = bytearray(_BATCH * PAGE)
        self.back = bytearray(_BATCH * PAGE)

    def run(self, pages: bytes, into: _Measured) -> None:
        """Compresses and decompresses up to `_BATCH` pages and compares them. The fastest round counts, in CPU time,
        which load on the machine does not stretch. Raises `Failed` if a page is not reproduced."""
        compress = decompress = math.inf
        for _ in range(_ROUNDS):
            began = time.thread_time_ns()
            packed = self.compressor.compress_pages(pages, self.objects)
            half = time.thread_time_ns()
            back = self.compressor.decompress_pages(packed.data, packed.offsets, self.back)
            ended = time.thread_time_ns()
            compress, decompress = min(compress, half - began), min(decompress, ended - half)
        if bytes(back) != pages:
            raise Failed(f"{self.name} did not reproduce a page", "", "Please report this, with `doctor --json`")
        offsets = packed.offsets
        sizes = [offsets[i + 1] - offsets[i] for i in range(len(packed))]
        into.add(sizes, int(compress), int(decompress))


def measure(benches: Sequence[Bench], stratum: Stratum, pages: Sequence[memoryview], check: Callable[[], None]) -> None:
    """Runs all algorithms in turn on pages that were drawn from a stratum, and adds to what was measured on it."""
    for bench in benches:
        stratum.by_algorithm.setdefault(bench.name, _Measured())
    same = [page for page in pages if is_same_filled(page)]
    coded = [page for page in pages if not is_same_filled(page)] if same else list(pages)
    stratum.sampled += len(pages)
    stratum.same += len(same)
    same_costs = [same_filled_cost(bytes(page[:8])) for page in same]
    for measured in stratum.by_algorithm.values():
        measured.costs += same_costs
    for first in range(0, len(coded), _BATCH):
        batch = b"".join(coded[first : first + _BATCH])
        for bench in benches:
            check()
            bench.run(batch, stratum.by_algorithm[bench.name])


# ---- from samples to the whole ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """An estimated sum and its interval."""

    value: float
    low: float
    high: float


def student(degrees: float) -> float:
    """The two-sided 95 % quantile of Student's t (Cornish-Fisher; within 2 % from 3 degrees of freedom on)."""
    v, z = max(degrees, 1.0), _Z
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def stratified_total(strata: Sequence[tuple[int, Sequence[float]]], least: float, most: float) -> Total:
    """Estimates a sum over strata of (pages, values of the sampled ones), values lying in [least, most].

    A completely sampled stratum adds no uncertainty. For every other, one page at each end of the range is added to the
    variance, because a small sample that happens to be uniform does not prove that all pages are alike. Strata without
    a sample are assumed to be like the others, and widen the interval by their share. Raises ValueError if there is no
    sample at all.
    """
    value = variance = satterthwaite = 0.0
    counted = unseen = 0
    for pages, values in strata:
        n = len(values)
        if not n:
            unseen += pages
            continue
        mean = sum(values) / n
        value += pages * mean
        counted += pages
        if n < pages:
            spread = sum((x - mean) ** 2 for x in values) + (least - mean) ** 2 + (most - mean) ** 2
            part = pages**2 * (1 - n / pages) * spread / (n + 1) / n
            variance += part
            satterthwaite += part**2 / (n + 1)
    if not counted:
        raise ValueError("no stratum has a sample")
    error = student(variance**2 / satterthwaite) * math.sqrt(variance) if satterthwaite else 0.0
    low = max(value - error, counted * least) + unseen * least
    high = min(value + error, counted * most) + unseen * most
    whole = value * (counted + unseen) / counted
    return Total(value=whole, low=min(low, whole), high=max(high, whole))


def _per_page_us(strata: Sequence[Stratum], name: str, which: str) -> float | None:
    """Mean time per page that is not same-filled, each process weighted by its number of such pages."""
    time_sum = weight_sum = 0.0
    for stratum in strata:
        measured = stratum.by_algorithm.get(name)
        if measured and measured.coded:
            weight = stratum.pages * measured.coded / stratum.sampled
            time_sum += weight * getattr(measured, which) / measured.coded / 1000
            weight_sum += weight
    return time_sum / weight_sum if weight_sum else None


def mean_share(strata: Sequence[Stratum], share: Callable[[Stratum], float]) -> float:
    """A share of pages over several strata, weighted by their pages."""
    seen = [stratum for stratum in strata if stratum.sampled]
    return sum(item.pages * share(item) / item.sampled for item in seen) / sum(item.pages for item in seen)


def algorithm_estimate(strata: Sequence[Stratum], name: str) -> AlgorithmEstimate:
    """What an algorithm makes of all of them. Raises ValueError if no page was drawn."""
    pages = sum(stratum.pages for stratum in strata)
    seen = [(item.pages, item.by_algorithm[name].costs if item.sampled else []) for item in strata]
    total = stratified_total(seen, ENTRY, cost(PAGE))
    measured = [(item, item.by_algorithm[name]) for item in strata if item.sampled]
    coded = sum(item.pages * one.coded / item.sampled for item, one in measured)
    objects = sum(item.pages * one.object_bytes / item.sampled for item, one in measured)
    return AlgorithmEstimate(
        algorithm=name,
        ratio=pages * PAGE / total.value,
        ratio_low=pages * PAGE / total.high,
        ratio_high=pages * PAGE / total.low,
        compression_ratio=coded * PAGE / objects if objects else None,
        resident=round(total.value),
        resident_low=round(total.low),
        resident_high=round(total.high),
        gained=pages * PAGE - round(total.value),
        compress_us=_per_page_us(strata, name, "compress_ns"),
        decompress_us=_per_page_us(strata, name, "decompress_ns"),
        incompressible=mean_share(strata, lambda item: item.by_algorithm[name].raw),
    )


def _group(strata: Sequence[Stratum], names: Sequence[str], name: str, pid: int | None, user: str) -> GroupEstimate:
    sampled = sum(stratum.sampled for stratum in strata)
    return GroupEstimate(
        name=name,
        pid=pid,
        user=user,
        processes=len(strata),
        bytes=sum(stratum.pages for stratum in strata) * PAGE,
        sampled=sampled,
        same_filled=mean_share(strata, lambda item: item.same) if sampled else 0.0,
        algorithms=tuple(algorithm_estimate(strata, algorithm) for algorithm in names) if sampled else (),
    )


def _groups(strata: Sequence[_OfProcess], names: Sequence[str], by: str) -> tuple[GroupEstimate, ...]:
    if by == "process":
        found = [_group([s], names, s.process.comm, s.process.pid, s.process.user) for s in strata]
    else:
        members: dict[str, list[_OfProcess]] = {}
        for stratum in strata:
            members.setdefault(getattr(stratum.process, by) or "unknown", []).append(stratum)
        found = [_group(part, names, key, None, key if by == "user" else "") for key, part in members.items()]
    return tuple(sorted(found, key=lambda group: (-group.bytes, group.pid or 0, group.name)))


# ---- all of it ----


def choose_algorithms(wanted: Sequence[str]) -> list[str]:
    """Canonical names without duplicates; if `wanted` is empty, every algorithm that can be used here. Raises
    `TruezramError`."""
    if wanted:
        return list(dict.fromkeys(canonical(name) for name in wanted))
    found = []
    for algorithm in algorithms():
        try:
            Compressor(algorithm.name)
        except ValueError:
            continue
        found.append(algorithm.name)
    return found


def _nothing(sampled: SampledPages) -> TruezramError:
    refused = [item for item in sampled.skipped if item.why.startswith("not permitted")]
    if refused:
        return PermissionDenied("no process's memory can be read", refused[0].why, "Run it with sudo")
    why = sampled.skipped[0].why if sampled.skipped else "these processes have no memory of their own left in RAM"
    return Failed("there is nothing to estimate", why)


def estimate(
    scope: Scope | None = None,
    wanted: Sequence[str] = (),
    *,
    by: str = "process",
    limit: int = 8192,
    seed: int = 0,
    progress: Progress | None = None,
    partial: Callable[[Estimate], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    seconds: float = 20.0,
) -> Estimate:
    """Samples up to `limit` pages of the processes of `scope` and estimates what the `wanted` algorithms
    (`NAME[:LEVEL]`; all if empty) would make of their memory, in total and per process, user or cgroup (`by`).

    `progress` is called with (fraction, text), and `partial` from time to time with the estimate so far; `cancel` is
    called often and ends it with `Cancelled`. `seconds` limits the sampling.

    Raises `UsageError`, `NotFound`, `PermissionDenied` (no process may be read), `Failed`.
    """
    scope = scope or Scope()
    if by not in GROUPS:
        raise UsageError(f"unknown grouping {by!r}", "", f"Use one of {', '.join(GROUPS)}")
    benches = [Bench(name) for name in choose_algorithms(wanted)]
    names = [bench.name for bench in benches]
    began = last = time.monotonic()
    pids = None if scope.kind == "all" else [process.pid for process in select(scope, procfs.processes())]

    def sampling_progress(fraction: float, text: str) -> None:
        if progress:
            progress(fraction / 4, text)

    def check() -> None:
        if cancel is not None and cancel():
            raise Cancelled("the estimate was cancelled")

    sampled = sample_pages(pids, limit, seed, progress=sampling_progress, cancel=cancel, seconds=seconds)
    if not len(sampled):
        raise _nothing(sampled)

    def result(strata: Sequence[_OfProcess], complete: bool) -> Estimate:
        total = _group(strata, names, "total", None, "")
        duration = time.monotonic() - began
        return Estimate(
            scope=scope,
            by=by,
            total=total,
            groups=_groups(strata, names, by),
            skipped=sampled.skipped,
            seed=seed,
            seconds=duration,
            complete=complete,
        )

    strata: list[_OfProcess] = []
    done = 0
    for source in sampled.processes:
        check()
        if progress:
            progress(0.25 + 0.75 * done / len(sampled), f"compressing pages of {source.process.comm}")
        pages = [sampled.page(done + i) for i in range(source.sampled)]
        strata.append(_OfProcess(source.pages, process=source.process))
        measure(benches, strata[-1], pages, check)
        done += source.sampled
        if partial and done and time.monotonic() - last > _PARTIAL_EVERY:
            last = time.monotonic()
            partial(result(strata, False))
    if progress:
        progress(1.0, f"{len(sampled)} pages compressed")
    return result(strata, sampled.complete)
