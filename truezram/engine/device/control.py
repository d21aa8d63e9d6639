"""One request to a running server and its reply, over its control socket (protocol.h), in bounded time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError, UsageError

TIMEOUT = 5.0
STOP_TIMEOUT = 30.0
SUN_PATH = 107
"""Bytes of a Unix socket's path, without its NUL."""

_REPLY_SIZE = ffi.sizeof("struct tz_reply")


class Op(IntEnum):
    """``enum tz_op``."""

    PING = lib.TZ_OP_PING
    SET = lib.TZ_OP_SET
    STOP = lib.TZ_OP_STOP
    ATTACH = lib.TZ_OP_ATTACH
    PAGE_MAP = lib.TZ_OP_PAGE_MAP
    TRIM = lib.TZ_OP_TRIM
    COMPACT = lib.TZ_OP_COMPACT
    ARENA = lib.TZ_OP_ARENA
    HAND_OVER = lib.TZ_OP_HAND_OVER
    AGES = lib.TZ_OP_AGES
    RECOMPRESS = lib.TZ_OP_RECOMPRESS
    STOP_RECOMPRESS = lib.TZ_OP_STOP_RECOMPRESS


_ERRORS: dict[int, type[TruezramError]] = {
    lib.TZ_E_INVALID: UsageError,
    lib.TZ_E_PERMISSION: PermissionDenied,
    lib.TZ_E_BUSY: Busy,
}
"""What each ``enum tz_status`` is raised as; any other is `Failed`."""


class NoAnswer(Failed):
    """The server did not accept the connection or did not answer in time: it hangs or is gone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply with status TZ_OK."""

    values: tuple[int, int, int, int]
    text: str
    page_map: tuple[tuple[int, ...], ...]
    """One tuple of TZ_KINDS_STORED counts per region that was asked for (PAGE_MAP only)."""
    fds: tuple[int, ...]
    """Descriptors that came along; the caller closes them."""


def printable(text: bytes) -> str:
    """Text from another process, fit for a terminal: no control characters."""
    decoded = text.decode("utf-8", "replace")
    return decoded if decoded.isprintable() else "".join(c if c.isprintable() else "?" for c in decoded)


def request(
    sock_path: Path, op: Op, args: tuple[int, ...] = (), text: str = "", *, what: str, timeout: float = TIMEOUT
) -> Reply:
    """Sends one request and waits for its reply, `timeout` seconds in all.

    `what` is the head of the error message ("cannot set mem_limit of ublkb0"). Raises `NoAnswer` for a server that does
    not answer, `PermissionDenied` if the socket belongs to another user, otherwise the error that the server reports.
    """
    message = ffi.new("struct tz_request *")
    encoded = text.encode()
    if len(encoded) >= len(message.text) or b"\0" in encoded:
        raise UsageError(what, f"the value is longer than {len(message.text) - 1} bytes or holds a NUL")
    message.magic, message.version, message.op = lib.TZ_MSG_MAGIC, lib.TZ_MSG_VERSION, op
    for index, value in enumerate(args):
        message.arg[index] = value
    message.text = encoded
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        _connect(sock, sock_path, what, timeout)
        try:
            sock.send(ffi.buffer(message)[:])
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            # One byte more than a reply: a longer one is noticed.
            data, fds, _, _ = socket.recv_fds(sock, _REPLY_SIZE + 1, 4, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise NoAnswer(what, f"its server did not answer within {timeout:g} s", _HANGING) from None
        except OSError as error:
            raise NoAnswer(what, f"its server closed the connection ({error.strerror})", _HANGING) from None
    try:
        reply = _decode(data, what)
        if reply.status:
            why = printable(ffi.string(reply.text)) or "the server gave no reason"
            raise _ERRORS.get(reply.status, Failed)(what, why)
        regions = args[2] if op is Op.PAGE_MAP else 0
        rows = tuple(tuple(ffi.unpack(reply.map[i], lib.TZ_KINDS_STORED)) for i in range(regions))
        values: Any = tuple(reply.value)
        return Reply(values, printable(ffi.string(reply.text)), rows, tuple(fds))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def peer(sock_path: Path, what: str, timeout: float = 2.0) -> tuple[int, int]:
    """(pid, uid) of the process that listens on a server's socket, as the kernel reports it. It need not answer.
    Raises as `request`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        _connect(sock, sock_path, what, timeout)
        pid, uid, _ = memoryview(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)).cast("i")
    return pid, uid


_HANGING = "See `truezram list` for its state; `truezram remove DEVICE --force` ends a server that hangs"


def _connect(sock: socket.socket, path: Path, what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    sock.settimeout(timeout)
    folder = -1
    try:
        address = str(path)
        if len(os.fsencode(address)) > SUN_PATH:
            # A path too long for a socket's address is reached through its folder's descriptor.
            folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
            address = f"/proc/self/fd/{folder}/{path.name}"
        while True:
            try:
                sock.connect(address)
                return
            except BlockingIOError:
                # As many as the kernel queues (listen(2)) wait to be accepted: it does not let a socket with a time
                # limit wait for that.
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.01)
    except PermissionError:
        raise PermissionDenied(what, "it belongs to another user", "Run it as that user, or with sudo") from None
    except TimeoutError:
        raise NoAnswer(what, f"its server did not accept a connection within {timeout:g} s", _HANGING) from None
    except OSError as error:
        why = f"its server does not listen ({error.strerror})"
        raise NoAnswer(what, why, "See `truezram list`; `truezram remove` cleans up after a dead server") from None
    finally:
        if folder >= 0:
            with contextlib.suppress(OSError):
                os.close(folder)


def _decode(data: bytes, what: str) -> Any:
    if not data:
        raise NoAnswer(what, "its server closed the connection without an answer", _HANGING)
    reply = ffi.new("struct tz_reply *")
    if len(data) == _REPLY_SIZE:
        ffi.memmove(reply, data, _REPLY_SIZE)
    if reply.magic != lib.TZ_MSG_MAGIC or reply.version != lib.TZ_MSG_VERSION:
        raise Failed(
            what,
            f"its server's answer is not understood ({len(data)} bytes, version {reply.version})",
            "The server may be of another version of truezram: remove the device and create it again",
        )
    if reply.text[len(reply.text) - 1] != b"\0":
        raise Failed(what, "its server's answer is damaged (unterminated text)")
    return reply
