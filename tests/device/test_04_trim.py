"""Memory is given back: by fstrim of a filesystem's free space and by discarding the whole device."""

from __future__ import annotations

import time

import pytest
from product import HANG, PAGE, Product

pytestmark = pytest.mark.warm

PAGES = 32768  # 128 MiB
MAPPED = 4 << 20  # what the server may hold beyond its store


def resident(product: Product, pid: int) -> int:
    """Bytes that the kernel says the server holds."""
    out = product.strict(f"grep ^Rss: /proc/{pid}/smaps_rollup").out
    return int(out.split()[1]) * 1024


def settle(product: Product, path: str, below: int) -> dict[str, int]:
    """The device's row once ``mem_used_total``, and what the kernel says, are below ``below`` bytes, which the server
    works on in the background."""
    deadline = time.monotonic() + HANG
    while True:
        row = product.stat(path)
        held = resident(product, row["pid"])
        if row["mem_used_total"] < below and held < below + MAPPED:
            return row
        assert time.monotonic() < deadline, f"{row['mem_used_total']}, the kernel says {held}: not below {below}"


def test_fstrim_gives_memory_back(product: Product) -> None:
    """After removal and fstrim the resident size falls below 5 % of its peak; figures agree with the kernel's."""
    path = product.create("--size 512M")
    product.strict(
        f"""
mkdir -p /mnt/disk
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 {path}
mount {path} /mnt/disk
cp "$POOL" /mnt/disk/1
cp "$POOL" /mnt/disk/2
head -c 64M /dev/urandom >/mnt/disk/3
sync
""",
    )
    deadline = time.monotonic() + HANG
    while True:  # the reserve may shrink between the two looks
        full = product.stat(path)
        held, used = resident(product, full["pid"]), full["mem_used_total"]
        if used * 0.98 <= held <= used * 1.02 + MAPPED:
            break
        assert time.monotonic() < deadline, f"the kernel says {held}, the server {used}"
    peak = full["mem_used_max"]
    assert full["orig_data_size"] > 190 << 20
    product.strict("rm /mnt/disk/[123]; sync; fstrim -v /mnt/disk")
    row = settle(product, path, peak // 20)
    assert row["num_discards"] > 0
    product.strict(f"umount /mnt/disk; e2fsck -f -n {path}")
    product.remove(path)


@pytest.mark.either
def test_discard_gives_memory_back(product: Product) -> None:
    """blkdiscard frees every page, write-zeroes likewise, overwriting frees the former object."""
    path = product.create("--size 256M")
    product.strict(f'pagetool fill "$POOL" {path} {PAGES}')
    peak = product.stat(path)
    assert peak["orig_data_size"] == PAGES * PAGE
    # The first half written again, the same contents: nothing more is held.
    product.strict(f'pagetool fill "$POOL" {path} {PAGES // 2}')
    again = product.stat(path)
    assert again["orig_data_size"] == PAGES * PAGE
    assert abs(again["compr_data_size"] - peak["compr_data_size"]) < peak["compr_data_size"] // 100
    product.strict(f"blkdiscard --zeroout -o 0 -l {PAGES // 2 * PAGE} {path}")
    half = product.stat(path)
    assert half["orig_data_size"] - half["same_pages"] * PAGE <= PAGES // 2 * PAGE
    product.strict(f"blkdiscard {path}")
    row = settle(product, path, peak["mem_used_max"] // 20)
    assert row["orig_data_size"] == row["compr_data_size"] == 0
    assert product.strict(f"dd if={path} bs=1M count=64 status=none | tr -d '\\0' | wc -c").out.strip() == "0"
    product.remove(path)
