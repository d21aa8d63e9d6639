"""Latency histograms: bins, percentiles, and what was added between two snapshots of a device."""

from __future__ import annotations

from collections.abc import Sequence

from truezram._native import lib
from truezram.engine.model import DeviceSnapshot


def latency_floor(bin_: int) -> int:
    """Lower bound in ns of a bin of the latency histogram (stats.h, ``tz_lat_floor``)."""
    return int(lib.tz_lat_floor(bin_))


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
    """Whether both are of one lifetime of one device: counters of the second continue the first's."""
    return (before.name, before.path, before.pid, before.created) == (after.name, after.path, after.pid, after.created)
