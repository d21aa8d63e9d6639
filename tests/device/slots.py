"""Waits for what a device's statistics page says of its swap slots; run in the guest by test_36_slots.py.

    python3 slots.py state WORD PATH    until slot_tracking is WORD; prints it and its text
    python3 slots.py says TEXT PATH     until TEXT is in that; prints it
    python3 slots.py fits PATH          until the device holds at most 1.1 times what swap says is in use; prints
                                        held, used, and the milliseconds that it took

Ends with 1 when that does not happen.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from truezram.engine.device.stats_page import StatsPage

HANG = 500.0
SLACK = 64 << 10
"""Bytes: the swap header, and the pages that are a tenth of very little."""


def used(path: str) -> int:
    rows = (line.split() for line in Path("/proc/swaps").read_text().splitlines()[1:])
    return sum(int(row[3]) * 1024 for row in rows if row[0] == path)


def main(what: str, *rest: str) -> int:
    path = rest[-1]
    page = StatsPage(Path("/run/truezram") / f"{Path(path).name}.stats")
    start = time.monotonic()
    while True:
        device = page.snapshot(queues=False)
        held, in_use = device.orig_data_size, used(path)
        took = time.monotonic() - start
        if what in ("state", "says"):
            text = f"{device.slot_tracking}: {device.slot_tracking_text}"
            done = device.slot_tracking == rest[0] if what == "state" else rest[0] in text
        else:
            done, text = held <= in_use * 1.1 + SLACK, f"held={held} used={in_use} ms={took * 1000:.0f}"
        if done or took > HANG:
            print(text, flush=True)
            return not done
        time.sleep(0.1)


sys.exit(main(*sys.argv[1:]))
