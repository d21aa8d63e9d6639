"""Data modes: who copies a request's data, how large requests are then, what stat says of it, and that another server
goes on in the same way."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# What was written in large requests is what small ones read, and the other way round.
BOTH_WAYS = """
head -c 2M $POOL >some
dd if=some of={path} bs=256k oflag=direct status=none
dd if={path} bs=4k count=512 iflag=direct status=none | cmp - some
dd if={path} bs=256k count=8 iflag=direct status=none | cmp - some
"""
FILES = "cat /sys/block/{name}/queue/max_sectors_kb"


@pytest.mark.parametrize(
    ("asked", "mode", "most"), [("user-copy", "user_copy", 128), ("driver-copy", "driver_copy", 32)]
)
def test_what_was_asked_for_outlives_the_server(product: Product, asked: str, mode: str, most: int) -> None:
    path = product.create(f"--size 64M --queues 1 --data-mode {asked}")
    row = product.stat(path)
    assert (row["data_mode"], row["data_mode_why"]) == (mode, "it was asked for")
    assert int(product.strict(FILES.format(name=row["name"])).out) <= most
    assert row["memory_locked"]
    product.strict(BOTH_WAYS.format(path=path))
    if row["recovery"] != "on":
        product.remove(path)
        pytest.skip(row["recovery"])
    product.strict(f"kill -9 {row['pid']}; dd if={path} bs=256k count=8 iflag=direct status=none | cmp - some")
    again = product.stat(path)
    assert again["pid"] != row["pid"]
    assert (again["data_mode"], again["data_mode_why"]) == (mode, "it was asked for")
    assert again["memory_locked"]
    product.strict(BOTH_WAYS.format(path=path))
    product.remove(path)


@pytest.mark.either
def test_by_default_it_is_what_the_kernel_has(product: Product) -> None:
    path = product.create("--size 64M --queues 1")
    assert product.stat(path)["data_mode"] == "user_copy"
    product.remove(path)
    path = product.create("--size 64M --queues 1", without="user_copy")
    row = product.stat(path)
    assert row["data_mode"] == "driver_copy"
    assert "no USER_COPY" in row["data_mode_why"]
    product.strict(BOTH_WAYS.format(path=path))
    product.remove(path)
    refused = product.run("TRUEZRAM_DISABLE_UBLK=user_copy truezram create --size 64M --data-mode user-copy", status=3)
    assert "no USER_COPY" in refused.err
    product.run("truezram create --size 64M --data-mode zero-copy", status=2)
