"""A block device by the Python library, from its creation to its removal."""

from __future__ import annotations

import json

import pytest
from product import Product

SCRIPT = """
import json, os, subprocess
import truezram

pool = open(os.environ["POOL"], "rb").read(16 << 20)
said = {}
with truezram.Device.create("64M", algorithm="lz4", policy="off", temporary=True) as device:
    said["path"] = device.path
    disk = os.open(device.path, os.O_RDWR)
    looks = []
    for number, snapshot in enumerate(truezram.watch(0.01)):
        (now,) = (one for one in snapshot.devices if one.name == device.name)
        looks.append((now.orig_data_size, now.total.pages_written))
        if number == 2:
            break
        os.pwrite(disk, pool[: 8 << 20], number * (8 << 20))
        os.fsync(disk)
    said["looks"] = looks
    changes = device.set(mem_limit="32M", algorithm="zstd:3")
    said["changes"] = [(one.key, one.before, one.after) for one in changes]
    said["limit"] = device.stat().mem_limit
    done = device.recompress("dense", 0, max_cpu=100)
    said["dense"] = [done.pages, done.saved, device.stat().dense_saved]
    try:
        device.attach()
    except truezram.Unsupported as error:
        said["attach"] = str(error)
    with subprocess.Popen(["sleep", "1000"], stdin=disk) as other:
        try:
            device.remove()
        except truezram.Busy as error:
            said["busy"] = str(error)
        other.kill()
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
    said["same"] = os.pread(disk, 8 << 20, 8 << 20) == pool[: 8 << 20]
    os.close(disk)
said["gone"] = not os.path.exists(device.path)

with truezram.Device.create("64M", swap=True, priority=7) as device:
    name = device.name
with truezram.Device.open(name) as again:
    said["swap"] = [again.stat().swap_priority, next(one.swap_priority for one in truezram.devices())]
    said["removed"] = again.remove().name == name
said["left"] = [one.name for one in truezram.devices() if one.kind == "truezram"]
print(json.dumps(said))
"""


@pytest.mark.either
def test_from_beginning_to_end(product: Product) -> None:
    """It is written, set, compressed once more, watched, refused while it is in use, and gone with its block; another
    one is swap, and outlives the block that made it."""
    out = product.run(f"cat >/root/use.py <<'END'\n{SCRIPT}\nEND\n{product.program.parent}/python /root/use.py").out
    said = json.loads(out)
    path = said["path"]
    assert path.startswith("/dev/ublkb")
    (empty, nothing), (half, written), (whole, twice) = said["looks"]
    assert nothing == 0 == empty
    assert (half, whole) == (8 << 20, 16 << 20)
    assert (written, twice) == (2048, 4096)
    assert said["changes"] == [["mem_limit", "0", str(32 << 20)], ["algorithm", "lz4", "zstd:3"]]
    assert said["limit"] == 32 << 20
    pages, saved, counted = said["dense"]
    assert 0 < pages <= 4096
    assert saved == counted > 0
    assert f"Open {path}" in said["attach"]
    assert "open" in said["busy"]
    assert said["same"]
    assert said["gone"]
    assert said["swap"] == [7, 7]
    assert said["removed"]
    assert said["left"] == []
