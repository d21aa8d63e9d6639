"""What happens to devices and the machine, found by comparing snapshots, as the app and `truezram events` show it.

This is the one source of events. Whoever looks at the devices finds the same ones; event_log.py keeps them. Levels:
"info", "warning", "error".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from truezram.engine.device.gains import STEPS
from truezram.engine.device.settings import in_force
from truezram.engine.model import BACKING_STATES, BAD_STATES, PRESSURES, DeviceSnapshot, Snapshot
from truezram.engine.units import format_duration, format_size

PSI_FULL_ALERT = 10.0
"""Per cent of the time in which every task waited for memory, over 10 s."""
PSI_CALM = 2.0
DIED = 1.0
"""Seconds without a server after which it was no upgrade."""
STAYS = 3.0
"""Seconds after which nobody takes over from a dead one."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log; `time` is CLOCK_REALTIME, `device` empty for the machine's."""

    time: float
    level: str
    text: str
    device: str = ""


class Fullness(NamedTuple):
    """From which share of mem_limit on, what the log says then and how serious it is, and the row's state."""

    share: float
    text: str
    level: str
    state: str


FULLNESS = (
    Fullness(0.80, "four fifths full", "warning", "low"),
    Fullness(0.95, "nearly full", "warning", "low"),
    Fullness(0.99, "full", "error", "full"),  # writes are refused, or will be
)


def fullness(device: DeviceSnapshot) -> int:
    """How many of `FULLNESS` the device has reached; 0 without a mem_limit."""
    if not device.mem_limit:
        return 0
    return sum(device.mem_used_total >= step.share * device.mem_limit for step in FULLNESS)


@dataclass(slots=True)
class Wait:
    """A device's reads and writes wait for a server."""

    since: float
    """`time` of the first snapshot in which they did."""
    recoveries: int
    """How many there had been before."""
    died: bool = False
    """The log has that the server died."""
    stays: bool = False
    """The log has that the device is to be recovered."""

    def report(self, device: DeviceSnapshot) -> Iterator[tuple[str, str]]:
        """What the log gets now."""
        waited = device.time - self.since
        if waited >= DIED and not self.died:
            self.died = True
            yield "warning", "server died: reads and writes wait for another one"
        if waited >= STAYS and device.state == "dead" and not self.stays:
            self.stays = True
            text = f"no other server takes over: run truezram recover {device.name}"
            yield "error", f"{text}. Nothing is lost yet, reads and writes wait"


@dataclass(slots=True)
class Done:
    """Recompression of one device: the counters when a job of each step last ended, or when they were first seen."""

    pages: dict[str, int]
    saved: dict[str, int]

    @classmethod
    def of(cls, device: DeviceSnapshot) -> Done:
        """Up to now."""
        return cls(
            {step.counters: step.counter(device, "pages") for step in STEPS},
            {step.counters: step.counter(device, "saved") for step in STEPS},
        )

    def _take(self, step: str, now: Done) -> tuple[int, int]:
        """Pages and bytes since then."""
        pages, saved = now.pages[step] - self.pages[step], now.saved[step] - self.saved[step]
        self.pages[step], self.saved[step] = now.pages[step], now.saved[step]
        return pages, saved

    def report(self, was: DeviceSnapshot, now: DeviceSnapshot) -> Iterator[tuple[str, str]]:
        """What the log gets: one line for each job that has ended. A policy's that gained nothing is not worth one."""
        if "unreadable" in (was.state, now.state):
            return  # it has no figures then, only zeros
        counted = Done.of(now)
        if now.recompress_done > was.recompress_done:
            yield "info", self._ended(was, now, counted)
            return
        for step in STEPS:
            if step.counter(now, "runs") > step.counter(was, "runs"):
                pages, saved = self._take(step.counters, counted)
                if pages:
                    yield "info", f"policy: {pages} pages were {step.done} and take {format_size(saved)} less"

    def _ended(self, was: DeviceSnapshot, now: DeviceSnapshot, counted: Done) -> str:
        """The line for one that was asked for."""
        how = "stopped" if now.recompress_stopped else "ended"
        done = {step.counters: self._take(step.counters, counted) for step in STEPS}
        pages, saved = done.pop("backing")
        returned = now.total.backing_returned - was.total.backing_returned
        if pages:
            return f"writing back has {how}: {pages} pages are on the backing file, which took {format_size(saved)}"
        pages, saved = (sum(figures) for figures in zip(*done.values(), strict=True))
        if returned and not pages:
            return f"bringing back has {how}: {now.backed_pages} pages are still on the backing file"
        result = f"{pages} pages take {format_size(saved)} less" if pages else "no page takes less"
        return f"recompression has {how}: {result}"


class Detector:
    """Turns what changed between two snapshots into events."""

    def __init__(self) -> None:
        self._before: Snapshot | None = None
        self._pressed = False
        self.waiting: dict[str, Wait] = {}
        self._done: dict[str, Done] = {}

    def feed(self, snapshot: Snapshot, now: float) -> list[Event]:
        """Events since the last snapshot; none for the first one, except for what is wrong already."""
        before, self._before = self._before, snapshot
        old = {device.name: device for device in before.devices} if before else {}
        waited = self.waiting
        self.waiting = {
            d.name: waited.get(d.name) or Wait(d.time, old.get(d.name, d).recoveries)
            for d in snapshot.devices
            if d.waits
        }
        self._done = {d.name: self._done.get(d.name) or Done.of(d) for d in snapshot.devices}
        if before is None:
            return [Event(now, *found, d.name) for d in snapshot.devices for found in _present(d)]
        events: list[Event] = []
        for device in snapshot.devices:
            was = old.pop(device.name, None)
            if was is None or (was.created != device.created and device.recoveries <= was.recoveries):
                found = _appeared(device)
                self._done[device.name] = Done.of(device)
            else:
                if was.pid != device.pid:  # another server may count anew
                    self._done[device.name] = Done.of(device)
                found = chain(
                    _changed(was, device, waited.get(device.name)), self._done[device.name].report(was, device)
                )
            wait = self.waiting.get(device.name)
            found = chain(found, wait.report(device) if wait else ())
            events += [Event(now, level, text, device.name) for level, text in found]
        events += [Event(now, "info", "removed", name) for name in old]
        events += [Event(now, level, text) for level, text in self._machine(before, snapshot)]
        return events

    def _machine(self, before: Snapshot, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        full = snapshot.machine.pressure.memory_full
        if full is not None:
            if full >= PSI_FULL_ALERT and not self._pressed:
                self._pressed = True
                yield "warning", f"memory pressure: every task waited for memory {full:.0f}% of the last 10 s"
            elif full < PSI_CALM and self._pressed:
                self._pressed = False
                yield "info", "memory pressure has eased"
        if before.machine.zswap.enabled != snapshot.machine.zswap.enabled:
            on = snapshot.machine.zswap.enabled
            yield (
                ("warning", "zswap was turned on: it compresses pages before our devices get them")
                if on
                else ("info", "zswap is off")
            )
        if before.machine.swappiness != snapshot.machine.swappiness and before.machine.swappiness is not None:
            yield "info", f"vm.swappiness went from {before.machine.swappiness} to {snapshot.machine.swappiness}"


def _full(device: DeviceSnapshot) -> tuple[str, str]:
    step = FULLNESS[fullness(device) - 1]
    used, limit = format_size(device.mem_used_total), format_size(device.mem_limit)
    return step.level, f"{step.text}: {used} of {limit} mem_limit"


def _present(device: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    if device.state in BAD_STATES and not device.waits:  # else `Wait` reports it
        yield "error", f"{device.state}: {device.last_error}" if device.last_error else device.state
    elif fullness(device):
        yield _full(device)


def _appeared(device: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    if device.state != "unreadable":
        yield "info", f"appeared: {format_size(device.disksize)} {device.algorithm}, {device.transport}"
    yield from _present(device)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def _other_server(was: DeviceSnapshot, now: DeviceSnapshot, wait: Wait | None) -> Iterator[tuple[str, str]]:
    """Another server has taken over: from one that died, or from one that was upgraded."""
    took = f"after {_seconds(now.time - wait.since)}" if wait else f"within {_seconds(now.time - was.time)}"
    deaths = now.recoveries - (wait.recoveries if wait else was.recoveries)
    died = wait is not None and wait.died
    if deaths > 0 and not died:
        yield "warning", "server died" if deaths == 1 else f"server died {deaths} times"
    what = "recovered" if died or deaths > 0 else "upgraded"
    yield "info", f"{what}: another server has taken over ({took})"


def _state(was: DeviceSnapshot, now: DeviceSnapshot, wait: Wait | None) -> Iterator[tuple[str, str]]:
    """What has become of its state or its server."""
    if now.waits:
        return  # `Wait` reports it
    if now.state == "live" and (wait or now.pid != was.pid):
        yield from _other_server(was, now, wait)
    elif now.state == "dead" and was.state != "dead":
        text = "server died, and what it held is lost"
        yield "error", f"{text}: {now.last_error}" if now.last_error else text
    elif now.state != was.state:
        bad = now.state in BAD_STATES
        text = f"{was.state} → {now.state}"
        yield ("error" if bad else "info"), f"{text}: {now.last_error}" if now.last_error and bad else text


def _changed(was: DeviceSnapshot, now: DeviceSnapshot, wait: Wait | None) -> Iterator[tuple[str, str]]:
    yield from _state(was, now, wait)
    news = (now.last_error, now.last_error_time) != (was.last_error, was.last_error_time)
    if now.state != was.state:
        # Said with the state; or what was known before it became unreadable is forgotten.
        said = now.state in BAD_STATES and not now.waits
        news = news and not said and was.state != "unreadable"
    if news and now.last_error:
        yield "error", now.last_error
    yield from _use(was, now)
    if "unreadable" not in (was.state, now.state):  # it has no figures then, only zeros
        yield from _figures(was, now)


def _figures(was: DeviceSnapshot, now: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    if fullness(now) > fullness(was):
        yield _full(now)
    elif fullness(now) < fullness(was) and now.mem_limit:
        yield "info", f"space again: {format_size(now.mem_limit - now.mem_used_total)} below mem_limit"
    if now.total.enospc and not was.total.enospc:
        yield "error", "a write failed: mem_limit reached (ENOSPC)"
    if now.total.checksum_errors > was.total.checksum_errors:
        yield "error", f"{now.total.checksum_errors - was.total.checksum_errors} objects failed their checksum (EIO)"
    if now.total.damaged_entries > was.total.damaged_entries:
        yield "error", f"{now.total.damaged_entries - was.total.damaged_entries} damaged page-table entries were found"
    if now.pressure and now.pressure != was.pressure:
        yield "info", f"the policy acts earlier: {PRESSURES[now.pressure]}"
    elif was.pressure and not now.pressure:
        yield "info", "the policy acts at its usual times again"
    yield from _backing(was, now)
    for setting in in_force(now):
        if setting.of(now) != setting.of(was):
            yield "info", f"{setting.key} is {setting.shown(now)} (was {setting.shown(was)})"


def _backing(was: DeviceSnapshot, now: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    """What has become of the backing file. (That there is another one is said as with any setting.)"""
    if now.backing_state != was.backing_state:
        level, text = BACKING_STATES[now.backing_state]
        why = f" ({now.backing_text})" if now.backing_text else ""
        if now.backing_state != "none":
            yield level, f"backing file {text}{why}"
    bad = now.total.backing_errors - was.total.backing_errors
    if bad > 0:
        yield "error", f"{bad} pages could not be read from the backing file (EIO)"
    if now.backing_daily and _used_up(now) and not _used_up(was):
        yield "info", f"the {format_size(now.backing_daily)} of today for the backing file are used up"


def _used_up(device: DeviceSnapshot) -> bool:
    """Whether the bytes of the day to which its figures belong are."""
    return device.backing_state != "none" and device.backing_day_bytes >= device.backing_daily > 0


def _slot_tracking(was: DeviceSnapshot, now: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    if (now.slot_tracking, now.slot_tracking_text) == (was.slot_tracking, was.slot_tracking_text):
        return
    if now.slot_tracking == "on":
        yield "info", f"the kernel reports freed swap slots ({now.slot_tracking_text})"
    elif now.slot_tracking == "unavailable":
        yield "warning", f"freed swap slots are not reported, their pages stay stored: {now.slot_tracking_text}"


def _use(was: DeviceSnapshot, now: DeviceSnapshot) -> Iterator[tuple[str, str]]:
    if now.swap_priority is not None and was.swap_priority is None:
        yield "info", f"in use as swap, priority {now.swap_priority}"
    elif now.swap_priority is None and was.swap_priority is not None:
        yield "info", "no longer in use as swap"
    yield from _slot_tracking(was, now)
    for mount in set(now.mountpoints) - set(was.mountpoints):
        yield "info", f"mounted on {mount}"
    for mount in set(was.mountpoints) - set(now.mountpoints):
        yield "info", f"unmounted from {mount}"
