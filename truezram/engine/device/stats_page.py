"""A device's statistics page (stats.h): mapped once, read any number of times, turned into a `DeviceSnapshot`.

Reading costs one stat and two clock reads, no other system call, and does not wake the server. The file is not trusted:
everything is checked in C (stats.c) before it is used.
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from truezram._native import ffi, lib
from truezram.codec import ISAS, KINDS
from truezram.engine.device.control import printable
from truezram.engine.machine.mappings import describe
from truezram.engine.model import Age, DeviceSnapshot, QueueSnapshot
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import PAGE

RETRIES = 5
"""Reads (of some 15 ms each) of a page that keeps changing before its last copy is taken."""
MAX_FILE = 16 << 20
"""No statistics page is larger; a larger file is not mapped."""


def _names(enum: str, prefix: str = "") -> tuple[str, ...]:
    """The names of a C enum that counts from 0: ``TZ_STATE_LIVE`` is "live". `prefix`: unless it is the enum's name."""
    elements, prefix = ffi.typeof(f"enum {enum}").elements, prefix or f"{enum.upper()}_"
    return tuple(elements[value].removeprefix(prefix).lower() for value in range(len(elements)))


STATES = _names("tz_state")
TRANSPORT_NAMES = _names("tz_transport")
SLOT_TRACKING = _names("tz_slot_tracking")
MODES = tuple(name.replace("_", "-") for name in _names("tz_mode"))
BACKING_STATES = _names("tz_backing_state", "TZ_BACKING_")
PRESSURES = ("", *_names("tz_pressure")[1:])


class Unreadable(Exception):
    """The file is not a statistics page; the message says why."""


_QUEUE = "struct tz_queue_stats"
_WORDS = ffi.sizeof(_QUEUE) // 8


def _word(name: str) -> int:
    offset: int = ffi.offsetof(_QUEUE, name)
    return offset // 8


_MEMBERS = {name: field.type for name, field in ffi.typeof("struct tz_stats").fields}
_NUMBERS = tuple(
    f.name
    for f in fields(DeviceSnapshot)
    if f.type == "int" and f.name in _MEMBERS and _MEMBERS[f.name].kind == "primitive"
)
"""Fields of the head that a snapshot has under the same name: as a rule those need no line here."""
_COUNTERS = tuple(f.name for f in fields(QueueSnapshot) if f.name not in ("read_lat", "write_lat", "cpu", "tid"))
_pick = itemgetter(*(_word(name) for name in _COUNTERS))
_READ_LAT = slice(_word("read_lat"), _word("read_lat") + lib.TZ_LAT_BINS)
_WRITE_LAT = slice(_word("write_lat"), _word("write_lat") + lib.TZ_LAT_BINS)
_KIND_PAGES = slice(_word("kind_pages_now"), _word("kind_pages_now") + lib.TZ_KINDS)
_KIND_BYTES = slice(_word("kind_bytes_now"), _word("kind_bytes_now") + lib.TZ_KINDS_COUNTED)
_SIZE_PAGES = slice(_word("size_pages_now"), _word("size_pages_now") + lib.TZ_SIZE_BINS)
_PAGES_NOW = _word("pages_now")
_COMPR_NOW = _word("compr_bytes_now")
_OBJECTS_NOW = _word("object_bytes_now")
_DUP_NOW = _word("dup_pages_now")
_KIND_SAME = (lib.TZ_KIND_SAME_WORD, lib.TZ_KIND_SAME_U32, lib.TZ_KIND_SAME_U64)
_NO_CPU = 0xFFFFFFFF


def process_state(pid: int) -> tuple[str, int]:
    """(state letter, start time in clock ticks) of a process from /proc/PID/stat; ("", 0) when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (a quarter of the cost of Path, 30 times a second)
            # The name in brackets may hold anything, brackets too.
            rest = file.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return rest[0].decode(), int(rest[19])


def is_running(pid: int, start: int) -> bool:
    """Whether the process `pid` that started at `start` (clock ticks) still runs; a zombie does not."""
    return _runs(*process_state(pid), start)


def _runs(state: str, started: int, start: int) -> bool:
    return bool(state) and state not in "ZX" and started == start


def cpu_ns(pid: int) -> int:
    """User and system time of a process in ns; 0 when it is gone."""
    try:
        # The process's CPU clock, as clock_getcpuclockid(3) makes it; /proc/PID/stat has it in steps of 10 ms only.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


class StatsView:
    """A statistics page in memory."""

    def __init__(self, buffer: Any, size: int) -> None:
        """`buffer`: cffi's pointer to `size` bytes, which are there as long as this."""
        self._buffer = buffer
        self._size = size
        self._sum = ffi.new("struct tz_stats_sum *")
        self._queue = ffi.new("struct tz_queue_stats *")
        self._why = ffi.new("const char **")
        self._backing_path, self._backing_name = "", describe("")

    def is_whole(self) -> bool:
        """Whether all of it is there to be read."""
        return True

    def read(self) -> Any:
        """The head (``struct tz_stats``) and the sum over the queues, valid until the next read. Raises
        `Unreadable`."""
        self._settle(lambda: lib.tz_stats_read(self._buffer, self._size, self._sum, self._why))
        return self._sum

    def _settle(self, read: Callable[[], int]) -> None:
        """Reads until the copy is of one instant, with limited retries. Raises `Unreadable`."""
        for _ in range(RETRIES):
            if not self.is_whole():
                raise Unreadable("its statistics file was cut short")
            result = read()
            if result == -1:
                raise Unreadable(ffi.string(self._why[0]).decode())
            # It kept changing. On a busy machine the writer may have lost its CPU in the middle of an update: again.
            # What a server killed there leaves never settles: the last copy is the best there is.
            head = self._sum.head
            if result == 0 or not is_running(head.pid, head.pid_start):
                return
            time.sleep(0.005)

    def describe(
        self, swap: tuple[int, int] | None = None, mountpoints: tuple[str, ...] = (), queues: bool = True
    ) -> DeviceSnapshot:
        """What it says of its device now. `swap` is its (priority, bytes used) in /proc/swaps. Raises `Unreadable`."""
        head = self.read().head
        name = printable(ffi.string(head.name))
        words = _words(self._sum.total)
        process, started = process_state(head.pid)
        running = _runs(process, started, head.pid_start)
        state = STATES[head.state] if head.state < len(STATES) else "failed"
        if state == "live" and process == "T":
            state = "halted"
        transport = TRANSPORT_NAMES[head.transport] if head.transport < len(TRANSPORT_NAMES) else "local"
        total = _queue_snapshot(words, None, None)
        kind_pages = words[_KIND_PAGES]
        return DeviceSnapshot(
            **{field: getattr(head, field) for field in _NUMBERS},
            name=name,
            path=TRANSPORTS[transport].path(head.id),
            transport=transport,
            state=state if running else _state_of_dead(head),
            created=head.created_ns / 1e9,
            time=time.monotonic(),
            algorithm=printable(ffi.string(head.algorithm)),
            isa=ISAS[head.isa] if head.isa < len(ISAS) else "",
            # Queues are copied one after the other, so for an instant a page may be counted by neither: never below 0.
            orig_data_size=max(0, words[_PAGES_NOW]) * PAGE,
            compr_data_size=max(0, words[_COMPR_NOW]),
            object_bytes=max(0, words[_OBJECTS_NOW]),
            same_pages=max(0, sum(kind_pages[kind] for kind in _KIND_SAME)),
            dedup="on" if head.dedup else "off",
            mode=MODES[head.mode] if head.mode < len(MODES) else "balanced",
            policy=f"{head.idle_dense}:{head.idle_cold}:{head.cpu_percent}:{head.idle_backing}",
            **self._backing(head),
            dup_pages=max(0, words[_DUP_NOW]),
            ages=_ages(head),
            **_steps(head),
            pressure=PRESSURES[head.pressure] if head.pressure < len(PRESSURES) else "",
            huge_pages=max(0, kind_pages[lib.TZ_KIND_RAW]),
            total=total,
            queues=self._queues(head.nr_queues, total) if queues else (),
            kind_pages=_kinds(kind_pages),
            kind_bytes=_kinds(words[_KIND_BYTES]),
            size_pages=tuple(words[_SIZE_PAGES]),
            memory_locked=bool(head.flags & lib.TZ_FLAG_MEMORY_LOCKED),
            noswap_tmpfs=bool(head.flags & lib.TZ_FLAG_NOSWAP_TMPFS),
            recoverable=bool(head.flags & lib.TZ_FLAG_RECOVERABLE),
            data_mode=_data_mode(head, transport),
            data_asked=bool(head.flags & lib.TZ_FLAG_DATA_ASKED),
            io_flusher=bool(head.flags & lib.TZ_FLAG_IO_FLUSHER),
            slot_tracking=_slot_tracking(head, transport),
            slot_tracking_text=printable(ffi.string(head.slot_tracking_text)),
            swap_priority=swap[0] if swap else None,
            swap_used=swap[1] if swap else 0,
            mountpoints=mountpoints,
            last_error=printable(ffi.string(head.last_error)),
            last_error_time=head.last_error_ns / 1e9,
            server_cpu_ns=cpu_ns(head.pid) if running else 0,
        )

    def _backing(self, head: Any) -> dict[str, Any]:
        path = printable(ffi.string(head.backing_path))
        if path != self._backing_path:
            # What is behind a mapping stays the same, and is not to be found once it is gone.
            self._backing_path, self._backing_name = path, describe(path)
        state = BACKING_STATES[head.backing_state] if head.backing_state < len(BACKING_STATES) else "failed"
        return {
            "backing": self._backing_name,
            "backing_path": path,
            "backing_state": state,
            "backing_text": printable(ffi.string(head.backing_text)),
        }

    def _queues(self, count: int, total: QueueSnapshot) -> tuple[QueueSnapshot, ...]:
        out = []
        for index in range(count):
            queue, why = self._queue, self._why
            self._settle(partial(lib.tz_stats_read_queue, self._buffer, self._size, index, queue, why))
            cpu = None if queue.cpu == _NO_CPU else queue.cpu
            out.append(_queue_snapshot(_words(queue[0]), cpu, queue.tid or None))
        return tuple(out)


class StatsPage(StatsView):
    """One mapped statistics file."""

    def __init__(self, path: Path) -> None:
        """Maps it. Raises `Unreadable`."""
        self.path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Unreadable(f"cannot open its statistics page: {error.strerror}") from None
        self._file = fd
        try:
            info = os.fstat(fd)
            if info.st_uid != os.stat(path.parent).st_uid:  # noqa: PTH116
                raise Unreadable("its statistics file does not belong to the owner of the registry")
            if not stat.S_ISREG(info.st_mode) or not ffi.sizeof("struct tz_stats") <= info.st_size <= MAX_FILE:
                raise Unreadable(f"its statistics file is not a statistics page ({info.st_size} bytes)")
            self._identity = (info.st_dev, info.st_ino, info.st_size)
            self._map = mmap.mmap(fd, info.st_size, prot=mmap.PROT_READ)
        except BaseException as error:
            os.close(fd)
            if not isinstance(error, OSError):
                raise
            raise Unreadable(f"cannot map its statistics page: {error.strerror}") from None
        super().__init__(ffi.from_buffer(self._map), len(self._map))
        self._dead: DeviceSnapshot | None = None
        self._dead_server = (0, 0)

    def close(self) -> None:
        """Unmaps it."""
        ffi.release(self._buffer)
        self._map.close()
        os.close(self._file)

    def is_current(self) -> bool:
        """Whether the path still names the file that is mapped, in its whole length."""
        try:
            info = os.stat(self.path)  # noqa: PTH116 (as above)
        except OSError:
            return False
        return (info.st_dev, info.st_ino, info.st_size) == self._identity

    def is_whole(self) -> bool:
        """Reading behind the end of a file that was cut short ends the process (SIGBUS). Only the folder's owner can do
        that; in the microsecond after this check too, which cannot be prevented."""
        return os.fstat(self._file).st_size >= self._size

    def snapshot(
        self, swap: tuple[int, int] | None = None, mountpoints: tuple[str, ...] = (), queues: bool = True
    ) -> DeviceSnapshot:
        """The device now. `swap` is its (priority, bytes used) in /proc/swaps. Raises `Unreadable`."""
        if self._dead is not None and self._server() == self._dead_server:
            # It is no longer written to, and reading what a killed server left half-written takes long.
            return replace(
                self._dead,
                time=time.monotonic(),
                swap_priority=swap[0] if swap else None,
                swap_used=swap[1] if swap else 0,
                mountpoints=mountpoints,
            )
        device = self.describe(swap, mountpoints, queues)
        if device.name != self.path.stem:
            raise Unreadable(f"its statistics page belongs to {device.name!r}")
        head = self._sum.head
        self._dead = device if device.state == "dead" and queues else None
        self._dead_server = (head.pid, head.pid_start)
        return device

    def _server(self) -> tuple[int, int]:
        """(pid, start) of the server, which another one may have followed."""
        head = ffi.cast("struct tz_stats *", self._buffer)
        return (head.pid, head.pid_start) if self.is_whole() else (0, 0)


def _state_of_dead(head: Any) -> str:
    """The standby may be taking over: it becomes the server, and says so here."""
    state, _ = process_state(head.standby) if head.standby else ("", 0)
    return "recovering" if head.flags & lib.TZ_FLAG_RECOVERABLE and state and state not in "ZX" else "dead"


def _data_mode(head: Any, transport: str) -> str:
    if transport != "ublk":
        return ""
    return "user_copy" if head.flags & lib.TZ_FLAG_USER_COPY else "driver_copy"


def _slot_tracking(head: Any, transport: str) -> str:
    if transport != "ublk":
        return ""
    return SLOT_TRACKING[head.slot_tracking] if head.slot_tracking < len(SLOT_TRACKING) else "unavailable"


def _ages(head: Any) -> tuple[Age, ...]:
    if not head.ages_counted_ns:
        return ()
    columns = (head.age_least_ns, head.age_most_ns, head.age_pages, head.age_bytes)
    return tuple(Age(*(int(column[age]) for column in columns)) for age in range(lib.TZ_AGES))


STEP_COUNTERS = tuple(name for name, _ in ffi.typeof("struct tz_step_stats").fields)


def _steps(head: Any) -> dict[str, Any]:
    """``cold.pages`` as ``cold_pages``."""
    steps = {"dense": head.dense, "cold": head.cold, "backing": head.backing}
    return {f"{name}_{key}": getattr(step, key) for name, step in steps.items() for key in STEP_COUNTERS}


def _words(queue: Any) -> list[int]:
    words: list[int] = ffi.unpack(ffi.cast("int64_t *", ffi.addressof(queue)), _WORDS)
    return words


def _queue_snapshot(words: list[int], cpu: int | None, tid: int | None) -> QueueSnapshot:
    counters = _pick(words)
    return QueueSnapshot(  # type: ignore[misc]  # (mypy takes the star for any number of arguments)
        *counters, read_lat=tuple(words[_READ_LAT]), write_lat=tuple(words[_WRITE_LAT]), cpu=cpu, tid=tid
    )


def _kinds(counts: list[int]) -> tuple[tuple[str, int], ...]:
    """Pages or bytes by the name of their kind, the three same-filled encodings as one, zeros left out."""
    out: dict[str, int] = {}
    for kind, count in enumerate(counts):
        if count:
            name = KINDS[kind] if kind < len(KINDS) else f"kind{kind}"
            out[name] = out.get(name, 0) + count
    return tuple((name, count) for name, count in out.items() if count > 0)


class Head(NamedTuple):
    """What the head of a statistics page says of its server and its device."""

    pid: int
    pid_start: int
    """When that process started, in clock ticks."""
    disksize: int
    standby: int
    """Pid of the process that takes over when the server dies; 0: none."""
    recoverable: bool


class Identity(NamedTuple):
    """Whose statistics page it is, whatever version of truezram wrote it."""

    pid: int
    pid_start: int
    server_version: str


def read_identity(path: Path) -> Identity | None:
    """From the beginning of a statistics page, which is the same in every version. None: it is not there, or not
    one."""
    size = ffi.offsetof("struct tz_stats", "seq")
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(size)
    except OSError:
        return None
    head = ffi.new("struct tz_stats *")
    if len(data) != size:
        return None
    ffi.memmove(head, data, size)
    if head.magic != lib.TZ_STATS_MAGIC:
        return None
    return Identity(head.pid, head.pid_start, printable(ffi.string(head.server_version)))


def read_head(path: Path) -> Head | None:
    """The head of one statistics page, read once; None when there is no page or it cannot be read."""
    try:
        page = StatsPage(path)
    except Unreadable:
        return None
    try:
        head = page.read().head
        return Head(
            pid=int(head.pid),
            pid_start=int(head.pid_start),
            disksize=int(head.disksize),
            standby=int(head.standby),
            recoverable=bool(head.flags & lib.TZ_FLAG_RECOVERABLE),
        )
    except Unreadable:
        return None
    finally:
        page.close()
