"""create --fs --mount: made, mounted with discard, used; what is deleted is given back; --umount takes it away again,
and not while it is in use."""

from __future__ import annotations

import time

import pytest
from product import HANG, Product

pytestmark = pytest.mark.warm


@pytest.mark.either
def test_create_with_a_filesystem(product: Product) -> None:
    """From nothing to files in one command, and back in one."""
    product.strict("mkdir -p '/mnt/a disk'")
    made = product.json("create --size 256M --fs ext4 --mount '/mnt/a disk'")
    path = made["path"]
    assert (made["fs"], made["mount"]) == ("ext4", "/mnt/a disk")
    options = product.strict("findmnt -rno FSTYPE,OPTIONS -S " + path).out
    assert options.startswith("ext4 "), options
    assert "discard" in options, options
    assert "noatime" in options, options
    empty = product.stat(path)["orig_data_size"]
    product.strict('cp "$POOL" "/mnt/a disk/pages"; sync; cmp "$POOL" "/mnt/a disk/pages"')
    assert product.stat(path)["orig_data_size"] > empty + (4 << 20)
    product.strict('rm "/mnt/a disk/pages"')
    deadline = time.monotonic() + HANG  # ext4 discards some time after it has committed
    while product.stat(path)["orig_data_size"] >= empty + (4 << 20):
        assert time.monotonic() < deadline, product.stat(path)["orig_data_size"]
        product.strict("sync")

    product.strict("cd '/mnt/a disk'; holder sleep 3000")
    refused = product.run(f"truezram remove --umount {path}", status=4)
    assert "sleep" in refused.err, refused.err
    product.strict(f"end $(cat holder); test -e {path}; findmnt -S {path}")
    product.remove(path, "--umount")


@pytest.mark.either
def test_what_cannot_be_mounted_leaves_nothing(product: Product) -> None:
    """A folder that is not there is found out before anything is made; a mkfs that fails takes the device with it."""
    refused = product.run("truezram create --size 64M --fs ext4 --mount /mnt/missing", status=2)
    assert "no such folder" in refused.err, refused.err
    refused = product.run("truezram create --size 64M --fs xfs", status=2)
    assert "300 MiB" in refused.err or "300M" in refused.err, refused.err
    failing = "mkdir -p bad; printf '#!/bin/sh\\necho mkfs: no >&2\\nexit 1\\n' >bad/mkfs.ext4; chmod +x bad/mkfs.ext4"
    failed = product.run(f"{failing}; PATH=$PWD/bad:$PATH truezram create --size 64M --fs ext4", status=1)
    assert "mkfs: no" in failed.err, failed.err
    assert product.json("list")["devices"] == []
