"""What graphs show: one value a second for 15 minutes, derived from pairs of snapshots.

A snapshot holds counters; a rate needs two. `DeviceSeries` closes a sample whenever a whole second has passed since
the last one, whatever the refresh interval. Where snapshots were missing for longer than the interval explains,
samples are NaN: a gap, which graphs draw as a gap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from truezram.engine.device.sanity import UNMEASURED
from truezram.engine.model import DeviceSnapshot, QueueSnapshot, Snapshot
from truezram.engine.rates import histogram_difference, percentile, same_device
from truezram.engine.units import PAGE

SAMPLES = 900
"""15 minutes at one a second."""
NAN = math.nan

DEVICE_METRICS = (
    *("read", "write", "ratio", "p50", "p99", "read_p50", "read_p99", "write_p50", "write_p99"),
    *("cpu", "logical", "resident"),
)
MACHINE_METRICS = ("read", "write", "ratio", "available", "psi_some", "psi_full", "logical", "resident")


def quantiles(bins: Sequence[int], points: Sequence[float]) -> list[float]:
    """Quantiles of a latency histogram in ns; NaN when it is empty."""
    return [NAN if value is None else value for value in (percentile(bins, point) for point in points)]


class Ring:
    """The last `SAMPLES` values of one metric, newest last."""

    __slots__ = ("total", "values")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values: deque[float] = deque(values, SAMPLES)
        self.total = len(self.values)
        """Samples ever added: what zoomed graphs align their groups to."""

    def add(self, value: float) -> None:
        """Appends one sample; NaN is a gap."""
        self.values.append(value)
        self.total += 1

    @property
    def last(self) -> float:
        """The newest value; NaN when there is none."""
        return self.values[-1] if self.values else NAN


@dataclass(frozen=True, slots=True)
class Rates:
    """A device's rates over its last sample: bytes a second, ns, share of one CPU."""

    read: float = NAN
    write: float = NAN
    p50: float = NAN
    p99: float = NAN
    """Service time of reads and writes together."""
    read_p50: float = NAN
    read_p99: float = NAN
    write_p50: float = NAN
    write_p99: float = NAN
    cpu: float = NAN


def device_rates(new: DeviceSnapshot, old: DeviceSnapshot) -> Rates:
    """Rates between two snapshots of the same device; NaN where they cannot be known (restarted, no time passed)."""
    dt = new.time - old.time
    a, b = new.total, old.total
    if dt <= 0 or not same_device(old, new) or a.pages_read < b.pages_read or a.pages_written < b.pages_written:
        return Rates()
    reads = histogram_difference(b.read_lat, a.read_lat)
    writes = histogram_difference(b.write_lat, a.write_lat)
    read50, read99 = quantiles(reads, (0.5, 0.99))
    write50, write99 = quantiles(writes, (0.5, 0.99))
    p50, p99 = quantiles([x + y for x, y in zip(reads, writes, strict=False)], (0.5, 0.99))
    cpu = (new.server_cpu_ns - old.server_cpu_ns) / 1e9 / dt if new.server_cpu_ns else NAN
    return Rates(
        read=(a.pages_read - b.pages_read) * PAGE / dt,
        write=(a.pages_written - b.pages_written) * PAGE / dt,
        p50=p50,
        p99=p99,
        read_p50=read50,
        read_p99=read99,
        write_p50=write50,
        write_p99=write99,
        cpu=cpu,
    )


def queue_rates(new: QueueSnapshot, old: QueueSnapshot, seconds: float) -> tuple[float, float, float]:
    """One queue's read and written bytes a second and the share of time that it was busy."""
    if seconds <= 0 or new.pages_read < old.pages_read:
        return NAN, NAN, NAN
    return (
        (new.pages_read - old.pages_read) * PAGE / seconds,
        (new.pages_written - old.pages_written) * PAGE / seconds,
        (new.busy_ns - old.busy_ns) / 1e9 / seconds,
    )


LATELY = 15
"""Seconds; a device that did not grow in the last of them is not growing."""


class DeviceSeries:
    """The graphs' data of one device."""

    def __init__(self) -> None:
        self.rings = {metric: Ring() for metric in DEVICE_METRICS}
        self.rates = Rates()
        self.sampled: DeviceSnapshot | None = None
        self.before: DeviceSnapshot | None = None
        """The two snapshots that the newest sample lies between."""
        self.latest: DeviceSnapshot | None = None
        self.minute: deque[tuple[float, QueueSnapshot]] = deque(maxlen=61)
        """Times and counters of the samples of the last minute."""

    def add(self, device: DeviceSnapshot, hold: float) -> bool:
        """Takes in a snapshot; true when that completed a sample. `hold`: seconds that one snapshot may represent."""
        self.latest = device
        old = self.sampled
        if old is None:
            self.sampled = device
            self.minute.append((device.time, device.total))
            return False
        dt = device.time - old.time
        if dt < 0.95:  # snapshots never come at exact seconds
            return False
        self.sampled, self.before = device, old
        if not same_device(old, device):
            self.minute.clear()
        self.minute.append((device.time, device.total))
        self.rates = device_rates(device, old)
        missed = round(dt) - 1
        if dt > hold:
            for _ in range(min(missed, SAMPLES)):
                for ring in self.rings.values():
                    ring.add(NAN)
            missed = 0
        rates = self.rates
        ratio = device.ratio
        values = {
            "read": rates.read,
            "write": rates.write,
            "ratio": NAN if ratio is None else ratio,
            "p50": rates.p50,
            "p99": rates.p99,
            "read_p50": rates.read_p50,
            "read_p99": rates.read_p99,
            "write_p50": rates.write_p50,
            "write_p99": rates.write_p99,
            "cpu": rates.cpu,
            "logical": float(device.orig_data_size),
            "resident": float(device.mem_used_total),
        }
        for _ in range(1 + missed):
            for metric, value in values.items():
                self.rings[metric].add(value)
        return True

    def gap(self) -> None:
        """One second without the device."""
        for ring in self.rings.values():
            ring.add(NAN)
        self.sampled = self.before = None

    def growth(self, metric: str, seconds: int = 60) -> float | None:
        """Bytes a second by which "logical" or "resident" grew over the last minute; None before ten samples."""
        values = [v for v in list(self.rings[metric].values)[-seconds:] if not math.isnan(v)]
        return (values[-1] - values[0]) / (len(values) - 1) if len(values) >= 10 else None

    def time_to_full(self) -> float | None:
        """Seconds until mem_limit or disksize is reached at the current rate; None: not growing, or full."""
        device = self.latest
        if device is None or device.state != "live":
            return None
        pairs = [("logical", device.disksize - device.orig_data_size)]
        if device.mem_limit:
            pairs.append(("resident", device.mem_limit - device.mem_used_total))
        if any(room <= 0 for _, room in pairs):
            return None
        times = []
        for metric, room in pairs:
            growth, lately = self.growth(metric), self.growth(metric, LATELY)
            # What grew earlier in the minute and has stopped is not growing.
            if growth and lately and growth > 0 and lately > 0:
                times.append(room / growth)
        return min(times) if times else None


class History:
    """All series: the devices', and the machine's with the totals of all devices."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceSeries] = {}
        self.machine = {metric: Ring() for metric in MACHINE_METRICS}
        self.latest: Snapshot | None = None
        self._sampled: float | None = None

    def add(self, snapshot: Snapshot, interval: float) -> bool:
        """Takes in a snapshot; true when any sample was completed (graphs have something new to draw)."""
        hold = max(2.6, interval * 2.6)
        self.latest = snapshot
        completed = False
        present = set()
        for device in snapshot.devices:
            present.add(device.name)
            series = self.devices.get(device.name)
            if series is None:
                series = self.devices[device.name] = DeviceSeries()
            if device.state in UNMEASURED:
                series.latest, series.rates = device, Rates()
                continue
            completed |= series.add(device, hold)
        for name in [name for name in self.devices if name not in present]:
            del self.devices[name]
        now = snapshot.machine.time
        if self._sampled is None:
            self._sampled = now
        elif now - self._sampled >= 0.95:
            passed, self._sampled = now - self._sampled, now
            self._machine_sample(snapshot, passed, hold)
            for device in snapshot.devices:
                if device.state in UNMEASURED:
                    self.devices[device.name].gap()
            completed = True
        return completed

    def _machine_sample(self, snapshot: Snapshot, passed: float, hold: float) -> None:
        missed = round(passed) - 1
        if passed > hold:
            for _ in range(min(missed, SAMPLES)):
                for ring in self.machine.values():
                    ring.add(NAN)
            missed = 0
        live = [self.devices[d.name].rates for d in snapshot.devices if d.kind == "truezram"]
        logical = sum(d.orig_data_size for d in snapshot.devices)
        resident = sum(d.mem_used_total for d in snapshot.devices)
        pressure = snapshot.machine.pressure
        values = {
            "read": sum(r.read for r in live if r.read == r.read) if live else NAN,
            "write": sum(r.write for r in live if r.write == r.write) if live else NAN,
            "ratio": logical / resident if resident else NAN,
            "available": float(snapshot.machine.mem_available),
            "psi_some": NAN if pressure.memory_some is None else pressure.memory_some,
            "psi_full": NAN if pressure.memory_full is None else pressure.memory_full,
            "logical": float(logical),
            "resident": float(resident),
        }
        for _ in range(1 + missed):
            for metric, value in values.items():
                self.machine[metric].add(value)
