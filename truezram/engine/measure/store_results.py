"""Results of `benchmark store` (store_bench.py, store_report.py): values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from truezram.engine.measure.results import InputInfo, Speed


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store or a device holds and takes, in bytes."""

    orig: int
    """Pages."""
    compr: int
    """The objects made of them."""
    used: int
    """All memory of it: the store's `mem_used_total`, zram's."""
    reserve: int
    """The part that is ready for writes to come; zram has none."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the time of one page, in ns, over all rounds."""

    p50: int
    p99: int
    p999: int


@dataclass(frozen=True, slots=True)
class StoreResult:
    """One subject. While the measurement runs, what is not known yet is None, and speeds have fewer samples."""

    implementation: str
    """`truezram` or `zram`."""
    algorithm: str
    threads: int
    size: int
    """Bytes of the store or device."""
    filled: Usage
    write: Speed
    read: Speed
    write_ns: Latency | None = None
    read_ns: Latency | None = None
    write_cpu: float = 0.0
    """CPU seconds per GiB of pages, the store's own threads included."""
    read_cpu: float = 0.0
    after_overwrites: Usage | None = None
    after_free: Usage | None = None
    free_seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """Bytes of pages over bytes of memory."""
        return self.filled.orig / self.filled.used


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A baseline that was not measured, and why."""

    implementation: str
    algorithm: str
    why: str
    remedy: str

    @property
    def sentence(self) -> str:
        """For a report."""
        name = f"{self.algorithm} of {self.implementation}" if self.algorithm else self.implementation
        text = f"Not measured: {name}: {self.why}. {self.remedy}"
        return text.rstrip(" .") + "."


@dataclass(frozen=True, slots=True)
class StoreReport:
    """All results, or those so far."""

    host: dict[str, str | int | float]
    inputs: tuple[InputInfo, ...]
    size: int
    rounds: int
    """Complete ones."""
    results: tuple[StoreResult, ...]
    not_measured: tuple[NotMeasured, ...]
    notes: tuple[str, ...]

    def baseline(self, result: StoreResult) -> StoreResult | None:
        """What a result of ours is compared with: the first zram with as many threads."""
        found = (r for r in self.results if r.implementation == "zram" and r.threads == result.threads)
        return next(found, None) if result.implementation != "zram" else None

    def speed_over(self, result: StoreResult) -> tuple[float, float] | None:
        """(write, read) speed as multiples of the baseline's: the median of the rounds' multiples. None: no baseline,
        or no round yet."""
        other = self.baseline(result)
        if other is None:
            return None
        pairs = ((result.write, other.write), (result.read, other.read))
        times = [Speed(tuple(a / b for a, b in zip(x.samples, y.samples, strict=False))) for x, y in pairs]
        return (times[0].median, times[1].median) if all(speed.samples for speed in times) else None


@dataclass(frozen=True, slots=True)
class StoreProgress:
    """Progress of a measurement; `report` is the same object until there are new results, None before the first."""

    fraction: float
    text: str
    report: StoreReport | None


ProgressCallback = Callable[[StoreProgress], None]
