"""Emptying a device that keeps its number, its settings and its server: everything on it is discarded.

Kernel zram's reset ends the device and leaves its size to be set again. Here the pages alone go, in pieces, so that
an interrupt at any point leaves a working device on which some of the pages are still there, and doing it again does
the rest. Counters count from the creation of the device, and go on.

While it lasts, a block device is held exclusively: it is refused to what is mounted or swapped on later, as they refuse
it to us. A local device has no such thing: what its programs write meanwhile stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from truezram.engine.device import swap
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import look
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Busy, Failed, PermissionDenied, Unsupported
from truezram.engine.machine.users import disk, number_of, users
from truezram.engine.units import PAGE

_BLKDISCARD = 0x1277
STEP = 1 << 30
"""Bytes that are discarded at once: an interrupt waits for so much."""

Progress = Callable[[float], None]
"""Called with the share that is done."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """A device that was emptied. What was written to it meanwhile is in its figures, too."""

    name: str
    path: str
    orig_data_size: tuple[int, int]
    """Bytes before and after."""
    mem_used_total: tuple[int, int]


def reset(client: Client, name: str, progress: Progress | None = None) -> Emptied:
    """Empties the device a user means by `name`. Raises `Busy` with who uses it, `TruezramError` otherwise."""
    return reset_entry(client, client.resolve(name), progress)


def reset_entry(client: Client, entry: Entry, progress: Progress | None = None) -> Emptied:
    """As `reset`, for an entry of the registry."""
    what = f"cannot reset {entry.name}"
    if not os.access(entry.directory, os.W_OK):
        raise PermissionDenied(what, "it belongs to another user", "Run it as that user, or with sudo")
    before = look(client, entry, what)
    if before.state != "live":
        raise Failed(what, f"it is {before.state}", f"See `truezram stat {entry.name}` for the reason")
    empty = _empty_disk if entry.is_disk else _empty_local
    empty(entry, before.disksize, what, progress or (lambda share: None))
    client.trim(entry)
    after = look(client, entry, what)
    return Emptied(
        name=entry.name,
        path=entry.path,
        orig_data_size=(before.orig_data_size, after.orig_data_size),
        mem_used_total=(before.mem_used_total, after.mem_used_total),
    )


def _busy(entry: Entry, what: str) -> Busy:
    found = users(entry.name)
    why = "; ".join(user.text for user in found) or "something has just claimed it"
    return Busy(what, why, f"First {', '.join(dict.fromkeys(user.remedy for user in found)) or 'try again'}")


def _empty_disk(entry: Entry, size: int, what: str, progress: Progress) -> None:
    """Discards a block device that nobody uses. Raises `Busy`, `Failed`, `Unsupported`."""
    if any(user.lasting for user in users(entry.name)):
        raise _busy(entry, what)
    swap.node_ready(entry.path)
    try:
        file = os.open(entry.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _busy(entry, what) from None
        raise Failed(what, f"{entry.path} cannot be opened: {error.strerror}", "Run it as root") from None
    try:
        found = disk(entry.name)
        if found is None or number_of(f"/proc/self/fd/{file}") != found.number:
            raise Busy(what, f"{entry.path} is another device", "Remove that node, then try again")
        for start in range(0, size, STEP):
            fcntl.ioctl(file, _BLKDISCARD, struct.pack("=QQ", start, min(STEP, size - start)))
            progress(min(1.0, (start + STEP) / size))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            why = "its kernel has no discard for it"
            raise Unsupported(what, why, f"Remove it and create it again: truezram remove {entry.name}") from None
        why = f"a discard failed: {error.strerror}"
        raise Failed(what, why, f"Part of it is empty now. See `truezram stat {entry.name}`") from None
    finally:
        os.close(file)


def _empty_local(entry: Entry, size: int, what: str, progress: Progress) -> None:
    with LocalDevice(entry) as device:
        step = STEP // PAGE
        for page in range(0, device.pages, step):
            try:
                device.discard(page, min(step, device.pages - page))
            except OSError as error:
                why = f"a discard failed: {error.strerror}"
                raise Failed(what, why, f"Part of it is empty now. See `truezram stat {entry.name}`") from None
            progress(min(1.0, (page + step) / device.pages))
