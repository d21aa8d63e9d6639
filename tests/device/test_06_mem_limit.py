"""A device at its mem_limit: writes fail with ENOSPC, everything stored stays readable, and there is a way on."""

from __future__ import annotations

import time

import pytest
from product import HANG, PAGE, Product, numbers

pytestmark = pytest.mark.warm

LIMIT = 12 << 20
PAGES = 32768


@pytest.mark.either
def test_mem_limit(product: Product) -> None:
    """ENOSPC at the limit, no byte lost; discarding or a higher limit lets writes through again."""
    path = product.create(f"--size 128M --mem-limit {LIMIT}")
    out = product.strict(f'pagetool fill "$POOL" {path} {PAGES}').out
    answer = numbers(out)
    written = int(answer["written"])
    assert answer["error"] == "ENOSPC"
    assert written * PAGE > LIMIT, "the limit is on compressed memory: more than its size must fit"
    assert written < PAGES

    row = product.stat(path)
    assert row["mem_used_total"] <= LIMIT
    assert row["mem_used_max"] <= LIMIT
    assert row["mem_used_max"] > LIMIT * 0.9, "refused long before the limit"
    assert row["enospc"] > 0
    assert row["failed_reads"] == 0
    checked = numbers(product.strict(f'pagetool check "$POOL" {path} {written}').out)
    assert checked == {"checked": str(written), "bad": "0"}

    # A page that reads as zeros needs no memory, so it can always be written.
    product.strict(f"dd if=/dev/zero of={path} bs=4096 count=1 seek={PAGES - 1} oflag=direct status=none")
    # What a discard gave back is there again, once the server has put its holes in order; the last ones hold less.
    again = f'blkdiscard -o {1000 * PAGE} -l {1000 * PAGE} {path}; pagetool fill "$POOL" {path} 900 1000'
    deadline = time.monotonic() + HANG
    while numbers(product.strict(again).out)["written"] != "900":
        assert time.monotonic() < deadline, product.stat(path)
    product.strict(f'pagetool fill "$POOL" {path} 100 1900')

    product.run(f"truezram set {path} mem_limit=none")
    more = numbers(product.strict(f'pagetool fill "$POOL" {path} {written + 2000}').out)
    assert more == {"written": str(written + 2000), "error": "none"}
    product.strict(f'pagetool check "$POOL" {path} {written + 2000}')
    product.remove(path)
