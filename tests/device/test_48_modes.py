"""Modes: what waits awake, what stops it, and that a mode outlives its server. Reads beside a writer, and queues."""

from __future__ import annotations

import time
from typing import Any

import pytest
from product import HANG, Product

pytestmark = pytest.mark.warm

READS = "for i in 1 2 3; do dd if={path} of=/dev/null bs=4k count=500 iflag=direct status=none; done"


def reads(product: Product, path: str) -> dict[str, Any]:
    """What stat says after some reads, one at a time."""
    product.strict(READS.format(path=path))
    return product.stat(path)


def reads_until_it_spins(product: Product, path: str) -> dict[str, Any]:
    """On a busy machine it gives way, for up to 3.2 s at a time."""
    before = product.stat(path)["spin_ns"]
    deadline = time.monotonic() + HANG
    while (row := reads(product, path))["spin_ns"] <= before:
        assert time.monotonic() < deadline, "it does not wait awake"
    return row


@pytest.mark.either
@pytest.mark.guest(cpus=2)
def test_modes_are_live_and_kept(product: Product) -> None:
    path = product.create("--size 64M --queues 1")
    row = reads(product, path)
    assert (row["mode"], row["spin_ns"]) == ("balanced", 0)
    for mode in ("low-latency", "max-throughput"):
        product.run(f"truezram set {path} mode={mode}")
        row = reads_until_it_spins(product, path)
        assert row["mode"] == mode
        assert 0 < row["spin_share"] <= 1
    product.run(f"truezram set {path} mode=balanced")
    before = reads(product, path)["spin_ns"]
    assert reads(product, path)["spin_ns"] == before
    product.run(f"truezram set {path} mode=eager", status=2)
    product.remove(path)


@pytest.mark.either
@pytest.mark.guest(cpus=2)
def test_it_rests_when_the_device_does(product: Product) -> None:
    path = product.create("--size 64M --queues 1 --max-perf")
    reads_until_it_spins(product, path)
    spun = [0, product.stat(path)["spin_ns"]]
    while spun[-1] != spun[-2]:  # the last time, it may not have ended yet
        assert len(spun) < 60, f"it never rests: {spun}"
        product.run("sleep 2")
        row = product.stat(path)
        spun.append(row["spin_ns"])
    assert row["mode"] == "max-throughput"
    product.remove(path)


@pytest.mark.either
def test_with_one_cpu_nothing_spins(product: Product) -> None:
    """The guest has one."""
    path = product.create("--size 64M --queues 1 --high-perf")
    assert (reads(product, path)["mode"], reads(product, path)["spin_ns"]) == ("low-latency", 0)
    product.run(f"truezram set {path} mode=max-throughput")
    assert reads(product, path)["spin_ns"] == 0
    product.remove(path)


@pytest.mark.either
def test_a_mode_outlives_its_server(product: Product) -> None:
    path = product.create("--size 64M --queues 1")
    row = product.stat(path)
    if row["recovery"] != "on":
        pytest.skip(row["recovery"])
    product.run(f"truezram set {path} mode=low-latency")
    product.strict(f"kill -9 {row['pid']}; dd if={path} of=/dev/null bs=4k count=1 iflag=direct status=none")
    again = reads(product, path)
    assert again["pid"] != row["pid"]
    assert again["mode"] == "low-latency"
    product.remove(path)


@pytest.mark.guest(cpus=2)
def test_a_queue_of_one_cpu_is_not_held_there(product: Product) -> None:
    """With as many queues as CPUs each thread would have only the CPU of its own clients."""
    path = product.create("--size 64M --queues 2")
    pid = product.stat(path)["pid"]
    allowed = product.strict(
        f"for t in /proc/{pid}/task/*; do case $(<$t/comm) in tz-queue-*)"
        " grep Cpus_allowed_list $t/status ;; esac; done"
    ).out.split()[1::2]
    assert allowed == ["0-1", "0-1"]
    product.remove(path)
    path = product.create("--size 64M")
    assert product.stat(path)["nr_queues"] == 1  # a queue for two CPUs
    product.remove(path)
