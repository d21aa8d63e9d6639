"""What `setup` and `enable` leave to systemd, booted for real: a machine with systemd is set up, and has a disk on nbd;
its units are stopped, started again and broken, it is switched off with swap in use, started again with the files that
it left, and all is taken back."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pytest
from guest import Guest
from hog import check_log
from product import Product

SECONDS = 600
OFF = """
echo 7 >/proc/sys/kernel/printk # what systemd says, too
systemctl poweroff --no-block
sleep 1000
"""
STATE = """
awk '$1 ~ /ublkb/ { print $1, $5 }' /proc/swaps
cat /proc/sys/vm/swappiness
systemctl is-active truezram@ublkb0.service truezram@machine.service || true
"""
# Emulation on a busy machine is slow.
SLOW = """
mkdir -p /run/systemd/system/truezram@.service.d
printf '[Service]\nTimeoutStartSec=600\n' >/run/systemd/system/truezram@.service.d/slow.conf
"""
SET_UP = """
truezram setup --yes --no-measure --json >/root/setup.json
"""
# It comes back empty, in its place.
DISK = """
truezram create --transport nbd --size 64M --fs ext4 --mount /mnt --enable --json
grep -x nbd /etc/modules-load.d/truezram.conf
"""
DISK_STATE = """
findmnt -no SOURCE,FSTYPE /mnt | tr -s ' '
systemctl is-active truezram-disk@nbd0.service
ls /mnt
"""
NO_DISK = """
truezram disable nbd0 --now
! findmnt /mnt
[ ! -e /sys/block/nbd0/pid ]
"""
# As of a user who edited the file: the unit fails and says why, and what was there before does not get in its way.
BREAK = """
unit=truezram@ublkb0.service file=/etc/truezram/ublkb0.toml
systemctl restart $unit
systemctl stop $unit
[ ! -e /dev/ublkb0 ]
cp $file /root/good.toml
echo 'sise = "1G"' >>$file
! systemctl start $unit
! truezram config check
[ "$(systemctl is-active $unit || true)" = failed ]
[ ! -e /dev/ublkb0 ]
mv /root/good.toml $file
systemctl reset-failed $unit
systemctl start $unit
"""
FILES = r"""
cd /
tar -c etc/truezram etc/modules-load.d/truezram.conf {etc,run}/systemd/system/*truezram* \
	etc/systemd/system/*/*truezram* | base64 -w0
"""
USE = """
mkfifo said
(printf 'fill\npageout\n'; exec sleep 1000) | {tools}/pagetool hog "$POOL" 40 >said &
{{ read -r line; read -r line; }} <said
[ "${{line#pageout}}" != "$line" ]
awk '$1 ~ /ublkb/ {{ print $4 }}' /proc/swaps
"""
# When each became active, in microseconds since the boot; the swap unit of systemd's own is after ours.
ORDER = """
for unit in truezram@ublkb0.service swap.target; do systemctl show -P ActiveEnterTimestampMonotonic $unit; done
systemctl show -P After dev-ublkb0.swap
"""
UNDO = """
truezram setup undo --yes
cat /proc/sys/vm/swappiness
ls -d /etc/truezram /etc/systemd/system/*truezram* /etc/systemd/system/*/*truezram* /etc/modules-load.d/truezram.conf \
    /dev/ublkb* 2>/dev/null || true
systemctl list-units --no-legend --plain --all 'truezram*'
"""


def unpack(text: str, folder: Path) -> None:
    """The files that a guest left."""
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text))) as archive:
        archive.extraction_filter = lambda member, path: member  # Debian 12's Python has no `filter=`
        archive.extractall(folder)


@pytest.mark.either
@pytest.mark.guest(memory=384, systemd=True)
def test_set_up_booted_and_taken_back(guest: Guest, product: Product, tmp_path: Path) -> None:
    product.strict(SLOW + SET_UP, timeout=SECONDS)
    ready = ["/dev/ublkb0 100", "150", "active", "active"]
    assert product.strict(STATE).out.splitlines() == ready
    product.strict(BREAK, timeout=SECONDS)
    assert product.strict(STATE).out.splitlines() == ready
    product.strict(DISK, timeout=SECONDS)
    there = ["/dev/nbd0 ext4", "active", "lost+found"]
    assert product.strict(DISK_STATE).out.splitlines() == there
    unpack(product.strict(FILES, timeout=SECONDS).out, tmp_path / "files")

    swapped = product.strict(USE.format(tools=product.tools), timeout=SECONDS).out
    assert int(swapped) > 20 << 10
    guest.end_by(OFF, timeout=SECONDS)
    log = guest.log(guest.mark)
    assert "Deactivated swap dev-ublkb0.swap" in log or "All swaps deactivated." in log
    assert "I/O error" not in log
    check_log(guest)

    (tmp_path / "again").mkdir()
    again = Guest(guest.kernel, memory=384, systemd=True, folder=tmp_path / "again", files=tmp_path / "files")
    try:
        after = Product(again, product.program, product.tools)
        assert after.strict(STATE).out.splitlines() == ready
        ours, target, order = after.strict(ORDER).out.splitlines()
        assert 0 < int(ours) <= int(target)
        assert "truezram@ublkb0.service" in order
        assert after.strict(DISK_STATE).out.splitlines() == there
        after.strict(NO_DISK, timeout=SECONDS)
        assert after.strict(UNDO, timeout=SECONDS).out.splitlines()[2:] == ["60"]
        assert again.bad_log() == []
        again.end_by(OFF, timeout=SECONDS)
    finally:
        again.kill()
