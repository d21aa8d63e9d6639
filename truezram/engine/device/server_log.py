"""What a server itself has met, for those who did not watch: read from its log, as events.

A server writes to its log (``NAME.log`` in its run directory, at most 64 KiB) what was set, that it has taken over from
another one, and what went wrong, whether or not anybody looks at the device. It stays until the device is removed, and
goes on when another server takes over. Whoever watches finds the same things (events.py): what they have written down
is left out here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from truezram.engine.device.client import Entry
from truezram.engine.device.control import printable
from truezram.engine.device.events import Event
from truezram.engine.device.settings import BY_KEY

MOST = 1 << 17
"""Bytes of a log that are read, the newest."""
SAME = 10.0
"""Seconds within which an event is the one that somebody has found, too: they look every second, on a busy machine less
often."""
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) truezramd: (.*)")


class Kind(NamedTuple):
    """Lines that are events. `text` and what is in `found` get the line's groups."""

    line: re.Pattern[str]
    level: str
    text: str
    found: tuple[str, ...] = ("{0}",)
    """What the event's text begins with where somebody has found the same thing."""


KINDS = (
    Kind(
        re.compile(r"\S+: taken over in (\d+ ms): its server number (\d+)"),
        "info",
        "another server has taken over, number {1} of this device (in {0})",
        ("recovered", "upgraded"),
    ),
    Kind(re.compile(r"\S+: (left .*)"), "error", "the server has ended: {0}", ("server died",)),
    Kind(re.compile(r"(the standby \(pid \d+\) has died.*)"), "warning", "{0}"),
    Kind(re.compile(r"(a write failed: .*)"), "error", "{0}"),
    Kind(re.compile(r"error: (.*)"), "error", "{0}"),
    Kind(re.compile(r"(.* has killed the server \d+ times.*|policy is off: .*)"), "error", "{0}"),
    Kind(re.compile(r"(\d+ problems in the arena, .*)"), "error", "{0}"),
    Kind(re.compile(r"(mem_limit is near|processes wait for memory): (.*)"), "info", "{1}: {0}", ("{1}",)),
    Kind(re.compile(r"no pressure any more"), "info", "the policy acts at its usual times again", ("the policy acts",)),
    Kind(re.compile(r"(SIGTERM refused: .*|swapoff failed .*)"), "warning", "{0}"),
)
_SET = re.compile(r"set (\w+)=(.*)")


def _understood(line: str) -> tuple[str, str, tuple[str, ...]] | None:
    """(level, text, what texts of the same begin with); None: not an event."""
    if match := _SET.fullmatch(line):
        setting = BY_KEY.get(match[1])  # else one that only tests set
        return ("info", f"{match[1]} is {setting.show(match[2])}", (f"{match[1]} is ",)) if setting else None
    for kind in KINDS:
        if match := kind.line.fullmatch(line):
            return kind.level, kind.text.format(*match.groups()), tuple(p.format(*match.groups()) for p in kind.found)
    return None


def _lines(path: Path) -> Iterator[tuple[float, str]]:
    """(CLOCK_REALTIME in seconds, what was said). Raises `OSError`."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MOST))
        data = file.read(MOST)
    for line in data.decode("utf-8", "replace").splitlines():
        if match := _LINE.fullmatch(line):
            yield datetime.fromisoformat(match[1]).timestamp(), printable(match[2].encode())


def missed(entries: Iterable[Entry], known: Iterable[Event]) -> tuple[list[Event], list[str]]:
    """(what is in the logs of these devices and not among the known events, oldest first; the logs that this user may
    not read: only root reads those of ublk devices)."""
    of: dict[str, list[Event]] = {}
    for event in known:
        of.setdefault(event.device, []).append(event)
    found, unread = [], []
    for entry in entries:
        try:
            for when, line in _lines(entry.log):
                what = _understood(line)
                if what is None:
                    continue
                level, text, same = what
                others = (event for event in of.get(entry.name, ()) if abs(event.time - when) <= SAME)
                if not any(event.text.startswith(same) for event in others):
                    found.append(Event(when, level, text, entry.name))
        except PermissionError:
            unread.append(str(entry.log))
        except OSError:
            continue  # removed just now
    return sorted(found, key=lambda event: event.time), unread
