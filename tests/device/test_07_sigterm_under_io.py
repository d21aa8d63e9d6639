"""A server asked to end (SIGTERM) while programs read and write: the device goes in order, nothing hangs."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

FIO = (
    "fio --name=load --filename={path} --direct=1 --ioengine=io_uring --iodepth=32 --rw=randrw --bs=4k"
    " --numjobs={jobs} --size=64M --time_based --runtime=36000 --group_reporting --minimal"
)


def end_under_io(product: Product, queues: int) -> None:
    """Load on every queue, SIGTERM; fio fails, node and registry entry go, and the same id can be had again."""
    path = product.create(f"--size 128M --queues {queues}")
    pid = product.stat(path)["pid"]
    out = product.strict(
        f"""
{FIO.format(path=path, jobs=queues)} >fio.out 2>&1 &
fio=$!
flows() {{ read -r _ _ _ _ writes _ </sys/block/{path.removeprefix("/dev/")}/stat; [ "$writes" -gt 500 ]; }}
await flows
kill -TERM {pid}
status=0; wait $fio || status=$?
echo "fio=$status"
await [ ! -e {path} ]
gone {pid}
""",
    ).out
    assert "fio=" in out
    assert "fio=0" not in out, "fio ran to its end: the device was not taken away"
    assert product.json("list")["devices"] == []
    assert product.create(f"--size 64M --id {int(path.removeprefix('/dev/ublkb'))}") == path
    product.remove(path)


def test_sigterm_under_io(product: Product) -> None:
    """One queue."""
    end_under_io(product, 1)


@pytest.mark.guest(cpus=4)
def test_sigterm_under_io_four_queues(product: Product) -> None:
    """Four queues."""
    end_under_io(product, 4)
