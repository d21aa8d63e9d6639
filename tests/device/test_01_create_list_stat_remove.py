"""The life of a device, twice in a row: create, look at it, read and write it, change it, remove it."""

from __future__ import annotations

import pytest
from product import PAGE, Product

SIZE = 192 << 20


def test_create_list_stat_remove(product: Product) -> None:
    """A device is there when create returns, says what it is, holds what was written, and goes without a trace."""
    path = product.create("--size 192M --algorithm lz4 --mem-limit 100M")
    queue = f"/sys/block/{path.removeprefix('/dev/')}/queue"
    node = product.strict(
        f"test -b {path}; stat -c %a {path}; blockdev --getsize64 {path}; cd {queue}; cat logical_block_size"
        " physical_block_size minimum_io_size rotational discard_granularity discard_max_bytes"
        " write_zeroes_max_bytes"
    ).out.split()
    assert node[:7] == ["600", str(SIZE), "4096", "4096", "4096", "0", "4096"]
    assert int(node[7]) > 0, "discard"
    assert int(node[8]) > 0, "write zeroes"
    assert [row["path"] for row in product.json("list")["devices"]] == [path]

    check = f'pagetool check "$POOL" {path} 500'
    assert "written=500 error=none" in product.strict(f'pagetool fill "$POOL" {path} 500; {check}').out
    # Bytes that were never written read as zeros.
    zeros = product.strict(f"dd if={path} bs=4096 skip=500 count=8 status=none | tr -d '\\0' | wc -c")
    assert zeros.out.strip() == "0"

    row = product.stat(path)
    assert (row["state"], row["disksize"], row["mem_limit"]) == ("live", SIZE, 100 << 20)
    assert row["orig_data_size"] == 500 * PAGE
    assert 0 < row["compr_data_size"] < row["orig_data_size"]
    assert row["pages_written"] >= 500

    product.run(f"truezram set {path} mem_limit=64M algorithm=zstd:3")
    # Pages written under the former algorithm stay readable along with new ones.
    product.strict(f'{check}; pagetool fill "$POOL" {path} 250; {check}')
    row = product.stat(path)
    assert (row["mem_limit"], row["algorithm"]) == (64 << 20, "zstd:3")
    kinds = row["kind_pages"]
    assert (kinds["zstd"] > 100, kinds["lz4"] > 100, sum(kinds.values())) == (True, True, 500), kinds
    product.remove(path)

    again = product.create("--size 192M")
    assert again == path
    assert product.stat(again)["orig_data_size"] == 0, "something of the first device is in the second"
    product.strict(f'test "$(head -c 2M {path} | tr -d "\\0" | wc -c)" = 0; pagetool fill "$POOL" {path} 500; {check}')
    product.remove(again)
    assert product.json("list")["devices"] == []


@pytest.mark.either
@pytest.mark.warm
def test_a_device_with_a_dictionary(product: Product) -> None:
    """Trained on pages like those that it will hold; what was stored with it outlasts changes of algorithm."""
    trained = product.json('train --pages "$POOL" --size 16K words.zdict')
    path = product.create("--size 192M --algorithm zstd:3 --dictionary words.zdict")
    check = f'rm -f words.zdict; pagetool check "$POOL" {path} 500'
    product.strict(f'pagetool fill "$POOL" {path} 500; {check}')
    product.run(f"truezram set {path} algorithm=lz4")
    product.strict(f'{check}; pagetool fill "$POOL" {path} 250; {check}')
    product.run(f"truezram set {path} algorithm=zstd:9")
    product.strict(f'{check}; pagetool fill "$POOL" {path} 100; {check}')
    row = product.stat(path)
    assert (row["dictionary"]["id"], row["dictionary"]["bytes"]) == (trained["id"], trained["bytes"])
    kinds = row["kind_pages"]
    assert (kinds["zstd_dict"] > 200, kinds["lz4"] > 50, "zstd" in kinds) == (True, True, False), kinds
    product.remove(path)


# Of its mappings: what is anonymous, and the program's own file. Libraries are as large as the distribution makes them.
MEMORY = """
cd /proc/$1
awk '/^[0-9a-f]+-[0-9a-f]+ / { own = NF == 5 || $6 == "[heap]" || $6 == "[stack]" || $6 ~ "/truezramd$" }
	own && /^Rss:/ { kib += $2 } END { print kib }' smaps
awk '/^THP_enabled:/ { print $2 }' status
for task in task/*; do read -r name <$task/comm; [ $name != tz-reserve ] || cut -d' ' -f40,41 $task/stat; done
"""


@pytest.mark.either
def test_the_server_is_small_and_its_reserve_thread_comes_first(product: Product) -> None:
    """At most 2.25 MiB without store and libraries (docs/server.md), and no huge page, which is a matter of luck. The
    reserve's thread has real-time priority."""
    path = product.create("--size 1G --queues 1")
    kib, huge_pages, *scheduling = product.strict(f"set -- {product.stat(path)['pid']}\n{MEMORY}").out.split()
    assert 1024 < int(kib) <= 2304, f"{kib} KiB"
    assert huge_pages == "0"
    assert scheduling == ["1", "1"], "priority 1 of SCHED_FIFO"
    product.remove(path)
