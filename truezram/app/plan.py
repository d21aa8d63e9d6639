"""What a device would cost and gain: the arithmetic behind the create dialog and the what-if screen.

Everything is computed from the machine's own figures; nothing is measured here, and the screens show the assumed ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from truezram.engine.device import backing, dictionary, filesystem
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import UsageError
from truezram.engine.machine import advice
from truezram.engine.model import MachineSnapshot
from truezram.engine.units import MAX_SIZE, PAGE, format_size, parse_disksize, parse_size

RATIOS = (1.5, 2.0, 3.0, 4.0)
ENTRY = 8
"""Bytes of page table for every page that the device holds."""

LEAST_LIMIT = 1 << 20
"""The server accepts no limit that is not larger (reserve.c): what a device always holds, and a reserve."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A full device at one ratio. Bytes."""

    ratio: float
    holds: int
    """Uncompressed bytes that it then holds: the disksize, or less where mem_limit ends it."""
    resident: int
    """Memory that it then takes, page table included."""
    left: int
    """MemAvailable then, as disk: nothing moves out of memory. Negative: it does not fit."""
    gained: int
    """As swap: what is moved out of memory, less what it takes there. Negative: it costs more than it frees."""


def outcome(size: int, mem_limit: int, ratio: float, available: int) -> Outcome:
    """A device of `size` bytes, filled with pages that compress `ratio` to one."""
    share = 1 / ratio + ENTRY / PAGE
    holds = min(size, int(mem_limit / share)) if mem_limit else size
    resident = int(holds * share)
    return Outcome(ratio, holds, resident, available - resident, holds - resident)


def swap(machine_memory: int, ratio: float | None = None) -> CreateOptions:
    """The swap that a machine with so much memory should have, as `setup` would make it."""
    limit = advice.mem_limit(machine_memory)
    return CreateOptions(size=advice.swap_size(machine_memory, ratio), mem_limit=limit, swap=True)


def presets(memory: int) -> list[int]:
    """Sizes worth trying on a machine with `memory` bytes: a quarter, half, all of it, one and a half times."""
    return [advice.rounded(int(memory * share)) for share in (0.25, 0.5, 1.0, 1.5)]


def check_size(text: str, memory: int) -> tuple[int, str]:
    """The size in bytes and a remark ("" when there is nothing to say). Raises `UsageError`."""
    size = parse_disksize(text)
    if memory and size > 8 * memory:
        return size, f"{size / memory:.0f} times the memory: no data compresses that well"
    if memory and size > 3 * memory:
        return size, "needs a ratio above 3 when full: set a memory limit"
    return size, ""


def check_limit(text: str, size: int) -> tuple[int, str]:
    """mem_limit in bytes (0: none) and a remark. Raises `UsageError`."""
    if not text.strip() or text.strip().lower() in ("none", "0"):
        return 0, ""
    limit = parse_size(text, "memory limit")
    if limit < LEAST_LIMIT:
        return limit, f"less than any device takes ({format_size(LEAST_LIMIT)})"
    if size and limit > size + size // 8:
        return limit, "more than the device can ever need"
    return limit, ""


def check_mount(fs: str, size: int, text: str) -> str | None:
    """The folder to mount a filesystem on, None when it is not to be mounted. Raises `UsageError`."""
    folder = str(Path(text.strip()).expanduser()) if text.strip() else None
    where = filesystem.check(fs, size, folder)
    if where is not None and not Path(where).is_dir():
        raise UsageError(f"cannot mount it on {where}", "no such folder", "Create it first")
    return where


def check_backing(path: str, limit: str, plain: bool, size: int) -> tuple[backing.Backing | None, str]:
    """The backing file (None: none) and a remark. What is there now is looked at, but nothing of its contents. Raises
    `TruezramError`."""
    if not path.strip():
        return None, "a file or disk for pages idle for long"
    most = parse_size(limit, "limit") if limit.strip() else 0
    found = backing.parse(path, most)
    if found is None:
        return None, "none"
    file = Path(found.path)
    if file.is_dir():
        raise UsageError(f"cannot use {file}", "it is a folder", "Name a file in it")
    if not file.exists() and not file.parent.is_dir():
        raise UsageError(f"cannot use {file}", f"there is no folder {file.parent}", "Create it first")
    how = "not encrypted" if plain or found.plain else "encrypted"
    made = "" if file.exists() else f"; made, up to {format_size(most or size)}"
    return replace(found, plain=plain or found.plain), f"{how}{made}"


def check_dictionary(text: str, algorithm: str, level: int) -> tuple[str | None, str]:
    """The file with a dictionary (None: none) and what it costs. Raises `TruezramError`."""
    if not text.strip():
        return None, "a file made by truezram train"
    path = Path(text.strip()).expanduser().absolute()
    try:
        found = path.stat()
        changed = (found.st_mtime_ns, found.st_size)
    except OSError:
        changed = (0, 0)  # loading it reports why
    size, number = _dictionary(path, algorithm, changed)
    return str(path), f"id {number}, takes {format_size(dictionary.memory_of(size, level))} of memory"


@lru_cache(4)
def _dictionary(path: Path, algorithm: str, changed: tuple[int, int]) -> tuple[int, int]:
    """A dictionary's size and id; cached, since the form is checked at every key."""
    found = dictionary.load_for(path, algorithm)
    return len(found.data), found.id


def unsafe(options: CreateOptions, machine: MachineSnapshot) -> str:
    """What the user should know before creating it; "" when there is nothing."""
    worst = outcome(options.size, options.mem_limit, 1.0, machine.mem_available)
    if not options.mem_limit and worst.resident > machine.mem_available > 0:
        return (
            f"Pages that do not compress would need {format_size(worst.resident)}, and"
            f" {format_size(machine.mem_available)}"
            " are free: a memory limit makes writes fail cleanly instead."
        )
    if options.swap and machine.zswap.enabled:
        return "zswap is on: it compresses the same pages in front of this device. Turn it off in Tune."
    if options.size > MAX_SIZE // 2:
        return "Close to the largest possible size."
    return ""
