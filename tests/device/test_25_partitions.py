"""A partition table in a device's data is not looked at, where the kernel can be asked not to (7.0 and later)."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm


def test_partitions_are_not_scanned(product: Product) -> None:
    """The kernel reports the flag, and nothing has been read from a new device."""
    release = tuple(int(part) for part in product.guest.kernel.release.split(".")[:2])
    path = product.create("--size 64M --queues 1")
    reads = int(product.strict(f"cut -d' ' -f1-8 /sys/block/{path.removeprefix('/dev/')}/stat").out.split()[0])
    if release >= (7, 0):
        assert reads == 0, f"{reads} reads of a new device"
    product.remove(path)
