"""fio writes at random and verifies with crc32c, over one queue and over four."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# Half-compressible data in requests of 4 to 128 KiB that overwrite each other; each job has a region of its own, as
# fio's verification asks.
FIO = (
    "fio --name=verify --filename={path} --direct=1 --ioengine=io_uring --iodepth=16 --rw=randwrite --norandommap"
    " --bsrange=4k-128k --blockalign=4k --numjobs={jobs} --size={size}M --offset_increment={size}M --io_size={io}M"
    " --verify=crc32c --verify_fatal=1 --do_verify=1 --buffer_compress_percentage=60 --refill_buffers"
    " --buffer_compress_chunk=4k --group_reporting --minimal --cpus_allowed=0-{last} --cpus_allowed_policy=split"
)


def verify(product: Product, queues: int, cpus: int) -> None:
    """Creates, runs fio, looks that every queue took part, removes."""
    path = product.create(f"--size 256M --queues {queues} --queue-depth 32")
    jobs, size = (1, 64) if queues == 1 else (2 * cpus, 16)
    product.run(FIO.format(path=path, jobs=jobs, size=size, io=size, last=cpus - 1))
    row = product.stat(path)
    assert row["nr_queues"] == queues
    assert row["failed_reads"] == row["failed_writes"] == row["checksum_errors"] == 0
    assert len(row["queues"]) == queues
    for number, queue in enumerate(row["queues"]):
        assert queue["num_writes"] > 0, f"queue {number} got no writes"
        assert queue["num_reads"] > 0, f"queue {number} got no reads"
    product.remove(path)


def test_fio_one_queue(product: Product) -> None:
    """One queue, requests of mixed sizes."""
    verify(product, 1, 1)


@pytest.mark.guest(cpus=4)
def test_fio_four_queues(product: Product) -> None:
    """Four queues on four processors, two jobs each."""
    verify(product, 4, 4)
