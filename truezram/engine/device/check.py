"""Checks an arena: a file that holds one, or that of a device, whether its server runs, is stopped, or is gone.

Nothing is changed. The arena of a running server is read while it is written to; what changes meanwhile is looked at
again (check.c).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from truezram._native import ffi, lib
from truezram.engine import paths
from truezram.engine.answers import ArenaCheck, ArenaProblem
from truezram.engine.device.client import Client, Entry, is_device_name, server_of
from truezram.engine.device.control import printable
from truezram.engine.errors import Failed, PermissionDenied, TruezramError, Unsupported, UsageError

ROOM = 1000
"""Problems that are kept; the others are counted."""
STATES: dict[int, str] = {
    value: name.removeprefix("TZ_ARENA_").lower() for value, name in ffi.typeof("enum tz_arena_state").elements.items()
}


def check(client: Client, text: str) -> ArenaCheck:
    """Checks what a user means by `text`: a device's name, or else a file (``./local0`` for one that is called like a
    device). Raises `TruezramError` when there is no arena, or none that can be read."""
    return check_device(client.resolve(text)) if is_device_name(text) else check_file(Path(text))


def check_file(path: Path) -> ArenaCheck:
    """Checks the arena in a file."""
    what = f"cannot check {printable(os.fsencode(path))}"
    fd = _open(path, what)
    try:
        return _check(fd, str(path), _is_attached(fd), what)
    finally:
        os.close(fd)


def check_device(entry: Entry) -> ArenaCheck:
    """Checks a device's arena."""
    what = f"cannot check {entry.name}"
    live = server_of(entry) is not None
    fd = _open_arena(entry, live, what)
    backing = _open_backing(entry)
    try:
        return _check(fd, entry.name, live, what, backing)
    finally:
        os.close(fd)
        if backing:
            os.close(backing)


def _open(path: Path, what: str) -> int:
    try:
        # Not waiting for the other end of a pipe, or for a tape.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise UsageError(what, "there is no such device and no such file", "See `truezram list`") from None
    except PermissionError:
        raise PermissionDenied(what, "it may not be read", "Run it with sudo") from None
    except (OSError, ValueError) as error:
        raise Failed(what, getattr(error, "strerror", None) or str(error)) from None


def _open_arena(entry: Entry, live: bool, what: str) -> int:
    """Through the file system if it is there, as for a dead or a stopped server; else its server hands it out."""
    path = entry.directory / paths.ARENA / entry.name
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            raise Failed(what, error.strerror or "") from None
        denied = error.errno == errno.EACCES
    if live:
        return Client.arena(entry)
    if denied:
        raise PermissionDenied(what, "its arena may not be read", "Run it with sudo")
    raise Failed(what, "its arena was in the memory of its server, and is gone with it")


def _open_backing(entry: Entry) -> int:
    """The backing file of a device to read from; 0: there is none, or it cannot be read."""
    with Client([entry.directory]) as client:
        path = client.device(entry).backing_path
    if path:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    return 0


def _is_attached(fd: int) -> bool:
    """Whether a server has the arena: it holds a lock on it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # this file system has no locks
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _check(fd: int, source: str, live: bool, what: str, backing: int = 0) -> ArenaCheck:
    problems = ffi.new("struct tz_check_problem[]", ROOM)
    found = ffi.new("struct tz_check *", {"problems": problems, "room": ROOM, "live": live, "backing_fd": backing})
    why = ffi.new("char[216]")
    result = lib.tz_check_arena(fd, found, why, len(why))
    if result < 0:
        raise _error(result, what, printable(ffi.string(why)))
    return ArenaCheck(
        source=source,
        live=live,
        version=found.version,
        state=STATES.get(found.state, f"unknown ({found.state})"),
        uuid=bytes(ffi.buffer(found.uuid)).hex(),
        generation=found.generation,
        disksize=found.disksize,
        algorithm=printable(ffi.string(found.algorithm)),
        pages=found.pages,
        same_filled=found.same_filled,
        dup_pages=found.dup_pages,
        group_pages=found.group_pages,
        backing_pages=found.backing_pages,
        backing_bytes=found.backing_bytes,
        backing_read=bool(backing),
        objects=found.objects,
        payload_bytes=found.payload_bytes,
        object_bytes=found.object_bytes,
        table_pages=found.table_pages,
        populated_bytes=found.populated_bytes,
        unsettled=found.unsettled,
        problems=tuple(
            ArenaProblem(None if item.page == lib.TZ_CHECK_NO_PAGE else item.page, printable(ffi.string(item.what)))
            for item in problems[0 : min(found.nr_problems, ROOM)]
        ),
        problems_found=found.nr_problems,
    )


def _error(result: int, what: str, why: str) -> TruezramError:
    if result == -errno.EPROTONOSUPPORT:
        return Unsupported(what, why, "Use the version of truezram that made it")
    return Failed(what, why)
