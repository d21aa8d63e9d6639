"""``truezram recompress``: has idle pages written once more with a denser codec."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.device.options import RecompressOptions
from truezram.engine.units import format_duration, format_ns, format_percent, format_size, parse_duration

if TYPE_CHECKING:
    from truezram.engine.answers import Recompressed
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.device.cold import Recompression
    from truezram.engine.model import DeviceSnapshot

NAME = "recompress"
HELP = "compress a device's idle pages once more, denser"
EXAMPLE = "truezram recompress ublkb0 --idle 1h --to dense"
DEFAULT = RecompressOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "--idle",
        metavar="AGE",
        default=DEFAULT.idle,
        help="pages that nobody has touched for that long at least: 90s, 10m, 2h, 1d; 0: all pages"
        f" (default {DEFAULT.idle})",
    )
    parser.add_argument(
        "--to",
        metavar="ALGORITHM",
        default=DEFAULT.to,
        help=f"dense, zstd[:LEVEL], or cold: up to 16 neighbouring pages in one object (default {DEFAULT.to})",
    )
    parser.add_argument(
        "--max-cpu",
        metavar="PERCENT",
        type=int,
        default=DEFAULT.max_cpu,
        help=f"share of one core, 1 to 100; a quarter of that while the device is in use (default {DEFAULT.max_cpu})",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--wait", action="store_true", help="wait until it has ended, showing progress; Ctrl-C stops it")
    how.add_argument("--stop", action="store_true", help="stop the one at work, whoever began it")
    parser.epilog = (
        "A page is written once more if that takes at least a sixteenth less room. It keeps its age, and what is read"
        " or written meanwhile is left alone. Ages are known in steps (see `truezram idle`): AGE means the next step"
        " that is not shorter. The server does it beside all requests, in steps of less than a millisecond."
    )


def _stop(device: str, as_json: bool) -> int:
    from truezram.engine.device.client import Client

    with Client() as client:
        entry = client.resolve(device)
        stopped = client.stop_recompress(entry)
    if as_json:
        print_json(NAME, {"name": entry.name, "path": entry.path, "stopped": stopped})
    else:
        print(f"{entry.name}: {'stopped' if stopped else 'no recompression is at work'}")
    return 0


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client

    if args.stop:
        return _stop(args.device, args.json)
    with Client() as client:
        entry = client.resolve(args.device)
        try:
            return _recompress(client, entry, args)
        except KeyboardInterrupt:
            # (Whoever else had begun one, ours was refused then.)
            if args.wait:
                client.stop_recompress(entry)
                sys.stderr.write(f"truezram: {entry.name}: the recompression is stopped\n")
            raise


def _recompress(client: Client, entry: Entry, args: argparse.Namespace) -> int:
    from truezram.engine.device import cold

    run = cold.recompress(client, entry, args.to, parse_duration(args.idle, "--idle"), args.max_cpu)
    body = {"name": entry.name, "path": entry.path, "idle_at_least_ns": run.idle_ns, "algorithm": args.to}
    what = f"pages idle for {format_duration(run.idle_ns / 1e9)} or more" if run.idle_ns else "all pages"
    if not args.wait:
        if args.json:
            print_json(NAME, {**body, "waited": False})
        else:
            print(f"{entry.name}: recompressing {what} with {args.to}; `truezram stat {entry.name}` shows progress")
        return 0
    done = _wait(client, run, f"{entry.name}: {what}")
    if args.json:
        results = {
            "pages": done.pages,
            "saved_bytes": done.saved,
            "cpu_ns": done.cpu_ns,
            "stopped": done.stopped,
            "mem_used_total": {"before": done.before, "after": done.after},
            "seconds": done.seconds,
        }
        print_json(NAME, {**body, "waited": True, **results})
    else:
        end = "stopped: " if done.stopped else ""
        verb = "page takes" if done.pages == 1 else "pages take"
        saved, cpu = format_size(done.saved), format_ns(done.cpu_ns)
        print(f"{entry.name}: {what}: {end}{done.pages} {verb} {saved} less ({cpu} of CPU)")
    return 0


def _wait(client: Client, run: Recompression, title: str) -> Recompressed:
    from truezram.engine.device import cold

    line = ProgressLine()

    def progress(share: float, device: DeviceSnapshot) -> None:
        saved = format_size(device.recompressed_saved - run.before.recompressed_saved)
        line.show(f"{title}: {format_percent(share)}, {saved} less")

    try:
        return cold.watch(client, run, progress)
    finally:
        line.clear()
