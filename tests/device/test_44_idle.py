"""Pages get old, and old ones are compressed once more, when asked for and by a policy: across kill -9, beside writes,
and every page is right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from product import HANG, Product

pytestmark = pytest.mark.warm

PAGES = 4096
READ = 1024
FEW = 1024
IDLE = 39 * 60 * 10**9
"""In ns: a step of the ages."""
CLOCK = Path(__file__).with_name("clock.py")


def set_clock(product: Product, path: str, speed: int) -> None:
    product.run(f"{product.python} {CLOCK} {path} {speed}")


def idle(product: Product, path: str, least: int = IDLE) -> tuple[int, int]:
    """Pages that have been idle for so many ns at least, and others."""
    ages = product.json(f"idle {path}")["ages"]
    old = sum(age["pages"] for age in ages if age["idle_at_least_ns"] >= least)
    return old, sum(age["pages"] for age in ages) - old


def wait_for(what: str, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def grow_old(product: Product, path: str, pages: int = PAGES) -> None:
    set_clock(product, path, 3600)
    # (The pages of a step are those steps that the clock has at this speed.)
    wait_for("pages stay young", lambda: idle(product, path, IDLE // 3600)[1] == 0)
    set_clock(product, path, 1)
    assert idle(product, path) == (pages, 0)


@pytest.mark.either
def test_old_pages_take_less(product: Product) -> None:
    path = product.create("--size 64M --algorithm lz4 --policy off")
    product.strict(f'pagetool fill "$POOL" {path} {PAGES}')
    grow_old(product, path)
    product.strict(f'pagetool check "$POOL" {path} {READ}')
    old, young = idle(product, path)
    assert READ <= young < 2 * READ, "what was read, and what the kernel read ahead"
    assert old == PAGES - young

    before = product.stat(path)
    product.run(f"truezram recompress {path} --idle 30m --max-cpu 1")
    refused = product.run(f"truezram recompress {path}", status=4)
    assert "a recompression is at work" in refused.err
    wait_for("nothing is recompressed", lambda: product.stat(path)["recompression"]["pages"] > 0)
    product.run(f"kill -9 {before['pid']}")
    wait_for("no other server", lambda: product.stat(path)["recoveries"] == 1 and product.stat(path)["state"] == "live")
    row = product.stat(path)
    assert (row["kind_pages"]["dense"], row["recompression"]["at_work"]) >= (1, False)
    assert product.json(f"check {path}")["sound"]
    assert idle(product, path) == (old, young), "ages are lost"

    done = product.json(f"recompress {path} --idle 30m --max-cpu 100 --wait")
    after = product.stat(path)
    assert (done["stopped"], done["idle_at_least_ns"]) == (False, IDLE)
    assert after["kind_pages"]["dense"] == row["kind_pages"]["dense"] + done["pages"] <= old
    assert after["compr_data_size"] < before["compr_data_size"] - done["saved_bytes"] // 2
    assert idle(product, path) == (old, young), "what is recompressed stays old"
    product.strict(f'pagetool check "$POOL" {path} {PAGES}')
    assert idle(product, path) == (0, PAGES)

    product.strict(
        f"""
truezram recompress {path} --idle 0 --max-cpu 50 --wait >/root/done &
pagetool fill "$POOL" {path} {PAGES}
wait $!
pagetool check "$POOL" {path} {PAGES}
"""
    )
    row = product.stat(path)
    assert (row["failed_reads"], row["failed_writes"], row["damaged_entries"], row["checksum_errors"]) == (0, 0, 0, 0)
    assert product.json(f"check {path}")["sound"]
    product.remove(path)


def in_groups(product: Product, path: str) -> int:
    pages: int = product.stat(path)["tiers"]["cold"]["pages"]
    return pages


@pytest.mark.either
def test_a_policy_outlives_its_server(product: Product) -> None:
    """Killed while it packs; the next one goes on by itself."""
    path = product.create("--size 64M --algorithm lz4")
    assert product.stat(path)["policy"] == "balanced"
    product.strict(f'pagetool fill "$POOL" {path} {FEW}')
    grow_old(product, path, FEW)
    product.run(f"truezram set {path} policy=0:1800:1")
    wait_for("nothing is packed", lambda: in_groups(product, path) > 0)
    product.run(f"kill -9 {product.stat(path)['pid']}")
    wait_for("no other server", lambda: product.stat(path)["recoveries"] == 1 and product.stat(path)["state"] == "live")
    row = product.stat(path)
    assert (row["idle_dense"], row["idle_cold"], row["cpu_percent"]) == (0, 1800, 1)
    assert product.json(f"check {path}")["sound"]
    wait_for("nothing more is packed", lambda: in_groups(product, path) > row["tiers"]["cold"]["pages"])
    product.run(f"truezram set {path} cpu_percent=100")
    wait_for("pages are left", lambda: in_groups(product, path) > FEW // 4)
    product.strict(f'pagetool check "$POOL" {path} {FEW}')
    row = product.stat(path)
    assert (row["failed_reads"], row["failed_writes"], row["damaged_entries"], row["checksum_errors"]) == (0, 0, 0, 0)
    assert product.json(f"check {path}")["sound"]
    product.remove(path)
