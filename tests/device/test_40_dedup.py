"""``dedup``: identical pages share one object, on a disk and as swap, while it is switched on and off."""

from __future__ import annotations

import pytest
from hog import Hog
from product import Product

pytestmark = pytest.mark.warm

COPY = """
for at in {copies}; do
	dd if="$POOL" of={path} bs=1M count=16 seek=$at oflag=direct conv=notrunc status=none &
done
wait
"""
COMPARE = """
head -c 16M "$POOL" >/root/wanted
for at in {copies}; do
	dd if={path} bs=1M count=16 skip=$at iflag=direct status=none | cmp - /root/wanted
done
"""


@pytest.mark.either
def test_copies_take_no_room(product: Product) -> None:
    """Two copies after the first one, written at the same time, take no more than the first; all are right, whatever
    happens to the others."""
    path = product.create("--size 64M --dedup")
    product.strict(COPY.format(path=path, copies="0"))
    one = product.stat(path)
    assert (one["dedup"], one["memory_locked"]) == ("on", True)
    product.strict(COPY.format(path=path, copies="16 32"))
    three = product.stat(path)
    assert three["orig_data_size"] == 3 * one["orig_data_size"]
    assert three["compr_data_size"] < one["compr_data_size"] * 1.02
    assert three["dup_pages"] * 4096 > 1.8 * (one["orig_data_size"] - 4096 * (one["same_pages"] + one["dup_pages"]))
    product.strict(COMPARE.format(path=path, copies="0 16 32"))

    product.run(f"truezram set {path} dedup=off")
    product.strict(f"blkdiscard -o 0 -l $((16 << 20)) {path}; truezram compact {path}")
    product.strict(COPY.format(path=path, copies="48"))
    row, found = product.stat(path), product.json(f"check {path}")
    assert row["dedup"] == "off"
    assert row["compr_data_size"] > 1.8 * three["compr_data_size"], "found while it is off"
    assert (found["sound"], found["problems"]) == (True, [])
    assert (found["dup_pages"], found["payload_bytes"]) == (row["dup_pages"], row["compr_data_size"])
    product.strict(COMPARE.format(path=path, copies="16 32 48"))
    product.run(f"blkdiscard {path}")
    empty = product.stat(path)
    assert (empty["orig_data_size"], empty["dup_pages"], empty["compr_data_size"]) == (0, 0, 0)
    refused = product.run(f"truezram set {path} dedup=maybe", status=2)
    assert "neither on nor off" in refused.err
    product.remove(path)


@pytest.mark.either
@pytest.mark.guest(memory=512)
def test_swap(product: Product) -> None:
    """Every page of a process that was swapped out is right, with dedup on, off and on again."""
    path = product.create("--size 512M --swap --dedup")
    hog = Hog(product, 64)
    hog.ask("fill")
    for state in ("off", "on"):
        hog.ask("pageout")
        product.run(f"truezram set {path} dedup={state}")
        hog.ask("rewrite 4")
        hog.ask("pageout")
        assert hog.ask("verify 1")["bad"] == "0"
    row = product.stat(path)
    assert (row["failed_reads"], row["failed_writes"], row["damaged_entries"]) == (0, 0, 0)
    assert product.json(f"check {path}")["sound"]
    hog.quit()
    product.remove(path)
