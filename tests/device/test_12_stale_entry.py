"""After a crash of the server (kill -9): the stale entry is seen for what it is, and stays until it is removed."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

KILL = "kill -9 {pid}; gone {pid}"


@pytest.mark.either
def test_stale_entry_after_kill(product: Product) -> None:
    """list says dead, create does not take its number, and remove clears what is left."""
    path = product.create("--size 64M --id 2", without="recovery")
    name = path.removeprefix("/dev/")
    product.strict(f'pagetool fill "$POOL" {path} 20')
    pid = product.stat(path)["pid"]
    product.strict(KILL.format(pid=pid))
    rows = product.json("list")["devices"]
    assert [(row["name"], row["state"]) for row in rows] == [(name, "dead")]
    product.run(f"truezram remove {path}")
    assert product.json("list")["devices"] == []

    again = product.create("--size 64M --id 2", without="recovery")
    pid = product.stat(again)["pid"]
    product.strict(KILL.format(pid=pid))
    refused = product.run("truezram create --size 64M --id 2", status=4)
    assert "truezram remove ublkb2" in refused.err, refused.err
    assert [row["state"] for row in product.json("list")["devices"]] == ["dead"]
    product.remove(again)
