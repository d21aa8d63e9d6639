"""`truezram check` on devices at work, on what a killed server leaves, and on damage; `truezram compact` under load."""

from __future__ import annotations

import json

import pytest
from product import Product

pytestmark = pytest.mark.warm

LOAD = """
fio --name=load --filename={path} --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=48m \
	--time_based --runtime=3000 --buffer_compress_percentage=60 --refill_buffers --output=/root/fio.log &
load=$!
writes() {{ tr -s ' ' <{stat} | cut -d' ' -f6; }}
until [ "$(writes)" -gt 3000 ]; do kill -0 $load; sleep 0.1; done
"""
"""Random writes until it is killed; returns after some thousand."""


def load(path: str) -> str:
    return LOAD.format(path=path, stat=f"/sys/block/{path.removeprefix('/dev/')}/stat")


@pytest.mark.either
def test_a_device_under_load_and_at_rest(product: Product) -> None:
    """Sound whenever it is looked at; at rest its figures are those of the statistics, compacted or not."""
    path = product.create("--size 64M --algorithm lz4")
    product.strict(
        load(path)
        + f"""
before=$(writes)
for check in 1 2 3 4 5; do
	truezram check {path} >/root/check.txt || {{ cat /root/check.txt; exit 1; }}
	truezram compact {path} >/dev/null
done
[ "$(writes)" -gt "$before" ]
kill $load
wait $load || true
sync
""",
    )
    row, found = product.stat(path), product.json(f"check {path}")
    assert (found["sound"], found["live"], found["problems"]) == (True, True, [])
    assert found["pages"] * 4096 == row["orig_data_size"] > 0
    assert found["payload_bytes"] == row["compr_data_size"]
    # The reserve may just be refilled, or shrink.
    assert abs(found["populated_bytes"] + row["memory"]["allocator"] - row["mem_used_total"]) <= 2 << 20
    product.strict(f"blkdiscard -o 0 -l $((24 << 20)) {path}")
    compacted = product.json(f"compact {path}")
    left = product.json(f"check {path}")
    assert left["sound"]
    assert 0 < left["pages"] < found["pages"] * 3 / 4
    assert compacted["mem_used_total"]["after"] < row["mem_used_total"]
    refused = product.run(f"chmod 755 /root; runuser -u nobody -- truezram check {path}", status=3)
    assert "truezram: cannot" in refused.err, refused.err
    product.remove(path)


DAMAGE = """
cp --sparse=always $1 /root/copy
python3 - <<'END'
import os, struct
fd = os.open("/root/copy", os.O_RDWR)
(directory,) = struct.unpack("<Q", os.pread(fd, 8, 88))
os.pwrite(fd, bytes([os.pread(fd, 1, directory + 2)[0] ^ 1]), directory + 2)
END
"""


@pytest.mark.either
def test_what_a_killed_server_leaves(product: Product) -> None:
    """Killed while it writes, its arena is sound; a damaged copy of it is not, and says where."""
    path = product.create("--size 64M", without="recovery")
    name, pid = path.removeprefix("/dev/"), product.stat(path)["pid"]
    product.strict(
        load(path) + f"kill -9 {pid}; gone {pid}; wait $load || true",
    )
    found = product.json(f"check {name}")
    assert (found["sound"], found["live"], found["state"]) == (True, False, "live")
    assert found["pages"] > 0
    file = f"/run/truezram/arena/{name}"
    assert product.json(f"check {file}") == {**found, "source": file}
    result = product.run(f"set -- {file}\n{DAMAGE}\ntruezram check --json /root/copy", status=1)
    damaged = json.loads(result.out)
    assert damaged["problems"] == [
        {"page": 0, "what": "the directory's entry is damaged: pages 0 to 511 are lost"},
    ]
    cut = product.run("truncate -s 1M /root/copy; truezram check /root/copy", status=1)
    assert "it is cut short" in cut.err, cut.err
    product.run(f"rm /root/copy; truezram remove {name}; truezram check {name}", status=1)
