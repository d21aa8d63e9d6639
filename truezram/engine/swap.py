"""Making a device a swap area, and no longer one: mkswap, swapon, swapoff with progress.

swapon is the system call, with discard of freed clusters: without it a compressed device would keep every page that
was ever swapped out. mkswap and swapoff are the system's own programs: swapoff may take minutes, and a process of its
own can be ended at any time without ending us.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from truezram.engine import procfs
from truezram.engine.errors import Failed, Unsupported
from truezram.engine.model import SwapArea

DEFAULT_PRIORITY = 100
"""Before any disk, whose priorities are negative unless given; what zram-generator takes, too."""
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
    """The path of a system program, of that package of Debian's. Raises `Unsupported` where it is not installed."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    if not found:
        remedy = f"Install {package} (Debian: apt install {package}), or {otherwise}"
        raise Unsupported(f"cannot run {name}", "it is not installed", remedy)
    return found


def area(path: str) -> SwapArea | None:
    """The line of /proc/swaps of that device, None when it is not in use as swap."""
    return next((item for item in procfs.machine().swaps if item.path == path), None)


def enable(path: str, priority: int) -> None:
    """mkswap and swapon. `path` is a block device that holds nothing. Raises `Failed`; the device is then no swap."""
    deadline = time.monotonic() + _BUSY_RETRIES
    mkswap = tool("mkswap")
    # Right after it appears, udev has a look at the device: both steps may find it busy for a moment.
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


def disable(path: str, progress: Progress | None = None, stall: float = STALL) -> int:
    """swapoff; returns the bytes that were brought back. Raises `Failed`; the area is then still in use.

    `progress` is called some four times a second. Gives up when nothing has come back for `stall` seconds. An
    exception from `progress`, or an interrupt, ends swapoff and leaves the rest swapped out.
    """
    before = area(path)
    if before is None:
        return 0
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
            now = area(path)
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
        raise Failed(f"swapoff {path} failed", said, "Close programs to free memory, then try again")
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
    """Waits until the block device can be opened. Raises `Failed`."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                hint = f"See whether {Path(path).parent} is a devtmpfs of this machine"
                raise Failed(f"{path} cannot be opened", error.strerror or "", hint) from None
        time.sleep(0.02)
