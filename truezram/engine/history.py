"""The last fifteen minutes of every device, as rates at one-second steps, for graphs; and the log of events.

A step is made from the snapshots whose times are at least `step` apart, so a faster refresh changes nothing. Time in
which no snapshot came (a suspended machine, a stopped app) is a gap: None, and is drawn as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from truezram.engine.model import BAD_STATES, DeviceSnapshot, Snapshot
from truezram.engine.rates import Rates, rates, same_device
from truezram.engine.units import format_size

MINUTES = 15


@dataclass(frozen=True, slots=True)
class Sample:
    """One step of one device: what happened during it and where the device stood at its end."""

    time: float
    """CLOCK_MONOTONIC at its end, seconds."""
    rates: Rates
    orig_data_size: int
    mem_used_total: int
    compr_data_size: int

    @property
    def ratio(self) -> float | None:
        """Uncompressed over resident bytes; None while nothing is stored."""
        return self.orig_data_size / self.mem_used_total if self.orig_data_size and self.mem_used_total else None


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling: ``severity`` is "info", "warning" or "error"."""

    time: float
    device: str
    severity: str
    text: str


class DeviceHistory:
    """One device's samples, oldest first, `step` seconds apart; None where there was none."""

    def __init__(self, step: float, length: int) -> None:
        self._step = step
        self._last: DeviceSnapshot | None = None
        self.samples: deque[Sample | None] = deque(maxlen=length)

    def add(self, snapshot: DeviceSnapshot) -> bool:
        """Takes a snapshot in; whether a sample came of it."""
        last = self._last
        if last is None:
            self._last = snapshot
            return False
        elapsed = snapshot.time - last.time
        if same_device(last, snapshot) and elapsed < self._step * 0.95:
            return False
        self._last = snapshot
        change = rates(last, snapshot)
        missed = round(elapsed / self._step) - 1 if elapsed > 0 else 0
        if change is None or missed >= 2:
            self.samples.extend([None] * min(max(1, missed), self.samples.maxlen or 1))
            if change is None:
                return True
        self.samples.append(
            Sample(snapshot.time, change, snapshot.orig_data_size, snapshot.mem_used_total, snapshot.compr_data_size)
        )
        return True

    def time_to_full(self, limit: int, window: int = 60) -> float | None:
        """Seconds until `mem_used_total` reaches `limit` bytes if it goes on as over the last `window` samples (a line
        through the ends); None when it does not grow, when there is no limit, or with less than five samples to go
        by."""
        recent = [sample for sample in list(self.samples)[-window:] if sample is not None]
        if limit <= 0 or len(recent) < 5:
            return None
        elapsed = recent[-1].time - recent[0].time
        growth = recent[-1].mem_used_total - recent[0].mem_used_total
        if elapsed <= 0 or growth <= 0:
            return None
        return max(0.0, (limit - recent[-1].mem_used_total) * elapsed / growth)


class History:
    """Every device's samples, and what happened to them."""

    def __init__(self, step: float = 1.0, minutes: float = MINUTES, events: int = 1000) -> None:
        self._step = step
        self._length = max(1, int(minutes * 60 / step))
        self._devices: dict[str, DeviceHistory] = {}
        self._latest: dict[str, DeviceSnapshot] = {}
        self.events: deque[Event] = deque(maxlen=events)

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def device(self, path: str) -> DeviceHistory:
        """The history of the device with that path (empty for one that was never seen)."""
        return self._devices.get(path) or DeviceHistory(self._step, self._length)

    def add(self, snapshot: Snapshot) -> list[Event]:
        """Takes a snapshot in, forgets devices that are gone, and returns the new events (also kept in `events`)."""
        news: list[Event] = []
        now = snapshot.machine.time
        seen: dict[str, DeviceSnapshot] = {}
        for device in snapshot.devices:
            # A user's local:0 and root's have the same path: the user's own comes first and is the one that is kept.
            seen.setdefault(device.path, device)
        for path, device in seen.items():
            if path not in self._devices:
                self._devices[path] = DeviceHistory(self._step, self._length)
            self._devices[path].add(device)
            news += _changes(self._latest.get(path), device)
        for path in self._latest.keys() - seen.keys():
            news.append(Event(now, self._latest[path].name, "info", "removed"))
            del self._devices[path]
        self._latest = seen
        self.events.extend(news)
        return news


def _changes(before: DeviceSnapshot | None, after: DeviceSnapshot) -> Iterator[Event]:
    """What is worth telling about a device that was `before` and is `after`."""

    def event(severity: str, text: str) -> Event:
        return Event(after.time, after.name, severity, text)

    if before is None:
        if after.state != "live":
            yield event("error" if after.state in BAD_STATES else "info", f"found, {after.state}")
        return
    if not same_device(before, after):
        yield event("info", "created anew")
        return
    if before.state != after.state:
        severity = "error" if after.state in BAD_STATES else "info"
        yield event(severity, f"{before.state} → {after.state}")
    if before.algorithm != after.algorithm:
        yield event("info", f"algorithm {before.algorithm} → {after.algorithm}")
    if before.mem_limit != after.mem_limit:
        yield event("info", f"mem_limit {_limit(before.mem_limit)} → {_limit(after.mem_limit)}")
    if before.swap_priority is None and after.swap_priority is not None:
        yield event("info", f"in use as swap, priority {after.swap_priority}")
    if before.swap_priority is not None and after.swap_priority is None:
        yield event("info", "no longer swap")
    for name, text in (
        ("enospc", "writes refused: full"),
        ("checksum_errors", "checksum errors"),
        ("damaged_entries", "damaged page-table entries"),
        ("failed_writes", "failed writes"),
        ("failed_reads", "failed reads"),
    ):
        grown = getattr(after.total, name) - getattr(before.total, name)
        if grown > 0:
            yield event("warning" if name == "enospc" else "error", f"{grown} {text}")
    if after.last_error and (after.last_error, after.last_error_time) != (before.last_error, before.last_error_time):
        yield event("error", after.last_error)


def _limit(size: int) -> str:
    return format_size(size) if size else "none"
