"""What the verbs that have a device's idle pages worked through share, recompress and writeback: the options, beginning
it, waiting for it with progress, stopping it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.units import format_duration, format_percent

if TYPE_CHECKING:
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.device.cold import Recompression
    from truezram.engine.device.compaction import Progress
    from truezram.engine.model import DeviceSnapshot

Done = TypeVar("Done")


@dataclass(frozen=True)
class Work(Generic[Done]):
    """One that has begun, and how a verb speaks of it."""

    run: Recompression
    pages: str
    """Which pages it is for."""
    begun: str
    """That it has begun, with which pages."""
    about: dict[str, object]
    """What --json says of it beside the device."""
    watch: Callable[[Client, Recompression, Progress], Done]
    progress: Callable[[DeviceSnapshot], str]
    as_json: Callable[[Done], dict[str, object]]
    said: Callable[[Done], str]


Begin = Callable[["Client", "Entry", argparse.Namespace], Work[Done]]


def add_arguments(parser: argparse.ArgumentParser, idle: str, max_cpu: int) -> None:
    """DEVICE, --idle and --max-cpu, with these defaults."""
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "--idle",
        metavar="AGE",
        default=idle,
        help=f"pages that nobody has touched for that long at least: 90s, 10m, 2h, 1d; 0: all pages (default {idle})",
    )
    parser.add_argument(
        "--max-cpu",
        metavar="PERCENT",
        type=int,
        default=max_cpu,
        help=f"share of one core, 1 to 100; a quarter of that while the device is in use (default {max_cpu})",
    )


def which_pages(run: Recompression) -> str:
    """Pages as old as it looks for."""
    return f"pages idle for {format_duration(run.idle_ns / 1e9)} or more" if run.idle_ns else "all pages"


def run(name: str, args: argparse.Namespace, begin: Begin[Done]) -> int:
    """Begins one, or with --stop ends the one at work; with --wait waits for its end, and Ctrl-C stops it. Raises
    `TruezramError`."""
    from truezram.engine.device.client import Client

    with Client() as client:
        entry = client.resolve(args.device)
        if args.stop:
            return _stop(name, client, entry, args.json)
        try:
            return _work(name, client, entry, begin, args)
        except KeyboardInterrupt:
            # (Whoever else had begun one, ours was refused then.)
            if args.wait:
                client.stop_recompress(entry)
                sys.stderr.write(f"truezram: {entry.name}: stopped\n")
            raise


def _stop(name: str, client: Client, entry: Entry, as_json: bool) -> int:
    stopped = client.stop_recompress(entry)
    if as_json:
        print_json(name, {"name": entry.name, "path": entry.path, "stopped": stopped})
    else:
        print(f"{entry.name}: {'stopped' if stopped else 'nothing is at work'}")
    return 0


def _work(name: str, client: Client, entry: Entry, begin: Begin[Done], args: argparse.Namespace) -> int:
    work = begin(client, entry, args)
    body = {"name": entry.name, "path": entry.path, "idle_at_least_ns": work.run.idle_ns, **work.about}
    if not args.wait:
        if args.json:
            print_json(name, {**body, "waited": False})
        else:
            print(f"{entry.name}: {work.begun}; `truezram stat {entry.name}` shows progress")
        return 0
    done = _wait(client, work)
    if args.json:
        print_json(name, {**body, "waited": True, **work.as_json(done)})
    else:
        print(f"{entry.name}: {work.pages}: {work.said(done)}")
    return 0


def _wait(client: Client, work: Work[Done]) -> Done:
    line = ProgressLine()

    def progress(share: float, device: DeviceSnapshot) -> None:
        line.show(f"{work.run.entry.name}: {work.pages}: {format_percent(share)}, {work.progress(device)}")

    try:
        return work.watch(client, work.run, progress)
    finally:
        line.clear()
