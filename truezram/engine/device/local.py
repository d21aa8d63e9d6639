"""A running local device, from Python: pages in, pages out, through the ring that its server shares (local.h)."""

from __future__ import annotations

import errno
import os
import threading
from types import TracebackType
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.control import Op, request
from truezram.engine.errors import Failed, Unsupported
from truezram.engine.units import PAGE

TIMEOUT = 30.0


class LocalDevice:
    """Reads, writes and discards pages of a local device. Any number of threads may use one at the same time.

    What fails raises `OSError` with the server's errno: EIO, ENOSPC (at mem_limit), EINVAL (out of range), ETIMEDOUT,
    ENODEV (the server is gone).
    """

    def __init__(self, device: Entry | str, timeout: float = TIMEOUT) -> None:
        """Attaches to the device (an entry, or a name as a user writes it); `timeout` seconds for each request. Raises
        `TruezramError`."""
        self._client: Any = ffi.NULL
        self._state = threading.Condition()
        self._under_way = 0
        if isinstance(device, Entry):
            entry = device
        else:
            with Client() as client:
                entry = client.resolve(device)
        what = f"cannot attach to {entry.name}"
        if entry.transport != "local":
            raise Unsupported(what, "it is a block device", f"Open {entry.path}")
        reply = request(entry.sock, Op.ATTACH, what=what)
        if len(reply.fds) != 1:
            for fd in reply.fds:
                os.close(fd)
            raise Failed(what, "its server sent no ring")
        error = ffi.new("int *")
        try:
            self._client = lib.tz_local_attach(reply.fds[0], error)
        finally:
            os.close(reply.fds[0])
        if self._client == ffi.NULL:
            if error[0] == -errno.EPERM:
                raise Failed(what, "its ring is not sealed against shrinking: it was not made by a truezram server")
            raise Failed(what, f"its ring cannot be mapped: {os.strerror(-error[0])}")
        self.name = entry.name
        self.timeout = timeout
        self.pages: int = lib.tz_local_pages(self._client)
        """Pages of the device."""
        self.max_pages: int = lib.tz_local_max_pages(self._client)
        """Pages in the largest request; reads and writes of more are split."""

    @property
    def client(self) -> Any:
        """The C library's `struct tz_local_client *`, until it is closed."""
        return self._client

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detaches, once the requests that are under way in other threads are done; later ones raise `ValueError`."""
        with self._state:
            client, self._client = self._client, ffi.NULL
            while self._under_way:
                self._state.wait()
        if client != ffi.NULL:
            lib.tz_local_detach(client)

    def read(self, page: int, count: int = 1) -> bytes:
        """The contents of `count` pages from `page` on: ``count * 4096`` bytes, zeros for pages never written."""
        data = bytearray(count * PAGE)
        self._transfer(lib.TZ_LOCAL_READ, page, count, ffi.from_buffer(data))
        return bytes(data)

    def write(self, page: int, data: bytes | bytearray | memoryview) -> None:
        """Writes whole pages from `page` on; ``len(data)`` is a multiple of 4096."""
        count, rest = divmod(len(data), PAGE)
        if rest:
            raise ValueError(f"{len(data)} bytes are not whole pages")
        self._transfer(lib.TZ_LOCAL_WRITE, page, count, ffi.from_buffer(data))

    def discard(self, page: int, count: int = 1) -> None:
        """Discards `count` pages; they then read as zeros."""
        self._request(lib.TZ_LOCAL_DISCARD, page, count, ffi.NULL)

    def flush(self) -> None:
        """Returns when all that was written before is in the store (it always is; the server is asked
        anyway)."""
        self._request(lib.TZ_LOCAL_FLUSH, 0, 0, ffi.NULL)

    def _transfer(self, op: int, page: int, count: int, buffer: Any) -> None:
        data = ffi.cast("char *", buffer)
        for first in range(0, count, self.max_pages):
            step = min(self.max_pages, count - first)
            self._request(op, page + first, step, data + first * PAGE)

    def _request(self, op: int, page: int, count: int, data: Any) -> None:
        if page < 0 or count < 0:
            raise ValueError("negative page number or count")
        with self._state:
            client = self._client
            if client == ffi.NULL:
                raise ValueError(f"{self.name} was closed")
            self._under_way += 1
        try:
            result = lib.tz_local_io(client, op, page, count, data, int(self.timeout * 1000))
        finally:
            with self._state:
                self._under_way -= 1
                if not self._under_way:
                    self._state.notify_all()
        if result:
            raise OSError(-result, os.strerror(-result), f"{self.name}, page {page}")
