"""Removing a device: check that no data is lost, swapoff, then stop its server.

What `remove` refuses without ``force``, and what ``force`` then does:

- A filesystem on it is mounted (and `unmount` was not given), a process has it open, or another block device
  is on top of it: refused, with the holder's name. Forced: the device is stopped anyway; its users get I/O errors
  from then on, and the data is lost.
- It is swap, and what is swapped out does not fit into the memory that is available: refused, with the figures. Forced:
  swapoff is tried anyway, which may bring the OOM killer in. A device that is still swap is never stopped,
  forced or not: every process with a page on it would die, init too.
- Its server does not answer: refused. Forced: it is ended by SIGTERM, then SIGKILL, and cleaned up after. No process
  is signalled just because a file names it (`_check_server`).
- Its server died: if it is in use and can be recovered, another server takes over first, and it is removed in order.
  Else what is mounted of it is refused as above. A swap area of it stays until the machine is restarted, and until then
  the device is not removed either, forced or not.

Last, the mapping that encrypts its backing file is removed, and the key with it, so that what is on the file is lost.

machine/users.py finds who uses it, and as what: by device number, partitions and devices on top of it included.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from truezram._native import lib
from truezram.engine.device import backing, filesystem, server, swap
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.control import STOP_TIMEOUT, NoAnswer, Op, peer, request
from truezram.engine.device.recovery import recover_entry
from truezram.engine.device.stats_page import is_running, read_head
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError
from truezram.engine.machine import procfs
from truezram.engine.machine.users import User, disk, number_of, swap_areas, users
from truezram.engine.model import DeviceSnapshot, SwapArea
from truezram.engine.units import format_size

END_TIMEOUT = 30.0
"""Seconds a server has to end after it took a STOP."""
TERM_TIMEOUT = 10.0
SERVER = "truezramd"
"""The server's name in /proc/PID/status."""

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
    dead = _is_dead(entry) and not _recovered(entry, force)
    if dead:
        _refuse_dead_swap(entry, what)
    elif not force:
        # Before swapoff, which may take minutes: would it be in vain?
        _refuse(what, [user for user in holders(entry) if user.lasting and not (unmount and user.point)], dead)
    swapped_back = 0 if dead else _swapoff(entry, what, force, progress)
    if unmount:
        _unmount(entry)
    found = holders(entry)
    deadline = time.monotonic() + 2.0
    # udev looks at a device whenever it was closed after writing: give it a moment.
    while found and time.monotonic() < deadline and not any(user.lasting for user in found):
        time.sleep(0.05)
        found = holders(entry)
    if not force:
        _refuse(what, found, dead)
    lost = tuple(_loss(entry, user, dead) for user in found)
    if progress:
        progress("stop", 0, 1)
    before = _last_seen(entry)
    if dead:
        server.cleanup(entry)
    else:
        _stop(entry, what, force)
    backing.release(entry.name, before)
    if progress:
        progress("stop", 1, 1)
    server.reap()
    return Removed(name=entry.name, path=entry.path, swapped_back=swapped_back, lost=lost)


def what_force_breaks(entry: Entry) -> tuple[str, ...]:
    """What a forced removal would cost, for the question before it: one sentence each, empty when nothing would
    break."""
    dead = _is_dead(entry)
    out = [_loss(entry, user, dead) for user in holders(entry)]
    used = sum(area.used for area in areas_of(entry))
    fits, available = swap.fits(used)
    if not fits and not dead:
        out.append(
            f"{format_size(used)} is swapped out and {format_size(available)} of memory is available:"
            " the kernel may kill processes to make room"
        )
    return tuple(out)


def areas_of(entry: Entry) -> tuple[SwapArea, ...]:
    """The swap areas on a device, under whatever path. swapoff brings back what is used in them."""
    return swap_areas(entry.name, size=_size(entry)) if entry.is_disk else ()


def holders(entry: Entry) -> list[User]:
    """Who uses a block device other than for swap: mounts, block devices on top of it, processes that have it open."""
    if not entry.is_disk:
        return []
    return [user for user in users(entry.name, size=_size(entry)) if user.area is None]


def _size(entry: Entry) -> int:
    """Its size in bytes according to its statistics page; 0 when that cannot be read."""
    head = read_head(entry.stats)
    return head.disksize if head is not None else 0


def _refuse(what: str, found: list[User], dead: bool) -> None:
    """Raises `Busy` when there are users."""
    if not found:
        return
    steps = ", ".join(dict.fromkeys(user.remedy for user in found))
    if any(user.point and not user.covered for user in found):
        steps += " (or use --umount)"
    why = "; ".join(user.text for user in found)
    force = "stops it while in use and loses its data"
    if dead:
        why = f"its server died, what was on it is lost, and {why}"
        force = "removes the device, and leaves its users as they are"
    raise Busy(what, why, f"First {steps}; or use --force, which {force}")


def _loss(entry: Entry, user: User, dead: bool) -> str:
    """What the removal of the device means for a user of it."""
    if dead:
        return f"{user.text}: what was on {entry.name} was lost with its server. Afterwards: {user.remedy}"
    return f"{user.text}: it gets I/O errors from now on, and what it had on {entry.name} is lost"


def _unmount(entry: Entry) -> None:
    """Everywhere it is mounted, the last mount first. Raises `Busy`, `Failed`."""
    for user in reversed([user for user in holders(entry) if user.point]):
        # A mount may have been covered, and the one above it be gone by now: look again.
        now = next((again for again in holders(entry) if again.point == user.point), None)
        if now is not None and now.covered:
            why = "something else is mounted over it, and would be unmounted instead"
            raise Busy(f"cannot unmount {user.point}", why, f"First: umount {user.point}")
        if now is not None:
            filesystem.unmount(user.point)


# --- the steps


def _last_seen(entry: Entry) -> DeviceSnapshot | None:
    """The device as its statistics page has it; None: unreadable."""
    with Client([entry.directory]) as client:
        device = client.device(entry)
    return device if device.state != "unreadable" else None


def _is_dead(entry: Entry) -> bool:
    """Whether no server runs for the entry. An unreadable one is dead if its socket has no listener."""
    head = read_head(entry.stats)
    return _is_silent(entry) if head is None else not is_running(head.pid, head.pid_start)


def _recovered(entry: Entry, force: bool) -> bool:
    """Has another server take over a device that is in use, so that it can be removed in order. Raises with the reason
    if that fails, unless forced."""
    head = read_head(entry.stats)
    if head is None or not head.recoverable or not (areas_of(entry) or holders(entry)):
        return False
    try:
        recover_entry(entry)
    except TruezramError:
        if not force:
            raise
        return False
    return True


def _is_silent(entry: Entry) -> bool:
    try:
        request(entry.sock, Op.PING, what=f"cannot reach {entry.name}", timeout=2)
    except NoAnswer:
        return True
    return False


_RESTART = (
    "The kernel can no longer switch it off, only a restart removes it. A program that touches such a page is killed:"
    " save what is open and restart soon. New swap goes before it: truezram create --size SIZE --swap"
)


def _refuse_dead_swap(entry: Entry, what: str) -> None:
    areas = areas_of(entry)
    if not areas:
        return
    used = sum(area.used for area in areas)
    names = " and ".join(area.path for area in areas)
    why = f"its server died and it is still swap ({names} in /proc/swaps)"
    if not used:
        raise Busy(what, f"{why}, with nothing swapped out", "Nothing is lost. The next restart removes it")
    swapped = sorted(procfs.processes(), key=lambda process: -process.swapped)
    who = [f"{one.comm} (pid {one.pid}, {format_size(one.swapped)})" for one in swapped[:_NAMED] if one.swapped]
    why += f": {format_size(used)} swapped out, and it cannot be read back"
    why += f". Most swapped: {', '.join(who)}" if who else ""
    raise Busy(what, why, _RESTART)


_NAMED = 3
"""Processes with swapped pages that are named."""


def _swapoff(entry: Entry, what: str, force: bool, progress: Progress | None) -> int:
    areas = areas_of(entry)
    if not areas:
        return 0
    used = sum(area.used for area in areas)
    fits, available = swap.fits(used)
    if not fits and not force:
        raise Busy(
            what,
            f"swapoff would bring {format_size(used)} back, and {format_size(available)} of memory is available",
            "Close programs, or add other swap; --force tries anyway, and the kernel may kill processes",
        )
    back = 0
    for area in areas:

        def report(done: int, _: int, before: int = back) -> None:
            if progress:
                progress("swapoff", before + done, used)

        try:
            back += swap.disable(area, _node(entry, area, what), report)
        except Failed as error:
            raise Failed(what, f"{error.what}: {error.why}", error.remedy) from None
    if left := areas_of(entry):
        names = " and ".join(area.path for area in left)
        remedy = "It was switched on again, or its node is gone: see /proc/swaps, and try again"
        raise Busy(what, f"it is still or again swap ({names})", remedy)
    return back


def _node(entry: Entry, area: SwapArea, what: str) -> str:
    """A node for swapoff: the area's own path, or the device's if that is gone or is another device by now. Raises
    `Busy` when there is neither."""
    found = disk(entry.name)
    for path in (area.path, entry.path):
        number = number_of(path)
        if number and (path == area.path or found is None or number == found.number):
            return path
    if found is None:
        return area.path
    why = f"it is swap as {area.path}, and it has no node to switch it off with"
    node = f"{entry.path}.node"
    steps = f"mknod -m 600 {node} b {found.number.replace(':', ' ')}; swapoff {node}; rm {node}"
    raise Busy(what, why, f"First: {steps}")


def _stop(entry: Entry, what: str, force: bool) -> None:
    """Ends the server in order; by signals when it does not listen and `force` allows that."""
    pid = server.server_of(entry)
    process = _open_process(entry, pid)
    try:
        # Once more, at the last moment: stopping a device that is swap kills every process that has a page on it.
        if areas_of(entry):
            raise Busy(what, "it is in use as swap", "Try again")
        try:
            # Unless forced, the server looks once more itself, and so does the kernel where it can (7.0).
            how, timeout = (
                (lib.TZ_STOP_UNLESS_SWAP, TERM_TIMEOUT) if force else (lib.TZ_STOP_UNLESS_CLAIMED, STOP_TIMEOUT)
            )
            request(entry.sock, Op.STOP, (how,), what=what, timeout=timeout)
            if _wait_gone(entry, process, END_TIMEOUT if not force else TERM_TIMEOUT):
                return
            why = "its server accepted the request and has not ended since"
        except NoAnswer as error:
            why = error.why
        if not force:
            raise Failed(what, why, "Try again; --force ends its server")
        if process < 0:
            raise Failed(what, f"{why}, and its process is not known", f"See {entry.directory}")
        _check_server(entry, pid, what)
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
    """A descriptor for the server's process, so that its pid cannot be reused for another; -1 when there is none."""
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


def _check_server(entry: Entry, pid: int | None, what: str) -> None:
    """Returns when the process is that device's server for certain. The statistics page is a file, and a file can
    name any process: the kernel must name the same process for the socket or the lock, and it must be a server of
    that user. Raises `Failed`."""
    process = procfs.identity(pid) if pid is not None else None
    owner = entry.directory.stat().st_uid
    try:
        listens: int | None = peer(entry.sock, what)[0]
    except (NoAnswer, PermissionDenied):
        listens = None
    if process is None:
        why = "has ended"
    elif process != (SERVER, owner):
        why = f"is {process[0]!r} of user {procfs.user_name(process[1])}"
    elif pid not in (listens, procfs.lock_holder(entry.directory / f"{entry.name}.lock")):
        why = "neither listens on its socket nor holds its lock"
    else:
        return
    remedy = f"No process was signalled. See who wrote the files in {entry.directory}, and end the server by hand"
    raise Failed(what, f"its statistics page names process {pid} as its server, which {why}", remedy)


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
