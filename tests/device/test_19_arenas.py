"""Arenas are where they are said to be and stay as long as they must, whatever other devices come and go."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# pid_of PATH: its server. arena_of PID: the file that its server has open for it.
CHECK = """
pid_of() { truezram stat $1 --json | sed -n 's/^ *"pid": \\([0-9]*\\),$/\\1/p'; }
arena_of() { ls -l /proc/$1/fd | sed -n 's/.* -> //p' | grep -E '/arena/[^.]*$|memfd:truezram-arena' | head -n 1; }
"""


@pytest.mark.either
def test_two_that_come_and_go_at_once(product: Product) -> None:
    """As two units do at boot: both are made each time, on a noswap tmpfs, and nothing is left mounted."""
    out = product.strict(
        CHECK
        + """
one() {
	for round in 1 2 3 4 5 6 7 8; do
		path=$(truezram create --size 16M --id $1)
		pid=$(pid_of $path)
		echo "arena $(arena_of $pid)"
		grep -E ' /run/truezram/arena ' /proc/self/mountinfo | sed 's/.* - /mount /'
		truezram remove $path
	done
}
one 0 & a=$!; one 1 & b=$!
wait $a; wait $b
""",
    ).out
    arenas = [line.split()[1] for line in out.splitlines() if line.startswith("arena")]
    mounts = [line for line in out.splitlines() if line.startswith("mount")]
    assert len(arenas) == 16, out
    assert set(arenas) == {"/run/truezram/arena/ublkb0", "/run/truezram/arena/ublkb1"}, out
    assert mounts, out
    assert all("noswap" in line for line in mounts), out
    assert "truezram/arena" not in product.run("cat /proc/mounts").out


@pytest.mark.either
def test_a_dead_devices_arena_is_its_own(product: Product) -> None:
    """Others are created and removed, its number is asked for again: it stays until it is removed itself."""
    dead = product.create("--size 64M", without="recovery")
    pid = product.stat(dead)["pid"]
    name = dead.removeprefix("/dev/")
    product.strict(f'pagetool fill "$POOL" {dead} 500; kill -9 {pid}; gone {pid}')
    before = product.run(f"stat -c '%i %b' /run/truezram/arena/{name}").out
    other = product.create("--size 64M")
    assert other != dead
    refused = product.run(f"truezram create --size 64M --id {name.removeprefix('ublkb')}", status=4)
    assert f"truezram remove {name}" in refused.err, refused.err
    product.remove(other)
    assert product.run(f"stat -c '%i %b' /run/truezram/arena/{name}").out == before
    assert [row["state"] for row in product.json("list")["devices"]] == ["dead"]
    product.run(f"truezram remove {name}; test ! -e /run/truezram/arena")
    assert product.create("--size 64M") == dead
    product.remove(dead)
