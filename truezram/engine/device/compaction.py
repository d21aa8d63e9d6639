"""Compaction on demand: its server packs a device's segments as far as that gains memory, and gives back what it gains.

The server does it by itself, at its own pace and beside all requests; here it is only asked for and watched, through
the statistics page. Whoever stops watching leaves it running.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from truezram.engine.device.client import Client, Entry
from truezram.engine.errors import Failed
from truezram.engine.model import BAD_STATES, DeviceSnapshot

EVERY = 0.05
"""Seconds between looks at the statistics page."""

Progress = Callable[[float, DeviceSnapshot], None]
"""Called with (share done, the device now)."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """A compaction that is done. What else happened to the device meanwhile is in its figures, too."""

    name: str
    path: str
    before: int
    """mem_used_total, bytes."""
    after: int
    pages_compacted: int
    """Pages of memory that emptying segments has freed."""
    seconds: float

    @property
    def gained(self) -> int:
        """Bytes; 0 where more was written meanwhile."""
        return max(0, self.before - self.after)


def compact(client: Client, name: str, progress: Progress | None = None) -> Compacted:
    """Compacts the device a user means by `name` and returns when it is done. Raises `TruezramError`."""
    return compact_entry(client, client.resolve(name), progress)


def compact_entry(client: Client, entry: Entry, progress: Progress | None = None) -> Compacted:
    """As `compact`, for an entry of the registry."""
    what = f"cannot compact {entry.name}"
    began, before = time.monotonic(), look(client, entry, what)
    ticket = client.compact(entry)
    while (now := look(client, entry, what, before.pid)).compact_done < ticket:
        if progress:
            progress(now.compact_permille / 1000, now)
        time.sleep(EVERY)
    return Compacted(
        name=entry.name,
        path=entry.path,
        before=before.mem_used_total,
        after=now.mem_used_total,
        pages_compacted=now.pages_compacted - before.pages_compacted,
        seconds=time.monotonic() - began,
    )


def look(client: Client, entry: Entry, what: str, pid: int = 0) -> DeviceSnapshot:
    """The device, whose server is at work on `what`. Raises `Failed` if there is none, or (`pid`) another one: it knows
    nothing of what the first was asked for."""
    device = client.device(entry)
    if device.state in BAD_STATES and device.state != "halted":
        raise Failed(what, f"it is {device.state}", f"See `truezram stat {entry.name}` for the reason")
    if pid and device.pid != pid:
        raise Failed(what, "its server has ended, and another one serves it", "Begin again: it goes on where it was")
    return device
