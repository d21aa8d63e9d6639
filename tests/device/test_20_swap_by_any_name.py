"""Swap is asked for by device number: under another node's name, and on a block device on top, a device is never
stopped under its pages."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# STOP as a message, without the looks that `truezram remove` has before it.
STOP = """
python3 - $1 ${{2:-0}} <<'END'
import sys
from truezram.engine.device.client import Client
from truezram.engine.device.control import Op, request
from truezram.engine.errors import TruezramError
with Client() as client:
    entry = client.resolve(sys.argv[1])
try:
    request(entry.sock, Op.STOP, (int(sys.argv[2]),), what="stop")
    print("stopped")
except TruezramError as error:
    print("refused:", error)
END
"""

MADE = {
    "another node": ("mknod /root/other b $(stat -c '0x%t 0x%T' {path})", "/root/other", "rm -f /root/other"),
    "a loop device": ("modprobe loop; losetup /dev/loop5 {path}", "/dev/loop5", "losetup -d /dev/loop5"),
    "a partition": ("addpart {path} 1 2048 100000", "{path}p1", "true"),
}


@pytest.mark.either
@pytest.mark.parametrize("how", MADE)
def test_swap_under_another_name(product: Product, how: str) -> None:
    """STOP refuses, SIGTERM takes it out of use first and then ends."""
    path = product.create("--size 64M")
    pid = product.stat(path)["pid"]
    make, node, clear = (text.format(path=path) for text in MADE[how])
    product.strict(f"{make}; mkswap -q {node}; swapon {node}; tail -n +2 /proc/swaps")
    out = product.strict(f"set -- {path}\n{STOP}".replace("{{", "{").replace("}}", "}")).out
    assert "refused:" in out, out
    assert "in use as swap" in out, out
    assert product.stat(path)["pid"] == pid
    product.strict(f"kill -TERM {pid}; gone {pid}; {clear}")
    assert product.run("tail -n +2 /proc/swaps").out == ""
    assert product.json("list")["devices"] == []


def test_stop_unless_claimed(product: Product) -> None:
    """A mounted disk: STOP with that argument is refused, and the device keeps working; unmounted, it stops."""
    path = product.create("--size 64M")
    stop = f"set -- {path} 1\n{STOP}".replace("{{", "{").replace("}}", "}")
    product.strict(f"mkfs.ext4 -q {path}; mkdir -p /mnt/m; mount {path} /mnt/m")
    assert "refused:" in product.strict(stop).out
    product.strict("echo x >/mnt/m/x; sync; umount /mnt/m")
    assert "stopped" in product.strict(stop).out
    product.strict("while pgrep truezramd; do sleep 0.1; done")
    assert product.json("list")["devices"] == []
