"""kill -9 of servers: the load that it happens under, and another guest where the kernel has died of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from conftest import Guests
from guest import Guest, GuestError
from product import LEFTOVERS, Product

# fio verifies what it has written while servers are killed.
FIO = """
fio --name=verify --filename={path} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --norandommap \
	--bsrange=4k-64k --blockalign=4k --size=64m --io_size=64g --time_based --runtime=36000 --verify=crc32c \
	--verify_fatal=1 --verify_backlog=128 --buffer_compress_percentage=60 --buffer_compress_chunk=4k \
	--refill_buffers --output=/root/fio.log &
load=$!
{tools}/killer {name} {kills} {seed}
kill -0 $load
kill -INT $load
wait $load || true
cat fio.log
"""
KERNEL_BUG = "io_fallback_tw"
"""CVE-2025-37906, in Linux 6.7 to 6.14.6 and so in 6.12: when a ublk server is killed at the instant at which a request
is handed to it, the kernel may complete a command twice ("ublk: fix race between io_uring_cmd_complete_in_task and
ublk_cancel_cmd") and dies. No server can do anything about it: it is dead. Under memory pressure it is one kill in five
or so, so tests kill once or twice there, and more often on later kernels."""
ATTEMPTS = 8


def has_kernel_bug(guest: Guest) -> bool:
    """Whether that kernel has it."""
    return guest.kernel.release.startswith("6.12.")


def survive(guests: Guests, product: Product, run: Callable[[Guest, Product], None]) -> None:
    """Runs it; again in another guest if the kernel died of that bug, which is reported as a warning."""
    guest = product.guest
    for attempt in range(1, ATTEMPTS + 1):
        try:
            run(guest, product)
            break
        except GuestError:
            if attempt == ATTEMPTS or KERNEL_BUG not in guest.log():
                raise
            warnings.warn(f"kernel {guest.kernel.release} died in {KERNEL_BUG} (CVE-2025-37906)", stacklevel=2)
            product.guest.spoilt = True  # for the look after the test, which knows the first one
            guests.discard()
            guest = guests.get(guest.kernel, guest.memory, guest.cpus)
            product = Product(guest, product.program, product.tools)
    assert guest.run(LEFTOVERS, status=None).out == ""
