"""The backing file: encrypted by default, and whatever happens to it, only its pages are concerned."""

from __future__ import annotations

import time

import pytest
from product import HANG, Product

pytestmark = pytest.mark.warm

PAGES = 2048
FILE = "/root/backing"

# Pages that do not compress, each with its number and a text, so that one is found on the file if it is there as it is.
SECRET = b"the secret of truezram "
FILL = f"""
cat >pages.py <<'END'
import hashlib, os, sys
SECRET = {SECRET!r}
def page(number):
    out = SECRET + b"%08d " % number
    while len(out) < 4096:
        out += hashlib.sha512(out[-64:] + b"%d" % number).digest()
    return out[:4096]
def bad(path, first, count):
    wrong = []
    with open(path, "rb", buffering=0) as disk:
        fd = disk.fileno()
        for number in range(first, first + count):
            os.posix_fadvise(fd, number * 4096, 4096, os.POSIX_FADV_DONTNEED)
            try:
                if os.pread(fd, 4096, number * 4096) != page(number):
                    wrong.append("%d differs" % number)
            except OSError as error:
                wrong.append("%d %s" % (number, error.strerror))
    return wrong
if sys.argv[1] == "fill":
    with open(sys.argv[2], "r+b", buffering=0) as disk:
        for number in range(int(sys.argv[3])):
            disk.write(page(number))
        os.fsync(disk.fileno())
else:
    wrong = bad(sys.argv[2], 0, int(sys.argv[3]))
    print(len(wrong), *wrong[:5], sep="; ")
END
"""
WRITE = "truezram writeback {path} --idle 0 --max-cpu 100 --wait --json"
NOTHING_LEFT = """
[ -z "$(dmsetup ls | grep truezram)" ] || { dmsetup ls; exit 1; }
[ -z "$(losetup -a | grep -F /root/)" ] || { losetup -a; exit 1; }
"""


def create(product: Product, options: str) -> str:
    """A device with `PAGES` pages of known text, all of them in memory, and limits that are no hindrance."""
    path = product.create(f"--size 64M --policy off {options}")
    product.strict(f"truezram set {path} backing_daily=none backing_rate=none")
    product.strict(f"{FILL}python3 pages.py fill {path} {PAGES}")
    return path


def wrong(product: Product, path: str) -> str:
    """How many of its pages are not as they were written, and the first of them."""
    return product.strict(f"python3 pages.py check {path} {PAGES}").out.strip()


COUNT = f"""
sync
cat >count.py <<'END'
print(open({FILE!r}, "rb").read().count({SECRET!r}))
END
python3 count.py
"""


def count_secrets(product: Product) -> int:
    """How often the text is on the file."""
    return int(product.strict(COUNT).out)


@pytest.mark.either
def test_what_is_written_cannot_be_read(product: Product) -> None:
    """Encrypted, nothing of it is on the file; with --backing-plain it is: the search would find it."""
    path = create(product, f"--backing {FILE} --backing-limit 32M")
    assert product.strict("losetup -n -O BACK-FILE,AUTOCLEAR -a | grep -F /root/backing").out.split() == [FILE, "1"]
    product.strict(WRITE.format(path=path))
    row = product.stat(path)
    node = row["backing_file"]["written_to"]
    table = product.strict(f"[ -b {node} ]; dmsetup table {node}; ls -lR /dev/mapper >&2").out.split()
    assert table[2:4] == ["crypt", "aes-xts-plain64"], table
    assert (row["backing"], row["backing_file"]["encrypted"]) == (FILE, True)
    assert product.strict(f"stat -c %b {FILE}").out.strip() != "0", "nothing was written to it"
    assert row["backing_file"]["pages"] == PAGES
    assert row["backing_file"]["used_bytes"] >= PAGES * 4096
    assert row["tiers"]["backing"]["pages"] == PAGES
    assert count_secrets(product) == 0
    product.strict(f"grep -q 'truezram backing file' {FILE}")
    refused = product.run(f"truezram create --size 64M --backing {FILE}", status=4)
    assert f"it is the backing file of {path.removeprefix('/dev/')}" in refused.err
    assert wrong(product, path) == "0"
    assert product.json(f"check {path}")["sound"]
    product.remove(path)
    product.strict(NOTHING_LEFT)
    assert product.strict(f"stat -c %s {FILE}").out == "0\n"

    path = create(product, f"--backing {FILE} --backing-limit 32M --backing-plain 2>/dev/null")
    product.strict(WRITE.format(path=path))
    assert count_secrets(product) == PAGES
    assert wrong(product, path) == "0"
    product.remove(path)
    assert count_secrets(product) == 0


@pytest.mark.either
def test_a_server_dies_while_it_writes(product: Product) -> None:
    """Another one takes over, with the same mapping, and every page is there. An upgrade leaves it alone, too."""
    path = create(product, f"--backing {FILE} --backing-limit 32M")
    before = product.stat(path)["backing_file"]["written_to"]
    product.strict(
        # 32 pages at once, in all for two minutes.
        f"truezram set {path} backing_rate=64K; truezram writeback {path} --idle 0 --max-cpu 100"
    )
    deadline = time.monotonic() + HANG
    while (row := product.stat(path))["backing_file"]["pages"] < 64:
        assert time.monotonic() < deadline, row["backing_file"]
    product.strict(f"kill -9 {row['pid']}")
    assert row["backing_file"]["pages"] < PAGES
    assert wrong(product, path) == "0"
    row = product.stat(path)
    assert (row["recoveries"], row["failed_reads"], row["state"]) == (1, 0, "live")
    assert (row["backing"], row["backing_file"]["written_to"]) == (FILE, before)
    product.strict(f"truezram set {path} backing_rate=none; truezram upgrade {path} --force")
    product.strict(WRITE.format(path=path))
    row = product.stat(path)
    assert row["backing_file"]["written_to"] == before
    assert row["backing_file"]["state"] == "ready"
    assert wrong(product, path) == "0"
    # The whole family dies: `remove` finds the mapping by itself.
    product.strict("kill_all")
    product.remove(path)
    product.strict(NOTHING_LEFT)


@pytest.mark.either
def test_it_fills_up_and_comes_back(product: Product) -> None:
    """A file that is too small takes what it has room for, says so, and nothing else happens. Then all comes back."""
    path = create(product, f"--backing {FILE} --backing-limit 4M")
    done = product.json(WRITE.format(path=path).removeprefix("truezram ").removesuffix(" --json"))
    assert done["state"] == "full", done
    assert done["why"]
    row = product.stat(path)
    assert 0 < row["backing_file"]["pages"] < PAGES
    assert (row["failed_reads"], row["failed_writes"], row["state"]) == (0, 0, "live")
    assert wrong(product, path) == "0"
    product.strict(f"truezram set {path} backing=none")
    row = product.stat(path)
    assert (row["backing"], row["backing_file"]) == ("none", None)
    product.strict(NOTHING_LEFT)
    assert wrong(product, path) == "0"
    product.remove(path)


@pytest.mark.either
def test_it_vanishes(product: Product) -> None:
    """Cut short under a device: pages that were there are lost, each by itself; the others are served."""
    path = create(product, f"--backing plain:{FILE} --backing-limit 16M 2>/dev/null")
    product.strict(f"truezram writeback {path} --idle 0 --max-cpu 100 --wait")
    product.strict(
        f"truncate -s 0 {FILE}; dd if=/dev/urandom of={path} bs=4096 seek={PAGES} count=16 status=none; sync"
    )
    assert "Input/output error" in wrong(product, path)
    row = product.stat(path)
    assert row["state"] == "live"
    assert row["io_stat"]["backing_errors"] > 0
    product.strict(f"dd if={path} of=/dev/null bs=4096 skip={PAGES} count=16 iflag=direct status=none")
    # What is overwritten is there again.
    product.strict(f"python3 pages.py fill {path} {PAGES}")
    assert wrong(product, path) == "0"
    product.remove(path)


@pytest.mark.either
def test_its_disk_is_gone(product: Product) -> None:
    """What the mapping answers with errors: nothing more is written, what is in memory is served, and so on."""
    path = create(product, f"--backing {FILE} --backing-limit 32M")
    product.strict(f"truezram set {path} backing_daily=1M")
    product.strict(WRITE.format(path=path))
    on_file = product.stat(path)["backing_file"]["pages"]
    assert 0 < on_file < PAGES
    product.strict(
        f"dmsetup wipe_table $(dmsetup ls | grep -o '^truezram[^[:space:]]*'); truezram set {path} backing_daily=none"
    )
    product.run(f"truezram writeback {path} --idle 0 --max-cpu 100 --wait", status=None)
    row = product.stat(path)
    assert (row["state"], row["backing_file"]["state"]) == ("live", "failed")
    assert row["backing_file"]["reason"]
    bad = int(wrong(product, path).partition(";")[0])
    assert bad == row["backing_file"]["pages"] >= on_file, "each page that was there, and no other"
    product.remove(path)
    product.strict(NOTHING_LEFT)


@pytest.mark.either
def test_one_byte_is_damaged(product: Product) -> None:
    """It costs its page: EIO for that one, and for no other."""
    path = create(product, f"--backing plain:{FILE} --backing-limit 16M 2>/dev/null")
    product.strict(f"truezram writeback {path} --idle 0 --max-cpu 100 --wait")
    product.strict(
        f"""cat >flip.py <<'END'
with open({FILE!r}, "r+b") as file:
    at = file.read().index({SECRET!r} + b"00000100") + 2000
    file.seek(at)
    byte = file.read(1)[0]
    file.seek(at)
    file.write(bytes([byte ^ 1]))
END
python3 flip.py; sync"""
    )
    assert wrong(product, path) == "1; 100 Input/output error"
    row = product.stat(path)
    assert (row["failed_reads"] > 0, row["state"]) == (True, "live")
    product.remove(path)


@pytest.mark.either
def test_what_is_not_taken(product: Product) -> None:
    """Devices in use and with something on them; and after a creation that failed nothing is there."""
    product.strict(f"truncate -s 32M {FILE}; chmod 600 {FILE}; mkfs.ext4 -q {FILE}; modprobe loop; losetup -f {FILE}")
    loop = product.strict(f"losetup -n -O NAME -j {FILE}").out.strip()
    assert "ext4" in product.run(f"truezram create --size 64M --backing {loop}", status=4).err
    assert "loop device" in product.run(f"truezram create --size 64M --backing {FILE}", status=4).err
    product.strict(f"mkdir -p /mnt/b; mount {loop} /mnt/b")
    assert "mounted on /mnt/b" in product.run(f"truezram create --size 64M --backing {loop} --force", status=4).err
    product.strict(f"umount /mnt/b; mkswap -q {loop}; swapon {loop}")
    assert "swap" in product.run(f"truezram create --size 64M --backing {loop} --force", status=4).err
    product.strict(f"swapoff {loop}")
    path = create(product, f"--backing {loop} --force")
    assert "backing file of" in product.run(f"truezram create --size 64M --backing {loop}", status=4).err
    product.strict(WRITE.format(path=path))
    assert wrong(product, path) == "0"
    product.remove(path)
    product.strict(f'losetup -d {loop}; rm {FILE}; [ -z "$(dmsetup ls | grep truezram)" ]')
    # It fails at the very last: mapping, loop device and file were there.
    product.strict("mkdir -p shim; printf '#!/bin/sh\\nexit 1\\n' >shim/mkswap; chmod 755 shim shim/mkswap")
    failing = f"command truezram create --size 64M --swap --backing {FILE} --backing-limit 8M"
    assert "mkswap" in product.run(f"PATH=/root/shim:$PATH {failing}", status=1).err
    product.strict(f"[ ! -e {FILE} ]{NOTHING_LEFT}")


@pytest.mark.either
def test_kernel_zram(product: Product) -> None:
    """Any block device will do, the kernel's zram too."""
    product.strict("modprobe zram num_devices=1; echo 32M >/sys/block/zram0/disksize")
    path = create(product, "--backing /dev/zram0 --backing-plain 2>/dev/null")
    product.strict(WRITE.format(path=path))
    row = product.stat(path)
    assert (row["backing"], row["backing_file"]["pages"]) == ("plain:/dev/zram0", PAGES)
    assert wrong(product, path) == "0"
    product.remove(path)
    product.strict("echo 1 >/sys/block/zram0/reset; modprobe -r zram")
