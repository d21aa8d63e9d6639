"""A filesystem on a device: mkfs, mount, umount, with the system's own programs.

mount is given ``discard``: without it a compressed device would keep every page of a deleted file; and ``noatime``, so
that reading does not write.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from truezram.engine.device.swap import tool
from truezram.engine.errors import Busy, Failed, Unsupported, UsageError
from truezram.engine.units import format_size

MOUNT_OPTIONS = "discard,noatime"
_BUSY_RETRIES = 5.0
_MKFS_TIMEOUT = 600.0
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How one filesystem is made."""

    mkfs: str
    arguments: tuple[str, ...]
    package: str
    """Debian's package that has mkfs."""
    least: int
    """The smallest device that its mkfs takes, in bytes."""


KINDS = {
    # The device is empty: nothing to discard; and all tables at once, not in the background for minutes.
    "ext4": Kind(
        "mkfs.ext4", ("-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"), "e2fsprogs", 1 << 20
    ),
    "xfs": Kind("mkfs.xfs", ("-q", "-f", "-K"), "xfsprogs", 300 << 20),
    "btrfs": Kind("mkfs.btrfs", ("-q", "-f", "-K"), "btrfs-progs", 114294784),
}
"""What `make` can make. The least sizes are those of e2fsprogs 1.47, xfsprogs 6.1, btrfs-progs 6.2."""


def check(fs: str, size: int, mount: str | None) -> str | None:
    """The folder to mount on as an absolute path, or None. Raises `UsageError` when the filesystem cannot be."""
    what = f"cannot make {fs} on the device"
    kind = KINDS.get(fs)
    if kind is None:
        raise UsageError(what, "truezram does not know this filesystem", f"Choose one of {', '.join(KINDS)}")
    if size < kind.least:
        raise UsageError(what, f"{fs} needs at least {format_size(kind.least)}", "Choose a larger --size")
    if mount is None:
        return None
    where = str(Path(mount).resolve())
    if any(ord(char) < 32 for char in where):
        raise UsageError(f"cannot mount it on {where!r}", "the name contains a control character")
    return where


def available() -> tuple[str, ...]:
    """The filesystems whose mkfs is installed."""
    found = []
    for fs, kind in KINDS.items():
        with contextlib.suppress(Unsupported):
            tool(kind.mkfs)
            found.append(fs)
    return tuple(found)


def need(fs: str, mount: str | None) -> None:
    """Returns when the programs are there, and the folder. Raises `Unsupported`, `UsageError`."""
    kind = KINDS[fs]
    tool(kind.mkfs, kind.package, "choose another --fs")
    if mount is not None:
        for name in ("mount", "umount"):
            tool(name, "mount", "leave --mount out")
        if not Path(mount).is_dir():
            remedy = f"Make it: mkdir -p {mount}"
            raise UsageError(f"cannot mount it on {mount}", "there is no such folder", remedy)


def make(path: str, fs: str) -> None:
    """mkfs. `path` is a block device that holds nothing. Raises `Failed`."""
    kind = KINDS[fs]
    deadline = time.monotonic() + _BUSY_RETRIES
    # Right after it appears, udev probes the device, which may then be busy for a moment.
    while True:
        code, said = _run([tool(kind.mkfs, kind.package), *kind.arguments, path], _MKFS_TIMEOUT)
        if code == 0:
            return
        if not _is_busy(said) or time.monotonic() > deadline:
            raise Failed(f"{kind.mkfs} {path} failed", said or f"exit code {code}")
        time.sleep(0.1)


def mount(path: str, fs: str, where: str) -> None:
    """Mounts a filesystem that `make` made. Raises `Failed`, `Unsupported` when the kernel does not know it."""
    what = f"cannot mount {path} on {where}"
    code, said = _run([tool("mount"), "-t", fs, "-o", MOUNT_OPTIONS, path, where], _TIMEOUT)
    if code == 0:
        return
    if "unknown filesystem type" in said:
        raise Unsupported(what, f"this kernel has no {fs} (modprobe {fs} did not help)", "Choose another --fs")
    raise Failed(what, said or f"exit code {code}", "The kernel log (dmesg) may say more")


def unmount(where: str) -> None:
    """Unmounts what is mounted there. Raises `Busy` when it is in use, `Failed`."""
    what = f"cannot unmount {where}"
    code, said = _run([tool("umount"), where], _TIMEOUT)
    if code == 0:
        return
    if _is_busy(said):
        users = _users(where)
        who = f"files or folders of it are open in {', '.join(users)}" if users else said
        raise Busy(what, who, "End what uses it (a mount on it does, too), and try again")
    raise Failed(what, said or f"exit code {code}")


def _users(where: str) -> list[str]:
    """Processes that have something on a mounted filesystem open, as far as this user may see."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            links = [process / "cwd", process / "root", process / "exe"]
            with contextlib.suppress(OSError):
                links += (process / "fd").iterdir()
                if any(_is_on(link, where) for link in links):
                    found.append(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
    return found


def _is_on(link: Path, where: str) -> bool:
    try:
        target = os.readlink(link)  # noqa: PTH115 (thousands of them)
    except OSError:
        return False
    return target == where or target.startswith(where.rstrip("/") + "/")


def _is_busy(said: str) -> bool:
    return "busy" in said or "in use" in said


def _run(command: list[str], timeout: float) -> tuple[int, str]:
    """(exit code, what it said on standard error in English)."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} did not end within {timeout:g} s") from None
    return done.returncode, done.stderr.decode(errors="replace").strip()
