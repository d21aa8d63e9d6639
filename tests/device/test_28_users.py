"""Who uses a device is seen by whatever name it is used: other nodes, partitions, loop and device-mapper devices."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# A swapoff that fails, as it does when memory is short.
NO_SWAPOFF = "mkdir -p bad; printf '#!/bin/sh\\necho no >&2\\nexit 4\\n' >bad/swapoff; chmod +x bad/swapoff"

NAMES = {
    "another node": (
        "mknod -m 600 /dev/shm/another b $(tr : ' ' </sys/class/block/{name}/dev); area=/dev/shm/another",
        "rm /dev/shm/another",
    ),
    "a partition": ("addpart {path} 1 2048 60000; area={path}p1", ""),
    "a loop device": (
        "modprobe loop; losetup /dev/loop0 {path}; area=/dev/loop0",
        "losetup -d /dev/loop0",
    ),
    "a loop device over another node": (
        "modprobe loop; mknod -m 600 /dev/shm/n b $(tr : ' ' </sys/class/block/{name}/dev);"
        " losetup /dev/loop0 /dev/shm/n; rm /dev/shm/n; area=/dev/loop0",
        "losetup -d /dev/loop0",
    ),
    "a device-mapper device": (
        "modprobe dm_mod; export DM_DISABLE_UDEV=1; echo 0 60000 linear {path} 0 | dmsetup create over;"
        " area=/dev/mapper/over",
        "DM_DISABLE_UDEV=1 dmsetup remove over",
    ),
}


@pytest.mark.either
@pytest.mark.parametrize("way", NAMES)
def test_swap_is_never_taken_away(product: Product, way: str) -> None:
    """With swapoff failing, not even by force; with swapoff, in order; what is on top of it is named."""
    path = product.create("--size 64M")
    name = path.removeprefix("/dev/")
    make, undo = (text.format(path=path, name=name) for text in NAMES[way])
    on_top = way not in ("another node", "a partition")
    product.strict(f"{make}; mkswap -q $area; swapon --priority 5 $area; tail -n +2 /proc/swaps")
    if not on_top:
        row = product.stat(path)
        assert row["swap_priority"] == 5
        assert row["swap_used"] <= 8 << 20, "more than the self-test of slot tracking puts there"
    failed = product.run(f"{NO_SWAPOFF}; PATH=$PWD/bad:$PATH truezram remove --force {path}", status=None)
    assert failed.status in (1, 4), failed
    assert "swapoff" in failed.err, failed.err
    product.strict(f"test -b {path}; [ $(tail -n +2 /proc/swaps | wc -l) = 1 ]")
    if on_top:
        refused = product.run(f"truezram remove {path}", status=4)
        assert "is on top of it" in refused.err, refused.err
        product.strict(f"[ $(tail -n +2 /proc/swaps | wc -l) = 1 ]; swapoff -a; {undo}")
        undo = ""
    product.remove(path)
    product.strict(f"[ $(tail -n +2 /proc/swaps | wc -l) = 0 ]; {undo}")


@pytest.mark.either
def test_swap_whose_node_is_gone(product: Product) -> None:
    """/proc/swaps then names nothing that is there; the kernel still knows that the device is in use."""
    path = product.create("--size 64M")
    name = path.removeprefix("/dev/")
    product.strict(
        f"mknod -m 600 /dev/shm/n b $(tr : ' ' </sys/class/block/{name}/dev); mkswap -q /dev/shm/n; swapon /dev/shm/n"
        "; rm /dev/shm/n; grep deleted /proc/swaps"
    )
    failed = product.run(f"{NO_SWAPOFF}; PATH=$PWD/bad:$PATH truezram remove --force {path}", status=1)
    assert "swapoff" in failed.err, failed.err
    # Its own node gone, too: there is nothing to switch it off by.
    product.strict(f"rm {path}")
    refused = product.run(f"truezram remove --force {path}", status=4)
    steps = refused.err.partition("First: ")[2].strip().removesuffix(".")
    assert steps.startswith(f"mknod -m 600 {path}.node b "), refused.err
    product.strict(steps)
    product.remove(path)
    product.strict("[ $(tail -n +2 /proc/swaps | wc -l) = 0 ]")


@pytest.mark.either
def test_a_name_is_not_the_device(product: Product) -> None:
    """A filesystem that claims to come from the device does not, and is not unmounted."""
    path = product.create("--size 64M")
    product.strict(f"mkdir -p /mnt/liar; mount -t tmpfs {path} /mnt/liar")
    assert product.stat(path)["mountpoints"] == []
    product.remove(path, "--umount")
    product.strict("mountpoint /mnt/liar; umount /mnt/liar")


@pytest.mark.either
def test_a_mount_by_another_node(product: Product) -> None:
    """And below another mount, which is not what is unmounted."""
    path = product.create("--size 64M")
    name = path.removeprefix("/dev/")
    product.strict(
        f"mkfs.ext4 -q -F {path}; mknod -m 600 /dev/shm/n b $(tr : ' ' </sys/class/block/{name}/dev)"
        "; mkdir -p /mnt/a; mount /dev/shm/n /mnt/a; rm /dev/shm/n"
    )
    assert product.stat(path)["mountpoints"] == ["/mnt/a"]
    refused = product.run(f"truezram remove {path}", status=4)
    assert "mounted on /mnt/a" in refused.err, refused.err
    product.strict("mount -t tmpfs over /mnt/a")
    refused = product.run(f"truezram remove --umount {path}", status=4)
    assert "something else is mounted over it" in refused.err, refused.err
    product.strict("mountpoint /mnt/a; umount /mnt/a")
    product.remove(path, "--umount")
    product.strict("! mountpoint -q /mnt/a")


@pytest.mark.either
def test_something_else_in_place_of_the_node(product: Product) -> None:
    """It is named at once, and nothing is left of the device."""
    product.strict("echo text >/dev/ublkb0")
    for options in ("--size 64M --id 0", "--size 64M"):
        refused = product.run(f"truezram create {options}", status=4)
        assert "a regular file is in the way" in refused.err, refused.err
        assert "devtmpfs" not in refused.err, refused.err
    product.strict("rm /dev/ublkb0; [ ! -e /dev/ublkc0 ]")
    assert product.json("list")["devices"] == []
