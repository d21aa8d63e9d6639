"""Who uses a block device: swap, mounts, device mapper, md, loop devices, programs that have it open.

Devices are looked up by number and in sysfs, never by path: a path in /proc/swaps or in mountinfo is only what was
typed. A device can have any number of nodes, and a name in /dev may be another device's node. Each user counts, whether
it has the disk itself, one of its partitions, or a device on top of those: that is the disk's `family`.

A disk whose server was killed is gone from sysfs at once. Its swap area stays until the next restart, and its mounts
until they are unmounted. Only names show which disk those were on: a "lost" area or mount counts for the disk that its
path names, and an area with a path that names no disk at all for every dead disk on which it would have had room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from truezram.engine.machine import procfs
from truezram.engine.machine.mappings import device_of
from truezram.engine.machine.procfs import ROOT, Mount
from truezram.engine.model import SwapArea
from truezram.engine.units import format_size

_DELETED = " (deleted)"
_DISK = r"(?:ublkb|zram|[hsv]d[a-z]|xvd[a-z]|nvme|mmcblk|md|dm-|loop|nbd|pmem|rbd|sr)\d*.*"
"""What the kernel names its block devices: any other name of a node does not show which device it was."""
_WITHOUT_NUMBER = ("btrfs", "bcachefs")
"""Filesystems on block devices that have an anonymous device number, as they may have several devices. For others
the source is not trusted: anyone may mount a FUSE filesystem that claims to come from /dev/ublkb0."""
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_SIZE = 232
_LOOP_RDEVICE = slice(16, 24)


def number_of(path: str) -> str | None:
    """MAJOR:MINOR of the block device whose node is there, as the kernel writes it; None for anything else."""
    try:
        found = os.stat(path)  # noqa: PTH116 (many times a second)
    except (OSError, ValueError):
        return None
    return _text(found.st_rdev) if stat.S_ISBLK(found.st_mode) else None


def _text(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def is_rotating(area: SwapArea, root: Path = ROOT) -> bool:
    """Whether the disk of a swap partition, or of a swap file, is one that turns."""
    number = number_of(f"{root}{area.path}")
    if number is None:
        try:
            device = os.stat(f"{root}{area.path}").st_dev  # noqa: PTH116
        except OSError:
            return False
        number = _text(device)
    folder = f"{root}/sys/dev/block/{number}"
    # A partition has its disk's queue.
    return 1 in (procfs.read_int(f"{folder}/{way}queue/rotational") for way in ("", "../"))


def name_of(number: str, root: Path = ROOT) -> str:
    """The kernel's name of a block device ("ublkb0p1"); empty when no device has that number (any more)."""
    try:
        return os.readlink(f"{root}/sys/dev/block/{number}").rpartition("/")[2]  # noqa: PTH115
    except OSError:
        return ""


def _list(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208
    except OSError:
        return []


# --- the disk, and what is on top of it


class Disk(NamedTuple):
    """A block device that the kernel has."""

    name: str
    number: str
    partition_of: str = ""
    """The name of the disk that it is a part of."""


def disk(name: str, root: Path = ROOT, partition_of: str = "") -> Disk | None:
    """The block device that the kernel calls `name`; None when there is none."""
    number = procfs.read_text(f"{root}/sys/class/block/{name}/dev")
    return Disk(name, number, partition_of) if number else None


def family(name: str, root: Path = ROOT, loops: bool = True) -> tuple[Disk, ...]:
    """The disk `name`, its partitions, the devices on top of any of these, and so on. Empty when the disk is gone and
    nothing is on top of it. Without `loops`, loop devices are left out, which takes a fifth of the time."""
    found: dict[str, Disk] = {}
    first = disk(name, root)
    waiting: list[Disk | None] = [first] if first else [disk(other, root) for other in _orphans_of(name, root)]
    on = _loops(root) if loops else {}
    while waiting:
        now = waiting.pop(0)
        if now is None or now.name in found:
            continue
        found[now.name] = now
        folder = f"{root}/sys/class/block/{now.name}"
        for part in _list(folder):
            if part.startswith(now.name) and os.path.exists(f"{folder}/{part}/partition"):  # noqa: PTH110
                waiting.append(disk(part, root, now.name))
        above = [*_list(f"{folder}/holders"), *on.get(now.number, ())]
        waiting += [disk(other, root) for other in above]
    return tuple(found.values())


def _orphans_of(name: str, root: Path) -> list[str]:
    """Devices on top of a disk that is gone: each keeps the name of what is below it."""
    blocks = f"{root}/sys/class/block"
    return [
        other for other in _list(blocks) if any(_is_part(below, name) for below in _list(f"{blocks}/{other}/slaves"))
    ]


def _loops(root: Path) -> dict[str, list[str]]:
    """Loop devices by the number of the block device that backs them."""
    found: dict[str, list[str]] = {}
    for name in _list(f"{root}/sys/block"):
        if not name.startswith("loop"):
            continue
        path = procfs.read_text(f"{root}/sys/block/{name}/loop/backing_file")
        if path is None:
            continue
        # The driver knows the number. Its path is second best: that node may be gone, or another by now.
        number = _loop_number(f"{root}/dev/{name}") or number_of(f"{root}{path}")
        if number:
            found.setdefault(number, []).append(name)
    return found


def _loop_info(node: str) -> bytes:
    """struct loop_info64 of a loop device; nothing if it has no file, or cannot be asked."""
    import fcntl  # (`truezram list` does without)

    info = bytearray(_LOOP_INFO_SIZE)
    try:
        file = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(file, _LOOP_GET_STATUS64, info)
        finally:
            os.close(file)
    except OSError:
        return b""
    return bytes(info)


def _loop_number(node: str) -> str | None:
    """The block device behind a loop device, as the driver reports it; None for a file, or if it cannot be asked."""
    number = int.from_bytes(_loop_info(node)[_LOOP_RDEVICE], "little")
    return _text(number) if number else None


def _base(path: str) -> str:
    return path.removesuffix(_DELETED).rpartition("/")[2]


def _is_part(name: str, of: str) -> bool:
    """Whether `name` is that disk's name or one of its partitions'."""
    return name == of or re.fullmatch(re.escape(of) + r"p\d+", name, re.ASCII) is not None


# --- swap


class Swaps:
    """The swap areas of one instant, each with the disk that it is on."""

    def __init__(self, areas: Iterable[SwapArea] | None = None, root: Path = ROOT) -> None:
        """`areas`: the lines of /proc/swaps if the caller has them already."""
        self._known: list[tuple[str, SwapArea]] = []
        self.lost: list[SwapArea] = []
        """Areas on a disk that is gone, or whose node is gone."""
        self._root = root
        for area in procfs.swaps(root) if areas is None else areas:
            if area.type == "file":
                continue  # it makes its filesystem's mount busy
            number = number_of(f"{root}{area.path}")
            if number and name_of(number, root):
                self._known.append((number, area))
            else:
                self.lost.append(area)

    def on(self, name: str, disks: Sequence[Disk], size: int = 0) -> tuple[SwapArea, ...]:
        """Those on that disk or on what is on top of it. `disks` is its family, `size` its size where it is known: both
        for a disk that is gone."""
        members = {disk.number for disk in disks}
        found = [area for number, area in self._known if number in members]
        if name not in {disk.name for disk in disks}:
            found += [area for area in self.lost if _may_be(area, name, size)]
        return tuple(found)

    def hidden(self, disks: Sequence[Disk]) -> tuple[SwapArea, ...]:
        """The lost areas that may be on one of these disks, which exist. A node can be removed under a swap area. Then
        only this shows that it is there: the disk is claimed, and by none of its known users."""
        if not self.lost:
            return ()
        claimed = _unexplained(self, disks, self._root)
        unasked = [disk for disk in disks if _claimed(disk, self._root) is None]
        return tuple(
            area
            for area in self.lost
            if any(area.size < _size_of(disk, self._root) for disk in claimed)
            or any(_may_be(area, disk.name, _size_of(disk, self._root)) for disk in unasked)
        )

    def numbers(self) -> set[str]:
        """Of all block devices that are swap, as far as that is known."""
        return {number for number, _ in self._known}


def _size_of(disk: Disk, root: Path) -> int:
    return (procfs.read_int(f"{root}/sys/class/block/{disk.name}/size") or 0) * 512


def _may_be(area: SwapArea, name: str, size: int) -> bool:
    """Whether a lost area may be on the disk of that name, which is gone or cannot be asked."""
    base = _base(area.path)
    if _is_part(base, name):
        return True
    return not re.fullmatch(_DISK, base) and (not size or area.size < size)


def swap_use(areas: Sequence[SwapArea]) -> tuple[int, int] | None:
    """(highest priority, bytes used) of a device's areas; None when it is not swap."""
    return (max(area.priority for area in areas), sum(area.used for area in areas)) if areas else None


# --- mounts

MountTable = list[tuple[frozenset[str], Mount]]
"""Every mount, with the numbers of the block devices that it is on."""


def _numbers_of(mount: Mount, root: Path) -> frozenset[str]:
    """The numbers of the block devices that a mounted filesystem is on."""
    if not mount.number.startswith("0:"):
        return frozenset((mount.number,))
    number = number_of(f"{root}{mount.source}") if mount.kind in _WITHOUT_NUMBER else None
    if number is None:
        return frozenset()
    # btrfs: any of its devices may be the source.
    name, found = name_of(number, root), {number}
    for filesystem in _list(f"{root}/sys/fs/btrfs"):
        members = _list(f"{root}/sys/fs/btrfs/{filesystem}/devices")
        if name in members:
            found |= {other.number for other in (disk(member, root) for member in members) if other}
    return frozenset(found)


def mounts_on(name: str, disks: Sequence[Disk], table: MountTable, root: Path = ROOT) -> tuple[Mount, ...]:
    """What is mounted of a disk and of what is on top of it. `disks`: its family."""
    members = {disk.number for disk in disks}
    found = []
    gone = name not in {disk.name for disk in disks}
    for numbers, mount in table:
        if numbers & members or (gone and _was_of(mount, numbers, name, root)):
            found.append(mount)
    return tuple(found)


def _was_of(mount: Mount, numbers: frozenset[str], name: str, root: Path) -> bool:
    """Whether a mount is what is left of a disk that is gone: its filesystem is on a block device that
    no longer exists, and it was mounted by that name."""
    if mount.number.startswith("0:") and mount.kind not in _WITHOUT_NUMBER:
        return False
    return _is_part(_base(mount.source), name) and not any(name_of(number, root) for number in numbers)


def _table_of(text: str, root: Path) -> MountTable:
    return [(_numbers_of(mount, root), mount) for mount in procfs.mounts(text)]


class Mounts:
    """Where block devices are mounted, from /proc/self/mountinfo, read again only when the kernel says it changed."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._table: MountTable | None = None

    def close(self) -> None:
        os.close(self._file)

    def table(self) -> MountTable:
        """Every mount, with the numbers of the block devices that it is on."""
        if self._table is None or self._poll.poll(0):
            os.lseek(self._file, 0, os.SEEK_SET)
            with os.fdopen(os.dup(self._file), "r", errors="replace") as file:
                self._table = _table_of(file.read(), ROOT)
        return self._table

    def of(self, name: str, disks: Sequence[Disk]) -> tuple[str, ...]:
        """Mount points of the disk `name`, whose family is `disks`."""
        return tuple(mount.point for mount in mounts_on(name, disks, self.table()))


def mount_table(root: Path = ROOT) -> MountTable:
    """As `Mounts.table`, read once."""
    return _table_of(procfs.read_text(f"{root}/proc/self/mountinfo") or "", root)


# --- all of them


class User(NamedTuple):
    """One user of a device."""

    text: str
    lasting: bool
    """Whether it will not go away by itself within a moment, as udev's probing does."""
    remedy: str
    area: SwapArea | None = None
    """The line of /proc/swaps, of what uses it as swap."""
    point: str = ""
    """Where it is mounted, of a mount."""
    covered: bool = False
    """Whether something else is mounted over that mount."""


def swap_areas(name: str, root: Path = ROOT, size: int = 0) -> tuple[SwapArea, ...]:
    """The areas that are on the disk `name` under whatever path, or may be; what is in them is what swapoff brings
    back. `size`: see `Swaps.on`."""
    swaps, disks = Swaps(root=root), family(name, root)
    return tuple(dict.fromkeys((*swaps.on(name, disks, size), *swaps.hidden(disks))))


def users(name: str, root: Path = ROOT, size: int = 0) -> list[User]:
    """All users of the disk `name`: swap first, then mounts, devices on top of it, programs that have it open. `size`
    as in `Swaps.on`."""
    disks = family(name, root)
    table = mount_table(root)
    found = [_swap_user(name, area) for area in swap_areas(name, root, size)]
    top = {mount.point: mount for _, mount in table}
    for mount in mounts_on(name, disks, table, root):
        covered = top[mount.point] is not mount
        found.append(_mount_user(mount, covered))
    found += [_above(disk, root) for disk in disks if disk.name != name and not disk.partition_of]
    found += _processes(disks, root)
    if not found and _unexplained(Swaps(root=root), disks, root):
        text = "something claims it exclusively (a mount in another namespace, for example)"
        found.append(User(text, True, "find it with lsblk and findmnt in the containers of this machine"))
    return found


def _swap_user(name: str, area: SwapArea) -> User:
    other = "" if area.path == f"/dev/{name}" else f" as {area.path}"
    text = f"it is swap{other} (priority {area.priority}, {format_size(area.used)} swapped out)"
    return User(text, True, f"swapoff {area.path}", area=area)


def _mount_user(mount: Mount, covered: bool) -> User:
    over = ", under something else that is mounted there" if covered else ""
    text = f"it is mounted on {mount.point}{over}"
    return User(text, True, f"umount {mount.point}", point=mount.point, covered=covered)


def _above(disk: Disk, root: Path) -> User:
    """A block device on top of it, with the way to remove that."""
    folder = f"{root}/sys/class/block/{disk.name}"
    label, uuid = (procfs.read_text(f"{folder}/dm/{file}") or "" for file in ("name", "uuid"))
    if owner := device_of(label):
        text = f"it is the backing file of {owner}"
        return User(text, True, f"truezram set {owner} backing=none (or truezram remove {owner})")
    if label:
        ways = {"CRYPT-": f"cryptsetup close {label}", "LVM-": f"lvchange -an /dev/mapper/{label}"}
        way = next((way for start, way in ways.items() if uuid.startswith(start)), f"dmsetup remove {label}")
        return User(f"the block device {disk.name} ({label}) is on top of it", True, way)
    if disk.name.startswith("loop"):
        return User(f"the loop device {disk.name} is on top of it", True, f"losetup -d /dev/{disk.name}")
    way = f"mdadm --stop /dev/{disk.name}" if disk.name.startswith("md") else f"remove {disk.name}"
    return User(f"the block device {disk.name} is on top of it", True, way)


# --- who has it open


_AT_FDCWD, _AT_STATX_DONT_SYNC, _STATX_TYPE = -100, 0x4000, 1
_STATX_SIZE, _STATX_MODE, _STATX_RDEV = 256, 28, 128


def _open_number(link: str) -> str | None:
    """As `number_of`, for a link in /proc/PID/fd. A file on a network or FUSE filesystem is not looked up: its server
    may not answer."""
    import ctypes  # slow, and not needed for `list`

    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is None:  # a libc from before 2018
        return number_of(link)
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if statx(_AT_FDCWD, os.fsencode(link), _AT_STATX_DONT_SYNC, ctypes.c_uint(_STATX_TYPE), found):
        return None
    raw = found.raw
    if not stat.S_ISBLK(int.from_bytes(raw[_STATX_MODE : _STATX_MODE + 2], "little")):
        return None
    major, minor = (int.from_bytes(raw[_STATX_RDEV + at : _STATX_RDEV + at + 4], "little") for at in (0, 4))
    return f"{major}:{minor}"


def _processes(disks: Sequence[Disk], root: Path) -> list[User]:
    """Processes with one of these disks open (of those that this user may look at)."""
    members = {disk.number for disk in disks}
    found = []
    for pid in procfs.pids(root) if members else ():
        folder = f"{root}/proc/{pid}"
        if pid == os.getpid() or not any(_open_number(link) in members for link in _files(f"{folder}/fd")):
            continue
        name = procfs.read_text(f"{folder}/comm") or "a process"
        lasting = "udev" not in name and name != "blkid"
        found.append(User(f"{name} (pid {pid}) has it open", lasting, f"end {name} (pid {pid})"))
    return found


def _files(folder: str) -> list[str]:
    """The links in /proc/PID/fd that lead to a file with a path: no sockets, pipes and the like."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/"):  # noqa: PTH115 (thousands of them)
                    found.append(entry.path)
    return found


def _claimed(disk: Disk, root: Path) -> bool | None:
    """Whether the block device is held exclusively; None when that cannot be found out (only root may, and only
    with a node)."""
    node = f"{root}/dev/{disk.name}"
    if number_of(node) != disk.number:
        return None
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return True if error.errno == errno.EBUSY else None
    return False


def _unexplained(swaps: Swaps, disks: Sequence[Disk], root: Path) -> list[Disk]:
    """The disks of a family that are claimed by a user that cannot be named."""
    claimed = [disk for disk in disks if _claimed(disk, root)]
    if not claimed:
        return []
    known = swaps.numbers().union(*(numbers for numbers, _ in mount_table(root)))
    # A claim on a partition shows on its disk, too.
    parents = {disk.partition_of for disk in claimed}
    return [
        disk
        for disk in claimed
        if disk.number not in known
        and disk.name not in parents
        and not _list(f"{root}/sys/class/block/{disk.name}/holders")
    ]


# --- files


def file_users(path: str, root: Path = ROOT) -> list[str]:
    """Who uses a file, as far as this user may see: swap, loop devices, processes that have it open; a clause each. The
    file is known by its device and inode, whatever it is called there."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return []
    same = (found.st_dev, found.st_ino)
    out = []
    for area in procfs.swaps(root):
        with contextlib.suppress(OSError):
            other = os.stat(f"{root}{area.path}")  # noqa: PTH116
            if area.type == "file" and (other.st_dev, other.st_ino) == same:
                out.append(f"it is swap (priority {area.priority}, {format_size(area.used)} swapped out)")
    for name in _list(f"{root}/sys/block"):
        if name.startswith("loop") and _loop_file(f"{root}/dev/{name}") == same:
            above = [
                procfs.read_text(f"{root}/sys/block/{dm}/dm/name") for dm in _list(f"{root}/sys/block/{name}/holders")
            ]
            devices = [device for device in map(device_of, filter(None, above)) if device]
            out.append(f"it is the backing file of {devices[0]}" if devices else f"the loop device {name} is on it")
    for pid in procfs.pids(root):
        if pid != os.getpid() and _has_open(f"{root}/proc/{pid}", same):
            out.append(f"{procfs.read_text(f'{root}/proc/{pid}/comm') or 'a process'} (pid {pid}) has it open")
    return out


def _loop_file(node: str) -> tuple[int, int] | None:
    """(device, inode) of the file behind a loop device; None if it has none, or cannot be asked."""
    info = _loop_info(node)
    return (int.from_bytes(info[:8], "little"), int.from_bytes(info[8:16], "little")) if info else None


def _has_open(folder: str, same: tuple[int, int]) -> bool:
    """Whether a process has a file open. Only what has its inode's number is looked up: the others may be on a
    filesystem whose server does not answer."""
    for number in _list(f"{folder}/fdinfo"):
        about = procfs.read_text(f"{folder}/fdinfo/{number}") or ""
        if re.search(rf"^ino:\s*{same[1]}$", about, re.MULTILINE):
            with contextlib.suppress(OSError):
                found = os.stat(f"{folder}/fd/{number}")  # noqa: PTH116
                if (found.st_dev, found.st_ino) == same:
                    return True
    return False
