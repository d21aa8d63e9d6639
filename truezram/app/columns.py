"""The columns of the device table: the kernel's and zramctl's names, what each one means, and how it sorts.

Figures that the kernel's tools also show have the same meaning here; `about` explains each column in the help.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from truezram.app.format import elapsed, short_ns, short_rate, short_size
from truezram.app.series import DeviceSeries, Rates
from truezram.engine.device.events import FULLNESS, fullness
from truezram.engine.model import BAD_STATES, IO_STAT, Counter, DeviceSnapshot
from truezram.engine.units import PAGE, format_count


@dataclass(frozen=True)
class Row:
    """What a row of the table is made of."""

    device: DeviceSnapshot
    series: DeviceSeries | None = None
    trouble: str = ""
    """A problem that the snapshot does not show, such as a server that does not answer."""
    pages: bool = False
    """Show rates in pages a second, not bytes."""
    waited: float | None = None
    """Seconds for which its reads and writes have waited for a server, as far as the app saw it."""

    def rate(self, value: float) -> str:
        """A rate of bytes as the user wants it."""
        if not self.pages:
            return short_rate(value)
        return "-" if value != value else format_count(value / PAGE)

    @property
    def rates(self) -> Rates:
        """The newest rates; NaN ones while there are none."""
        return self.series.rates if self.series else Rates()

    @property
    def state(self) -> str:
        """The state in a word; a problem that the app found comes first, unless a server that is gone explains it."""
        if self.trouble and not self.device.waits:
            return "no reply"
        device = self.device
        if device.kind != "truezram":
            return "kernel"
        if device.state == "live" and (level := fullness(device)):
            return FULLNESS[level - 1].state
        return device.state

    def status(self, room: int = 20) -> str:
        """The state as shown in so many cells, and how long it has lasted where reads and writes wait for a server."""
        if self.waited is None:
            return self.state
        word, time = self.state, elapsed(self.waited)
        return f"{word if len(word) + 1 + len(time) <= room else word[:5]} {time}"

    @property
    def warns(self) -> bool:
        """Whether something is wrong that mends itself."""
        return self.state == "recovering"

    @property
    def bad(self) -> bool:
        """Whether the row needs attention."""
        return self.state in ("no reply", "full", *BAD_STATES) and not self.warns


def mountpoint(device: DeviceSnapshot) -> str:
    """What the device is used for, as zramctl writes it."""
    if device.swap_priority is not None:
        return f"[SWAP] {device.swap_priority}"
    return ",".join(device.mountpoints)


@dataclass(frozen=True)
class Column:
    """One column. Those with a lower `rank` stay when the terminal is narrow."""

    key: str
    title: str
    width: int
    rank: int
    about: str
    text: Callable[[Row], str]
    order: Callable[[Row], float | str]
    left: bool = False

    def cell(self, row: Row) -> str:
        """The cell's text. For a device with unreadable statistics, numeric columns show "-"."""
        return "-" if row.device.state == "unreadable" and self.key not in NO_FIGURES else self.text(row)


NO_FIGURES = ("name", "state", "mountpoint")


ON_REQUEST = 100
"""Rank from which on a column is shown only when it was chosen."""


def _counter(counter: Counter) -> Column:
    """The column of a counter."""
    title = counter.name.upper().replace("_", "-")
    return Column(
        counter.name,
        title,
        max(len(title), 7),
        ON_REQUEST,
        f"{counter.about.removesuffix('.')}, since the device was made.",
        lambda r: format_count(counter.of(r.device.total)) if r.device.kind == "truezram" else "-",
        lambda r: counter.of(r.device.total),
    )


def _known(value: float) -> float:
    return -1.0 if value != value else value


# fmt: off
COLUMNS: tuple[Column, ...] = (
    Column("name", "NAME", 8, 0, "The device: /dev/NAME. local0 and so on have no node in /dev.",
           lambda r: r.device.name, lambda r: r.device.name, left=True),
    Column("disksize", "DISKSIZE", 8, 2, "How much the device can hold, uncompressed. Not the memory it uses.",
           lambda r: short_size(r.device.disksize), lambda r: r.device.disksize),
    Column("data", "DATA", 5, 1, "Uncompressed size of the pages stored now (orig_data_size).",
           lambda r: short_size(r.device.orig_data_size), lambda r: r.device.orig_data_size),
    Column("compr", "COMPR", 5, 4, "Their size after compression, before the pool's overhead (compr_data_size).",
           lambda r: short_size(r.device.compr_data_size), lambda r: r.device.compr_data_size),
    Column("total", "TOTAL", 5, 1, "Memory that the kernel holds for the device, everything included (mem_used_total).",
           lambda r: short_size(r.device.mem_used_total), lambda r: r.device.mem_used_total),
    Column("ratio", "RATIO", 5, 1, "DATA / TOTAL: what a byte of memory holds. Same-filled pages count.",
           lambda r: "-" if r.device.ratio is None else f"{r.device.ratio:.2f}", lambda r: r.device.ratio or 0.0),
    Column("algorithm", "ALGORITHM", 9, 3, "How pages written from now on are compressed.",
           lambda r: r.device.algorithm, lambda r: r.device.algorithm, left=True),
    Column("read", "READ/s", 6, 2, "Bytes (or pages, see Settings) read from the device in the last second.",
           lambda r: r.rate(r.rates.read), lambda r: _known(r.rates.read)),
    Column("write", "WRITE/s", 7, 2, "Bytes (or pages) written to the device in the last second.",
           lambda r: r.rate(r.rates.write), lambda r: _known(r.rates.write)),
    Column("state", "STATE", 10, 1,
           "live; low, full: close to its mem_limit, at it; kernel: the kernel's own zram, read-only here; dead: its"
           " server has exited; recov 0:03: so it has, and another one takes over: reads and writes have waited for so"
           " long; halted: its server is stopped (SIGSTOP); unreadable: its statistics are implausible; no reply: its"
           " server does not answer.",
           lambda r: r.status(10), lambda r: r.state, left=True),
    Column("limit", "MEM-LIMIT", 9, 6, "Most memory that the device may use (mem_limit); - means no limit.",
           lambda r: short_size(r.device.mem_limit) if r.device.mem_limit else "-", lambda r: r.device.mem_limit),
    Column("peak", "MEM-USED", 8, 8, "The most that TOTAL has been (mem_used_max).",
           lambda r: short_size(r.device.mem_used_max), lambda r: r.device.mem_used_max),
    Column("p99", "P99", 5, 6, "99 of 100 requests of the last second were served within this time.",
           lambda r: short_ns(r.rates.p99), lambda r: _known(r.rates.p99)),
    Column("cpu", "CPU", 5, 6, "CPU time of the server in the last second; 100% is one CPU.",
           lambda r: "-" if r.rates.cpu != r.rates.cpu else f"{r.rates.cpu * 100:.0f}%", lambda r: _known(r.rates.cpu)),
    Column("same", "SAME", 7, 7, "Pages that repeat one 8-byte word and need no object (same_pages).",
           lambda r: format_count(r.device.same_pages), lambda r: r.device.same_pages),
    Column("huge", "HUGE", 7, 7, "Pages that do not compress and are stored raw (huge_pages).",
           lambda r: format_count(r.device.huge_pages), lambda r: r.device.huge_pages),
    Column("streams", "QUEUES", 6, 9, "I/O queues, each with a thread of its own; kernel zram: streams.",
           lambda r: str(r.device.nr_queues or "-"), lambda r: r.device.nr_queues),
    Column("migrated", "COMPACTED", 9, 10,
           "Pages of memory that emptying sparse segments has given back (pages_compacted).",
           lambda r: format_count(r.device.pages_compacted), lambda r: r.device.pages_compacted),
    Column("mountpoint", "MOUNTPOINT", 14, 5, "[SWAP] and its priority, or where the filesystem is mounted.",
           lambda r: mountpoint(r.device) or "-", lambda r: mountpoint(r.device), left=True),
    *map(_counter, IO_STAT),
)
# fmt: on
BY_KEY = {column.key: column for column in COLUMNS}
ALL = tuple(column.key for column in COLUMNS if column.rank < ON_REQUEST)
"""Those that are shown by themselves where there is room."""
GAP = 1


def fitting(width: int, wanted: tuple[str, ...] = ()) -> list[Column]:
    """The columns to show in `width` cells, in the table's order: the `wanted` ones, or as many by rank as fit.

    The name is always shown, and columns that the user asked for are left out only if they do not fit. Counters
    are shown only if asked for.
    """
    pool = [c for c in COLUMNS if c.key in (wanted or ALL) or c.key == "name"]
    chosen: set[str] = set()
    used = 0
    for column in sorted(pool, key=lambda c: c.rank):
        if used + column.width + GAP <= width + GAP:
            chosen.add(column.key)
            used += column.width + GAP
    return [column for column in pool if column.key in chosen]
