"""``truezram benchmark store`` and ``benchmark tiers`` against kernel zram on a real kernel: measured and verified, and
whatever ends it, no device and no memory is left behind."""

from __future__ import annotations

import json

import pytest
from product import Product

DEVICES = "find /sys/block -name 'zram*' | wc -l"
OPTIONS = "--pages /root/some.pages --algorithm fast --rounds 2"
PREPARE = f"modprobe zram num_devices=0; head -c 4M $POOL >some.pages; {DEVICES}"
MIB = 1 << 20


@pytest.fixture
def clean(product: Product) -> Product:
    """No zram device, and none afterwards."""
    assert product.strict(PREPARE).out.split() == ["0"]
    return product


@pytest.mark.either
def test_measured_and_removed(clean: Product) -> None:
    """With what this kernel has of lz4, zstd and lzo-rle; what it has not is said."""
    done = clean.run(f"truezram benchmark store {OPTIONS} --size 4M --threads 2 --json -; {DEVICES}")
    body, _, devices = done.out.strip().rpartition("\n")
    assert devices == "0"
    document = json.loads(body)
    results = {(r["implementation"], r["algorithm"]): r for r in document["results"]}
    missing = {item["algorithm"] for item in document["not_measured"]}
    assert ("truezram", "fast") in results
    assert {name for kind, name in results if kind == "zram"} | missing == {"lz4", "zstd", "lzo-rle"}
    assert any(kind == "zram" for kind, _ in results), document["not_measured"]
    for result in results.values():
        assert result["size"] == result["orig_bytes"] == 4 * MIB
        assert result["threads"] == 2
        # The last is what shows that the discards arrived.
        assert result["after_free"]["compr_bytes"] < 0.5 * result["compr_bytes"]
        assert 0 < result["compr_bytes"] <= result["used_bytes"]
        assert min(result["write_mb_s"]["samples"]) > 0
        assert 0 < result["read_ns"]["p50"] <= result["read_ns"]["p99.9"]


@pytest.mark.either
@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_interrupted_half_way(clean: Product, name: str, code: int) -> None:
    """Twice, as by someone in a hurry. The signal comes when zram holds pages."""
    script = f"""
    set -m
    truezram benchmark store {OPTIONS} --size 16M --json - >out 2>err & pid=$!
    until awk '$1 > 0 {{ found = 1 }} END {{ exit !found }}' /sys/block/zram*/mm_stat 2>/dev/null; do
        kill -0 $pid || exit 9
        sleep 0.1
    done
    kill -{name} $pid; kill -{name} $pid
    wait $pid; echo $?
    {DEVICES}
    cat out err
    """
    out = clean.run(script).out.split("\n")
    assert out[:2] == [str(code), "0"], out
    assert out[2] == ("truezram: interrupted" if name == "INT" else ""), out


@pytest.mark.either
def test_tiers_against_zram(clean: Product) -> None:
    """The same pages in a device of ours and in the kernel's. (The tiers: tests/unit/test_tiers_benchmark.py.)"""
    options = "--pages /root/some.pages --scenario hot --against zram:lz4,zram:zstd"
    done = clean.run(f"truezram benchmark tiers {options} --json -; {DEVICES}")
    body, _, _ = done.out.strip().rpartition("\n}\n")
    document = json.loads(body + "\n}")
    assert done.out.split()[-1] == "0"
    ours, *kernel = document["results"]
    missing = {item["algorithm"] for item in document["not_measured"]}
    assert {result["algorithm"] for result in kernel} | missing == {"lz4", "zstd"}
    assert kernel, document["not_measured"]
    for result in document["results"]:
        assert result["orig_bytes"] == ours["orig_bytes"]
        assert 0 < result["compr_bytes"] <= result["used_bytes"]
        assert result["read_ns"]["hot"]["pages"] * 4096 == ours["orig_bytes"]
    assert ours["used_over_zram"] == pytest.approx(ours["used_bytes"] / kernel[0]["used_bytes"], rel=1e-3)
