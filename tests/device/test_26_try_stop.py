"""Stopping without force: from Linux 7.0 on the kernel checks at that moment that the disk is not open anywhere."""

from __future__ import annotations

import pytest
from guest import Guest
from product import Product

pytestmark = pytest.mark.warm

# What `remove` sends when it has found no user; here a process has the disk open all the same.
STOP = """
exec 7<{path}
python3 - <<'END'
from truezram._native import lib
from truezram.engine.device.client import Client
from truezram.engine.device.control import Op, request
from truezram.engine.errors import Busy
with Client() as client:
    entry = client.resolve("{path}")
try:
    request(entry.sock, Op.STOP, (lib.TZ_STOP_UNLESS_CLAIMED,), what="cannot stop it", timeout=600)
    print("stopped")
except Busy as error:
    print("refused:", error.why)
END
exec 7<&-
"""


def test_what_is_open_is_not_stopped(guest: Guest, product: Product) -> None:
    path = product.create("--size 64M")
    answer = product.run(STOP.format(path=path)).out.strip()
    if tuple(int(part) for part in guest.kernel.release.split(".")[:2]) < (7, 0):
        assert answer == "stopped"
        product.strict(f"await [ ! -e {path} ]; while pgrep truezramd; do sleep 0.1; done")
        return
    assert answer == "refused: a process has the device open"
    assert product.stat(path)["state"] == "live"
    product.run(f"dd if={path} of=/dev/null bs=64k count=1 status=none")
    product.remove(path)
