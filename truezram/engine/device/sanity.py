"""Plausibility of a device's figures: a device with impossible figures is shown as unreadable and not drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from truezram.engine.model import DeviceSnapshot, Snapshot
from truezram.engine.units import MAX_SIZE, PAGE

UNMEASURED = ("dead", "recovering", "unreadable")
"""States in which no server keeps the figures: graphs have a gap."""


def implausible(device: DeviceSnapshot) -> str:
    """Why these figures are impossible; "" when they are plausible, or nobody keeps them."""
    if device.state in UNMEASURED:
        return ""
    for name in (
        "disksize",
        "mem_limit",
        "orig_data_size",
        "compr_data_size",
        "mem_used_total",
        "same_pages",
        "huge_pages",
    ):
        value = getattr(device, name)
        if value < 0 or value > 2 * MAX_SIZE:
            return f"{name} is {value}"
    if device.orig_data_size > device.disksize:
        return f"holds {device.orig_data_size} bytes, more than its disksize"
    if (device.same_pages + device.huge_pages) * PAGE > device.orig_data_size + 64 * PAGE:
        return "more same-filled and huge pages than pages"
    if device.compr_data_size > device.orig_data_size + 64 * PAGE:
        return "compressed data larger than the data"
    total = device.total
    if min(total.pages_read, total.pages_written, total.num_reads, total.num_writes) < 0:
        return "a negative counter"
    return ""


HELD = (
    *("orig_data_size", "compr_data_size", "mem_used_total", "table_bytes", "segment_bytes", "object_bytes"),
    *("reserve_bytes", "reserve_target", "overhead_bytes", "same_pages", "huge_pages", "dup_pages", "kind_pages"),
    *("kind_bytes", "size_pages", "total", "queues"),
)
"""What a server that takes over counts anew, and is 0 in between."""


def held(device: DeviceSnapshot, before: DeviceSnapshot | None) -> DeviceSnapshot:
    """A device that waits for a server, with what it held before: it holds that still."""
    if not device.waits or before is None or before.created != device.created or before.state == "unreadable":
        return device
    return replace(device, **{name: getattr(before, name) for name in HELD})


def emptied(device: DeviceSnapshot, why: str) -> DeviceSnapshot:
    """The device without its figures, so that none of them reaches a graph or a total."""
    return DeviceSnapshot(
        name=device.name,
        path=device.path,
        kind=device.kind,
        transport=device.transport,
        state="unreadable",
        pid=device.pid,
        created=device.created,
        time=device.time,
        swap_priority=device.swap_priority,
        swap_used=max(device.swap_used, 0),
        mountpoints=device.mountpoints,
        last_error=why,
    )


def sane(snapshot: Snapshot, before: Mapping[str, DeviceSnapshot]) -> Snapshot:
    """A snapshot without implausible figures. `before`: the devices in the last one, by name."""
    devices = []
    for device in snapshot.devices:
        why = implausible(device)
        devices.append(emptied(device, why) if why else held(device, before.get(device.name)))
    return Snapshot(snapshot.machine, tuple(devices))
