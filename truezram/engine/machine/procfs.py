"""Reads what the kernel reports about the machine: memory, swap, pressure, zswap, and the processes and their memory.

Everything here is a snapshot of files that change, vanish or were never there: an absent or unreadable file gives the
field's "not known" value, a process that ends half-way is left out. `root` is where the tree starts, ``/`` except in
tests. Sizes are in bytes. The functions are called several times a second, hence plain `os` calls on strings instead
of Path.
"""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from truezram.engine.model import MachineSnapshot, Pressure, SwapArea, Zswap
from truezram.engine.units import PAGE

ROOT = Path("/")
_CHUNK = 1 << 16


def read_bytes(path: str | Path) -> bytes | None:
    """All of a file of the kernel's, None when it cannot be opened or read (absent, not permitted, switched
    off)."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        parts = []
        while part := os.read(file, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(file)


def read_text(path: str | Path) -> str | None:
    """As `read_bytes`, without the blanks around it; undecodable bytes become U+FFFD."""
    data = read_bytes(path)
    return None if data is None else data.decode(errors="replace").strip()


def read_int(path: str | Path) -> int | None:
    """A file that holds one whole number; None when it does not."""
    return _int(read_text(path) or "")


def _int(text: str) -> int | None:
    try:
        return int(text) if text.isascii() else None
    except ValueError:
        return None


def unescape(text: str) -> str:
    """The kernel writes blanks, tabs, newlines and backslashes in names as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


# ---- the machine ----


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """/proc/meminfo in bytes (lines without ``kB`` are counts and are left out); empty when it cannot be read."""
    found = {}
    for line in (read_bytes(f"{root}/proc/meminfo") or b"").splitlines():
        key, _, rest = line.partition(b":")
        fields = rest.split()
        if len(fields) == 2 and fields[1] == b"kB" and fields[0].isdigit():
            found[key.decode(errors="replace")] = int(fields[0]) * 1024
    return found


def mem_available(root: Path = ROOT) -> int:
    """MemAvailable, bytes; 0 when not known. What new allocations can have without swapping, the kernel's estimate."""
    return meminfo(root).get("MemAvailable", 0)


def swaps(root: Path = ROOT) -> tuple[SwapArea, ...]:
    """The lines of /proc/swaps, in the kernel's order."""
    found = []
    for line in (read_text(f"{root}/proc/swaps") or "").split("\n")[1:]:
        fields = line.rsplit(None, 4)
        if len(fields) != 5:
            continue
        size, used, priority = _int(fields[2]), _int(fields[3]), _int(fields[4])
        if size is not None and used is not None and priority is not None:
            path, size, used = unescape(fields[0]), size * 1024, used * 1024
            found.append(SwapArea(path=path, type=fields[1], size=size, used=used, priority=priority))
    return tuple(found)


class Mount(NamedTuple):
    """One line of mountinfo. Only `number` is the kernel's own word: `source` is whatever was given to mount."""

    number: str
    """MAJOR:MINOR of the filesystem; its major is 0 when it has no block device, or several."""
    kind: str
    source: str
    point: str


def mounts(text: str) -> tuple[Mount, ...]:
    """What is mounted in this mount namespace, from the text of mountinfo, in the order in which it was mounted."""
    found = []
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(rest) > 1:
            source, point = unescape(rest[1]), unescape(fields[4])
            found.append(Mount(number=fields[2], kind=rest[0], source=source, point=point))
    return tuple(found)


def _average(text: str | None, line: str) -> float | None:
    """``avg10`` of the line that begins with `line` ("some" or "full")."""
    match = re.search(rf"^{line} avg10=(\d+(?:\.\d+)?)", text or "", re.MULTILINE)
    return float(match[1]) if match else None


def pressure(root: Path = ROOT) -> Pressure:
    """Pressure stall averages over 10 s, in per cent."""
    folder = f"{root}/proc/pressure"
    memory = read_text(f"{folder}/memory")
    return Pressure(
        memory_some=_average(memory, "some"),
        memory_full=_average(memory, "full"),
        io_some=_average(read_text(f"{folder}/io"), "some"),
        cpu_some=_average(read_text(f"{folder}/cpu"), "some"),
    )


def zswap(root: Path = ROOT) -> Zswap:
    """The kernel's zswap. Counters are only there for root with debugfs mounted; since 6.5 /proc/meminfo has the
    size."""
    folder = f"{root}/sys/module/zswap/parameters"
    debug = f"{root}/sys/kernel/debug/zswap"
    pool = read_int(f"{debug}/pool_total_size")
    return Zswap(
        enabled=(read_text(f"{folder}/enabled") or "") in ("Y", "1"),
        compressor=read_text(f"{folder}/compressor") or "",
        max_pool_percent=read_int(f"{folder}/max_pool_percent") or 0,
        stored_pages=read_int(f"{debug}/stored_pages"),
        pool_bytes=pool,
    )


def expand_list(text: str) -> list[int]:
    """CPU numbers of a kernel list such as ``0-3,8``; what is malformed is left out."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip(), re.ASCII)
        if match:
            numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def kernel(root: Path = ROOT) -> str:
    """The release of the running kernel, ``6.12.95+deb13-amd64``; empty when not known."""
    return read_text(f"{root}/proc/sys/kernel/osrelease") or ""


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of a kernel release; (0, 0) when it is not one."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", release, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def machine(root: Path = ROOT) -> MachineSnapshot:
    """The machine's memory as far as compressed memory is concerned, now."""
    memory = meminfo(root)
    zswap_now = zswap(root)
    if zswap_now.pool_bytes is None and "Zswap" in memory:
        zswap_now = Zswap(
            enabled=zswap_now.enabled,
            compressor=zswap_now.compressor,
            max_pool_percent=zswap_now.max_pool_percent,
            stored_pages=memory.get("Zswapped", 0) // PAGE,
            pool_bytes=memory["Zswap"],
        )
    return MachineSnapshot(
        time=time.monotonic(),
        mem_total=memory.get("MemTotal", 0),
        mem_available=memory.get("MemAvailable", 0),
        swap_total=memory.get("SwapTotal", 0),
        swap_free=memory.get("SwapFree", 0),
        swaps=swaps(root),
        pressure=pressure(root),
        zswap=zswap_now,
        swappiness=read_int(f"{root}/proc/sys/vm/swappiness"),
        page_cluster=read_int(f"{root}/proc/sys/vm/page-cluster"),
        cpus=len(expand_list(read_text(f"{root}/sys/devices/system/cpu/online") or "")) or os.cpu_count() or 1,
        kernel=kernel(root),
    )


# ---- processes ----


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has memory of its own (kernel threads have none)."""

    pid: int
    uid: int
    """Its real user id."""
    user: str
    """That user's name, or the number if it has none."""
    comm: str
    cgroup: str
    """Its cgroup v2 path (``/user.slice/...``), of v1 the memory controller's; empty when not known."""
    rss: int
    rss_anon: int
    """Resident anonymous memory: what can be swapped out."""
    swapped: int
    """Swapped out already."""


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """The user's login name, or the number as text when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, ValueError, OverflowError):
        return str(uid)


def pids(root: Path = ROOT) -> list[int]:
    """All processes that are visible to this user, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(f"{root}/proc") if name.isdigit())  # noqa: PTH208
    except OSError:
        return []


def _cgroup(text: str) -> str:
    """The path of cgroup v2 (``0::/path``) or, if only v1 is mounted, of the memory controller."""
    v2 = ""
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            return path
        if number == "0" and not controllers:
            v2 = path
    return v2


_STATUS = re.compile(rb"^(Name|Uid|VmRSS|RssAnon|VmSwap):\s*(.*)$", re.MULTILINE)


def process(pid: int, root: Path = ROOT) -> Process | None:
    """One process; None when it is gone, is a kernel thread, or has ended and only waits for its parent."""
    folder = f"{root}/proc/{pid}"
    values = dict(_STATUS.findall(read_bytes(f"{folder}/status") or b""))
    try:
        uid = int(values[b"Uid"].split()[0])
        sizes = [int((values.get(key) or b"0").split()[0]) * 1024 for key in (b"VmRSS", b"RssAnon", b"VmSwap")]
    except (KeyError, IndexError, ValueError):
        return None
    if b"VmRSS" not in values:
        return None
    return Process(
        pid=pid,
        uid=uid,
        user=user_name(uid),
        comm=values.get(b"Name", b"").decode(errors="replace").replace("\\n", "\n").replace("\\\\", "\\"),
        cgroup=_cgroup(read_text(f"{folder}/cgroup") or ""),
        rss=sizes[0],
        rss_anon=sizes[1],
        swapped=sizes[2],
    )


def identity(pid: int, root: Path = ROOT) -> tuple[str, int] | None:
    """(name, real user id) of a process; None when there is none."""
    values = dict(_STATUS.findall(read_bytes(f"{root}/proc/{pid}/status") or b""))
    try:
        return values[b"Name"].decode(errors="replace"), int(values[b"Uid"].split()[0])
    except (KeyError, IndexError, ValueError):
        return None


def lock_holder(path: str | Path, root: Path = ROOT) -> int | None:
    """The process that took the flock on a file, by /proc/locks; None when it is not locked."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in (read_text(f"{root}/proc/locks") or "").split("\n"):
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == file:
            return _int(fields[4])
    return None


def processes(root: Path = ROOT, only: Iterable[int] | None = None) -> Iterator[Process]:
    """All processes, or those of the pids `only`, as they are found; those that have no memory are left out."""
    for pid in pids(root) if only is None else only:
        found = process(pid, root)
        if found is not None:
            yield found
