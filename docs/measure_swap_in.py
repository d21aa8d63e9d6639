"""Measures what vm.page-cluster does for swap-in, on a device of ours and on kernel zram (docs/tuning.md).

usage: measure_swap_in.py FOLDER [ALGORITHM [ROUNDS]]

FOLDER holds NAME.pages.zst, real pages. A program of 64 MiB lives in swap (truezram benchmark device --workload swap)
and touches a quarter of it, one page in random order, in runs of 16 neighbours, or all in sequence. In each round every
value runs on every device, in rotating order. Printed are medians: pages touched a second of the time spent touching,
the middle and the worst 1 % of the times of a touch that waited, and pages read for each that was touched (of what is
more than 1, nobody had asked for; in real programs some of it is used later). It changes vm.page-cluster, and puts it
back.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from truezram._native import ffi
from truezram.engine.measure import benchmark, device_swap
from truezram.engine.measure.device_targets import OURS, ZRAM, Target, Wanted, opened
from truezram.engine.measure.store_bench import Pages, latency

SIZE = 144 << 20
SHARE = 0.25
RUNS = {"random": 1, "runs of 16": 16, "sequence": 0}
CLUSTER = Path("/proc/sys/vm/page-cluster")


@dataclass
class Found:
    """Of one value on one device: a number for each round."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)


@contextlib.contextmanager
def restored(path: Path) -> Iterator[None]:
    before = path.read_text()
    try:
        yield
    finally:
        path.write_text(before)


def swapped_in() -> int:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return next(int(value) for name, value in lines if name == "pswpin")


def touch(pages: Pages, source: object, target: Target, run: int, seed: int, found: Found) -> None:
    dweller = device_swap.Dweller(pages, source, target, run, SHARE)
    before = swapped_in()
    dweller.round(seed, lambda _: None)
    tally = dweller.tally
    times = latency(tally.lat)
    assert times is not None
    found.rate.append(tally.in_pages / tally.in_ns * 1e9)
    found.p50.append(times.p50)
    found.p99.append(times.p99)
    found.read.append((swapped_in() - before) / tally.in_pages)


def main(argv: list[str]) -> int:
    if not 1 <= len(argv) <= 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    algorithm, rounds = (*argv[1:2], "fast")[0], int((*argv[2:3], "5")[0])
    pages = Pages(benchmark.read_inputs([Path(argv[0])]))
    clusters = {OURS: range(6), ZRAM: (0, 3)}
    results = {(name, kind, n): Found() for name in RUNS for kind, values in clusters.items() for n in values}
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored(CLUSTER))
        source = stack.enter_context(ffi.from_buffer("uint8_t[]", pages.data))
        wanted = (Wanted(OURS, algorithm), Wanted(ZRAM, "lz4"))
        targets = {one.kind: stack.enter_context(opened(one, pages, SIZE, 0, None)) for one in wanted}
        order = list(results)
        for turn in range(rounds):
            for name, kind, cluster in order[turn % len(order) :] + order[: turn % len(order)]:
                CLUSTER.write_text(str(cluster))
                touch(pages, source, targets[kind], RUNS[name], turn + 1, results[name, kind, cluster])
    print("| touched | device | page-cluster | pages/s | × zram with 0 | p50, µs | p99, µs | read for each |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, kind, cluster), found in results.items():
        base = results[name, ZRAM, 0]
        ratio = median(a / b for a, b in zip(found.rate, base.rate, strict=True))
        middle = " | ".join(f"{median(values) / 1000:.1f}" for values in (found.p50, found.p99))
        row = f"{median(found.rate):.0f} | {ratio:.2f} | {middle} | {median(found.read):.2f}"
        print(f"| {name} | {kind} | {cluster} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
