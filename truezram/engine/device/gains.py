"""What the policy's settings gain on a device: what they have saved, and what they would.

Both are measured on the device itself: the bytes of pages that have been idle for so long (`DeviceSnapshot.ages`),
times the share that dense or groups have saved of what they were tried with here. Where nothing has been tried yet,
that is what is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import format_duration, format_percent, format_size


class Step(NamedTuple):
    """One of the ways in which idle pages are compressed once more."""

    setting: str
    """After how many seconds: a field of `DeviceSnapshot`."""
    counters: str
    """The names of its counters begin with this; it is also what `recompress --to` calls it."""
    verb: str
    done: str
    """The same in the log's words."""
    certain: bool = False
    """Whether it saves all that pages take."""

    def counter(self, device: DeviceSnapshot, name: str) -> int:
        """One of its counters."""
        value: int = getattr(device, f"{self.counters}_{name}")
        return value

    def share(self, device: DeviceSnapshot) -> float | None:
        """Of the bytes that it was tried with on this device, what it has saved; None: nothing was tried."""
        if self.certain:
            return 1.0
        tried = self.counter(device, "tried")
        return min(self.counter(device, "saved") / tried, 1.0) if tried else None

    def idle(self, device: DeviceSnapshot, seconds: int, until: int = 0) -> int:
        """Bytes of objects that have been idle for that long (and not for `until` yet, unless that is 0), and that it
        is not done with as things are."""
        # Ages do not count what is in groups. What is dense already does not get denser; it is as old as the setting
        # in force, if there is one.
        if now := getattr(device, self.setting):
            done = _bytes(device, now)
        else:
            done = dict(device.kind_bytes).get("dense", 0) if self.counters == "dense" else 0
        return max(_bytes(device, seconds) - max(done, _bytes(device, until) if until else 0), 0)

    def gain(self, device: DeviceSnapshot, seconds: int, until: int = 0) -> int | None:
        """Bytes that it would save with these pages, beyond what is being done; None: not known."""
        share, now = self.share(device), getattr(device, self.setting)
        if not seconds or (now and seconds >= now):
            return 0
        if share is None or not device.ages:
            return None
        return round(share * self.idle(device, seconds, until))


def _bytes(device: DeviceSnapshot, seconds: int) -> int:
    found = device.idle_for(seconds)
    return found.bytes if found else 0


DENSE = Step("idle_dense", "dense", "compressed with dense", "made dense")
COLD = Step("idle_cold", "cold", "packed in groups", "put in groups")
BACKING = Step("idle_backing", "backing", "written to the backing file", "written to the backing file", certain=True)
STEPS = (DENSE, COLD, BACKING)


def of_step(step: Step, device: DeviceSnapshot, proposed: int) -> str:
    """For the setting of one step, in a sentence. `proposed`: seconds, where it is off."""
    if device.kind != "truezram" or device.state != "live":
        return ""
    if step.certain and device.backing_state == "none":
        return "does nothing without a backing file: set backing first"
    seconds = getattr(device, step.setting)
    if seconds and step.certain:
        now = f"{device.backed_pages} pages are there now, {format_size(device.backing_used)} on the file"
        return f"has taken {format_size(step.counter(device, 'saved'))} out of memory on this device so far; {now}"
    if seconds:
        saved, share = step.counter(device, "saved"), step.share(device)
        of = f", {format_percent(share)} of what it was tried with" if share is not None else ""
        return f"has saved {format_size(saved)} on this device so far{of}"
    idle = format_duration(proposed)
    if not device.ages:
        return "not known: pages have not been counted by age yet"
    there, gain = format_size(step.idle(device, proposed)), step.gain(device, proposed)
    if step.certain:
        return f"{there} are idle for {idle} or longer, besides what is in groups: it would take that out of memory"
    if gain is None:
        unknown = f"nothing has been {step.verb} on this device"
        return f"{there} are idle for {idle} or longer. What that would save is not known yet: {unknown}"
    judged = f"by the {format_percent(step.share(device) or 0)} that it has saved so far"
    return f"{there} are idle for {idle} or longer: it would save about {format_size(gain)} of that, {judged}"


def of_policies(policies: Iterable[tuple[str, str]], device: DeviceSnapshot) -> str:
    """What each policy would save beyond the one in force. `policies`: name and value, as the server takes it."""
    if device.kind != "truezram" or device.state != "live":
        return ""
    found, known = [], False
    for name, value in policies:
        dense, cold, backing = (int(value.split(":")[place]) for place in (0, 1, 3))
        backing = backing if device.backing_state != "none" else 0
        if not (dense or cold or backing) or value == device.policy:
            continue
        # What gets into groups is counted there, and what gets to the backing file, there.
        gains = [DENSE.gain(device, dense, cold), COLD.gain(device, cold, backing)]
        gains += [BACKING.gain(device, backing)] if backing else []
        known |= any(gain is not None for gain in gains)
        least = "at least" if None in gains else "about"
        more = " more" if device.idle_dense or device.idle_cold else ""
        if saved := sum(filter(None, gains)):
            found.append(f"{least} {format_size(saved)}{more} with {name}")
    if found:
        return f"it would save {', '.join(found)}"
    if not known:
        return "what a policy would save is not known yet: nothing has been compressed once more on this device"
    return "no other policy would save anything more now"


def of_day(device: DeviceSnapshot) -> str:
    """For the bytes a day: how far today's are used up."""
    if device.kind != "truezram" or device.state != "live" or device.backing_state == "none":
        return ""
    today = device.backing_today(time.time())
    text = f"{format_size(today)} were written today, {format_size(device.backing_written)} in all"
    if device.backing_daily and today >= device.backing_daily:
        text += "; nothing more is until tomorrow (UTC)"
    return text


def of_rate(device: DeviceSnapshot) -> str:
    """For the bytes a second: how long the bytes of a day take."""
    if device.kind != "truezram" or device.state != "live" or device.backing_state == "none":
        return ""
    if not (device.backing_rate and device.backing_daily):
        return ""
    seconds = device.backing_daily / device.backing_rate
    return f"with it, the {format_size(device.backing_daily)} of a day take {format_duration(seconds)}"
