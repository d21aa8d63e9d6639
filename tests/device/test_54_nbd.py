"""An nbd device: made, used and removed as any other disk; refused as swap; and its server killed under load."""

from __future__ import annotations

import pytest
from load import FIO
from product import Product, numbers

KILLS = 3
SECONDS = 120
"""A kill takes some seconds (the driver sends again what was under way when that is 5 s old); when it takes so long,
something hangs."""
FILES = """
mkfs.ext4 -q {path}
mkdir -p /root/disk
head -c 24M "$POOL" >/root/part
mount {path} /root/disk
cp /root/part /root/disk/file
umount /root/disk
mount {path} /root/disk
cmp /root/disk/file /root/part
umount /root/disk
rm -r /root/disk /root/part
"""


def create(product: Product, options: str = "--size 96M") -> str:
    """The path of a new one."""
    path = product.run(f"truezram create --transport nbd {options}").out.strip()
    assert path.startswith("/dev/nbd"), path
    return path


def remove(product: Product, path: str) -> None:
    """Removes one, and looks that the kernel has it no more: its node stays, as the driver's do."""
    name = path.removeprefix("/dev/")
    product.strict(f"truezram remove {path}; test ! -e /sys/block/{name}/pid; test $(</sys/block/{name}/size) = 0")


def test_from_beginning_to_end(product: Product) -> None:
    """A filesystem on it, what statistics say, what a discard gives back, what is refused; and nothing holds the
    driver afterwards."""
    path = create(product)
    product.strict(FILES.format(path=path))
    row = product.stat(path)
    assert (row["transport"], row["state"], row["nr_queues"], row["recovery"]) == ("nbd", "live", 1, "on")
    assert row["pages_written"] >= (24 << 20) // 4096
    assert row["orig_data_size"] >= 24 << 20
    assert row["num_flushes"] > 0
    assert (row["failed_reads"], row["failed_writes"], row["invalid_io"], row["swap_writes"]) == (0, 0, 0, 0)
    product.strict(f"truezram set {path} mem_limit=64M algorithm=lz4; blkdiscard {path}")
    now = product.stat(path)
    assert (now["orig_data_size"], now["mem_limit"]) == (0, 64 << 20)
    assert now["mem_used_total"] < row["mem_used_total"]
    refused = product.run("truezram create --transport nbd --size 64M --swap", status=2)
    assert "nbd" in refused.err
    assert "--transport ublk" in refused.err
    remove(product, path)
    product.strict("await modprobe -r nbd")


@pytest.mark.either
def test_number_of_another(product: Product) -> None:
    """A device that is connected and not in this registry is let alone: its number is passed over, and refused."""
    product.run("mkdir -m 700 /run/other")
    other = product.run("TRUEZRAM_RUN_DIR=/run/other truezram create --transport nbd --size 16M").out.strip()
    number = other.removeprefix("/dev/nbd")
    busy = product.run(f"truezram create --transport nbd --size 16M --id {number}", status=4)
    assert other in busy.err
    path = create(product, "--size 16M")
    assert path != other
    remove(product, path)
    product.strict(f"test -e /sys/block/nbd{number}/pid; dd if={other} of=/dev/null bs=4k count=1 status=none")
    product.strict(f"TRUEZRAM_RUN_DIR=/run/other truezram remove {other}; rm -r /run/other; await modprobe -r nbd")


def test_killed_server(product: Product) -> None:
    """kill -9 under load: another server takes over, requests go on, and nothing that was acknowledged is lost."""
    path = create(product)
    script = FIO.format(path=path, name=path.removeprefix("/dev/"), tools=product.tools, kills=KILLS, seed=54)
    out = product.strict(script, timeout=300 + KILLS * SECONDS).out
    killed = numbers(next(line for line in out.splitlines() if line.startswith("kills=")))
    assert "verify: bad" not in out
    assert "err= 0" in out, out
    row = product.stat(path)
    assert row["recoveries"] == int(killed["servers"]) > 0
    assert (row["recovery"], row["state"]) == ("on", "live")
    assert (row["failed_reads"], row["failed_writes"], row["damaged_entries"], row["checksum_errors"]) == (0, 0, 0, 0)
    assert product.json(f"check {path}")["sound"]
    remove(product, path)
    product.strict("await modprobe -r nbd")


@pytest.mark.either
def test_instead_of_ublk(product: Product) -> None:
    """Where there is no ublk, create says that a disk can be had all the same, and doctor that swap cannot."""
    product.strict("await modprobe -r ublk_drv; mount --bind /dev/null $(modinfo -F filename ublk_drv)")
    refused = product.run("truezram create --size 64M", status=3)
    assert "--transport nbd" in refused.err
    assert "swap cannot" in product.run("truezram doctor", status=None).out
    remove(product, create(product, "--size 16M"))
    product.strict("await modprobe -r nbd; umount $(modinfo -F filename ublk_drv); modprobe ublk_drv")
