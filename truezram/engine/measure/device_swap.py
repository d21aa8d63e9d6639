"""The workload `swap` of `benchmark device`: a program that lives in swap, on each target in turn.

The program is this process: some of its memory, filled with the pages, is given to swap at its own request
(MADV_PAGEOUT), touched in random order, or in runs of neighbours, compared, and half of what was touched is changed
(native/python/bench_dweller.c). So it takes no shortage of memory, and no other program has to suffer one. A page that
has been written to a device with a queue stays in the swap cache until reclaim finds it, and touching it there would
measure nothing: it is dropped first. The target is swap with a priority above all others for a round at a time, and
swapped off afterwards, whatever ends it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.device import swap
from truezram.engine.errors import Failed, TruezramError, Unsupported
from truezram.engine.machine import procfs
from truezram.engine.measure import zram_bench
from truezram.engine.measure.device_results import Sample
from truezram.engine.measure.device_targets import Target
from truezram.engine.measure.store_bench import Pages, latency
from truezram.engine.units import PAGE

WINDOW = 256
"""Pages between two looks at whether it was cancelled."""
ROOM = 0.45
"""Share of a device that the program takes. From half on the kernel frees the slot of a page that it maps again, so
that its content would have to be written anew (vm_swap_full)."""
MOST_LEFT = 0.01
"""Share of its pages that may be in the swap cache when it begins to touch them."""
SETTLE_TRIES = 200
SETTLE_SECONDS = 0.01
LEAST_OUT = 0.5
"""Share of its pages that must have gone to swap at a time; else something else keeps them."""
_WHAT = "cannot measure swap"


def why_not(target: Target) -> TruezramError | None:
    """Why a target cannot be swap here."""
    if not target.keeps:
        return Unsupported(_WHAT, "it does not keep what is written", "Leave it out")
    if target.wanted.kind.startswith("/"):
        return Unsupported(_WHAT, "it was there already", "Leave its path out: devices are made for this workload")
    if procfs.zswap().enabled:
        remedy = "Run: echo 0 >/sys/module/zswap/parameters/enabled"
        return Unsupported(_WHAT, "zswap is on and keeps pages from the device", remedy)
    return None


def priority() -> int:
    """Above all areas that there are. Raises `Unsupported` if one has the highest there is."""
    highest = max((area.priority for area in procfs.swaps()), default=0)
    if highest >= swap.MAX_PRIORITY:
        raise Unsupported(_WHAT, f"a swap area has the highest priority, {highest}", "Give it a lower one (swapon -p)")
    return max(swap.DEFAULT_PRIORITY, highest + 1)


@contextlib.contextmanager
def _enabled(path: str) -> Iterator[None]:
    """The device is swap, before all others. It is not afterwards."""
    with zram_bench.ended_in_order():
        try:
            with zram_bench.undisturbed():
                swap.enable(path, priority())
            yield
        finally:
            with zram_bench.undisturbed():
                area = swap.area(path)
                if area is not None:
                    swap.disable(area)


class Dweller:
    """The program, and what was measured of it on one target. It touches `share` of its pages each time, in runs of
    `run` neighbours in random order (0: from the first to the last)."""

    def __init__(self, pages: Pages, source: Any, target: Target, run: int = 1, share: float = 1.0) -> None:
        self.target = target
        self.run, self.share = run, share
        self.count = int(ROOM * target.places)
        self.tally = ffi.new("struct tz_dwell_tally *")
        self.samples: list[Sample] = []
        self._pages, self._source = pages, source

    def round(self, seed: int, step: Callable[[str], None]) -> None:
        """All of its pages out, and in again. Raises `Failed` if one comes back different, or few went out."""
        with _enabled(self.target.path), contextlib.ExitStack() as stack:
            memory = lib.tz_dweller_open(self._source, self._pages.count, self.count)
            if memory == ffi.NULL:
                raise Failed(_WHAT, f"no memory for {self.count} pages", "Choose a smaller --size")
            # Gone before swapoff, which then has nothing to bring back.
            stack.callback(lib.tz_dweller_close, memory)
            self._round(memory, seed, step)

    def _round(self, memory: Any, seed: int, step: Callable[[str], None]) -> None:
        once = ffi.new("struct tz_dwell_tally *")
        place = ffi.new("uint32_t *")
        server = self.target.server_ns()
        lib.tz_dweller_shuffle(memory, seed, self.run)
        touched = int(self.count * self.share)
        for turn in range(2):  # in the second, half of the pages have been changed, and half are clean
            for first in range(0, self.count, WINDOW):
                step(f"swap, {self.target.name}")
                self._check(lib.tz_dweller_out(memory, first, min(WINDOW, self.count - first), once), 0)
            once.out_ns += self._written()
            wanted = self.count + turn * touched
            if once.out_pages < LEAST_OUT * wanted:
                why = f"only {once.out_pages} of {wanted} pages went to {self.target.path}"
                raise Failed(_WHAT, why, "See whether a limit of this process' cgroup keeps it from using swap")
            self._settle(memory, step)
            for first in range(0, touched, WINDOW):
                step(f"swap, {self.target.name}")
                code = lib.tz_dweller_in(memory, first, min(WINDOW, touched - first), once, place)
                self._check(code, place[0])
        found = latency(once.lat)
        assert found is not None
        ended = self.target.server_ns()
        used = None if server is None or ended is None else ended - server
        # CPU time is that of going out and coming in; so is the time that it is a share of.
        self.samples.append(
            Sample(
                requests=once.in_pages, ns=once.in_ns, p50=found.p50, load_ns=_share(once, once.cpu_ns),
                server_ns=None if used is None else _share(once, used),
            )
        )  # fmt: skip
        for name in ("out_pages", "out_ns", "in_pages", "in_ns", "major", "compared", "cpu_ns"):
            setattr(self.tally, name, getattr(self.tally, name) + getattr(once, name))
        for index, count in enumerate(once.lat):
            if count:
                self.tally.lat[index] += count

    def _written(self) -> int:
        """Waits until the device has answered all writes; ns."""
        inflight = Path("/sys/block", Path(self.target.path).name, "inflight")
        start = time.monotonic_ns()
        while int(inflight.read_text().split()[1]):
            time.sleep(0.0002)
        return time.monotonic_ns() - start

    def _settle(self, memory: Any, step: Callable[[str], None]) -> None:
        """Has the pages dropped from the swap cache. Raises `Failed` if they stay."""
        for _ in range(SETTLE_TRIES):
            left = 0
            for first in range(0, self.count, WINDOW):
                step(f"swap, {self.target.name}")
                stay = lib.tz_dweller_settle(memory, first, min(WINDOW, self.count - first))
                self._check(min(0, stay), 0)
                left += stay
            if left <= MOST_LEFT * self.count:
                return
            time.sleep(SETTLE_SECONDS)
        why = f"{left} of {self.count} pages stay in the swap cache"
        raise Failed(_WHAT, why, "More than half of this machine's swap is in use, or it is short of memory: free some")

    def _check(self, code: int, place: int) -> None:
        if code:
            if -code == errno.EILSEQ:
                why = f"what came back of page {place} differs from what went out"
                raise Failed(f"{self.target.name} is broken on this machine", why, "Do not use it, and report this")
            raise Failed(_WHAT, f"on {self.target.name}: {os.strerror(-code)}")


def _share(tally: Any, ns: int) -> int:
    """The part of a CPU time of going out and coming in that belongs to the time of coming in."""
    return int(ns * tally.in_ns / max(1, tally.in_ns + tally.out_ns))


def out_mb_s(tally: Any) -> float:
    """Bytes of pages paged out, in 10^6 a second."""
    pages, ns = int(tally.out_pages), int(tally.out_ns)
    return 1000 * PAGE * pages / max(1, ns)
