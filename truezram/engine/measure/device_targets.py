"""What `benchmark device` puts its loads on: devices made for it, which it removes whatever ends it, or one that is
there already, which it only reads unless it is told that what is on it may be overwritten."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.algorithms import canonical
from truezram.engine.device import removal, swap
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.null import NullServer
from truezram.engine.device.settings import DEFAULT_DATA_MODE, parse_mode
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.machine import users
from truezram.engine.measure import zram_bench
from truezram.engine.measure.device_results import name_target
from truezram.engine.measure.store_bench import Pages
from truezram.engine.units import PAGE

OURS, ZRAM, NULL, NULLBLK = "truezram", "zram", "null", "nullblk"
CONFIGFS = Path("/sys/kernel/config")
NULLBLK_QUEUE_DEPTH = 64
MAX_PLACES = (1 << 32) - 2
"""Pages of a device that is there already, of which all is read."""
_WHAT = "cannot measure"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A target that was asked for."""

    kind: str
    """One of the four above, or the path of a device."""
    algorithm: str | None = None
    queues: int | None = None
    """None: as many as it has by default."""
    mode: str | None = None
    """How its server waits for requests, of a device of ours; None: it has no such setting."""
    data_mode: str | None = None
    """How its requests' data is moved, of a device of ours and null; None: as by default."""


class Target:
    """An open device."""

    def __init__(
        self,
        wanted: Wanted,
        path: str,
        descriptor: int,
        holds: int,
        pages: Pages,
        source: Any,
        places: int,
        pid: int | None = None,
        writable: bool = True,
        queue_depth: int = 0,
    ) -> None:
        self.wanted = wanted
        self.path = path
        self.pid = pid
        self.places = places
        self.writable = writable
        self.queue_depth = queue_depth
        self.queues = _queues(path)
        self.keeps = holds == lib.TZ_DISK_HOLDS_PAGES
        """Whether reads return what was written: what can be filled, and be swap."""
        self.disk = lib.tz_disk_open(descriptor, holds, source, pages.count, places)
        if self.disk == ffi.NULL:
            raise Failed(_WHAT, f"no memory for what is on {path}", "Choose a smaller --size")

    @property
    def algorithm(self) -> str | None:
        return self.wanted.algorithm

    @property
    def mode(self) -> str | None:
        return self.wanted.mode

    @property
    def name(self) -> str:
        """For a person."""
        return name_target(self.wanted.kind, self.algorithm, self.mode, self.wanted.data_mode, self.queues)

    def close(self) -> None:
        lib.tz_disk_close(self.disk)

    def server_ns(self) -> int | None:
        """CPU time that its server has had; None: it has none."""
        return None if self.pid is None else process_cpu_ns(self.pid)


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, in ns. Raises `Failed` if it is gone."""
    try:
        # clock_getcpuclockid(3): the scheduler's clock of a process.
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError as error:
        raise Failed(_WHAT, f"the device's server (pid {pid}) is gone", "See the kernel log (dmesg)") from error


def _queues(path: str) -> int | None:
    """Hardware queues of a block device; None of one that is not multi-queue, as zram."""
    folder = Path("/sys/block") / Path(path).name / "mq"
    return len(list(folder.iterdir())) if folder.is_dir() else None


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"cannot open {path}", error.strerror or str(error)) from error


@contextlib.contextmanager
def _ours(wanted: Wanted, size: int, queue_depth: int) -> Iterator[tuple[str, int, int]]:
    """A device of ours: its path, its server's pid, and its queues' depth. It is removed afterwards."""
    entry: Entry | None = None
    options = CreateOptions(
        size,
        wanted.algorithm,
        queues=wanted.queues,
        queue_depth=queue_depth or None,
        mode=wanted.mode,
        data_mode=wanted.data_mode,
        policy="off",
    )
    with zram_bench.ended_in_order():
        try:
            with zram_bench.undisturbed():
                entry = create(options).entry
            with Client([entry.directory]) as client:
                device = client.device(entry)
            yield entry.path, device.pid, device.queue_depth
        finally:
            if entry is not None:
                with zram_bench.undisturbed():
                    removal.remove_entry(entry)


@contextlib.contextmanager
def _null(size: int, queues: int | None, queue_depth: int, data_mode: str) -> Iterator[tuple[str, int]]:
    """A device without a store: its path and its server's pid. It is removed afterwards."""
    server: NullServer | None = None
    with zram_bench.ended_in_order():
        try:
            with zram_bench.undisturbed():
                server = NullServer(size, queues, queue_depth, data_mode)
            swap.node_ready(server.device.path)
            yield server.device.path, server.device.pid
        finally:
            if server is not None:
                with zram_bench.undisturbed():
                    server.close()


# ---- null_blk ----


def _nullblk_folder() -> Path:
    """Where the kernel's null devices are made; loads the module if it is missing. Raises `Unsupported`."""
    what = "cannot measure against nullblk"
    folder = CONFIGFS / "nullb"
    if not folder.is_dir():
        said = ""
        if not Path("/sys/module/null_blk").is_dir():
            try:
                command = [swap.tool("modprobe", otherwise="leave nullblk out"), "null_blk", "nr_devices=0"]
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
                said = done.stderr.decode(errors="replace").strip()
            except (Unsupported, subprocess.TimeoutExpired) as error:
                said = str(error)
        if not folder.is_dir():
            if said:
                raise Unsupported(what, f"its module null_blk cannot be loaded: {said}", "Leave nullblk out")
            why = f"there is no {folder} to make its device in"
            raise Unsupported(what, why, f"Run: mount -t configfs none {CONFIGFS}. Or leave nullblk out")
    return folder


def _remove_nullblk(made: Path) -> None:
    with contextlib.suppress(OSError):
        (made / "power").write_text("0")
    try:
        made.rmdir()
    except OSError as error:
        what = f"cannot remove {made}, made for the measurement"
        raise Failed(what, error.strerror or "", f"Run: echo 0 >{made}/power; rmdir {made}") from error


@contextlib.contextmanager
def _nullblk(size: int, queues: int) -> Iterator[str]:
    """A null device of the kernel's: its path. It is removed afterwards."""
    made = _nullblk_folder() / f"nullb-truezram{os.getpid()}"
    settings = {
        "size": max(1, size >> 20), "blocksize": PAGE, "submit_queues": queues, "hw_queue_depth": NULLBLK_QUEUE_DEPTH,
        "memory_backed": 0, "poll_queues": 0, "power": 1,
    }  # fmt: skip
    with zram_bench.ended_in_order():
        try:
            with zram_bench.undisturbed():
                made.mkdir()
                for name, value in settings.items():
                    if (made / name).exists():  # poll_queues: 5.15
                        (made / name).write_text(str(value))
            # Newer kernels name the disk after its folder.
            named = Path("/sys/block", made.name).exists()
            name = made.name if named else f"nullb{(made / 'index').read_text().strip()}"
            swap.node_ready(f"/dev/{name}")
            yield f"/dev/{name}"
        except OSError as error:
            raise Failed("cannot measure against nullblk", f"the kernel did not make its device: {error}") from error
        finally:
            if made.is_dir():
                with zram_bench.undisturbed():
                    _remove_nullblk(made)


# ---- a device that is there ----


def _existing(path: str, destructive: bool) -> tuple[int, int]:
    """Opens it: (descriptor, bytes). To write only if nothing else uses it. Raises `NotFound`, `UsageError`, `Busy`,
    `PermissionDenied`."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (a path as it was given)
    except OSError as error:
        raise NotFound(f"cannot measure {path}", error.strerror or str(error)) from error
    if not stat.S_ISBLK(mode):
        raise UsageError(f"cannot measure {path}", "it is not a block device", "Give the path of one, as /dev/ublkb0")
    flags = os.O_RDWR | os.O_EXCL if destructive else os.O_RDONLY
    try:
        descriptor = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermissionDenied(f"cannot measure {path}", error.strerror or "", "Run it with sudo") from error
    except OSError as error:
        name = Path(os.path.realpath(path)).name
        by = ", ".join(user.text for user in users.users(name)) if destructive else ""
        raise Busy(f"cannot measure {path}", by or error.strerror or str(error), "See truezram stat") from error
    return descriptor, os.lseek(descriptor, 0, os.SEEK_END)


# ---- all of them ----


@contextlib.contextmanager
def opened(
    wanted: Wanted, pages: Pages, size: int, queue_depth: int, like: Target | None, destructive: bool = False
) -> Iterator[Target]:
    """A target of `size` bytes. What is made for it is removed afterwards. `queue_depth`: at least so many requests at
    a time, 0: as it has by default; `like`: of ours, which null has as many queues as, of the same depth."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(ffi.from_buffer("uint8_t[]", pages.data))
        places = size // PAGE
        keeps, pid, depth, writable = lib.TZ_DISK_HOLDS_PAGES, None, queue_depth, True
        queues = wanted.queues or (like.queues if like else None)
        if wanted.kind == OURS:
            path, pid, depth = stack.enter_context(_ours(wanted, size, queue_depth))
        elif wanted.kind == ZRAM:
            assert wanted.algorithm is not None
            folder, descriptor = stack.enter_context(zram_bench.device(wanted.algorithm, size))
            path = f"/dev/{Path(folder).name}"
        elif wanted.kind == NULL:
            depth = (like.queue_depth if like else 0) or max(queue_depth, 64)
            path, pid = stack.enter_context(_null(size, queues, depth, wanted.data_mode or DEFAULT_DATA_MODE))
            keeps = lib.TZ_DISK_HOLDS_ZEROS
        elif wanted.kind == NULLBLK:
            path = stack.enter_context(_nullblk(size, queues or 1))
            keeps = lib.TZ_DISK_HOLDS_UNKNOWN
        else:
            path, writable = wanted.kind, destructive
            descriptor, length = _existing(path, destructive)
            stack.callback(os.close, descriptor)
            places = min(length // PAGE, places if destructive else MAX_PLACES)
            keeps = lib.TZ_DISK_HOLDS_PAGES if destructive else lib.TZ_DISK_HOLDS_UNKNOWN
        if wanted.kind in (OURS, NULL, NULLBLK):
            descriptor = _open(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
        target = Target(wanted, path, descriptor, keeps, pages, source, places, pid, writable, depth)
        stack.callback(target.close)
        yield target


def parse_against(text: str) -> Wanted:
    """One word of `--against`. Raises `UsageError`."""
    kind, colon, name = text.partition(":")
    if kind == ZRAM:
        return Wanted(ZRAM, name if colon else "lz4")
    if kind in (NULL, NULLBLK) and not colon:
        return Wanted(kind)
    why = f"{text[:40]!r} is not zram[:COMPRESSOR], null or nullblk"
    raise UsageError("invalid baseline", why, "Write zram:lz4,null for example, or none")


def why_not(wanted: Wanted) -> TruezramError | None:
    """Why a baseline cannot be measured here."""
    try:
        if wanted.kind == ZRAM and wanted.algorithm is not None:
            zram_bench.check([wanted.algorithm])
        elif wanted.kind == NULLBLK:
            _nullblk_folder()
    except TruezramError as error:
        return error
    return None


def ours(text: str, queues: int | None, mode: str, data_mode: str | None = None) -> Wanted:
    """A device of ours with that algorithm, in these modes. Raises `UsageError`."""
    return Wanted(OURS, canonical(text), queues, parse_mode(mode), data_mode)
