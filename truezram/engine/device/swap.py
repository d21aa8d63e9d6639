"""Turning a device into a swap area and back: mkswap, swapon, swapoff with progress.

swapon is the system call, with discard of freed clusters: without it a compressed device would keep every page that
was ever swapped out. mkswap and swapoff are the system's own programs: swapoff may take minutes, and a process of its
own can be ended at any time without ending this one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from truezram.engine import paths
from truezram.engine.errors import Busy, Failed, PermissionDenied, Unsupported
from truezram.engine.machine import advice, procfs, users
from truezram.engine.model import SwapArea

DEFAULT_PRIORITY = advice.PRIORITY
MAX_PRIORITY = 32767
STALL = 60.0
"""Seconds without a page coming back after which swapoff is given up."""
_BUSY_RETRIES = 5.0
_FLAG_PREFER = 0x8000
_FLAG_DISCARD = 0x10000
_FLAG_DISCARD_PAGES = 0x40000

Progress = Callable[[int, int], None]
"""Called with (bytes brought back, bytes in all)."""


def tool(name: str, package: str = "util-linux", otherwise: str = "leave --swap out") -> str:
    """The path of a system program; `package` is Debian's. Raises `Unsupported` if it is not installed, and for root
    `PermissionDenied` if the one that PATH leads to can be changed by others: sudo may have let PATH through."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    if not found:
        remedy = f"Install {package} (Debian: apt install {package}), or {otherwise}"
        raise Unsupported(f"cannot run {name}", "it is not installed", remedy)
    if os.geteuid() == 0 and (who := paths.foreign_writer(Path(found))):
        remedy = f"Take the folder of {found} out of PATH, or give it to root alone"
        raise PermissionDenied(f"will not run {found} as root", who, remedy)
    return found


def area(path: str) -> SwapArea | None:
    """The line of /proc/swaps with exactly that path, None when there is none. (machine/users.py finds the areas of a
    device.)"""
    return next((item for item in procfs.swaps() if item.path == path), None)


def priority_above(areas: Sequence[SwapArea], least: int = DEFAULT_PRIORITY) -> int:
    """The priority for a new area: above those areas, which are dead ones. The kernel keeps trying these, and takes
    turns with areas of the same priority."""
    return min(MAX_PRIORITY, max([least, *(item.priority + 1 for item in areas)]))


def enable(path: str, priority: int) -> None:
    """mkswap and swapon. `path` is a block device that holds nothing. Raises `Failed`; the device is then not swap."""
    deadline = time.monotonic() + _BUSY_RETRIES
    mkswap = tool("mkswap")
    # Right after it appears, udev probes the device: both steps may find it busy for a moment.
    while True:
        done = subprocess.run(
            [mkswap, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode == 0:
            break
        said = done.stderr.decode(errors="replace").strip()
        if "busy" not in said or time.monotonic() > deadline:
            raise Failed(f"mkswap {path} failed", said or f"exit code {done.returncode}")
        time.sleep(0.1)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _FLAG_PREFER | priority | _FLAG_DISCARD | _FLAG_DISCARD_PAGES
    while libc.swapon(os.fsencode(path), flags):
        code = ctypes.get_errno()
        if code != errno.EBUSY or time.monotonic() > deadline:
            hint = "The kernel log (dmesg) says more" if code == errno.EINVAL else ""
            raise Failed(f"swapon {path} failed", os.strerror(code), hint)
        time.sleep(0.1)


def disable(before: SwapArea, node: str = "", progress: Progress | None = None, stall: float = STALL) -> int:
    """swapoff of an area; returns the bytes that were brought back. Raises `Failed`; the area is then still in use.

    `node` is a node of its device, for an area whose own path has none any more. `progress` is called about four times
    a second. Gives up when nothing has come back for `stall` seconds. An exception from `progress`, or an interrupt,
    ends swapoff and leaves the rest swapped out.
    """
    path = node or before.path
    process = subprocess.Popen(
        [tool("swapoff"), path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    least, since = before.used, time.monotonic()
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                pass
            now = area(before.path)
            used = now.used if now else 0
            if used < least:
                least, since = used, time.monotonic()
            if progress:
                progress(before.used - min(used, before.used), before.used)
            if time.monotonic() - since > stall:
                why = f"no page came back for {stall:g} s, {used} bytes are still swapped out"
                raise Failed(f"swapoff {path} failed", why, "See `truezram stat` and the kernel log (dmesg)")
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        said = errors.decode(errors="replace").strip() or f"exit code {process.returncode}"
        remedy = "Close programs to free memory, then try again" if "memory" in said else "See the kernel log (dmesg)"
        raise Failed(f"swapoff {path} failed", said.removeprefix(f"swapoff: {path}: "), remedy)
    if progress:
        progress(before.used, before.used)
    return before.used


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupts swapoff; a killed one ends at its next page."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()


def fits(used: int) -> tuple[bool, int]:
    """(whether `used` bytes of swapped pages fit into the memory that is available, MemAvailable in bytes)."""
    available = procfs.machine().mem_available
    return used <= available, available


def node_ready(path: str, timeout: float = _BUSY_RETRIES) -> None:
    """Waits until the block device can be opened. Raises `Failed`; `Busy` at once when something else is in the way."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            check_node(path)
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                hint = f"See whether {Path(path).parent} is a devtmpfs of this machine"
                raise Failed(f"{path} cannot be opened", error.strerror or "", hint) from None
        time.sleep(0.02)


def check_node(path: str) -> None:
    """Returns when the node is that of the kernel's device of that name. Raises `Busy` for anything else in its
    place; OSError when there is nothing."""
    found = os.lstat(path)
    name = Path(path).name
    kernels = users.disk(name)
    if not stat.S_ISBLK(found.st_mode):
        raise Busy(f"cannot use {path}", f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'something')} is in the way", _AWAY)
    number = users.number_of(path)
    if kernels is not None and number != kernels.number:
        raise Busy(f"cannot use {path}", f"it is device {number}, and the kernel's {name} is {kernels.number}", _AWAY)


_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
}
_AWAY = "Remove it, then try again"
