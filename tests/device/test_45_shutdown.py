"""A machine with systemd is switched off while devices of ours are in use: it goes off by itself, in order."""

from __future__ import annotations

import pytest
from guest import Guest
from hog import check_log
from product import Product, numbers

SECONDS = 900
"""systemd waits for PATIENCE seconds (guest.py) at most, four times. The rest is emulation on a busy machine."""
DEVICES = """
truezram create --size 256M --swap --id 0
truezram create --size 256M --swap --id 1
truezram create --size 64M --id 2
mkfs.ext4 -q /dev/ublkb2; mkdir -p /mnt/held; mount /dev/ublkb2 /mnt/held
"""
USE = """
hog() {{ # NUMBER MIB: a process with so much, all of it swapped out, that stays
	mkfifo said$1
	(printf 'fill\npageout\n'; exec sleep 1000) | {tools}/pagetool hog "$POOL" $2 >said$1 &
	{{ read -r line; read -r line; }} <said$1
	[ "${{line#pageout}}" != "$line" ]
}}
deaf() {{ trap '' TERM; }}
alone() {{ echo $BASHPID >/sys/fs/cgroup/cgroup.procs; }} # of no unit: only the last SIGKILL to all ends it
(deaf; alone; cd /mnt/held; while :; do echo more >>file; read -r -t 1 <>/root/never || true; done) &
(deaf; alone; hog 1 40)
(deaf; hog 2 8)
hog 3 8
awk '{{ print $1 "=" $4 }}' /proc/swaps
systemctl list-units --no-pager --plain --type=swap,mount
"""
# systemd does not try it before the end: as if it had, and the pages had not fitted into memory.
KEEP = """
mkfifo never
mkdir -p /run/systemd/system/dev-ublkb0.swap.d
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/dev-ublkb0.swap.d/keep.conf
mkdir -p /run/systemd/system/dev-ublkb1.swap.d # what emulation on a busy machine takes
printf '[Swap]\nTimeoutSec=600\n' >/run/systemd/system/dev-ublkb1.swap.d/slow.conf
"""
OFF = """
echo 7 >/proc/sys/kernel/printk # what systemd says, too
systemctl poweroff --no-block
sleep 1000
"""


@pytest.mark.guest(memory=256, systemd=True)
def test_switched_off_with_devices_in_use(guest: Guest, product: Product) -> None:
    """By processes that end when told, by one of a unit that has to be killed, and by some of no unit, which stay to
    the last SIGKILL to all. It spares the servers, so that swap can be switched off and what they use be unmounted
    after it. Before systemd sends it, as before the SIGTERM to all, it stops every process, the servers too, and reads
    command lines that are swapped out."""
    product.strict(KEEP + DEVICES)
    out = product.strict(USE.format(tools=product.tools), timeout=SECONDS).out
    swapped = numbers(out)
    assert int(swapped["/dev/ublkb0"]) + int(swapped["/dev/ublkb1"]) > 40 << 10
    assert all(name in out for name in ("dev-ublkb0.swap", "dev-ublkb1.swap", "mnt-held.mount"))
    guest.end_by(OFF, timeout=SECONDS)
    log = guest.log(guest.mark)
    print(log)
    end = log[log.index("Sending SIGTERM to remaining processes") :]
    assert "Deactivated swap dev-ublkb1.swap" in log[: -len(end)]
    assert "Deactivating swap /dev/ublkb0" in end
    assert "All swaps deactivated." in end
    assert "EXT4-fs (ublkb2): unmounting filesystem" in end
    assert "I/O error" not in log
    check_log(guest)
