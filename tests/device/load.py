"""Verified writes, under which servers are killed and other things go wrong."""

from __future__ import annotations

FIO = """
fio --name=verify --filename={path} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --norandommap \
	--bsrange=4k-64k --blockalign=4k --size=64m --io_size=64g --time_based --runtime=36000 --verify=crc32c \
	--verify_fatal=1 --verify_backlog=128 --buffer_compress_percentage=60 --buffer_compress_chunk=4k \
	--refill_buffers --output=/root/fio.log &
load=$!
{tools}/killer {name} {kills} {seed}
kill -0 $load
kill -INT $load
wait $load || true
cat fio.log
"""
