"""What goes wrong around a device, under verified writes: it is served all the same, by another server if need be."""

from __future__ import annotations

import json

import pytest
from load import FIO
from product import Product
from test_41_recovery import check_device

pytestmark = [pytest.mark.guest(cpus=2), pytest.mark.warm]

FLOWS = """
flowed() {{ read -r _ _ _ _ to _ </sys/block/{name}/stat; [ $((to - from)) -ge 200 ]; }}
flows() {{ read -r _ _ _ _ from _ </sys/block/{name}/stat; await flowed; }} # until so many more writes were served
flows
"""


def under_load(product: Product, script: str, *, servers: int, options: str = "") -> str:
    """Runs a script (its {path} and {pid} are the device's) under verified random writes through all queues, and sees
    that they go on after it, and that so many servers have died. What was said."""
    load = FIO.replace("{tools}/killer {name} {kills} {seed}", FLOWS + "{script}\nflows")
    path = product.create(f"--size 96M {options}")
    what = script.format(path=path, pid=product.stat(path)["pid"])
    out = product.strict(load.format(path=path, name=path.removeprefix("/dev/"), script=what)).out
    assert "verify: bad" not in out
    assert "err= 0" in out, out
    check_device(product, path, {"servers": str(servers)})
    product.remove(path)
    return out


FULL = """
mount -o remount,size=1M,nr_inodes=$(($(df --output=iused /run | tail -n 1) + 8)) /run
cat /dev/zero >/run/filler || true
for i in $(seq 16); do : >/run/filler$i || break; done
! echo more >/run/more
flows
kill -9 {pid}
flows
! echo more >/run/more
stands_by() {{ grep -qs tz-standby /proc/[0-9]*/comm; }}
await stands_by
rm /run/filler*
mount -o remount,size=64M,nr_inodes=20000 /run
"""


@pytest.mark.either
def test_run_is_full_when_a_standby_takes_over(product: Product) -> None:
    """It needs no block and no file there that its server did not have."""
    under_load(product, FULL, servers=1)


CLOCK = """
for hours in 10 -20 10; do
	date -s @$(($(date +%s) + hours * 3600)) >/dev/null
	flows
	truezram stat {path} --json | tr -d '\\n'; echo
done
kill -9 {pid}
date -s "yesterday" >/dev/null
flows
date -s "tomorrow" >/dev/null
"""


@pytest.mark.either
def test_the_clock_jumps(product: Product) -> None:
    """Hours forth and back, and a day while a server takes over: no request fails, and counters only grow."""
    out = under_load(product, CLOCK, servers=1)
    stats = [json.loads(line)["devices"][0]["io_stat"] for line in out.splitlines() if line.startswith("{")]
    assert len(stats) == 3
    for name in stats[0]:
        values = [row[name] for row in stats]
        assert values == sorted(values), name


OFFLINE = """
cpu=/sys/devices/system/cpu/cpu1/online
echo 0 >$cpu
flows
echo 1 >$cpu
flows
echo 0 >$cpu
kill -9 {pid}
flows
echo 1 >$cpu
"""


def test_a_cpu_goes_offline(product: Product) -> None:
    """That of a pinned queue; and a server takes over while there is one less."""
    under_load(product, OFFLINE, servers=1, options="--queues 2")


# The guest's virtio-fs refuses to be suspended: by then all processes have been frozen, and go on after that.
SUSPEND = """
dmesg -C
echo 300000 >/sys/power/pm_freeze_timeout # ms; by default it is 20 s
for _ in 1 2; do echo freeze >/sys/power/state || true; flows; done
[ $(dmesg | grep -c 'Freezing user space processes completed') = 2 ]
"""


def test_suspend_and_resume(product: Product) -> None:
    """All processes are frozen, the server too, and go on."""
    under_load(product, SUSPEND, servers=0)


@pytest.mark.either
def test_stopped_with_everybody_else(product: Product) -> None:
    """A server that gets SIGSTOP, as at a shutdown by systemd, goes on by itself: nobody else could continue it."""
    under_load(product, "for _ in 1 2; do kill -STOP {pid}; flows; done", servers=0)
