"""A server killed (kill -9) under swap or a mount: nothing says that all is well, and what can be done is said."""

from __future__ import annotations

import pytest
from guest import Guest
from product import Product

KILL = "kill -9 {pid}; await [ ! -e {path} ]"

# Swaps out four megabytes of its own and touches them no more.
SWAPPED = """
cat >swapped.py <<'END'
import mmap, time
m = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(m), 4096):
    m[at : at + 8] = at.to_bytes(8, "little")
def swapped():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmSwap:"))
while swapped() <= 3072:
    m.madvise(21)  # MADV_PAGEOUT
print("ready", flush=True)
time.sleep(1000)
END
python3 swapped.py >ready 2>&1 </dev/null & echo $! >swapped.pid
await grep -q ready ready
set -- $(tail -n +2 /proc/swaps)
[ "$4" -gt 2048 ]
"""


@pytest.mark.either
@pytest.mark.warm
def test_killed_under_a_mount(product: Product) -> None:
    """remove names the mount and refuses; --umount and --force have their ways."""
    product.strict("mkdir -p /mnt/dead")
    for options in ("--umount", "--force"):
        path = product.create("--size 64M --fs ext4 --mount /mnt/dead", without="recovery")
        product.strict(KILL.format(pid=product.stat(path)["pid"], path=path))
        (row,) = product.json("list")["devices"]
        assert (row["state"], row["mountpoints"]) == ("dead", ["/mnt/dead"])
        refused = product.run(f"truezram remove {path}", status=4)
        assert "mounted on /mnt/dead" in refused.err, refused.err
        assert "what was on it is lost" in refused.err, refused.err
        assert [row["state"] for row in product.json("list")["devices"]] == ["dead"]
        done = product.run(f"truezram remove {options} {path}")
        if options == "--force":
            assert "umount /mnt/dead" in done.err, done.err
            product.strict("mountpoint -q /mnt/dead; umount /mnt/dead")
        product.strict("! mountpoint -q /mnt/dead")
        assert product.json("list")["devices"] == []


def test_killed_under_swap(guest: Guest, product: Product) -> None:
    """It is not removed, forced or not, as long as /proc/swaps names it; new swap goes before it."""
    guest.spoilt = True
    path = product.create("--size 64M --swap", without="recovery")
    name = path.removeprefix("/dev/")
    product.strict(SWAPPED)
    product.strict(KILL.format(pid=product.stat(path)["pid"], path=path) + "; grep deleted /proc/swaps")
    pid = product.strict("cat swapped.pid").out.strip()
    for options in ("", "--force"):
        refused = product.run(f"truezram remove {options} {path}", status=4)
        assert "removed" not in refused.out + refused.err
        for part in ("its server died and it is still swap", "restart", f"(pid {pid}, "):
            assert part in refused.err, refused.err
    row = product.stat(path)
    assert (row["state"], row["swap_priority"]) == ("dead", 100)
    assert row["swap_used"] > 2 << 20
    assert name in product.run("truezram doctor", status=None).out
    refused = product.run(f"truezram create --size 64M --id {name.removeprefix('ublkb')}", status=4)
    assert f"truezram remove {name}" in refused.err, refused.err

    made = product.json("create --size 64M --swap")
    assert made["priority"] == 101
    swaps = product.strict("tail -n +2 /proc/swaps").out.splitlines()
    assert [line.split()[-1] for line in swaps if line.startswith(made["path"])] == ["101"]
    product.remove(made["path"])
    warned = product.run("truezram create --size 64M --swap --priority 100")
    assert "Give a higher --priority: 101" in warned.err, warned.err
