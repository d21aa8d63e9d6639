"""Finds running devices, reads their statistics and sends requests to their servers.

A device is an entry of the registry (paths.run_dirs): NAME.stats, its statistics page, and NAME.sock, its control
socket. `Client.snapshot` is cheap enough to be called several times a second. It never raises because of what an entry
holds: every entry is a row, and so is what a server left that ended before its device was ready, so that it can be
removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from truezram._native import lib
from truezram.engine import paths, transports
from truezram.engine.device.control import TIMEOUT, Op, request
from truezram.engine.device.stats_page import StatsPage, Unreadable, is_running, read_head
from truezram.engine.errors import Failed, NotFound, Unsupported, UsageError
from truezram.engine.machine import procfs, users, zram
from truezram.engine.machine.users import Mounts, Swaps
from truezram.engine.model import DeviceSnapshot, Snapshot, SwapArea
from truezram.engine.transports import TRANSPORTS, Transport, parse_name

if TYPE_CHECKING:
    from truezram.engine.answers import PageMap

_MAP_BY = {"kind": lib.TZ_MAP_BY_KIND, "age": lib.TZ_MAP_BY_AGE}
_PARTS = ("stats", "stats.new", "sock", "lock")
_DEVICE = re.compile(rf"(?:/dev/)?((?:{transports.NAME}|zram)\d{{1,7}}|zswap)|(local):(\d{{1,7}})|(\d{{1,7}})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One device's place in a registry."""

    directory: Path
    name: str

    @property
    def stats(self) -> Path:
        return self.directory / f"{self.name}.stats"

    @property
    def sock(self) -> Path:
        return self.directory / f"{self.name}.sock"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def transport(self) -> str:
        return self._parsed[0].name

    @property
    def id(self) -> int:
        return self._parsed[1]

    @property
    def path(self) -> str:
        """``/dev/ublkb0`` or ``local:0``, as `DeviceSnapshot.path`."""
        row, number = self._parsed
        return row.path(number)

    @property
    def is_disk(self) -> bool:
        """Whether it is a block device."""
        return self._parsed[0].is_disk

    @property
    def _parsed(self) -> tuple[Transport, int]:
        found = parse_name(self.name)
        assert found is not None, f"{self.name} is no name of a device"
        return found


def signed(entry: Entry) -> tuple[int, int] | None:
    """The process that serves an entry, or served it last: its pid and start time (clock ticks). Read from the
    statistics page or, if there is none yet, from the lock file, which only its owner may read. None: not known."""
    head = read_head(entry.stats)
    if head is not None:
        return head.pid, head.pid_start
    with contextlib.suppress(OSError, ValueError):
        pid, start = (entry.directory / f"{entry.name}.lock").read_bytes()[:64].split()
        return int(pid), int(start)
    return None


def server_of(entry: Entry) -> int | None:
    """The pid of the running server of an entry; None when it is dead or not known."""
    who = signed(entry)
    return who[0] if who is not None and is_running(*who) else None


def candidates(text: str) -> tuple[str, ...]:
    """The names that a device may have when a user writes `text`: ``0`` is ``ublkb0``, ``nbd0`` or ``local0``. Raises
    `UsageError`."""
    match = _DEVICE.fullmatch(text)
    if not match:
        raise UsageError(f"{text[:60]!r} is not a device name", "", "Write 0, ublkb0, /dev/ublkb0, nbd0 or local0")
    name, _, local, number = match.groups()
    if number is not None:
        return tuple(f"{row.prefix}{int(number)}" for row in TRANSPORTS.values())
    return (f"local{int(local)}",) if local is not None else (name,)


def is_device_name(text: str) -> bool:
    """Whether `text` is one of the forms in which devices are named."""
    return _DEVICE.fullmatch(text) is not None


def _parts_in(directory: Path) -> dict[str, set[str]]:
    """The parts that each name in a registry has."""
    found: dict[str, set[str]] = {}
    with contextlib.suppress(OSError):
        for file in os.listdir(directory):  # noqa: PTH208
            name, _, part = file.partition(".")
            if part in _PARTS:
                found.setdefault(name, set()).add(part)
    with contextlib.suppress(OSError):
        for name in os.listdir(directory / "arena"):  # noqa: PTH208
            if "." not in name:  # else it is the log of one
                found.setdefault(name, set()).add("arena")
    return found


def _is_left(entry: Entry, parts: set[str]) -> bool:
    """Whether to show an entry without a statistics page. One whose server is alive and holds only the lock is being
    created or removed, and is not shown."""
    if parts == {"lock"} and server_of(entry) is not None:
        return False
    # It may have gone while we looked.
    return any(os.path.lexists(entry.directory / f"{entry.name}.{part}") for part in parts - {"arena"}) or (
        "arena" in parts and os.path.lexists(entry.directory / "arena" / entry.name)
    )


def _without_page(entry: Entry, why: str) -> tuple[str, str]:
    """State and last error of an entry whose statistics page cannot be read."""
    if os.path.lexists(entry.stats):
        return "unreadable", why
    if server_of(entry) is not None or not os.access(entry.directory, os.W_OK):
        return "starting", ""
    return "dead", "its server ended before the device was ready. Remove what it left: truezram remove " + entry.name


class Client:
    """The devices of this machine that this user can see. Not for several threads at once; close it after use."""

    def __init__(self, directories: Sequence[Path] | None = None) -> None:
        self._directories = tuple(directories) if directories is not None else paths.run_dirs()
        self._pages: dict[Entry, StatsPage] = {}
        self._mounts = Mounts()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps everything."""
        for page in self._pages.values():
            page.close()
        self._pages.clear()
        self._mounts.close()

    def entries(self) -> list[Entry]:
        """All entries of all registries, by transport and number; those of the user's own registry first."""
        found = []
        for order, directory in enumerate(self._directories):
            for name, parts in _parts_in(directory).items():
                parsed = parse_name(name)
                entry = Entry(directory, name)
                if parsed and ("stats" in parts or _is_left(entry, parts)):
                    found.append((list(TRANSPORTS).index(parsed[0].name), parsed[1], order, entry))
        return [item[-1] for item in sorted(found, key=lambda item: item[:3])]

    def snapshot(self, queues: bool = True) -> Snapshot:
        """The machine and every compressed device on it, now. `queues`: with each queue's counters."""
        machine = procfs.machine()
        devices = self.devices(machine.swaps, queues)
        kernel = [*zram.devices(areas=machine.swaps, mounts=self._mounts), *filter(None, (zram.zswap(machine),))]
        return Snapshot(machine=machine, devices=(*devices, *kernel))

    def devices(self, swaps: Sequence[SwapArea] = (), queues: bool = True) -> tuple[DeviceSnapshot, ...]:
        """Our own devices only. `swaps`: the lines of /proc/swaps."""
        areas = Swaps(swaps)
        entries = self.entries()
        for gone in self._pages.keys() - set(entries):
            self._pages.pop(gone).close()
        return tuple(self._device(entry, areas, queues) for entry in entries)

    def device(self, entry: Entry, swaps: Sequence[SwapArea] = ()) -> DeviceSnapshot:
        """One of our devices, as in `devices`."""
        return self._device(entry, Swaps(swaps), True)

    def _device(self, entry: Entry, areas: Swaps, queues: bool) -> DeviceSnapshot:
        swap: tuple[int, int] | None = None
        mountpoints: tuple[str, ...] = ()
        if entry.is_disk:
            disks = users.family(entry.name, loops=False)
            swap = users.swap_use(areas.on(entry.name, disks))
            mountpoints = self._mounts.of(entry.name, disks)
        try:
            page = self._pages.get(entry)
            if page is not None and not page.is_current():
                self._pages.pop(entry).close()
                page = None
            if page is None:
                page = self._pages[entry] = StatsPage(entry.stats)
            return page.snapshot(swap, mountpoints, queues)
        except Unreadable as error:
            state, why = _without_page(entry, str(error))
            return DeviceSnapshot(
                name=entry.name,
                path=entry.path,
                transport=entry.transport,
                state=state,
                time=time.monotonic(),
                swap_priority=swap[0] if swap else None,
                swap_used=swap[1] if swap else 0,
                mountpoints=mountpoints,
                last_error=why,
            )

    def resolve(self, text: str) -> Entry:
        """The entry that a user means by ``0``, ``ublkb0``, ``/dev/ublkb0``, ``nbd0``, ``local0`` or ``local:0``.

        Raises `NotFound`, `UsageError` for text that is not a device name and for a number that two devices have,
        `Unsupported` for a kernel zram device and zswap.
        """
        wanted = candidates(text)
        if wanted[0].startswith("zram"):
            raise Unsupported(f"cannot change {wanted[0]}", "it is a device of the kernel's zram", "Use zramctl for it")
        if wanted[0] == "zswap":
            raise Unsupported(
                "cannot change zswap here", "it belongs to the kernel", "See `truezram tune` for its settings"
            )
        entries = self.entries()
        found = [entry for entry in entries if entry.name in wanted]
        if not found:
            known = ", ".join(dict.fromkeys(entry.name for entry in entries))
            why = f"there are: {known}" if known else "no device is running"
            raise NotFound(f"no device {text}", why, "See `truezram list`")
        if len({entry.name for entry in found}) > 1:
            both = " and ".join(sorted({entry.name for entry in found}))
            raise UsageError(f"{text} may mean two devices", f"there are {both}", "Give the whole name")
        return found[0]

    def _entry(self, device: Entry | str) -> Entry:
        return device if isinstance(device, Entry) else self.resolve(device)

    def ping(self, device: Entry | str, timeout: float = TIMEOUT) -> None:
        """Returns when the device's server answers. Raises `control.NoAnswer` otherwise."""
        entry = self._entry(device)
        request(entry.sock, Op.PING, what=f"cannot reach {entry.name}", timeout=timeout)

    def set(self, device: Entry | str, key: str, value: str, timeout: float = TIMEOUT) -> None:
        """Changes one setting of a running device: ``mem_limit`` (bytes, 0 = none) or ``algorithm``
        (``NAME[:LEVEL]``), as the server takes it. `create.set_values` checks first; verbs use that."""
        entry = self._entry(device)
        what = f"cannot set {key} of {entry.name}"
        request(entry.sock, Op.SET, text=f"{key}={value}", what=what, timeout=timeout)

    def trim(self, device: Entry | str, timeout: float = TIMEOUT) -> int:
        """Returns every unused segment to the kernel; the number of bytes returned."""
        entry = self._entry(device)
        return request(entry.sock, Op.TRIM, what=f"cannot trim {entry.name}", timeout=timeout).values[0]

    def compact(self, device: Entry | str, timeout: float = TIMEOUT) -> int:
        """Has segments packed and what that frees returned. Does not wait: the ticket that `compact_done` of its
        snapshot reaches when it is done."""
        entry = self._entry(device)
        return request(entry.sock, Op.COMPACT, what=f"cannot compact {entry.name}", timeout=timeout).values[0]

    def count_ages(self, device: Entry | str, timeout: float = TIMEOUT) -> int:
        """Has pages counted by age. Does not wait: the ticket that `ages_counted` of its snapshot reaches then."""
        entry = self._entry(device)
        return request(entry.sock, Op.AGES, what=f"cannot count the pages of {entry.name}", timeout=timeout).values[0]

    def recompress(
        self, device: Entry | str, algorithm: str, idle_ns: int, percent: int, what: str = "", timeout: float = TIMEOUT
    ) -> tuple[int, int]:
        """Has pages that have been idle for so long written once more with another codec ("backing": to the backing
        file; "memory": all that are there, the other way), taking up to `percent` of a core. Does not wait: the ticket
        that `recompress_done` reaches when it has ended; and the shortest time for which the pages that are meant have
        been idle, in ns, which is longer if need be."""
        entry = self._entry(device)
        what = what or f"cannot recompress {entry.name}"
        reply = request(entry.sock, Op.RECOMPRESS, (idle_ns, percent), algorithm, what=what, timeout=timeout)
        return reply.values[0], reply.values[1]

    def stop_recompress(self, device: Entry | str, timeout: float = TIMEOUT) -> bool:
        """Has it ended, whoever began it. Whether there was one."""
        entry = self._entry(device)
        what = f"cannot stop the recompression of {entry.name}"
        return bool(request(entry.sock, Op.STOP_RECOMPRESS, what=what, timeout=timeout).values[0])

    @staticmethod
    def arena(entry: Entry, timeout: float = TIMEOUT) -> int:
        """A descriptor of the arena to read from, which the caller closes."""
        what = f"cannot read the arena of {entry.name}"
        reply = request(entry.sock, Op.ARENA, what=what, timeout=timeout)
        if len(reply.fds) != 1:
            for fd in reply.fds:
                os.close(fd)
            raise Failed(what, "its server's answer has none")
        return reply.fds[0]

    def page_map(
        self, device: Entry | str, first: int, pages: int, regions: int, by: str = "kind", timeout: float = TIMEOUT
    ) -> PageMap:
        """What the `pages` pages from `first` on are stored as, or `by` "age" how old they are, in `regions`
        (1 … 256) equal parts."""
        from truezram.engine.answers import PageMap

        if not 1 <= regions <= lib.TZ_MAP_REGIONS or first < 0 or pages < regions:
            limit = lib.TZ_MAP_REGIONS
            raise UsageError("cannot map these pages", f"regions must be 1 … {limit} and no more than the pages")
        entry = self._entry(device)
        what = f"cannot read the page map of {entry.name}"
        wanted = _MAP_BY[by]
        reply = request(entry.sock, Op.PAGE_MAP, (first, pages, regions, wanted), what=what, timeout=timeout)
        if reply.values[0] != wanted:
            why = "its server is of a version that has no map by age"
            raise Unsupported(what, why, f"Upgrade it: truezram upgrade {entry.name}")
        return PageMap(first=first, pages=pages, regions=reply.page_map, by=by)
