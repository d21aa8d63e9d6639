"""Results of `benchmark device` (device_bench.py, device_report.py): values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from truezram.engine.device.settings import DEFAULT_MODE
from truezram.engine.measure.results import InputInfo
from truezram.engine.measure.store_results import Latency, NotMeasured

SWAP = "swap"
READS = ("randread", "read")
WRITES = ("randwrite", "write", "mixed")
WORKLOADS = ("randread", "randwrite", "read", "write", "mixed", SWAP)


def name_target(kind: str, algorithm: str | None, mode: str | None, data_mode: str | None, queues: int | None) -> str:
    """A target for a person, with all that tells it from others: what is as by default is left out."""
    words = [kind, algorithm, None if mode == DEFAULT_MODE else mode, data_mode]
    text = " ".join(filter(None, words))
    return f"{text}, {queues} queues" if queues and queues > 1 else text


@dataclass(frozen=True, slots=True)
class Case:
    """One load, the same for all targets."""

    workload: str
    block: int
    """Bytes of a request; of `swap`, those of a page."""
    depth: int
    jobs: int

    @property
    def text(self) -> str:
        """For a person."""
        if self.workload == SWAP:
            return SWAP
        jobs = f", {self.jobs} jobs" if self.jobs > 1 else ""
        return f"{self.workload}, {self.block // 1024} KiB, depth {self.depth}{jobs}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of a case on a target."""

    requests: int
    ns: int
    p50: int
    """Median latency of the round's requests, in ns."""
    load_ns: int
    """CPU time of the threads that sent the requests, what the kernel did for them included."""
    server_ns: int | None
    """CPU time of the device's server; None where there is none."""

    @property
    def iops(self) -> float:
        return 1e9 * self.requests / self.ns

    @property
    def cpu_share(self) -> float:
        """Of one CPU, of both."""
        return (self.load_ns + (self.server_ns or 0)) / self.ns

    @property
    def cpu_ns(self) -> float:
        """CPU time of a request, of both."""
        return (self.load_ns + (self.server_ns or 0)) / self.requests


@dataclass(frozen=True, slots=True)
class SwapDetail:
    """What only the workload `swap` has, over all rounds."""

    out_pages: int
    out_mb_s: float
    """Of bytes of pages paged out a second."""
    major_faults: int
    """Touches that waited for the device; the others found a page that had been read ahead."""


@dataclass(frozen=True, slots=True)
class Fio:
    """What fio measured of the same load, after all rounds."""

    iops: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """A case on a target."""

    target: str
    """`truezram`, `zram`, `null`, `nullblk`, or the path of a device that was there."""
    algorithm: str | None
    mode: str | None
    """How its server waits for requests, of a device of ours; None: it has no such setting."""
    queues: int | None
    """As the kernel made it; None: it has none."""
    case: Case
    samples: tuple[Sample, ...]
    latency: Latency
    """Of all requests of all rounds."""
    verified: int
    """Pages that were read and compared with what must be there."""
    swap: SwapDetail | None = None
    fio: Fio | None = None
    data_mode: str | None = None
    """How its requests' data is moved, as it was asked for; None: it was not."""

    @property
    def name(self) -> str:
        """For a person: in a table, which has columns for the rest."""
        return f"{self.target} {self.algorithm}" if self.algorithm else self.target

    @property
    def full_name(self) -> str:
        """For a person: no other target has the same."""
        return name_target(self.target, self.algorithm, self.mode, self.data_mode, self.queues)

    @property
    def iops(self) -> float:
        """Requests a second (pages a second, of `swap`), the median of the rounds."""
        return median(sample.iops for sample in self.samples)

    @property
    def mb_s(self) -> float:
        """10^6 bytes a second, the median of the rounds."""
        return self.iops * self.case.block / 1e6

    @property
    def cpu_share(self) -> float:
        """Of one CPU, of the load and the server, the median of the rounds."""
        return median(sample.cpu_share for sample in self.samples)

    @property
    def cpu_ns(self) -> float:
        """CPU time of a request, of the load and the server, in ns, the median of the rounds: what other work on the
        machine changes least."""
        return median(sample.cpu_ns for sample in self.samples)

    def over(self, other: DeviceResult) -> float:
        """How many times as many requests a second: the median of the rounds' ratios."""
        return median(a.iops / b.iops for a, b in zip(self.samples, other.samples, strict=False))


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """All results, or those so far."""

    host: dict[str, str | int | float]
    inputs: tuple[InputInfo, ...]
    size: int
    """Bytes of each device that was made."""
    runtime: float
    """Seconds for each case and target."""
    rounds: int
    page_cluster: int | None
    """vm.page-cluster: the kernel reads up to 2 to this power of pages ahead from swap."""
    results: tuple[DeviceResult, ...]
    not_measured: tuple[NotMeasured, ...]
    notes: tuple[str, ...]

    def same_case(self, result: DeviceResult, target: str) -> DeviceResult | None:
        """That of a target in the same case: the first of those most like it, which have as many queues and move data
        in the same way."""

        def unlike(other: DeviceResult) -> int:
            return 2 * (other.queues != result.queues) + (other.data_mode != result.data_mode)

        found = [r for r in self.results if r.target == target and r.case == result.case]
        return min(found, key=unlike, default=None)


@dataclass(frozen=True, slots=True)
class DeviceProgress:
    """Progress of a measurement; `report` is the same object until there are new results, None before the first."""

    fraction: float
    text: str
    report: DeviceReport | None


ProgressCallback = Callable[[DeviceProgress], None]
