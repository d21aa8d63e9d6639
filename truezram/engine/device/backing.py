"""A device's backing file: a file, partition or other block device that idle pages are written to.

What is on it is somebody's memory, so it is encrypted (crypt.py) unless that is declined. The server only knows what it
writes to: the mapping, or the file itself. Users write ``PATH``, ``plain:PATH`` for one that is not encrypted, or
``none``.

Before anything is overwritten: a block device must not be in use, asked by its number; a file must not be swap, have a
loop device on it, or be open anywhere, asked by its inode. What has a filesystem or the like on it, and a file with
anything at all that we have not written, is only taken by force. A file that is not there is made, sparse: it takes the
room that pages take, and when the filesystem is full, writing back stops and nothing else does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from truezram.engine.device import crypt
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.cold import bring, watch
from truezram.engine.device.compaction import Progress
from truezram.engine.device.swap import tool
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine import mappings, users
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import PAGE, format_size

NONE = "none"
PLAIN = "plain:"
LONGEST = 180
"""Bytes of a path: it must fit a request."""
MOST = 256 << 30
"""Bytes of it that can be used."""
LEAST = 1 << 20
HEADER = b"TZBACK1\0"
"""What the server's own header begins with (docs/arena.md)."""
RETURN_PERCENT = 100
"""Of a core, for bringing pages back."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Backing:
    """What a user asks for."""

    path: str
    """Absolute."""
    plain: bool = False
    """Not encrypted."""
    limit: int = 0
    """Bytes of it that are used at most; 0: all, or of a new file the size of the disk."""

    def __str__(self) -> str:
        return f"{PLAIN if self.plain else ''}{self.path}"


def parse(text: str, limit: int = 0) -> Backing | None:
    """``none``, ``PATH`` or ``plain:PATH``. Raises `UsageError`."""
    word = text.strip()
    if word.lower() == NONE:
        return None
    plain = word.startswith(PLAIN)
    path = os.path.abspath(os.path.expanduser(word.removeprefix(PLAIN)))  # noqa: PTH100, PTH111 (of text)
    what = f"cannot use {path[:60]!r} as backing file"
    if not word.removeprefix(PLAIN):
        raise UsageError("invalid backing file", "it is empty", "Write a path, plain:PATH, or none")
    if any(ord(char) < 32 for char in path):
        raise UsageError(what, "its name contains a control character")
    if len(os.fsencode(path)) > LONGEST:
        raise UsageError(what, f"its path is longer than {LONGEST} bytes", "Use a shorter one, such as a link to it")
    if limit and not LEAST <= limit <= MOST:
        raise UsageError(what, f"the limit is {format_size(limit)}", f"Choose 1M to {format_size(MOST)}")
    return Backing(path, plain, limit)


def parse_setting(text: str) -> str:
    """The same for `set`: as a user writes it, with an absolute path."""
    found = parse(text)
    return NONE if found is None else str(found)


# --- what is there


@dataclass(frozen=True, slots=True)
class _Target:
    """What is to become a backing file, as it was found."""

    path: str
    size: int
    """Of it, and of a new one what it will be."""
    block: bool
    made: bool
    """By us."""
    fd: int
    """Open for writing. A file is locked by it; a block device is not in use by others for as long as it is open."""


def check(wanted: Backing, what: str, device: str = "", force: bool = False) -> None:
    """As far as that is possible without changing anything: whether it can become the backing file of `device`. Raises
    `TruezramError`."""
    if not wanted.plain:
        if os.geteuid() != 0:
            remedy = "Run it with sudo, or write it unencrypted: --backing-plain"
            raise PermissionDenied(what, "only root may encrypt it (dm-crypt)", remedy)
        crypt.need()
    try:
        found = os.stat(wanted.path)  # noqa: PTH116
    except FileNotFoundError:
        folder = Path(wanted.path).parent
        if not folder.is_dir():
            raise UsageError(what, f"there is no folder {folder}", f"Make it: mkdir -p {folder}") from None
        _refuse_itself(os.stat(folder).st_dev, device, what)  # noqa: PTH116
        return
    except OSError as error:
        raise Failed(what, error.strerror or str(error)) from None
    if others := _owners(found):
        raise Busy(what, f"it is the backing file of {' and '.join(others)}", "Choose another one")
    if stat.S_ISBLK(found.st_mode):
        _check_block(found, what)
    elif stat.S_ISREG(found.st_mode):
        _check_file(wanted, found, device, what)
    else:
        raise UsageError(what, "it is neither a file nor a block device", "Name a file, a partition or a disk")
    if not force:
        _refuse_contents(wanted.path, stat.S_ISBLK(found.st_mode), what)


def _owners(found: os.stat_result) -> list[str]:
    """The devices that write to that file or block device themselves, without a mapping."""
    owners = []
    with Client() as client:
        for device in client.devices(queues=False):
            with contextlib.suppress(OSError):
                other = os.stat(device.backing_path)  # noqa: PTH116
                if stat.S_ISBLK(found.st_mode):
                    same = stat.S_ISBLK(other.st_mode) and other.st_rdev == found.st_rdev
                else:
                    same = (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino)
                owners += [device.name] if same else []
    return owners


def _check_block(found: os.stat_result, what: str) -> None:
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    name = users.name_of(number)
    if not name:
        raise UsageError(what, f"no block device has its number {number}", "See lsblk")
    with Client() as client:
        ours = any(entry.name == name and entry.is_disk for entry in client.entries())
    if ours or name.startswith("ublkb"):
        raise UsageError(what, f"it is {name}, which is memory itself", "Name a file or a disk")
    if by := users.users(name):
        remedy = f"First {', '.join(dict.fromkeys(user.remedy for user in by))}; or choose another one"
        raise Busy(what, "; ".join(user.text for user in by), remedy)


def _check_file(wanted: Backing, found: os.stat_result, device: str, what: str) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        why = "others could read or change it: it must belong to this user and have mode 0600"
        raise PermissionDenied(what, why, f"chmod 600 {wanted.path} (and chown), or name a file that is not there")
    _refuse_itself(found.st_dev, device, what)
    if by := users.file_users(wanted.path):
        raise Busy(what, "; ".join(by), "Choose another file")
    if wanted.limit > found.st_size > 0:
        why = f"it has {format_size(found.st_size)}, and the limit is {format_size(wanted.limit)}"
        raise UsageError(
            what, why, f"Choose a lower limit, or make it larger: truncate -s {wanted.limit} {wanted.path}"
        )


def _refuse_itself(number: int, device: str, what: str) -> None:
    """A file on a filesystem of the device itself would wait for itself."""
    if not device:
        return
    for mount in users.mounts_on(device, users.family(device), users.mount_table()):
        with contextlib.suppress(OSError):
            if os.stat(mount.point).st_dev == number:  # noqa: PTH116
                raise UsageError(what, f"it is on {device} itself (mounted on {mount.point})", "Name one elsewhere")


def _refuse_contents(path: str, block: bool, what: str) -> None:
    """Raises `Busy` when something is on it that would be lost."""
    force = "To overwrite it: --force"
    if kinds := _signatures(path):
        raise Busy(what, f"there is something on it ({', '.join(kinds)})", force)
    if not block and not _is_ours(path) and _has_data(path):
        raise Busy(what, "it is not empty, and was not a backing file before", force)


def _signatures(path: str) -> list[str]:
    """Names of the filesystems, partition tables and the like that are on it. Raises `TruezramError`."""
    command = [tool("wipefs", otherwise="leave the backing file out"), "--noheadings", "--output", "TYPE", path]
    return list(dict.fromkeys(_run(command, f"cannot look what is on {path}").split()))


def _is_ours(path: str) -> bool:
    """Whether it was a backing file before, of whatever device."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            head = file.read(len(crypt.NOTE))
    except OSError as error:
        raise Failed(f"cannot read {path}", error.strerror or str(error)) from None
    return head == crypt.NOTE or head.startswith(HEADER)


def _has_data(path: str) -> bool:
    """Whether there is anything but zeros in a file."""
    zeros = bytes(_CHUNK)
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            end, at = file.seek(0, os.SEEK_END), 0
            while at < end:
                try:
                    file.seek(os.lseek(file.fileno(), at, os.SEEK_DATA))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # holes only from here on
                        return False
                    raise
                data = file.read(_CHUNK)
                if data != zeros[: len(data)]:
                    return True
                at = file.tell()
    except OSError as error:
        raise Failed(f"cannot read {path}", error.strerror or str(error)) from None
    return False


def _run(command: list[str], what: str) -> str:
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, env=env)
    except subprocess.TimeoutExpired:
        raise Failed(what, f"{Path(command[0]).name} did not end within 60 s") from None
    if done.returncode:
        raise Failed(what, done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}")
    return done.stdout.decode(errors="replace")


# --- making it one


def _what(wanted: Backing, entry: Entry) -> str:
    return f"cannot use {wanted.path} as backing file of {entry.name}"


def attach(client: Client, entry: Entry, wanted: Backing, disksize: int, force: bool = False) -> None:
    """Has a device use it from now on. Raises `TruezramError`; what was made for it is removed then."""
    what = _what(wanted, entry)
    check(wanted, what, entry.name, force)
    target = _take(wanted, disksize, what)
    mapping: mappings.Mapping | None = None
    try:
        if force:
            _run([tool("wipefs"), "--all", "--quiet", "--force", wanted.path], f"cannot clean {wanted.path}")
        if wanted.plain:
            if not target.block:
                os.ftruncate(target.fd, 0)
            os.close(target.fd)
            target = replace(target, fd=-1)
            limit = 0 if target.block and not wanted.limit else target.size
            client.set(entry, "backing", f"{limit}:{wanted.path}")
            return
        mapping, target = _encrypt(entry.name, target, what)
        client.set(entry, "backing", f"0:{mapping.path}")
    except BaseException:
        with contextlib.suppress(TruezramError):
            if mapping is not None:
                crypt.close_mapping(mapping)
        if target.made:
            Path(target.path).unlink(missing_ok=True)
        raise
    finally:
        if target.fd >= 0:
            os.close(target.fd)


def _take(wanted: Backing, disksize: int, what: str) -> _Target:
    """Opens it, and makes it if need be."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY
    made = False
    try:
        try:
            fd = os.open(wanted.path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            made = True
        except FileExistsError:
            block = Path(wanted.path).is_block_device()
            fd = os.open(wanted.path, flags | (os.O_EXCL if block else 0))
    except OSError as error:
        kind = Busy if error.errno == errno.EBUSY else Failed
        raise kind(what, error.strerror or str(error)) from None
    try:
        found = os.fstat(fd)
        if stat.S_ISBLK(found.st_mode):
            size = os.lseek(fd, 0, os.SEEK_END)
            if size < LEAST:
                raise UsageError(what, f"its size is {format_size(size)}", "It needs 1M at least")
            if wanted.limit > size:
                why = f"it has {format_size(size)}, and the limit is {format_size(wanted.limit)}"
                raise UsageError(what, why, "Choose a lower limit")
            return _Target(wanted.path, min(wanted.limit or size, MOST) // PAGE * PAGE, True, False, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = wanted.limit or found.st_size or disksize
        return _Target(wanted.path, max(LEAST, min(size, MOST)) // PAGE * PAGE, False, made, fd)
    except BaseException as error:
        os.close(fd)
        if made:
            Path(wanted.path).unlink(missing_ok=True)
        if isinstance(error, BlockingIOError):
            raise Busy(what, "it is the backing file of another device", "Choose another file") from None
        raise


def _encrypt(device: str, target: _Target, what: str) -> tuple[mappings.Mapping, _Target]:
    """The mapping over it. The target may be closed then."""
    try:
        if not target.block and os.fstat(target.fd).st_size < target.size:
            os.ftruncate(target.fd, target.size)
        os.pwrite(target.fd, crypt.NOTE.ljust(crypt.HEAD, b"\0"), 0)
        os.fsync(target.fd)
    except OSError as error:
        raise Failed(what, error.strerror or str(error)) from None
    if not target.block:
        return crypt.open_mapping(device, target.path, target.size, target.fd), target
    os.close(target.fd)  # device mapper wants it to itself
    target = replace(target, fd=-1)
    return crypt.open_mapping(device, target.path, target.size), target


# --- changing it


def change(client: Client, entry: Entry, value: str, force: bool = False, progress: Progress | None = None) -> None:
    """Makes `value` (from `parse_setting`) a running device's backing file. All pages on the one before come back to
    memory first. The same one again has the server try it once more, after an error. Raises `TruezramError`: the device
    has the one before then, or if the new one has failed at the last moment, none."""
    device = client.device(entry)
    wanted = parse(value)
    if wanted is not None and str(wanted) == device.backing:
        client.set(entry, "backing", f"{_limit(device)}:{device.backing_path}")
        return
    if wanted is not None:
        check(wanted, _what(wanted, entry), entry.name, force)
    if device.backing != NONE:
        bring_back(client, entry, progress)
        client.set(entry, "backing", NONE)
        release(entry.name, device)
    if wanted is not None:
        attach(client, entry, wanted, device.disksize, force)


def _limit(device: DeviceSnapshot) -> int:
    return 0 if mappings.device_of(Path(device.backing_path).name) else device.backing_limit


def bring_back(client: Client, entry: Entry, progress: Progress | None = None) -> None:
    """Returns when no page is on the backing file any more. Raises `TruezramError`, `Failed` if some had to stay there:
    there is no memory for them."""
    if not client.device(entry).backed_pages:
        return
    watch(client, bring(client, entry, RETURN_PERCENT), progress)
    if left := client.device(entry).backed_pages:
        what = f"cannot bring all pages of {entry.name} back to memory"
        why = f"{left} are still on {client.device(entry).backing}"
        raise Failed(what, why, f"Free memory, or raise mem_limit; see truezram stat {entry.name}")


def release(name: str, before: DeviceSnapshot | None) -> None:
    """Removes what was made for a device's backing file, which no server uses any more: the mappings, with their keys,
    and what is in the file (which stays, empty). `before`: the device as it was last seen. Raises `Failed`."""
    files = {mapping.path: mappings.behind(mapping.path) for mapping in mappings.mappings(name)}
    crypt.close_all(name)
    if before is not None and before.backing_path and before.backing_path not in files:
        files[before.backing_path] = before.backing_path
    for path in filter(None, files.values()):
        _empty(path)


def _empty(path: str) -> None:
    """A server that ended in order has done it; after others it is done here. Only what is certainly ours."""
    deadline = time.monotonic() + 2.0
    # udev may have the loop device open for a moment, which is gone after that.
    while users.file_users(path) and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(TruezramError, OSError):
        if Path(path).is_file() and not users.file_users(path) and _is_ours(path):
            os.truncate(path, 0)


def warnings_of(wanted: Backing, disksize: int) -> list[str]:
    """What may surprise the user of a backing file, which is there."""
    found = []
    if wanted.plain:
        found.append(f"what is written to {wanted.path} is not encrypted: it is what programs have in memory")
    if Path(wanted.path).is_file():
        size = wanted.limit or os.stat(wanted.path).st_size or disksize  # noqa: PTH116
        room = os.statvfs(wanted.path)
        free = room.f_bavail * room.f_frsize
        if free < size:
            found.append(
                f"the filesystem of {wanted.path} has {format_size(free)} free, and the file may take"
                f" {format_size(size)}: writing pages back stops when that is full"
            )
    return found
