"""What happened between two snapshots of a device: throughput, latency and load, from the difference of counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truezram.engine.model import DeviceSnapshot, QueueSnapshot

PAGE = 4096
LATENCY_UNIT_NS = 64


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over `seconds`. Latencies in ns, None when there was no such request."""

    seconds: float
    read_bytes: float
    write_bytes: float
    discard_bytes: float
    reads: float
    writes: float
    failures: float
    """Requests that failed for whatever reason: read, write, invalid, and refused for want of space."""
    read_p50: float | None
    read_p99: float | None
    write_p50: float | None
    write_p99: float | None
    cpu: float
    """CPU time of the server by wall time: 1.0 is one core."""
    batch: float | None
    """Requests per wake-up of a queue; None when there was none."""
    compress_ns_per_page: float | None
    decompress_ns_per_page: float | None


def latency_floor(bin_: int) -> int:
    """Lower bound in ns of a bin of the latency histogram (stats.h, ``tz_lat_floor``)."""
    if bin_ < 8:
        return bin_ * LATENCY_UNIT_NS
    return ((8 + (bin_ & 7)) << (bin_ // 8 - 1)) * LATENCY_UNIT_NS


def histogram_difference(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    """Bin by bin, never below 0 (bins are read one by one while they are written); a missing histogram counts as
    zeros."""
    if not before:
        return tuple(after)
    return tuple(a - b if a > b else 0 for a, b in zip(after, before, strict=False))


def percentile(histogram: Sequence[int], q: float) -> float | None:
    """The q-quantile (0…1) in ns of a latency histogram, linear within the bin; None when it is empty."""
    total = sum(histogram)
    if not total:
        return None
    target = q * total
    seen = 0
    for bin_, count in enumerate(histogram):
        if count and seen + count >= target:
            low = latency_floor(bin_)
            return low + (latency_floor(bin_ + 1) - low) * (target - seen) / count
        seen += count
    raise AssertionError("a quantile above 1 was asked for")


def same_device(before: DeviceSnapshot, after: DeviceSnapshot) -> bool:
    """Whether both are of one life of one device: counters of the second go on from the first's."""
    return (before.name, before.path, before.pid, before.created) == (after.name, after.path, after.pid, after.created)


def rates(before: DeviceSnapshot, after: DeviceSnapshot) -> Rates | None:
    """What happened in between; None when they are not of the same life of the device, or no time has passed."""
    seconds = after.time - before.time
    if seconds <= 0 or not same_device(before, after):
        return None
    b, a = before.total, after.total

    def per_second(name: str) -> float:
        return float(max(0, getattr(a, name) - getattr(b, name))) / seconds

    reads, writes = per_second("num_reads"), per_second("num_writes")
    requests = reads + writes + per_second("num_discards") + per_second("num_flushes")
    drains = per_second("drains")
    read_lat = histogram_difference(b.read_lat, a.read_lat)
    write_lat = histogram_difference(b.write_lat, a.write_lat)
    return Rates(
        seconds=seconds,
        read_bytes=per_second("pages_read") * PAGE,
        write_bytes=per_second("pages_written") * PAGE,
        discard_bytes=per_second("pages_discarded") * PAGE,
        reads=reads,
        writes=writes,
        failures=sum(per_second(name) for name in ("failed_reads", "failed_writes", "invalid_io", "enospc")),
        read_p50=percentile(read_lat, 0.50),
        read_p99=percentile(read_lat, 0.99),
        write_p50=percentile(write_lat, 0.50),
        write_p99=percentile(write_lat, 0.99),
        cpu=max(0, after.server_cpu_ns - before.server_cpu_ns) / 1e9 / seconds,
        batch=requests / drains if drains else None,
        compress_ns_per_page=_per_page(b, a, "compress_ns", "compress_bytes_in"),
        decompress_ns_per_page=_per_page(b, a, "decompress_ns", "decompress_bytes_out"),
    )


def _per_page(before: QueueSnapshot, after: QueueSnapshot, ns: str, size: str) -> float | None:
    pages = (getattr(after, size) - getattr(before, size)) / PAGE
    return float(getattr(after, ns) - getattr(before, ns)) / pages if pages > 0 else None
