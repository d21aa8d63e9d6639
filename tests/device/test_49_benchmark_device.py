"""``truezram benchmark device`` on a real kernel: measured and verified, and whatever ends it, no device and no swap is
left behind; what was there is only read."""

from __future__ import annotations

import json

import pytest
from product import Product

OPTIONS = "--pages /root/some.pages --algorithm fast --size 8M --rounds 2 --runtime 0.2"
LEFT = "find /sys/block -name 'ublkb*' -o -name 'zram*' -o -name 'nullb*'; tail -n +2 /proc/swaps"
ANY = """
n=$(cat /sys/class/zram-control/hot_add)
zram=zram:$(sed 's/.*\\[\\(.*\\)\\].*/\\1/' /sys/block/zram$n/comp_algorithm)
echo $n >/sys/class/zram-control/hot_remove
"""
"""A compressor that this kernel's zram has, its default."""
PREPARE = f"modprobe zram num_devices=0; head -c 4M $POOL >some.pages; {LEFT}"


@pytest.fixture
def clean(product: Product) -> Product:
    """No zram device, and none afterwards."""
    assert product.strict(PREPARE).out.strip() == ""
    return product


@pytest.mark.either
def test_measured_verified_and_removed(clean: Product) -> None:
    """Every workload, ours beside the floor and kernel zram."""
    loads = "--mode low-latency --workload randread,randwrite,read,write,mixed,swap --depth 1,8"
    script = f"truezram benchmark device {OPTIONS} {loads} --against null,$zram --json out.json --html out.html >&2"
    done = clean.run(f"{ANY}{script}; cat out.json; echo; echo ==; {LEFT}; grep -c '<svg' out.html")
    body, _, rest = done.out.partition("\n==\n")
    # Charts: of each workload, and nothing else is left.
    assert rest.split() == ["6"], rest
    document = json.loads(body)
    assert document["kind"] == "device"
    results = document["results"]
    for result in results:
        assert result["iops"] > 0
        assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99.9"]
        assert len(result["samples"]["iops"]) == 2
        if result["workload"] in ("randread", "read", "mixed", "swap"):
            assert result["verified"] > 0, result
        else:
            assert result["verified"] == 0, result
        # Our servers' CPU time is seen; the kernel's zram has no server.
        assert (result["cpu"]["server"] is None) == (result["target"] == "zram"), result
        assert result["cpu"]["us_per_request"] > 0
    targets = {kind: [r for r in results if r["target"] == kind] for kind in ("truezram", "null", "zram")}
    assert {kind: len(found) for kind, found in targets.items()} == {"truezram": 11, "null": 10, "zram": 11}
    assert {r["queues"] for r in targets["null"]} == {r["queues"] for r in targets["truezram"]}
    assert {r["queues"] for r in targets["zram"]} == {None}
    assert {r["mode"] for r in targets["truezram"]} == {"low-latency"}
    for result in (r for r in results if r["workload"] == "swap"):
        # 45 % of the device, twice a round; in the second turn half of them are clean and cost no writing.
        count = 8 * 256 * 45 // 100
        assert result["verified"] == 2 * 2 * count
        assert result["swap"]["paged_out"] > 1.5 * 2 * count, result
        assert result["swap"]["major_faults"] > result["verified"] // 20, result
    assert [(item["implementation"], "as swap" in item["why"]) for item in document["not_measured"]] == [("null", True)]


@pytest.mark.either
def test_a_device_that_is_there_is_only_read(clean: Product) -> None:
    """Unless it is given up, which one in use cannot be."""
    path = clean.create("--size 8M --algorithm fast")
    options = f"{path} --pages /root/some.pages --against none --size 8M --rounds 2 --runtime 0.4"
    clean.strict(f"dd if=some.pages of={path} bs=1M oflag=direct; md5sum <{path} >before")
    document = json.loads(clean.run(f"truezram benchmark device {options} --json -").out)
    assert {r["workload"] for r in document["results"]} == {"randread", "read"}
    assert {r["target"] for r in document["results"]} == {path}
    assert clean.run(f"truezram benchmark device {options} --workload randwrite", status=2).out == ""
    clean.strict(f"md5sum <{path} | diff - before")
    clean.strict(f"mkswap {path}; swapon {path}; truezram benchmark device {options} --workload read --json - >read")
    clean.run(f"truezram benchmark device {options} --workload randwrite --destructive", status=4)
    done = clean.strict(
        f"swapoff {path}; truezram benchmark device {options} --workload randwrite,randread --destructive --json -"
    )
    document = json.loads(done.out)
    assert sum(r["verified"] for r in document["results"] if r["workload"] == "randread") > 0
    clean.remove(path)


@pytest.mark.either
@pytest.mark.parametrize(
    ("name", "code", "moment"),
    [("INT", 130, "load"), ("INT", 130, "swap"), ("TERM", 143, "swap"), ("HUP", 129, "load")],
)
def test_interrupted(clean: Product, name: str, code: int, moment: str) -> None:
    """Twice, as by someone in a hurry: in the middle of a load, and when a device is swap."""
    load = "randread" if moment == "load" else "swap"
    size = "" if moment == "load" else "--size 32M"  # more than once around before anybody looks
    reached = {
        "load": "awk '$1 > 2000 { found = 1 } END { exit !found }' /sys/block/ublkb*/stat 2>/dev/null",
        "swap": "grep -qE '^/dev/(ublkb|zram)' /proc/swaps",
    }[moment]
    script = f"""
    {ANY}
    set -m
    options="{OPTIONS.replace("--runtime 0.2", "--runtime 60")} {size}"
    command truezram benchmark device $options --workload {load} --against null,$zram --json - >out 2>err & pid=$!
    until {reached}; do
        kill -0 $pid || {{ cat err; exit 9; }}
        sleep 0.05
    done
    kill -{name} $pid; kill -{name} $pid
    wait $pid; echo $?
    {LEFT}
    pgrep -l truezramd
    cat out
    """
    out = clean.run(script).out.split()
    assert out[0] == str(code), out
    assert out[1:] == [] or out[1].startswith("{"), out


@pytest.mark.either
def test_a_null_device_goes_with_whoever_made_it(clean: Product) -> None:
    """Killed, too. It is never a device of ours."""
    script = """
    server=$(python -c "from truezram.engine import paths; print(paths.server_path())")
    mkfifo gate
    sleep 3000 >gate & holder=$!
    "$server" --null $((16 << 20)) 1 8 auto <gate >said & null=$!
    until [ -s said ]; do kill -0 $null || exit 9; sleep 0.05; done
    cat said; truezram list --json | grep -c ublkb
    dd if=some.pages of=/dev/ublkb0 bs=4k count=16 oflag=direct 2>/dev/null
    cmp -n 65536 /dev/ublkb0 /dev/zero && echo zeros
    kill $holder; wait $null; echo $?
    ls /sys/block | grep -c ublkb
    "$server" --null 5000 1 8 auto </dev/null 2>/dev/null; echo $?
    """
    words = clean.run(script).out.split()
    assert words == ["ublkb0", "1", "8", "0", "zeros", "0", "0", "2"], words
