"""Results of `benchmark tiers` (tiers_bench.py, tiers_report.py): values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from truezram.engine.measure.results import InputInfo
from truezram.engine.measure.store_results import Latency, NotMeasured, Usage

TIERS = ("hot", "dense", "cold")
"""Pages in use; idle ones, written once more with `dense`; those idle for longest, in groups."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How much of the pages is to be in which tier."""

    name: str
    shares: tuple[float, float, float]
    """Of hot, dense and cold."""


SCENARIOS = (
    Scenario("hot", (1.0, 0.0, 0.0)),
    Scenario("dense", (0.0, 1.0, 0.0)),
    Scenario("cold", (0.0, 0.0, 1.0)),
    Scenario("mix", (0.2, 0.3, 0.5)),
)


@dataclass(frozen=True, slots=True)
class Reads:
    """Single pages of one tier, read in random order."""

    pages: int
    ns: Latency


@dataclass(frozen=True, slots=True)
class TiersResult:
    """A device of ours in one scenario, or one of the kernel's."""

    implementation: str
    """`truezram` or `zram`."""
    algorithm: str
    """What pages are written with."""
    scenario: str
    """Empty: a device without tiers."""
    usage: Usage
    memory: tuple[tuple[str, int], ...] = ()
    """The parts of the memory used (model.MEMORY); the kernel's device has none."""
    kinds: tuple[tuple[str, int], ...] = ()
    """Pages by what they are stored as."""
    policy_cpu_ns: int = 0
    """CPU time of the policy from the last write on,"""
    server_cpu_ns: int = 0
    """and of the whole server: with the clock of ages, compaction, and what was read meanwhile."""
    seconds: float = 0.0
    """How long that was."""
    reads: tuple[tuple[str, Reads], ...] = ()
    """By tier."""

    @property
    def ratio(self) -> float:
        """Bytes of pages over bytes of memory."""
        return self.usage.orig / self.usage.used

    @property
    def key(self) -> str:
        """`truezram:cold`, `zram:zstd`."""
        return f"{self.implementation}:{self.scenario or self.algorithm}"


@dataclass(frozen=True, slots=True)
class HotReads:
    """Reads of the mix's hot pages against those of the same pages of a device without a policy, taking turns."""

    samples: tuple[float, ...]
    """A turn's median over the other's; below 1: the mix is faster."""
    ours: Latency
    other: Latency

    @property
    def median(self) -> float:
        return median(self.samples)


@dataclass(frozen=True, slots=True)
class TiersReport:
    """All results, or those so far."""

    host: dict[str, str | int | float]
    inputs: tuple[InputInfo, ...]
    pages: int
    """Without same-filled ones."""
    results: tuple[TiersResult, ...]
    not_measured: tuple[NotMeasured, ...]
    age_speed: int = 1
    policy: tuple[tuple[str, int], ...] = ()
    """Settings of the one in force, for a clock of that speed."""
    hot_at_work: HotReads | None = None
    """While the policy was at work,"""
    hot_after: HotReads | None = None
    """and afterwards."""
    notes: tuple[str, ...] = ()

    def baseline(self, result: TiersResult) -> TiersResult | None:
        """What a result of ours is compared with: the first of the kernel's."""
        found = (other for other in self.results if other.implementation == "zram")
        return next(found, None) if result.implementation != "zram" else None


@dataclass(frozen=True, slots=True)
class TiersProgress:
    """Progress of a measurement; `report` is the same object until there are new results, None before the first."""

    fraction: float
    text: str
    report: TiersReport | None


ProgressCallback = Callable[[TiersProgress], None]
