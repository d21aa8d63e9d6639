"""reset empties a block device that keeps its number, settings and server, and refuses one in use."""

from __future__ import annotations

import time
from typing import Any

import pytest
from product import HANG, Product

pytestmark = pytest.mark.warm


def mm_stat(row: dict[str, Any]) -> list[str]:
    return [str(value) for value in row["mm_stat"].values()]


@pytest.mark.either
def test_reset_empties_and_keeps_the_rest(product: Product) -> None:
    """Nothing is left of the data, everything of the settings; counters go on; the number stays taken."""
    assert product.run("truezram find").out == "0\n"
    path = product.create("--size 256M --mem-limit 128M --algorithm zstd:3 --queues 1")
    product.strict(f'pagetool fill "$POOL" {path} 2000; sync')
    before = product.stat(path)
    product.strict(f"truezram reset {path}")
    after = product.stat(path)
    assert before["mm_stat"]["orig_data_size"] == 2000 * 4096
    assert after["mm_stat"]["orig_data_size"] == after["mm_stat"]["compr_data_size"] == 0
    assert after["mm_stat"]["mem_used_total"] < before["mm_stat"]["mem_used_total"]
    for key in ("pid", "created", "algorithm", "disksize", "policy"):
        assert after[key] == before[key], key
    assert after["mm_stat"]["mem_limit"] == 128 << 20
    assert after["io_stat"]["pages_written"] == before["io_stat"]["pages_written"]
    product.strict(f"cmp -n {2000 * 4096} {path} /dev/zero")
    deadline = time.monotonic() + HANG  # what the server keeps in reserve may change between the two
    while product.run(f"truezram stat {path} --mm-stat").out.split() != mm_stat(product.stat(path)):
        assert time.monotonic() < deadline
    assert product.run("truezram find").out == "1\n"
    product.remove(path)


@pytest.mark.either
def test_reset_refuses_a_device_in_use(product: Product) -> None:
    """Mounted, swap, open: exit code 4, who it is, and what is on it stays."""
    path = product.create("--size 64M")
    product.strict(f"mkfs.ext4 -q -F {path}; mkdir -p /mnt/kept; mount {path} /mnt/kept; echo kept >/mnt/kept/file")
    refused = product.run(f"truezram reset {path}", status=4)
    assert "it is mounted on /mnt/kept" in refused.err, refused.err
    assert (
        product.strict("sync; echo 1 >/proc/sys/vm/drop_caches; cat /mnt/kept/file; umount /mnt/kept").out == "kept\n"
    )
    product.strict(f"mkswap {path} >/dev/null 2>&1; swapon {path}")
    assert "swapoff" in product.run(f"truezram reset {path}", status=4).err
    product.strict(f"swapoff {path}; exec 9<{path}; holder sleep 3000")
    assert "sleep" in product.run(f"truezram reset {path}", status=4).err
    product.strict("end $(cat holder)")
    product.remove(path)
