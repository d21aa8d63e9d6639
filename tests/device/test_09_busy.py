"""A device in use is not taken away: remove refuses and names the holder; --force says what is lost and does it."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm


def test_remove_refuses_a_mounted_device(product: Product) -> None:
    """Exit code 4 and the mount point's name; the filesystem keeps working; after umount the device goes."""
    path = product.create("--size 64M")
    product.strict(f"mkfs.ext4 -q -F {path}; mkdir '/mnt/my disk'; mount {path} '/mnt/my disk'")
    product.strict("echo kept >'/mnt/my disk/file'")
    refused = product.run(f"truezram remove {path}", status=4)
    assert "/mnt/my disk" in refused.err, refused.err
    assert product.strict("sync; cat '/mnt/my disk/file'").out == "kept\n"
    product.strict("umount '/mnt/my disk'")
    product.remove(path)


@pytest.mark.either
def test_remove_refuses_an_opened_device(product: Product) -> None:
    """A program that holds the node open (no mount, no swap) makes it busy too, or the removal does not wait."""
    path = product.create("--size 64M")
    product.strict(f"exec 9<{path}; holder sleep 3000")
    answer = product.run(f"truezram remove {path}", status=4)
    assert "sleep" in answer.err, answer.err
    product.strict("end $(cat holder)")
    product.remove(path)


def test_force_removes_a_mounted_device(product: Product) -> None:
    """--force says what it will lose, and does it in bounded time."""
    path = product.create("--size 64M")
    product.strict(f"mkfs.ext4 -q -F {path}; mkdir -p /mnt/lost; mount -o ro {path} /mnt/lost")
    forced = product.run(f"truezram remove --force {path}")
    assert "/mnt/lost" in forced.err + forced.out
    product.strict(f"umount -l /mnt/lost; await [ ! -e {path} ]")
