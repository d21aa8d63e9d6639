"""Ids: one in use is refused, two creates at the same time each get their own."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm


@pytest.mark.either
def test_id_in_use(product: Product) -> None:
    """The second device with an id is refused with a reason, and the first one is left alone."""
    path = product.create("--size 64M --id 5")
    assert path == "/dev/ublkb5"
    product.strict(f'pagetool fill "$POOL" {path} 100')
    refused = product.run("truezram create --size 64M --id 5", status=None)
    assert refused.status in (1, 4), refused
    assert "5" in refused.err
    assert refused.out == ""
    product.strict(f'pagetool check "$POOL" {path} 100')
    assert len(product.json("list")["devices"]) == 1
    product.remove(path)


@pytest.mark.either
def test_two_creates_at_once(product: Product) -> None:
    """Both succeed, each with a device of its own."""
    out = product.strict("""
truezram create --size 64M >one & one=$!
truezram create --size 64M >two & two=$!
wait $one; wait $two
cat one two
""").out.split()
    assert len(set(out)) == 2, out
    assert sorted(row["path"] for row in product.json("list")["devices"]) == sorted(out)
    one, two = out
    product.strict(f'pagetool fill "$POOL" {one} 50; pagetool fill "$POOL" {two} 60; pagetool check "$POOL" {one} 50')
    product.run(f"truezram remove {' '.join(out)}")


@pytest.mark.either
def test_same_id_at_once(product: Product) -> None:
    """Of two creates with one id at the same time one succeeds and the other is refused."""
    out = product.run("""
truezram create --size 64M --id 3 >one 2>&1 & one=$!
truezram create --size 64M --id 3 >two 2>&1 & two=$!
wait $one; a=$?; wait $two; b=$?
cat one two
[ $a -eq 0 ] && [ $b -ne 0 ] || { [ $b -eq 0 ] && [ $a -ne 0 ]; }
""").out
    assert out.splitlines().count("/dev/ublkb3") == 1, out
    product.strict('pagetool fill "$POOL" /dev/ublkb3 50; pagetool check "$POOL" /dev/ublkb3 50')
    product.remove("/dev/ublkb3")
