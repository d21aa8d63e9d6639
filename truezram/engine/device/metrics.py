"""Devices, swap and zswap of this machine as metrics, named by Prometheus' rules and node_exporter's habits: base
units, ``_bytes``, ``_seconds``, ``_total`` for what only grows.

`METRICS` is the one table of what there is of a device. A figure that a device does not have, because the kernel does
not give it or no server keeps it, has no sample: nothing is 0 that was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from truezram._version import __version__
from truezram.engine.device.gains import STEPS
from truezram.engine.device.sanity import UNMEASURED
from truezram.engine.model import IO_STAT, MEMORY, DeviceSnapshot, Snapshot
from truezram.engine.rates import latency_floor
from truezram.engine.units import PAGE

Labels = Mapping[str, str]
Sample = tuple[Labels, float]
OURS = ("truezram",)
BLOCK = ("truezram", "zram")
ALL = ("truezram", "zram", "zswap")
"""Kinds of devices that have a metric."""


class Metric(NamedTuple):
    """Something of a device."""

    name: str
    """Whole, ``truezram_device_size_bytes``; with ``_total`` it is a counter, else a gauge."""
    about: str
    values: Callable[[DeviceSnapshot], Iterable[Sample]]
    """(labels besides ``device`` and ``kind``, value): none where there is no such figure."""
    kinds: tuple[str, ...] = ALL


@dataclass(slots=True)
class Family:
    """A metric with its samples, as it is exported."""

    name: str
    type: str
    """"gauge", "counter" or "histogram"."""
    about: str
    samples: list[Sample] = field(default_factory=list)
    buckets: list[tuple[Labels, list[tuple[float, int]]]] = field(default_factory=list)
    """Of a histogram: (upper bound in seconds, requests up to there), ascending, the last bound infinite."""


def _one(value: Callable[[DeviceSnapshot], float | None]) -> Callable[[DeviceSnapshot], Iterator[Sample]]:
    def values(device: DeviceSnapshot) -> Iterator[Sample]:
        found = value(device)
        if found is not None:
            yield {}, found

    return values


def _device(name: str, about: str, value: Callable[[DeviceSnapshot], float | None], kinds: tuple[str, ...]) -> Metric:
    return Metric(f"truezram_device_{name}", about, _one(value), kinds)


_REQUESTS = {"num_reads": "reads", "num_writes": "writes", "num_discards": "discards", "num_flushes": "flushes"}
_OF_ZSWAP = ("num_reads", "num_writes")
_OF_ZRAM = ("failed_reads", "failed_writes", "invalid_io", "notify_free", "num_reads", "num_writes", "num_discards")
_AS_BYTES = ("pages_read", "pages_written")


def _requests() -> Iterator[Metric]:
    """Of the rows of `IO_STAT`, those that are not given in bytes."""
    for counter in IO_STAT:
        if counter.name in _AS_BYTES:
            continue
        kinds = ALL if counter.name in _OF_ZSWAP else BLOCK if counter.name in _OF_ZRAM else OURS
        name = _REQUESTS.get(counter.name, counter.name)
        yield _device(f"{name}_total", counter.about, lambda d, counter=counter: counter.of(d.total), kinds)  # type: ignore[misc]


def _steps(counter: str, unit: float = 1) -> Callable[[DeviceSnapshot], Iterator[Sample]]:
    return lambda device: (({"step": s.counters}, s.counter(device, counter) * unit) for s in STEPS)


METRICS = (
    _device("up", "Whether it serves requests.", lambda d: float(d.state == "live"), ALL),
    Metric(
        "truezram_device_info",
        "What it is; always 1.",
        lambda d: [({"transport": d.transport, "state": d.state, "algorithm": d.algorithm}, 1.0)],
    ),
    _device("created_timestamp_seconds", "When it was created, in seconds since 1970.", lambda d: d.created, OURS),
    _device("size_bytes", "Logical size (disksize).", lambda d: d.disksize, ALL),
    _device("orig_data_bytes", "What is stored, uncompressed.", lambda d: d.orig_data_size, ALL),
    _device("compr_data_bytes", "The same, compressed, without what surrounds it.", lambda d: d.compr_data_size, BLOCK),
    _device("mem_used_bytes", "All memory that it takes (mem_used_total).", lambda d: d.mem_used_total, ALL),
    _device("mem_used_max_bytes", "The most that it has taken.", lambda d: d.mem_used_max, BLOCK),
    _device(
        "mem_limit_bytes", "The most that it may take; absent without a limit.", lambda d: d.mem_limit or None, ALL
    ),
    _device("same_pages", "Pages that repeat one word.", lambda d: d.same_pages, BLOCK),
    _device("huge_pages", "Pages that do not shrink.", lambda d: d.huge_pages, BLOCK),
    _device("dup_pages", "Pages that share the object of another one.", lambda d: d.dup_pages, OURS),
    _device(
        "swap_used_bytes",
        "What is swapped out to it; absent when it is not swap.",
        lambda d: d.swap_used if d.swap_priority is not None else None,
        BLOCK,
    ),
    Metric(
        "truezram_device_memory_bytes",
        "What mem_used consists of.",
        lambda d: [({"part": part.key}, part.of(d)) for part in MEMORY],
        OURS,
    ),
    Metric(
        "truezram_device_tier_pages",
        "Pages with an object: hot as they were written, dense, and cold in groups.",
        lambda d: [({"tier": tier.name}, tier.pages) for tier in d.tiers],
        OURS,
    ),
    Metric(
        "truezram_device_tier_bytes",
        "What their objects take.",
        lambda d: [({"tier": tier.name}, tier.bytes) for tier in d.tiers],
        OURS,
    ),
    *_requests(),
    _device("read_bytes_total", "Bytes read.", lambda d: d.total.pages_read * PAGE, ALL),
    _device("written_bytes_total", "Bytes written.", lambda d: d.total.pages_written * PAGE, ALL),
    _device(
        "huge_pages_written_total", "Pages written that did not shrink.", lambda d: d.total.huge_pages_since, BLOCK
    ),
    _device("pages_compacted_total", "Pages of memory that compaction freed.", lambda d: d.pages_compacted, BLOCK),
    _device("compress_seconds_total", "Time in compressing.", lambda d: d.total.compress_ns / 1e9, OURS),
    _device("decompress_seconds_total", "Time in decompressing.", lambda d: d.total.decompress_ns / 1e9, OURS),
    _device("server_cpu_seconds_total", "CPU time of its server.", lambda d: d.server_cpu_ns / 1e9, OURS),
    _device("recoveries_total", "How often another server has taken over.", lambda d: d.recoveries, OURS),
    Metric("truezram_device_recompressed_pages_total", "Pages written once more, by step.", _steps("pages"), OURS),
    Metric("truezram_device_recompress_saved_bytes_total", "By how much less they took.", _steps("saved"), OURS),
    Metric("truezram_device_recompress_cpu_seconds_total", "CPU time of it.", _steps("cpu_ns", 1e-9), OURS),
)
"""What is exported of devices, besides latencies."""
LATENCIES = {
    "truezram_device_read_latency_seconds": ("Service time of reads in the server.", "read_lat"),
    "truezram_device_write_latency_seconds": ("Service time of writes in the server.", "write_lat"),
}
"""Histograms: help, and the field of `QueueSnapshot`. They have no sum: it is not counted."""
_LEAST, _MOST = 8, 34
"""Bounds of buckets are powers of two, 256 ns to 17 s."""


def buckets(histogram: tuple[int, ...]) -> list[tuple[float, int]]:
    """A latency histogram as Prometheus has it: (upper bound in seconds, requests up to there)."""
    found, done, bin_ = [], 0, 0
    for power in range(_LEAST, _MOST + 1):
        while bin_ < len(histogram) and latency_floor(bin_ + 1) <= 1 << power:
            done += histogram[bin_]
            bin_ += 1
        found.append(((1 << power) / 1e9, done))
    return [*found, (float("inf"), sum(histogram))]


def families(snapshot: Snapshot) -> list[Family]:
    """Everything that is exported of a snapshot. A metric without samples is left out."""
    found = [Family("truezram_build_info", "gauge", "Version of truezram; always 1.", [({"version": __version__}, 1)])]
    for metric in METRICS:
        family = Family(metric.name, "counter" if metric.name.endswith("_total") else "gauge", metric.about)
        for device in snapshot.devices:
            if device.kind in metric.kinds and _has(metric, device, snapshot):
                own = {"device": device.name, "kind": device.kind}
                family.samples += [({**own, **labels}, value) for labels, value in metric.values(device)]
        found.append(family)
    for name, (about, histogram) in LATENCIES.items():
        family = Family(name, "histogram", about)
        for device in snapshot.devices:
            if device.kind == "truezram" and device.state not in UNMEASURED:
                own = {"device": device.name, "kind": device.kind}
                family.buckets.append((own, buckets(getattr(device.total, histogram))))
        found.append(family)
    return [family for family in (*found, *_machine(snapshot)) if family.samples or family.buckets]


def _has(metric: Metric, device: DeviceSnapshot, snapshot: Snapshot) -> bool:
    """Whether somebody keeps that figure now."""
    if metric.name in ("truezram_device_up", "truezram_device_info"):
        return True
    if device.kind == "zswap":  # only root sees what its pool holds
        needs = {"truezram_device_orig_data_bytes": "stored_pages", "truezram_device_mem_used_bytes": "pool_bytes"}
        return metric.name not in needs or getattr(snapshot.machine.zswap, needs[metric.name]) is not None
    return device.state not in UNMEASURED


def _machine(snapshot: Snapshot) -> list[Family]:
    machine = snapshot.machine
    size = Family("truezram_swap_size_bytes", "gauge", "Size of a swap area, whatever it is on.")
    used = Family("truezram_swap_used_bytes", "gauge", "What is swapped out to it.")
    priority = Family("truezram_swap_priority", "gauge", "Its priority: the kernel fills the highest first.")
    for area in machine.swaps:
        labels = {"path": area.path, "type": area.type}
        size.samples.append((labels, area.size))
        used.samples.append((labels, area.used))
        priority.samples.append((labels, area.priority))
    zswap = Family("truezram_zswap_enabled", "gauge", "Whether the kernel's zswap is on.")
    zswap.samples.append(({}, float(machine.zswap.enabled)))
    return [size, used, priority, zswap]
