"""What the app needs of the engine, and nothing else: the `Engine` protocol, and the values that are smaller than the
engine's own. All others are the engine's (engine/answers.py, engine/model.py, engine/options.py).

The app uses one `Engine` and never touches a device. The real one wraps truezram.engine (real.py),
`replay.Replay` plays a recording, tests have a fake. Every method may block, so only the reader thread and workers
(jobs.py) call them; every one raises `TruezramError`, or `Cancelled` from inside `Progress`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from truezram.engine.answers import (
    Algorithm,
    AlgorithmEstimate,
    ArenaCheck,
    Change,
    Check,
    PageMap,
    Recompressed,
    Scope,
    Tunable,
    WrittenBack,
)
from truezram.engine.device.options import CreateOptions, RecompressOptions, WritebackOptions
from truezram.engine.model import Snapshot

if TYPE_CHECKING:
    from truezram.engine.device.events import Event
    from truezram.engine.device.reset import Emptied
    from truezram.engine.device.setup import Plan


class Cancelled(Exception):
    """The user cancelled a call; raised inside the engine by `Progress`."""


class Progress:
    """How a call reports its progress, and learns that it was cancelled.

    ``progress(fraction, text)``: fraction 0…1, or None if unknown; text describes the current step. `partial` is a
    result that is ready before the rest. Raises `Cancelled` when the user cancelled.
    """

    def __init__(self, report: Callable[[float | None, str, object], None] | None = None) -> None:
        self._report = report
        self._cancelled = threading.Event()

    def __call__(self, fraction: float | None, text: str, partial: object = None) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        if self._report:
            self._report(fraction, text, partial)

    def cancel(self) -> None:
        """Makes the next report raise `Cancelled`. From any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be done on this machine by this user."""

    ublk: bool = True
    ublk_why: str = ""
    """Why not, and the remedy, in one line."""
    nbd: bool = False
    """Whether disks can be made by the kernel's nbd driver."""
    root: bool = True
    algorithms: tuple[Algorithm, ...] = (
        Algorithm("lz4"),
        Algorithm("zstd", level_min=-7, level_max=19, level_default=3),
    )
    persist_why: str = ""
    """Why devices cannot be enabled to come back after a restart; empty when they can."""
    recovery_why: str = ""
    """Why a block device would not outlive its server; empty when it would."""
    max_queues: int = 64
    filesystems: tuple[str, ...] = ("ext4",)
    """Those that can be made."""
    replay: str = ""
    """Set for recorded figures: where they come from."""


PATH = "path"
"""The kind of a scope that is a file, a folder with all below it, or a block device; its value is the path."""


@dataclass(frozen=True, slots=True)
class ProcessEstimate:
    """One process, user or cgroup (pid 0), or the total."""

    pid: int
    command: str
    user: str
    bytes: int
    """Memory that could be swapped (present anonymous pages)."""
    sampled: int
    same_filled: float
    """Share of same-filled pages, 0…1."""
    algorithms: tuple[AlgorithmEstimate, ...] = ()
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer to "what would my memory compress to", or, with a path as scope, files; their number is that of
    `total.processes`."""

    scope: Scope
    by: str
    """What a line is: "process", "user" or "cgroup"."""
    total: ProcessEstimate
    processes: tuple[ProcessEstimate, ...] = ()
    skipped: int = 0
    """Processes, or files, that could not be read."""
    skipped_why: str = ""
    seconds: float = 0.0
    complete: bool = True
    pages: int = 0
    """Of files, 4096 bytes each."""
    entropy: float | None = None
    """Of files: bits per byte of a coder that writes each byte by itself."""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One codec on one set of pages. Speeds in bytes of pages per second, same-filled pages left out."""

    codec: str
    corpus: str
    ratio: float
    compress_rate: float
    decompress_rate: float
    ours: bool = True
    """False for a baseline: liblz4, libzstd, kernel zram."""


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One algorithm in a store of ours or on a zram device. Speeds in bytes of pages per second; 0: not known (yet)."""

    implementation: str
    """`truezram` or `zram`."""
    algorithm: str
    threads: int
    ratio: float
    """Bytes of pages over all memory taken for them."""
    ratio_over: float = 0.0
    """Times that of the zram that it is compared with."""
    packed: float = 0.0
    """All memory taken over the bytes of objects."""
    packed_overwritten: float = 0.0
    """The same after ten times as many overwrites."""
    packed_discarded: float = 0.0
    """The same after most was discarded."""
    discarded_seconds: float = 0.0
    """When that was measured."""
    write_rate: float = 0.0
    read_rate: float = 0.0
    write_over: float = 0.0
    read_over: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device under one load of 4 KiB requests. 0: not known, or it has none. Times in ns."""

    target: str
    """`truezram`, `zram` or `null`."""
    algorithm: str
    queues: int
    workload: str
    depth: int
    rate: float
    """Requests a second."""
    p50: int
    p99: int
    p999: int
    cpu_ns: int
    """CPU time of a request, the server's included."""
    over_null: float = 0.0
    over_zram: float = 0.0
    """Times as many requests a second as that device under the same load."""
    mode: str = ""
    """Of a device of ours. (Runs that were kept before this was measured have none.)"""


@dataclass(frozen=True, slots=True)
class TiersRow:
    """A device whose pages are in some tier, or one of the kernel's. Times in ns; 0: not known, or it has none."""

    implementation: str
    """`truezram` or `zram`."""
    algorithm: str
    scenario: str
    """`hot`, `dense`, `cold`: all pages are; `mix`; empty: it has no tiers."""
    used: int
    """Bytes of memory, all that the device takes."""
    ratio: float
    used_over: float = 0.0
    """Times that of the first of the kernel's."""
    policy_ns: int = 0
    """CPU time of the policy for each page of the device."""
    hot_p50: int = 0
    hot_p99: int = 0
    dense_p50: int = 0
    dense_p99: int = 0
    cold_p50: int = 0
    cold_p99: int = 0
    """Reads of single pages of each tier."""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One run of the benchmark: of the codecs, of the store, of devices, or of tiers."""

    time: float
    machine: str
    seconds: float
    rows: tuple[BenchRow, ...] = ()
    notes: tuple[str, ...] = ()
    store: tuple[StoreRow, ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    tiers: tuple[TiersRow, ...] = ()


class Engine(Protocol):
    """The engine as the app sees it. All methods block; all but `snapshot` are called on a worker with a timeout."""

    def capabilities(self) -> Capabilities:
        """What can be done here. Read once at the start and again when the doctor runs."""

    def snapshot(self) -> Snapshot:
        """The machine and every compressed device, now."""

    def missed(self, known: Sequence[Event]) -> tuple[Event, ...]:
        """What the servers of the devices have logged and is not among the known events, oldest first: what happened
        while nobody watched. Read once at the start."""

    def create(self, options: CreateOptions, progress: Progress) -> str:
        """Creates a device, which is ready when this returns; its name."""

    def setup_plan(self, ratio: float | None) -> Plan:
        """What this machine should have; `ratio`: what its memory compresses to, if that was measured."""

    def set_up(self, plan: Plan, progress: Progress) -> tuple[str, ...]:
        """Does it; what was done, a line each."""

    def remove(self, name: str, force: bool, progress: Progress) -> None:
        """Swapoff first, with progress; raises `Busy` naming the holder unless `force`."""

    def reset(self, name: str, progress: Progress) -> Emptied:
        """Discards everything on a device, which stays; raises `Busy` naming who uses it. Cancelled, part of it may be
        empty."""

    def recover(self, name: str, progress: Progress) -> bool:
        """Has another server take over a device whose server is dead. False: it has one."""

    def upgrade(self, name: str, progress: Progress) -> str:
        """Has the installed server take over from the one that runs: "0.5.0 → 0.6.0"; "" if that is it already."""

    def page_map(self, name: str, first: int, pages: int, regions: int, by: str = "kind") -> PageMap:
        """Counts of kinds, or `by` "age" of ages, in up to 256 equal regions of a range of pages."""

    def recompress(self, name: str, options: RecompressOptions, progress: Progress) -> Recompressed:
        """Compresses idle pages once more. Goes on in the server when cancelled."""

    def write_back(self, name: str, options: WritebackOptions, progress: Progress) -> WrittenBack:
        """Writes idle pages to the backing file, or brings all back. Goes on in the server when cancelled."""

    def stop_recompress(self, name: str) -> bool:
        """Ends that, whoever began it. Whether there was one."""

    def compact(self, name: str, progress: Progress) -> int:
        """Packs segments; bytes gained. Goes on in the server when cancelled."""

    def check_arena(self, name: str) -> ArenaCheck:
        """Checks the device's arena, which may take a while."""

    def doctor(self) -> tuple[Check, ...]:
        """Checks of the machine, each with its remedy."""

    def tunables(self) -> tuple[Tunable, ...]:
        """All settings, of the machine and of every device."""

    def tune(self, device: str, key: str, value: str) -> None:
        """Applies one setting; the machine's are journalled."""

    def journal(self) -> tuple[Change, ...]:
        """What was changed on the machine, newest first."""

    def undo(self, change_id: int) -> None:
        """Restores the value from before a change."""

    def estimate(self, scope: Scope, by: str, progress: Progress) -> Estimate:
        """Samples live memory, or with `PATH` as kind of the scope files, read-only. `progress` gets partial
        `Estimate`s."""

    def benchmark(self, seconds: float, progress: Progress) -> BenchResult:
        """Runs the codecs and their baselines for about `seconds`. `progress` gets `BenchRow`s as they come."""

    def store_benchmark(self, size: int, rounds: int, progress: Progress) -> BenchResult:
        """Runs stores and kernel zram with `size` bytes each. `progress` gets a tuple of `StoreRow`s whenever there
        are new figures."""

    def device_benchmark(self, runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        """Runs devices made for it, `runtime` seconds for each load and device, ours in each of `modes`. `progress`
        gets a tuple of `DeviceRow`s whenever there are new figures."""

    def tiers_benchmark(self, rounds: int, progress: Progress) -> BenchResult:
        """Runs devices whose idle pages are dense, in groups, and a mix. `progress` gets a tuple of `TiersRow`s
        whenever there are new figures."""
