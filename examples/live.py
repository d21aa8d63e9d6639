"""A device with live statistics: what is stored, what that takes, and how fast it goes, four times a second.

    python examples/live.py

As root where the kernel has ublk, it is a block device; otherwise a local one, which needs neither. It is removed at
the end. Watching an existing device is the loop below without the rest.
"""

import contextlib
import os
import random
import threading
from pathlib import Path

import truezram

LOOKS = 12
PAGE = truezram.PAGE_SIZE
CHUNK = 64
"""Pages of one write."""


def some_pages(order: random.Random) -> bytes:
    """Half of each page is random, the rest is not; every eighth is zeros."""
    return b"".join(bytes(PAGE) if n % 8 == 0 else order.randbytes(PAGE // 2) + bytes(PAGE // 2) for n in range(CHUNK))


def use(device: truezram.Device, enough: threading.Event) -> None:
    """Writes and reads here and there, until it is enough."""
    order = random.Random(1)
    with contextlib.ExitStack() as stack:
        if device.transport == "local":
            pages = stack.enter_context(device.attach())
            write, read = pages.write, pages.read
        else:
            disk = stack.enter_context(open(device.path, "r+b", buffering=0))  # noqa: PTH123

            def write(page: int, data: bytes | bytearray | memoryview) -> None:
                os.pwrite(disk.fileno(), data, page * PAGE)
                os.fsync(disk.fileno())

            def read(page: int, count: int = 1) -> bytes:
                os.posix_fadvise(disk.fileno(), page * PAGE, count * PAGE, os.POSIX_FADV_DONTNEED)
                return os.pread(disk.fileno(), count * PAGE, page * PAGE)

        while not enough.wait(0.002):
            place = order.randrange(256 << 20 >> 12) // CHUNK * CHUNK
            write(place, some_pages(order))
            read(place, CHUNK)


block = os.geteuid() == 0 and Path("/dev/ublk-control").exists()
with truezram.Device.create("256M", transport="ublk" if block else "local", temporary=True) as device:
    enough = threading.Event()
    user = threading.Thread(target=use, args=(device, enough))
    user.start()
    try:
        print(f"{device.path}, with {device.stat().algorithm}")
        print("  stored  in memory   ratio   written/s     read/s   same-filled")
        before = None
        for number, snapshot in enumerate(truezram.watch(0.25)):
            now = next(one for one in snapshot.devices if one.name == device.name)
            if before is not None:
                seconds = now.time - before.time
                written = (now.total.pages_written - before.total.pages_written) * PAGE / 2**20 / seconds
                read = (now.total.pages_read - before.total.pages_read) * PAGE / 2**20 / seconds
                print(
                    f"{now.orig_data_size / 2**20:7.1f}M{now.mem_used_total / 2**20:10.1f}M{now.ratio or 0:8.2f}"
                    f"{written:11.1f}M{read:10.1f}M{now.same_pages:12} pages"
                )
            before = now
            if number == LOOKS:
                break
    finally:
        enough.set()
        user.join()
