"""Removing a device: see that nobody loses anything by it, swapoff first, then stop its server.

What `remove` refuses without ``force``, and what ``force`` then does:

- A filesystem on it is mounted (and was not to be unmounted first), a process has it open, or another block device
  stands on it: refused, with the holder's name. Forced: the device is stopped all the same; its users get I/O errors
  from then on, and the data is lost.
- It is swap, and what is swapped out does not fit into the memory that is available: refused, with the figures. Forced:
  swapoff is tried all the same, which may bring the OOM killer in. A device that is still swap is never stopped,
  forced or not: every process with a page on it would die, init too.
- Its server does not answer: refused. Forced: it is ended by SIGTERM, then SIGKILL, and cleaned up after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from truezram.engine import filesystem, server, swap
from truezram.engine.client import Client, Entry, Mounts
from truezram.engine.control import STOP_TIMEOUT, NoAnswer, Op, request
from truezram.engine.errors import Busy, Failed, PermissionDenied
from truezram.engine.stats_page import StatsPage, Unreadable, is_running
from truezram.engine.units import format_size

END_TIMEOUT = 30.0
"""Seconds a server has to end after it took a STOP."""
TERM_TIMEOUT = 10.0

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): ("swapoff", bytes back, bytes in all), ("stop", 0, 1)."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A device that is gone."""

    name: str
    path: str
    swapped_back: int
    """Bytes that swapoff brought back into memory."""
    lost: tuple[str, ...]
    """What was broken by force, one sentence each."""


def remove(client: Client, name: str, force: bool = False, progress: Progress | None = None) -> Removed:
    """Removes the device a user means by `name`. Raises `Busy` with the holder's name, `TruezramError` otherwise."""
    return remove_entry(client.resolve(name), force, progress)


def remove_entry(entry: Entry, force: bool = False, progress: Progress | None = None, unmount: bool = False) -> Removed:
    """As `remove`, for an entry of the registry. `unmount`: what is mounted of it is unmounted first; `Busy` when that
    is in use."""
    what = f"cannot remove {entry.name}"
    if not os.access(entry.directory, os.W_OK):
        raise PermissionDenied(what, "it belongs to another user", "Run it as that user, or with sudo")
    dead = _is_dead(entry)
    if dead:
        _refuse_dead_swap(entry, what)
    swapped_back = 0 if dead else _swapoff(entry, what, force, progress)
    if unmount:
        _unmount(entry)
    users = holders(entry)
    deadline = time.monotonic() + 2.0
    # udev looks at a device whenever somebody closed it after writing: give it a moment.
    while users and time.monotonic() < deadline and not any(user.lasting for user in users):
        time.sleep(0.05)
        users = holders(entry)
    if users and not force:
        raise Busy(what, "; ".join(user.text for user in users), _remedy(users))
    lost = tuple(
        f"{user.text}: it gets I/O errors from now on, and what it had on {entry.name} is lost" for user in users
    )
    if progress:
        progress("stop", 0, 1)
    if dead:
        server.cleanup(entry)
    else:
        _stop(entry, what, force)
    if progress:
        progress("stop", 1, 1)
    server.reap()
    return Removed(entry.name, entry.path, swapped_back, lost)


def what_force_breaks(entry: Entry) -> tuple[str, ...]:
    """What a forced removal would cost, for the question before it: one sentence each, empty when nothing would
    break."""
    out = [f"{user.text}: its data on {entry.name} is lost" for user in holders(entry)]
    area = swap.area(entry.path)
    if area is not None:
        fits, available = swap.fits(area.used)
        if not fits:
            out.append(
                f"{format_size(area.used)} is swapped out and {format_size(available)} of memory is available:"
                " the kernel may end processes to make room"
            )
    return tuple(out)


def _mount_points(entry: Entry) -> list[str]:
    mounts = Mounts()
    try:
        return list(mounts.of(entry.path))
    finally:
        mounts.close()


def _unmount(entry: Entry) -> None:
    """Everywhere it is mounted, the last mount first. Raises `Busy`, `Failed`."""
    if entry.transport == "ublk":
        for point in reversed(_mount_points(entry)):
            filesystem.unmount(point)


# --- who uses it


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who uses a device."""

    text: str
    lasting: bool
    """Whether it will not go away by itself within a moment, as udev's look at it does."""
    remedy: str


def holders(entry: Entry) -> list[Holder]:
    """Who uses a block device other than as swap: mounts, block devices on top of it, processes that have it open."""
    if entry.transport != "ublk" or not Path(entry.path).exists():
        return []
    found: list[Holder] = []
    for point in _mount_points(entry):
        found.append(Holder(f"it is mounted on {point}", True, f"umount {point} (or use --umount)"))
    block = Path("/sys/class/block") / entry.name
    with contextlib.suppress(OSError):
        for holder in (block / "holders").iterdir():
            found.append(Holder(f"the block device {holder.name} stands on it", True, f"remove {holder.name}"))
    for loop in Path("/sys/class/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if loop.read_text().strip() == entry.path:
                name = loop.parent.parent.name
                found.append(Holder(f"the loop device {name} stands on it", True, f"losetup -d /dev/{name}"))
    found += _processes(entry.path)
    if not found and swap.area(entry.path) is None and _claimed(entry.path):
        text = "something claims it exclusively (a mount in another namespace, for example)"
        found.append(Holder(text, True, "find it with lsblk and findmnt in the containers of this machine"))
    return found


def _processes(path: str) -> list[Holder]:
    """Processes with the block device open, by the links in /proc (of those that this user may look at)."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(_target(fd) == path for fd in os.scandir(process / "fd")):
                name = (process / "comm").read_text().strip()
                lasting = "udev" not in name and name != "blkid"
                who = f"{name} (pid {process.name})"
                found.append(Holder(f"{who} has it open", lasting, f"end {who}"))
    return found


def _target(fd: os.DirEntry[str]) -> str:
    try:
        return os.readlink(fd.path)  # noqa: PTH115 (thousands of them)
    except OSError:
        return ""


def _claimed(path: str) -> bool:
    """Whether the kernel says that somebody holds the block device exclusively."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _remedy(users: list[Holder]) -> str:
    steps = ", ".join(dict.fromkeys(user.remedy for user in users))
    return f"First {steps}; or use --force, which stops it under its users' feet: its data is lost"


# --- the steps


def _is_dead(entry: Entry) -> bool:
    """Whether no server runs for the entry. An unreadable one is dead when nobody listens on its socket."""
    try:
        page = StatsPage(entry.stats)
    except Unreadable:
        return _is_silent(entry)
    try:
        head = page.read().head
        return not is_running(head.pid, head.pid_start)
    except Unreadable:
        return _is_silent(entry)
    finally:
        page.close()


def _is_silent(entry: Entry) -> bool:
    try:
        request(entry.sock, Op.PING, what=f"cannot reach {entry.name}", timeout=2)
    except NoAnswer:
        return True
    return False


def _refuse_dead_swap(entry: Entry, what: str) -> None:
    area = swap.area(entry.path)
    if area is not None:
        raise Busy(
            what,
            f"its server died and it is still swap: {format_size(area.used)} swapped out, not to be read back",
            "Nothing can be done from here but a restart of the machine",
        )


def _swapoff(entry: Entry, what: str, force: bool, progress: Progress | None) -> int:
    area = swap.area(entry.path)
    if area is None:
        return 0
    fits, available = swap.fits(area.used)
    if not fits and not force:
        raise Busy(
            what,
            f"swapoff would bring {format_size(area.used)} back, and {format_size(available)} of memory is available",
            "Close programs, or add other swap; --force tries it all the same, and the kernel may end processes for it",
        )
    try:
        back = swap.disable(entry.path, (lambda done, total: progress("swapoff", done, total)) if progress else None)
    except Failed as error:
        raise Failed(what, str(error).rstrip("."), error.remedy) from None
    if swap.area(entry.path) is not None:
        raise Busy(what, "it is swap again", "Somebody else switched it on: see who, and try again")
    return back


def _stop(entry: Entry, what: str, force: bool) -> None:
    """Ends the server in order; by signals when it does not listen and `force` allows that."""
    pid = server.server_of(entry)
    process = _open_process(entry, pid)
    try:
        # Once more, at the last moment: stopping a device that is swap kills whoever has a page on it.
        if swap.area(entry.path) is not None:
            raise Busy(what, "it is in use as swap", "Try again")
        try:
            request(entry.sock, Op.STOP, what=what, timeout=STOP_TIMEOUT if not force else TERM_TIMEOUT)
            if _wait_gone(entry, process, END_TIMEOUT if not force else TERM_TIMEOUT):
                return
            why = "its server took the request and has not ended since"
        except NoAnswer as error:
            why = error.why
        if not force:
            raise Failed(what, why, "Try again; --force ends its server")
        if process < 0:
            raise Failed(what, f"{why}, and its process is not known", f"See {entry.directory}")
        for number, patience in ((signal.SIGTERM, TERM_TIMEOUT), (signal.SIGKILL, TERM_TIMEOUT)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if _wait_gone(entry, process, patience, files=False):
                break
        else:
            raise Failed(what, "its server cannot be ended", "See the kernel log (dmesg)")
        if entry.stats.exists():
            server.cleanup(entry)
    finally:
        if process >= 0:
            os.close(process)


def _open_process(entry: Entry, pid: int | None) -> int:
    """A descriptor for the server's process, so that its number cannot come to mean another; -1 when there is none."""
    if pid is None:
        return -1
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return -1
    if server.server_of(entry) == pid:
        return process
    os.close(process)
    return -1


def _wait_gone(entry: Entry, process: int, timeout: float, files: bool = True) -> bool:
    """Whether the server ends (and its files vanish) in time."""
    deadline = time.monotonic() + timeout
    if process >= 0:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
    while files and entry.stats.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
