"""Tiers at work: pages go from hot to dense to cold, and their memory shrinks at each step.

    python examples/tiers.py

Makes a local device, which needs no root and no ublk, fills it, and has all pages written once more: first each with
the dense codec, then 16 neighbours in one object. A device does both by itself, by its policy, with pages that nobody
has touched for long enough.
"""

import random

import truezram

PAGES = 4096
PAGE = truezram.PAGE_SIZE


def content() -> bytes:
    """16 MiB of records that resemble each other, as a program's do."""
    order = random.Random(1)
    names = ["".join(order.choices("abcdefghijklmnop", k=8)) for _ in range(500)]
    lines = (f"{n:09d} {order.choice(names)}={order.choice(names)} {order.random():.6f}\n" for n in range(500_000))
    return "".join(lines).encode()[: PAGES * PAGE]


def show(step: str, now: truezram.DeviceSnapshot) -> None:
    tiers = "".join(f"{tier.pages:>8} pages{tier.bytes / 2**20:7.2f}M" for tier in now.tiers)
    print(f"{step:<12}{now.mem_used_total / 2**20:9.2f}M{now.ratio or 0:8.2f}{tiers}")


data = content()
with truezram.Device.create("64M", transport="local", algorithm="lz4", policy="off", temporary=True) as device:
    print(f"{'':<12}{'memory':>10}{'ratio':>8}{'hot':>22}{'dense':>22}{'cold':>22}")
    with device.attach() as pages:
        pages.write(0, data)
        show("written", device.stat())
        for to in ("dense", "cold"):
            done = device.recompress(to, idle=0, max_cpu=100)
            show(to, device.stat())
            print(
                f"{'':<12}{done.pages} pages take {done.saved / 2**20:.2f}M less, for {done.cpu_ns / 1e6:.0f} ms of CPU"
            )
        assert pages.read(0, PAGES) == data
    print("All pages read back as they were written.")
