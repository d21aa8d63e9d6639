"""Memory is short in every way there is, with the kernel's default settings, and servers are killed in the midst of it:
nothing hangs, nothing is lost. (A task that hangs for a minute fails a test: guest.py.)"""

from __future__ import annotations

import pytest
from guest import Guest, has_kernel_bug
from hog import check_log
from product import Product, numbers

pytestmark = pytest.mark.guest(memory=192)
KILLS = 3
START = """
hogs=
rm -f hog.*
hog() {{ printf '%s\\n' {commands} | {tools}/pagetool hog $1 $2 >hog.$3 2>&1 & hogs="$hogs $!"; }}
"""
FINISH = """
for hog in $hogs; do wait $hog || echo "hog ended with $?"; done
cat hog.*
"""


def make(product: Product, mib: int, options: str = "") -> str:
    return product.create(f"--size {mib}M --swap {options}")


def run(product: Product, path: str, commands: str, script: str, timeout: int = 1200) -> list[str]:
    """Runs hogs (``hog POOL MIB NUMBER``) and whatever else the script does; what hogs and killer have said."""
    start = START.format(commands=commands, tools=product.tools)
    kills = 1 if has_kernel_bug(product.guest.kernel) else KILLS
    killer = f"{product.tools}/killer {path.removeprefix('/dev/')} {kills} 4"
    out = product.strict(start + script.replace("KILLER", killer) + FINISH, timeout=timeout).out
    print(out)
    return out.splitlines()


def check(product: Product, path: str, lines: list[str], hogs: int) -> None:
    """Every hog came to its end and found every page right; no request failed, and each death was followed."""
    answers = [line for line in lines if " bad=" in line]
    assert [line for line in answers if not line.endswith(" bad=0")] == []
    assert sum(line.startswith("verify ") for line in answers) == hogs
    killed = numbers(next(line for line in lines if line.startswith("kills=")))
    row = product.stat(path)
    assert row["recoveries"] == int(killed["servers"])
    assert (row["failed_reads"], row["failed_writes"], row["enospc"]) == (0, 0, 0)
    assert product.json(f"check {path}")["sound"]
    product.remove(path)


def test_hogs_beside_readers(guest: Guest, product: Product) -> None:
    """Processes of half as much again as memory, and others that read files all the time, whose pages push them out."""
    path = make(product, 512)
    lines = run(
        product,
        path,
        "fill 'verify 1031' quit",
        """
each=$(($(awk '/MemTotal/ { print $2 }' /proc/meminfo) * 3 / 4 / 1024))
hog "$POOL" $each 1
hog "$POOL" $each 2
while :; do cat /usr/lib/x86_64-linux-gnu/*.so* >/dev/null; done & reader=$!
sleep 3
KILLER
kill $reader
""",
    )
    check(product, path, lines, 2)
    check_log(guest)


@pytest.mark.either
def test_a_limited_cgroup(guest: Guest, product: Product) -> None:
    """memory.max is a third of what its process wants: it swaps while there is memory, and the server is outside."""
    path = make(product, 256)
    lines = run(
        product,
        path,
        "fill 'renew 1' 'verify 1031' quit",
        """
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/limited
echo 40M >/sys/fs/cgroup/limited/memory.max
(echo $BASHPID >/sys/fs/cgroup/limited/cgroup.procs; hog "$POOL" 120 1; wait $hogs) & hogs=$!
sleep 3
KILLER
""",
    )
    check(product, path, lines, 1)
    product.run("rmdir /sys/fs/cgroup/limited")
    check_log(guest)
