"""A full /run: create fails with the reason in bounded time and leaves nothing half-made."""

from __future__ import annotations

import pytest
from product import LEFTOVERS, Product


@pytest.mark.either
def test_full_run(product: Product) -> None:
    """No space for the registry entry: refused; with space again: works."""
    product.strict("mkdir -p /run/truezram; mount -o remount,size=1M /run; cat /dev/zero >/run/filler || true")
    refused = product.run("truezram create --size 64M", status=1)
    assert "/run" in refused.err, refused.err
    assert "space" in refused.err.lower(), refused.err
    product.run(LEFTOVERS)
    product.strict("rm /run/filler; mount -o remount,size=64M /run")
    product.remove(product.create("--size 64M"))
