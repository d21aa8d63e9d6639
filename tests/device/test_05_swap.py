"""Swap under pressure: a process larger than the guest's memory by a quarter, full of real pages, its data verified."""

from __future__ import annotations

import pytest
from guest import Guest
from hog import Hog
from product import Product

MEMORY = 256
HOG = MEMORY * 5 // 4
# Where freed slots are not reported, the device holds something in every slot in time: what it may come to is its size,
# compressed, whatever is in use. A third of 448 MiB leaves the process some room.
SWAP = 448
# What is left of the process for swapoff to bring back. It has to fit in beside what the device still holds: how well
# this machine's pages compress is not known, so it is a small part.
KEPT = MEMORY // 48
# The kernel discards what was freed in the background, and only then there is room.
ROOM = """
is_room() {
	used=$(awk 'NR > 1 { print $4 }' /proc/swaps) available=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
	[ $available -gt $((used * 2)) ]
}
await is_room
echo $used
"""
# KiB. The guest's root is a virtiofs, which allocates in the midst of reclaim (virtio_fs_send_forget), as 7.2's swap
# code does (swap_cluster_alloc_table): with the 2 MiB that the kernel keeps here by default both warn now and then,
# whatever the swap is.
MIN_FREE = 16384


@pytest.mark.either
@pytest.mark.guest(memory=MEMORY)
def test_swap_under_pressure(guest: Guest, product: Product) -> None:
    """Every page is what was written, and one in four again; swapoff brings the rest back, and it is still so."""
    out = product.run(f"truezram create --size {SWAP}M --algorithm lz4 --swap --priority 100").out
    path = out.split()[-1]
    swaps = product.strict("tail -n +2 /proc/swaps").out.split()
    assert swaps[0] == path
    assert swaps[4] == "100"
    product.run("truezram tune apply")
    product.strict(f"echo {MIN_FREE} >/proc/sys/vm/min_free_kbytes")
    hog = Hog(product, HOG)
    assert hog.ask("fill")["bad"] == "0"
    used = int(product.strict("tail -n +2 /proc/swaps").out.split()[3]) * 1024
    assert used > (HOG - MEMORY) << 20, f"only {used} bytes were swapped out"
    assert hog.ask("verify 1")["bad"] == "0"

    # swapoff would not fit in memory: refused, and everything keeps working.
    refused = product.run(f"truezram remove {path}", status=4)
    assert "memory" in refused.err.lower(), refused.err

    assert hog.ask("rewrite 8")["bad"] == "0"
    assert hog.ask("verify 1031 4")["bad"] == "0"
    row = product.stat(path)
    assert row["swap_writes"] > 0
    assert row["failed_reads"] == row["failed_writes"] == 0
    assert row["swap_priority"] == 100

    hog.ask(f"keep {KEPT}")
    hog.ask("pageout")
    swapped = int(product.strict(ROOM).out)
    assert swapped > 1024, "nothing was left in swap for swapoff to bring back"
    product.remove(path)
    assert product.strict("tail -n +2 /proc/swaps").out == ""
    left = hog.ask("verify 1")
    assert (left["pages"], left["bad"]) == (str(KEPT << 8), "0")
    hog.quit()
    guest.restart_wanted = True
