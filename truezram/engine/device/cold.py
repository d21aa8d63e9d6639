"""Pages that nobody touches: counting them by age, and having them written once more with a denser codec, or to the
backing file.

The server does both by itself, beside all requests and within a share of a core; here it is asked for and watched
through the statistics page. Who stops watching a recompression leaves it running; `stop` ends it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from truezram.engine.answers import Recompressed, WrittenBack
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import EVERY, Progress, look
from truezram.engine.errors import Failed, UsageError
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import format_size

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
    return _begin(client, entry, algorithm, idle, percent, f"cannot recompress {entry.name}")


def _begin(client: Client, entry: Entry, to: str, idle: float, percent: int, what: str) -> Recompression:
    if not 1 <= percent <= 100:
        raise UsageError(what, "the share of a core is 1 to 100 per cent")
    before = look(client, entry, what)
    began = time.monotonic()
    ticket, least = client.recompress(entry, to, min(int(idle * 1e9), FOR_EVER), percent, what)
    return Recompression(entry, ticket, least, before, began)


def write_back(client: Client, entry: Entry, idle: float, percent: int) -> Recompression:
    """As `recompress`: such pages are written to the backing file. Raises `Failed` if there is none, or it is full."""
    return _begin(client, entry, "backing", idle, percent, f"cannot write pages of {entry.name} to its backing file")


def bring(client: Client, entry: Entry, percent: int) -> Recompression:
    """All pages come back from it, as far as there is memory. While that is at work, and afterwards until something is
    set, the policy writes none there."""
    return _begin(client, entry, "memory", 0, percent, f"cannot bring pages of {entry.name} back to memory")


def watch(client: Client, run: Recompression, progress: Progress | None = None) -> Recompressed:
    """Returns when it has ended. Raises `TruezramError`."""
    before, now = run.before, _ended(client, run, f"cannot watch the recompression of {run.entry.name}", progress)
    return Recompressed(
        pages=now.recompressed_pages - before.recompressed_pages,
        saved=now.recompressed_saved - before.recompressed_saved,
        cpu_ns=now.recompress_cpu_ns - before.recompress_cpu_ns,
        stopped=bool(now.recompress_stopped),
        before=before.mem_used_total,
        after=now.mem_used_total,
        seconds=time.monotonic() - run.began,
    )


def watch_backing(client: Client, run: Recompression, progress: Progress | None = None) -> WrittenBack:
    """The same of one that has to do with the backing file."""
    before, now = run.before, _ended(client, run, f"cannot watch the backing file of {run.entry.name}", progress)
    return WrittenBack(
        pages=now.backing_pages - before.backing_pages,
        freed=now.backing_saved - before.backing_saved,
        written=now.backing_written - before.backing_written,
        returned=now.total.backing_returned - before.total.backing_returned,
        on_file=now.backed_pages,
        used=now.backing_used,
        cpu_ns=now.backing_cpu_ns - before.backing_cpu_ns,
        stopped=bool(now.recompress_stopped),
        state=now.backing_state,
        why=now.backing_text or _used_up(now),
        before=before.mem_used_total,
        after=now.mem_used_total,
        seconds=time.monotonic() - run.began,
    )


def _used_up(device: DeviceSnapshot) -> str:
    """That no more may be written today; "" if that is not so."""
    if not device.backing_daily or device.backing_today(time.time()) < device.backing_daily:
        return ""
    return f"the {format_size(device.backing_daily)} of today (backing_daily) are used up"


def _ended(client: Client, run: Recompression, what: str, progress: Progress | None) -> DeviceSnapshot:
    """The device once it has ended."""
    while (now := look(client, run.entry, what, run.before.pid)).recompress_done < run.ticket:
        if progress:
            progress(now.recompress_permille / 1000, now)
        time.sleep(EVERY)
    return now
