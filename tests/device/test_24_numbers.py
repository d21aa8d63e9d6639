"""Device numbers: free when ``remove`` returns, and the first that is free is taken."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

ROUNDS = 30

IN_ONE_PROCESS = f"""
import os
from truezram.engine.device.client import Client
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.removal import remove

for _ in range({ROUNDS}):
    name = create(CreateOptions(64 << 20, queues=1)).name
    with Client() as client:
        remove(client, name)
    left = [path for path in os.listdir("/dev") if path.startswith(("ublkb", "ublkc"))]
    print(name, *left)
"""


@pytest.mark.either
def test_the_number_is_free_again(product: Product) -> None:
    """Create and remove, again and again: the same number each time, with no trace of it in between."""
    out = product.strict(f"python3 - <<'END'\n{IN_ONE_PROCESS}\nEND").out.splitlines()
    assert out == ["ublkb0"] * ROUNDS, out


def test_remove_waits_for_an_opener(product: Product) -> None:
    """The kernel keeps the number until the disk's last user has closed it: ``remove`` waits for that."""
    path = product.create("--size 64M --queues 1")
    out = product.strict(
        f"""
(exec 3<{path}; : >open; sleep 3) &
while [ ! -e open ]; do sleep 0.1; done
truezram remove --force {path} >/dev/null
wait
truezram create --size 64M --queues 1
"""
    ).out.split()
    assert out == [path]
    product.remove(path)
