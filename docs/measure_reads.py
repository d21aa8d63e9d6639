"""Measures how long a read of a page waits beside discards, on a device of ours and on kernel zram (docs/modes.md).

usage: measure_reads.py FOLDER [ALGORITHM [ROUNDS]]

FOLDER holds NAME.pages.zst, real pages. One program reads pages of the first half of a device at random places, one
after another (O_DIRECT), and compares each. Another discards the second half as fast as it can, with the ioctl of
blkdiscard: over and over while there is nothing on it (`empty`), or each time that it has filled it (`filled`; only
reads that began during the discard count). In each round both devices do all of it, in rotating order. Printed are
medians of the rounds: the middle, and the worst 1 % of the times of a read; and that of the best round, which other
work on the machine has lengthened least.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from truezram.engine.measure import benchmark
from truezram.engine.measure.device_targets import OURS, ZRAM, Target, Wanted, opened
from truezram.engine.measure.store_bench import Pages
from truezram.engine.units import PAGE

HALF = 128 << 20
BLOCK = 128 << 10
READS = 500
BESIDE = ("alone", "empty", "filled")
BLKDISCARD = 0x1277


def written(pages: Pages) -> mmap.mmap:
    """What is on each half: the pages, as often as they fit. At an address that O_DIRECT takes."""
    memory = mmap.mmap(-1, HALF)
    for at in range(0, HALF, PAGE):
        page = at % len(pages.data)
        memory[at : at + PAGE] = pages.data[page : page + PAGE]
    return memory


def fill(fd: int, first: int, content: mmap.mmap) -> None:
    for at in range(0, HALF, BLOCK):
        with memoryview(content)[at : at + BLOCK] as block:
            os.pwrite(fd, block, first + at)


def discard(fd: int) -> None:
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", HALF, HALF))


def neighbour(fd: int, beside: str, content: mmap.mmap, at_it: mmap.mmap) -> None:
    """Discards until it is killed; `at_it` says whether it does at the moment."""
    discard(fd)
    while True:
        if beside == "filled":
            fill(fd, HALF, content)
        at_it[0] = 1
        discard(fd)
        at_it[0] = beside == "empty"


@contextlib.contextmanager
def running(fd: int, beside: str, content: mmap.mmap, at_it: mmap.mmap) -> Iterator[None]:
    at_it[0] = beside == "alone"
    pid = 0 if beside == "alone" else os.fork()
    if pid == 0 and beside != "alone":
        try:
            neighbour(fd, beside, content, at_it)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def read(fd: int, content: mmap.mmap, at_it: mmap.mmap, chance: random.Random) -> list[float]:
    """Times of READS reads during which the neighbour was at it, in us."""
    buffer = mmap.mmap(-1, PAGE)
    times: list[float] = []
    while len(times) < READS:
        if not at_it[0]:
            time.sleep(0.0002)
            continue
        at = chance.randrange(HALF // PAGE) * PAGE
        start = time.perf_counter_ns()
        os.preadv(fd, [buffer], at)
        times.append((time.perf_counter_ns() - start) / 1000)
        if buffer[:] != content[at : at + PAGE]:
            raise SystemExit(f"what was read at {at} differs from what was written there")
    return times


def measure(target: Target, beside: str, content: mmap.mmap, seed: int) -> tuple[float, float]:
    """(p50, p99) of a round, in us."""
    at_it = mmap.mmap(-1, PAGE)
    fd = os.open(target.path, os.O_RDWR | os.O_DIRECT)
    try:
        with running(fd, beside, content, at_it):
            cuts = quantiles(read(fd, content, at_it, random.Random(seed)), n=100)
    finally:
        os.close(fd)
    return cuts[49], cuts[98]


def main(argv: list[str]) -> int:
    if not 1 <= len(argv) <= 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    algorithm, rounds = (*argv[1:2], "fast")[0], int((*argv[2:3], "10")[0])
    pages = Pages(benchmark.read_inputs([Path(argv[0])]))
    content = written(pages)
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        wanted = (Wanted(OURS, algorithm), Wanted(ZRAM, "lz4"))
        targets = [stack.enter_context(opened(one, pages, 2 * HALF, 0, None)) for one in wanted]
        for target in targets:
            fd = os.open(target.path, os.O_RDWR | os.O_DIRECT)
            fill(fd, 0, content)
            os.close(fd)
        order = [(target, beside) for beside in BESIDE for target in targets]
        for turn in range(rounds):
            for target, beside in order[turn % len(order) :] + order[: turn % len(order)]:
                once = measure(target, beside, content, turn)
                results.setdefault((target.wanted.kind, beside), []).append(once)
    print("| device | beside | p50, µs | p99, µs | × alone | best p99, µs | × alone |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for kind in (OURS, ZRAM):
        for beside in BESIDE:
            found, alone = results[kind, beside], results[kind, "alone"]
            middle, worst = (median(values) for values in zip(*found, strict=True))
            times = median(a[1] / b[1] for a, b in zip(found, alone, strict=True))
            best, alone_best = (min(one[1] for one in every) for every in (found, alone))
            row = f"{middle:.0f} | {worst:.0f} | {times:.2f} | {best:.0f} | {best / alone_best:.2f}"
            print(f"| {kind} | {beside} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
