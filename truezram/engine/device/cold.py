"""Pages that nobody touches: counting them by age, and having them written once more with a denser codec.

The server does both by itself, beside all requests and within a share of a core; here it is asked for and watched
through the statistics page. Who stops watching a recompression leaves it running; `stop` ends it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from truezram.engine.answers import Recompressed
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import EVERY, Progress, look
from truezram.engine.errors import Failed, UsageError
from truezram.engine.model import DeviceSnapshot

COUNT_TIMEOUT = 60.0
"""Seconds that a count may take on a busy machine: it is one pass over the page table."""

FOR_EVER = (1 << 64) - 1
"""In ns."""


@dataclass(frozen=True, slots=True)
class Recompression:
    """One that has begun: what `watch` needs."""

    entry: Entry
    ticket: int
    idle_ns: int
    """For how long the pages that it is for have been idle, at least."""
    before: DeviceSnapshot
    began: float


def count_ages(client: Client, entry: Entry) -> DeviceSnapshot:
    """The device with `ages` as they are now. Raises `TruezramError`."""
    what = f"cannot count the pages of {entry.name}"
    pid = look(client, entry, what).pid
    ticket = client.count_ages(entry)
    deadline = time.monotonic() + COUNT_TIMEOUT
    while (now := look(client, entry, what, pid)).ages_counted < ticket:
        if time.monotonic() > deadline:
            raise Failed(what, f"its server has not done it within {COUNT_TIMEOUT:g} s")
        time.sleep(EVERY)
    return now


def recompress(client: Client, entry: Entry, algorithm: str, idle: float, percent: int) -> Recompression:
    """Begins one: pages that have been idle for `idle` seconds at least. Raises `TruezramError`, `Busy` when one is at
    work."""
    what = f"cannot recompress {entry.name}"
    if not 1 <= percent <= 100:
        raise UsageError(what, "the share of a core is 1 to 100 per cent")
    before = look(client, entry, what)
    began = time.monotonic()
    ticket, least = client.recompress(entry, algorithm, min(int(idle * 1e9), FOR_EVER), percent)
    return Recompression(entry, ticket, least, before, began)


def watch(client: Client, run: Recompression, progress: Progress | None = None) -> Recompressed:
    """Returns when it has ended. Raises `TruezramError`."""
    what = f"cannot watch the recompression of {run.entry.name}"
    before = run.before
    while (now := look(client, run.entry, what, before.pid)).recompress_done < run.ticket:
        if progress:
            progress(now.recompress_permille / 1000, now)
        time.sleep(EVERY)
    return Recompressed(
        pages=now.recompressed_pages - before.recompressed_pages,
        saved=now.recompressed_saved - before.recompressed_saved,
        cpu_ns=now.recompress_cpu_ns - before.recompress_cpu_ns,
        stopped=bool(now.recompress_stopped),
        before=before.mem_used_total,
        after=now.mem_used_total,
        seconds=time.monotonic() - run.began,
    )
