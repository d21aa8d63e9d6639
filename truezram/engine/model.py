"""The frozen values that pass from the engine to the app and to JSON: what a device is and does at one instant.

Counters count from the creation of the device. Rates are derived from two snapshots, so a snapshot holds only
what was measured. Names are the kernel's (zram's ``mm_stat`` and ``io_stat``) if it has one. Sizes are in
bytes, durations in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import PAGE


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue's counters (stats.h, ``struct tz_queue_stats``)."""

    num_reads: int = 0
    num_writes: int = 0
    num_discards: int = 0
    num_flushes: int = 0
    pages_read: int = 0
    pages_written: int = 0
    pages_discarded: int = 0
    failed_reads: int = 0
    failed_writes: int = 0
    invalid_io: int = 0
    enospc: int = 0
    checksum_errors: int = 0
    damaged_entries: int = 0
    swap_writes: int = 0
    huge_pages_since: int = 0
    drains: int = 0
    deferred_writes: int = 0
    slots_freed: int = 0
    backing_reads: int = 0
    backing_errors: int = 0
    backing_returned: int = 0
    compress_ns: int = 0
    compress_bytes_in: int = 0
    compress_bytes_out: int = 0
    decompress_ns: int = 0
    decompress_bytes_out: int = 0
    busy_ns: int = 0
    spin_ns: int = 0
    """Time that queues waited awake,"""
    spin_hits: int = 0
    """and how often a request came meanwhile."""
    read_lat: tuple[int, ...] = ()
    write_lat: tuple[int, ...] = ()
    cpu: int | None = None
    tid: int | None = None


class Counter(NamedTuple):
    """A counter as it is shown: in `stat` and its JSON, and as a column of the app."""

    name: str
    """The kernel's, if it has one."""
    about: str
    field: str = ""
    """Of `QueueSnapshot`; empty: the name."""

    def of(self, counters: QueueSnapshot) -> int:
        """Its value."""
        value: int = getattr(counters, self.field or self.name)
        return value


IO_STAT = (
    Counter("failed_reads", "Reads that failed."),
    Counter("failed_writes", "Writes that failed."),
    Counter("invalid_io", "Requests that were not whole pages, or beyond the end."),
    Counter("notify_free", "Pages that were discarded, or whose swap slot was freed.", "pages_discarded"),
    Counter("num_reads", "Read requests."),
    Counter("num_writes", "Write requests."),
    Counter("num_discards", "Discard requests."),
    Counter("num_flushes", "Flush requests."),
    Counter("pages_read", "Pages read."),
    Counter("pages_written", "Pages written."),
    Counter("enospc", "Writes that were refused for lack of space (ENOSPC)."),
    Counter("checksum_errors", "Objects whose checksum was wrong: their pages could not be read (EIO)."),
    Counter("damaged_entries", "Page-table entries found damaged: read, EIO; overwritten, nothing freed."),
    Counter("swap_writes", "Write requests that the kernel marked as swap."),
    Counter("deferred_writes", "Writes that waited for memory."),
    Counter("slots_freed", "Pages given back because the kernel reported that it freed their swap slot."),
    Counter("backing_reads", "Pages read from the backing file."),
    Counter("backing_errors", "Pages that could not be read from it (EIO)."),
    Counter("backing_returned", "Pages that came back to memory from it."),
)
"""What is counted about requests: the kernel's io_stat in its order, then ours."""


BAD_STATES = ("dead", "failed", "halted", "recovering", "unreadable")
"""States of a device in which it serves no requests, although it should."""


def no_recovery(transport: str, noswap: bool, handed_over: bool) -> str:
    """Why no other server can take over a device whose server has died; "" when one can. `noswap`: its arena is on a
    tmpfs that is never swapped out. `handed_over`: the driver lets another server have it."""
    if not TRANSPORTS[transport].is_disk:
        return "a local device ends with its server"
    if not noswap:
        return "its arena is not on a noswap tmpfs, which Linux has since 6.4"
    return "" if handed_over else "it was made without recovery, which ublk has since Linux 6.1"


DATA_MODE_WHY = {
    "user_copy": "requests of up to 128 KiB with the least memory",
    "driver_copy": "the kernel's ublk driver has no USER_COPY, which Linux has since 6.5",
}
"""Why a device has this data mode that was not asked for (docs/modes.md has what was measured)."""


@dataclass(frozen=True, slots=True)
class Age:
    """Pages of a device that have not been read or written for some time."""

    least_ns: int = 0
    """They have been idle for so long at least,"""
    most_ns: int = 0
    """and at most; 0: no limit is known."""
    pages: int = 0
    """How many they are. Same-filled pages have no age."""
    bytes: int = 0
    """What their objects take; those that pages share are not counted."""


class Tier(NamedTuple):
    """Pages of a device with an object that are stored in one way now."""

    name: str
    """"hot", as they were written; "dense", each with that codec; "cold", in groups; or "backing", on that file."""
    pages: int
    bytes: int
    """What their objects take: in memory, or on the file."""
    saved: int
    """By how many bytes less pages took when they came here, since the device was created. Of "hot": 0."""


class BackingState(NamedTuple):
    """What a device's backing file can be."""

    level: str
    """Of the log's line when it becomes so."""
    text: str
    """What that means."""


BACKING_STATES = {
    "none": BackingState("info", "no backing file"),
    "ready": BackingState("info", "ready"),
    "full": BackingState("warning", "full: nothing is written to it until there is room again"),
    "failed": BackingState(
        "error", "failed: nothing is written to it any more, what is there is read as far as possible"
    ),
    "missing": BackingState("error", "missing: pages on it cannot be read"),
}


PRESSURES = {"mem_limit": "used memory is near mem_limit", "memory": "processes wait for memory"}
"""Why a policy acts earlier."""


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device at one instant.

    ``kind`` is "truezram", "zram" for the kernel's own devices, or "zswap" for the kernel's zswap as if it were one
    (both read-only to us, fields that the kernel does not give are 0). ``state`` is "starting", "live", "stopping",
    "stopped", "failed", "dead" (its server is gone), "halted" (its server is stopped by SIGSTOP: reads and writes
    wait), "recovering" (its server is gone and the standby takes over: they wait, too), or "unreadable" (its
    statistics page is not one; ``last_error`` says why).
    """

    name: str
    path: str
    """``/dev/ublkb0``; for a local device ``local:0``, which has no node in /dev."""
    kind: str = "truezram"
    transport: str = "ublk"
    state: str = "live"
    pid: int = 0
    created: float = 0.0
    """CLOCK_REALTIME, seconds."""
    time: float = 0.0
    """CLOCK_MONOTONIC of this snapshot, seconds."""
    algorithm: str = ""
    isa: str = ""
    dictionary_size: int = 0
    """Bytes of the dictionary that zstd uses on this device; 0: it has none."""
    dictionary_id: int = 0
    dictionary_memory: int = 0
    """What it takes with its tables, in the server: not part of `mem_used_total`."""
    disksize: int = 0
    mem_limit: int = 0
    orig_data_size: int = 0
    compr_data_size: int = 0
    mem_used_total: int = 0
    mem_used_max: int = 0
    table_bytes: int = 0
    segment_bytes: int = 0
    """What segments with objects take, holes included."""
    object_bytes: int = 0
    """What objects take in them: the payload (``compr_data_size``), a head of 8 bytes, and rounding up to 16 bytes."""
    reserve_bytes: int = 0
    reserve_target: int = 0
    """What the reserve is kept at."""
    overhead_bytes: int = 0
    """What the allocator knows of segments and, with dedup, what finds duplicates, in the server's own memory; part of
    ``mem_used_total``."""
    same_pages: int = 0
    huge_pages: int = 0
    dedup: str = "off"
    """"on": identical pages share one object."""
    policy: str = "0:0:3:0"
    """`idle_dense`, `idle_cold`, `cpu_percent` and `idle_backing`, as the server takes them."""
    idle_dense: int = 0
    """Seconds for which pages have been idle that are written once more with `dense`; 0: none are."""
    idle_cold: int = 0
    """The same of those that are packed in groups."""
    cpu_percent: int = 3
    """Share of a core for these, and the next."""
    idle_backing: int = 0
    """Seconds for which pages have been idle that are written to the backing file, if there is one; 0: none are."""
    backing: str = "none"
    """The backing file as a user writes it: ``PATH``, ``plain:PATH`` for one that is not encrypted, or ``none``."""
    backing_path: str = ""
    """What the server writes to: that, or the mapping that encrypts it; empty: nothing."""
    backing_state: str = "none"
    """One of `BACKING_STATES`,"""
    backing_text: str = ""
    """and why, unless it is ready."""
    backing_limit: int = 0
    """Bytes of it that are used at most,"""
    backing_used: int = 0
    """and that are in use."""
    backing_daily: int = 0
    """Bytes that are written to it a day at most; 0: any,"""
    backing_rate: int = 0
    """and a second."""
    backing_day: int = 0
    """Days from 1970-01-01 (UTC) to the one to which belongs:"""
    backing_day_bytes: int = 0
    """what was written to it,"""
    backing_written: int = 0
    """and all that ever was."""
    backing_discarded: int = 0
    """Bytes of it that were given back."""
    mode: str = "balanced"
    """What its queues are to be good at: one of `settings.MODES`,"""
    mode_since_ns: int = 0
    """since then (CLOCK_MONOTONIC; 0: it has none),"""
    spin_before_ns: int = 0
    """and ``spin_ns`` of all queues at that time."""
    dup_pages: int = 0
    """Pages that share the object of another one: ``compr_data_size`` counts a shared object once."""
    pages_compacted: int = 0
    compact_done: int = 0
    """Ticket of the newest compaction on demand that is done."""
    compact_permille: int = 0
    """Progress of the one at work."""
    ages: tuple[Age, ...] = ()
    """Pages by age, the youngest first. They overlap: what is known is how old a page is at least, and at most."""
    ages_counted: int = 0
    """Ticket of the newest count asked for that is done."""
    ages_counted_ns: int = 0
    """When `ages` was counted, CLOCK_MONOTONIC; 0: not yet."""
    recompress_started: int = 0
    """Ticket of the newest recompression,"""
    recompress_done: int = 0
    """and of the newest that has ended,"""
    recompress_stopped: int = 0
    """1: because it was stopped."""
    recompress_permille: int = 0
    """Progress of the one at work."""
    dense_pages: int = 0
    """Pages that have been written once more with a denser codec since the device was created,"""
    dense_saved: int = 0
    """by how many bytes less they took then,"""
    dense_cpu_ns: int = 0
    """and what that took."""
    dense_no_room: int = 0
    """Pages that were left as they are, because there was no room for what is smaller: the device is at mem_limit."""
    dense_tried: int = 0
    """Bytes of the objects that this was tried with for the first time, those of pages that do not get smaller
    included."""
    dense_runs: int = 0
    """How often it was done with all of the device, by a policy or by hand."""
    cold_pages: int = 0
    """The same of pages that have been packed in groups."""
    cold_saved: int = 0
    cold_cpu_ns: int = 0
    cold_no_room: int = 0
    """Windows of 16 pages."""
    cold_tried: int = 0
    cold_runs: int = 0
    backing_pages: int = 0
    """The same of pages that have been written to the backing file."""
    backing_saved: int = 0
    backing_cpu_ns: int = 0
    backing_no_room: int = 0
    backing_tried: int = 0
    backing_runs: int = 0
    total: QueueSnapshot = field(default_factory=QueueSnapshot)
    queues: tuple[QueueSnapshot, ...] = ()
    queue_depth: int = 0
    nr_queues: int = 0
    pressure: str = ""
    """Why its policy acts earlier now: one of `PRESSURES`, or "" (it does not)."""
    pressures: int = 0
    """How often that has begun."""
    kind_pages: tuple[tuple[str, int], ...] = ()
    """(name from `codec.KINDS`, pages now stored that way), zeros left out."""
    kind_bytes: tuple[tuple[str, int], ...] = ()
    """The same with what their objects take."""
    size_pages: tuple[int, ...] = ()
    """65 bins of 64 bytes: pages now stored by object size."""
    memory_locked: bool = False
    noswap_tmpfs: bool = False
    io_flusher: bool = False
    data_mode: str = ""
    """How requests' data is moved: "user_copy" (by the server) or "driver_copy"; empty for what is not ublk."""
    data_asked: bool = False
    """Whether that was asked for."""
    recoverable: bool = False
    """Whether another server can take over when its server dies. Reads and writes wait until then."""
    standby: int = 0
    """Pid of the process that will; 0: there is none, and `truezram recover` does it."""
    recoveries: int = 0
    """How often that has happened."""
    slot_tracking: str = ""
    """Whether the kernel reports freed swap slots: "off" (not in use as swap), "on", "testing" or "unavailable"; empty
    for what is never swap."""
    slot_tracking_text: str = ""
    """On: by which function of the kernel. Otherwise why not."""
    swap_priority: int | None = None
    """Priority when in use as swap (from /proc/swaps), else None."""
    swap_used: int = 0
    mountpoints: tuple[str, ...] = ()
    last_error: str = ""
    last_error_time: float = 0.0
    server_cpu_ns: int = 0
    """User + system time of the server process."""

    @property
    def recovery(self) -> str:
        """ "on", or why not; empty for what has no server."""
        if self.kind != "truezram":
            return ""
        if self.recoverable:
            return "on"
        return f"off: {no_recovery(self.transport, self.noswap_tmpfs, self.recoverable)}"

    @property
    def data_mode_why(self) -> str:
        """Why it is that data mode; empty for what has none."""
        return "it was asked for" if self.data_asked else DATA_MODE_WHY.get(self.data_mode, "")

    @property
    def spin_share(self) -> float | None:
        """Share of a core that waiting awake has taken since the mode was set, 1.0 a whole one; None: not a thing of
        this device."""
        seconds = self.time - self.mode_since_ns / 1e9
        if not self.mode_since_ns or seconds <= 0:
            return None
        return max(0, self.total.spin_ns - self.spin_before_ns) / 1e9 / seconds

    @property
    def waits(self) -> bool:
        """Whether its server is gone and another one can take over: until then reads and writes wait."""
        return self.state == "recovering" or (self.state == "dead" and self.recoverable)

    @property
    def is_recompressing(self) -> bool:
        """Whether a recompression is at work."""
        return self.recompress_done < self.recompress_started

    @property
    def recompressed_pages(self) -> int:
        """Pages that have been written once more, in any way. Some of them twice: with a codec, then in a group."""
        return self.dense_pages + self.cold_pages

    @property
    def recompressed_saved(self) -> int:
        """By how many bytes less they took then."""
        return self.dense_saved + self.cold_saved

    @property
    def recompress_cpu_ns(self) -> int:
        """What that took."""
        return self.dense_cpu_ns + self.cold_cpu_ns

    @property
    def group_pages(self) -> int:
        """Pages that are in groups now."""
        return dict(self.kind_pages).get("cold", 0)

    @property
    def group_bytes(self) -> int:
        """What these groups take."""
        return dict(self.kind_bytes).get("cold", 0)

    @property
    def backed_pages(self) -> int:
        """Pages that are on the backing file now."""
        return dict(self.kind_pages).get("backing", 0)

    def backing_today(self, now: float) -> int:
        """Bytes written to the backing file on the day (UTC) of `now` (CLOCK_REALTIME, seconds)."""
        return self.backing_day_bytes if self.backing_day == int(now // 86400) else 0

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Where the pages are that have an object (nearly all but the same-filled ones). On a device that writes with
        `dense`, no page is hot; one without a backing file has no tier for it."""
        pages, sizes = dict(self.kind_pages), dict(self.kind_bytes)
        dense = Tier("dense", pages.get("dense", 0), sizes.get("dense", 0), self.dense_saved)
        cold = Tier("cold", self.group_pages, self.group_bytes, self.cold_saved)
        stored = self.orig_data_size // PAGE - self.same_pages
        hot = Tier(
            "hot",
            max(0, stored - dense.pages - cold.pages - self.backed_pages),
            max(0, self.object_bytes - dense.bytes - cold.bytes),
            0,
        )
        if self.backing_state == "none":
            return hot, dense, cold
        return hot, dense, cold, Tier("backing", self.backed_pages, self.backing_used, self.backing_saved)

    def idle_for(self, seconds: float) -> Age | None:
        """Pages that have been idle for so long at least, all their ages together, whose boundary may be a later one.
        None: that is not known, or such ages are not told apart."""
        old = [age for age in self.ages if age.least_ns >= seconds * 1e9]
        return Age(old[0].least_ns, 0, sum(age.pages for age in old), sum(age.bytes for age in old)) if old else None

    @property
    def ages_age(self) -> float:
        """Seconds since `ages` was counted."""
        return max(0.0, self.time - self.ages_counted_ns / 1e9)

    @property
    def ratio(self) -> float | None:
        """Uncompressed over resident bytes (``orig_data_size / mem_used_total``); None while nothing is stored."""
        return self.orig_data_size / self.mem_used_total if self.orig_data_size and self.mem_used_total else None

    @property
    def compression_ratio(self) -> float | None:
        """What the codec made of the pages that are not same-filled and not duplicates; None while there are none."""
        stored = self.orig_data_size - (self.same_pages + self.dup_pages) * PAGE
        return stored / self.compr_data_size if stored > 0 and self.compr_data_size else None

    @property
    def packing(self) -> float | None:
        """Bytes of memory for each byte that the codec left, everything counted but the reserve; 1 would be perfect.
        None while there are none."""
        used = self.mem_used_total - self.reserve_bytes
        return used / self.compr_data_size if self.kind == "truezram" and used > 0 and self.compr_data_size else None


class MemoryPart(NamedTuple):
    """A part of a device's ``mem_used_total``."""

    key: str
    """In JSON."""
    title: str
    about: str
    difference: Callable[[DeviceSnapshot], int]
    """Its bytes; below 0 for an instant, because what is subtracted was read at another one."""

    def of(self, device: DeviceSnapshot) -> int:
        """Its bytes, never below 0."""
        return max(0, self.difference(device))


MEMORY = (
    MemoryPart("compressed", "compressed", "Payload of the objects (compr_data_size).", lambda d: d.compr_data_size),
    MemoryPart(
        "rounding",
        "heads, rounding",
        "A head of 8 bytes with each object, and the way to the next multiple of 16.",
        lambda d: d.object_bytes - d.compr_data_size,
    ),
    MemoryPart(
        "holes",
        "holes",
        "Free room in segments that have objects. New objects go there first.",
        lambda d: d.segment_bytes - d.object_bytes,
    ),
    MemoryPart(
        "table",
        "page table",
        "8 bytes for each page of the disk, where 512 neighbours have any contents; head and directory.",
        lambda d: d.table_bytes,
    ),
    MemoryPart("reserve", "reserve", "Segments that are ready for the next writes.", lambda d: d.reserve_bytes),
    MemoryPart(
        "allocator",
        "allocator",
        "What is known of segments, and what finds duplicates, in the server's own memory.",
        lambda d: d.overhead_bytes,
    ),
)
"""What ``mem_used_total`` consists of, as `stat`, its JSON and the app's Device page show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapArea:
    """One line of /proc/swaps."""

    path: str
    type: str
    size: int
    used: int
    priority: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """PSI averages over 10 s in per cent, or None if the kernel has no PSI."""

    memory_some: float | None = None
    memory_full: float | None = None
    io_some: float | None = None
    cpu_some: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zswap:
    """The kernel's zswap, from /sys/module/zswap and debugfs where readable."""

    enabled: bool = False
    compressor: str = ""
    max_pool_percent: int = 0
    stored_pages: int | None = None
    pool_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MachineSnapshot:
    """The machine's memory as far as compressed memory is concerned."""

    time: float = 0.0
    mem_total: int = 0
    mem_available: int = 0
    swap_total: int = 0
    swap_free: int = 0
    swaps: tuple[SwapArea, ...] = ()
    pressure: Pressure = Pressure()
    zswap: Zswap = Zswap()
    swappiness: int | None = None
    page_cluster: int | None = None
    cpus: int = 1
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the app draws: the machine and every compressed device, at one instant."""

    machine: MachineSnapshot
    devices: tuple[DeviceSnapshot, ...] = ()
