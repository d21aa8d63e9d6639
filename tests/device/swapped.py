"""Processes whose pages are in swap, for device tests: run in the guest, it fills memory, has the kernel page it out,
and on a line on its standard input checks every page.

    python3 swapped.py MIB [zero]	prints "out", then after a line "good PAGES"; wrong pages end it with "bad"

`zero`: all pages are zeros, which the kernel (6.12 and later) keeps itself without writing them to the device.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import sys
from pathlib import Path

PAGEOUT = 21
PROCESSES = 8
"""Swapoff looks for a signal between processes only."""
GROUP = Path("/sys/fs/cgroup/swapped")
PAGE = 4096


BLOCKS = [random.Random(seed).randbytes(PAGE // 2 - 8) for seed in range(64)]


def content(number: int, zero: bool) -> bytes:
    if zero:
        return bytes(PAGE)
    return number.to_bytes(8, "little") + BLOCKS[number % 64] + bytes(PAGE // 2)


def swapped_kib() -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmSwap:"))


def leave_the_swap_cache(pages: int) -> None:
    """What is written stays in the swap cache until memory is wanted, and would come back without the device."""
    for _ in range(100):
        left = int((GROUP / "memory.current").read_text())
        if left < pages * PAGE // 5:
            return
        with contextlib.suppress(OSError):  # EAGAIN: not so much at once
            (GROUP / "memory.reclaim").write_text(f"{left - pages * PAGE // 8}")


def child(first: int, pages: int, zero: bool, ready: int, go: int) -> bool:
    """Fills its part, has it paged out, and checks it when asked to. Whether it is whole."""
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for number in range(pages):
        memory[number * PAGE : (number + 1) * PAGE] = content(first + number, zero)
        if number % 1024 == 1023:
            memory.madvise(PAGEOUT, (number - 1023) * PAGE, 1024 * PAGE)
    while swapped_kib() * 1024 <= pages * PAGE * 9 // 10:
        memory.madvise(PAGEOUT)
    os.write(ready, b"x")
    os.read(go, 1)
    return all(memory[n * PAGE : (n + 1) * PAGE] == content(first + n, zero) for n in range(pages))


def main() -> int:
    (GROUP.parent / "cgroup.subtree_control").write_text("+memory")
    GROUP.mkdir(exist_ok=True)
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))  # of its own, so that no other process's pages go to swap
    pages, zero = int(sys.argv[1]) << 8, "zero" in sys.argv
    ready, go = os.pipe(), os.pipe()
    part = pages // PROCESSES
    children = []
    for index in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            os.close(go[1])
            os._exit(0 if child(index * part, part, zero, ready[1], go[0]) else 1)
        children.append(pid)
    for _ in children:
        os.read(ready[0], 1)
    if not zero:
        leave_the_swap_cache(pages)
    print("out", flush=True)
    sys.stdin.readline()
    os.close(go[1])
    bad = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    print("bad" if bad else "good", bad or pages, flush=True)
    return bad


sys.exit(main())
