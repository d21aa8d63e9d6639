"""Without the ublk driver: create says so, with the remedy and exit code 3; doctor names it too."""

from __future__ import annotations

import pytest
from product import Product


@pytest.mark.either
def test_without_the_driver(product: Product) -> None:
    """The module away and not to be had: status 3, its name in the message, and doctor says the same."""
    product.strict("await modprobe -r ublk_drv; mv /lib/modules/$(uname -r) /lib/modules/away")
    refused = product.run("truezram create --size 64M", status=3)
    assert "ublk_drv" in refused.err, refused.err
    checks = product.run("truezram doctor", status=None)
    assert checks.status in (0, 1, 3), checks
    assert "ublk_drv" in checks.out, checks.out
    product.strict("mv /lib/modules/away /lib/modules/$(uname -r); modprobe ublk_drv")
    checks = product.run("truezram doctor", status=None)
    product.remove(product.create("--size 64M"))
