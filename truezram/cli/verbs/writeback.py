"""``truezram writeback``: has idle pages written to the backing file, or all that are there brought back."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.device.options import WritebackOptions
from truezram.engine.units import format_duration, format_ns, format_percent, format_size, parse_duration

if TYPE_CHECKING:
    from truezram.engine.answers import WrittenBack
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.device.cold import Recompression
    from truezram.engine.model import DeviceSnapshot

NAME = "writeback"
EXAMPLE = "truezram writeback ublkb0 --idle 2h --wait"
HELP = "write a device's idle pages to its backing file, or bring them back"
DEFAULT = WritebackOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "--idle",
        metavar="AGE",
        default=DEFAULT.idle,
        help="pages that nobody has touched for that long at least: 10m, 2h, 1d; 0: all pages"
        f" (default {DEFAULT.idle})",
    )
    parser.add_argument(
        "--max-cpu",
        metavar="PERCENT",
        type=int,
        default=DEFAULT.max_cpu,
        help=f"share of one core, 1 to 100; a quarter of that while the device is in use (default {DEFAULT.max_cpu})",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait until it has ended, showing progress; Ctrl-C stops it"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--back", action="store_true", help="bring all pages back to memory, as far as there is room")
    how.add_argument("--stop", action="store_true", help="stop what is at work, whoever began it; recompression, too")
    parser.epilog = (
        "The backing file is given with create --backing or set DEVICE backing=PATH. Bytes a day and a second"
        " (backing_daily, backing_rate) are limits here, too: it ends when those of today are used up. After --back the"
        " policy writes nothing there until something of it is set again. Ages are known in steps (see `truezram"
        " idle`): AGE means the next step that is not shorter."
    )


def _stop(device: str, as_json: bool) -> int:
    from truezram.engine.device.client import Client

    with Client() as client:
        entry = client.resolve(device)
        stopped = client.stop_recompress(entry)
    if as_json:
        print_json(NAME, {"name": entry.name, "path": entry.path, "stopped": stopped})
    else:
        print(f"{entry.name}: {'stopped' if stopped else 'nothing is at work'}")
    return 0


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client

    if args.stop:
        return _stop(args.device, args.json)
    with Client() as client:
        entry = client.resolve(args.device)
        try:
            return _work(client, entry, args)
        except KeyboardInterrupt:
            if args.wait:
                client.stop_recompress(entry)
                sys.stderr.write(f"truezram: {entry.name}: it is stopped\n")
            raise


def _work(client: Client, entry: Entry, args: argparse.Namespace) -> int:
    from truezram.engine.device import cold

    if args.back:
        run = cold.bring(client, entry, args.max_cpu)
        what, doing = "pages on the backing file", "bringing them back"
    else:
        run = cold.write_back(client, entry, parse_duration(args.idle, "--idle"), args.max_cpu)
        what = f"pages idle for {format_duration(run.idle_ns / 1e9)} or more" if run.idle_ns else "all pages"
        doing = "writing them to the backing file"
    body = {"name": entry.name, "path": entry.path, "back": args.back, "idle_at_least_ns": run.idle_ns}
    if not args.wait:
        if args.json:
            print_json(NAME, {**body, "waited": False})
        else:
            print(f"{entry.name}: {what}: {doing}; `truezram stat {entry.name}` shows progress")
        return 0
    done = _wait(client, run, f"{entry.name}: {what}")
    if args.json:
        print_json(NAME, {**body, "waited": True, **as_json(done)})
    else:
        print(f"{entry.name}: {what}: {said(done, args.back)}")
    return 0


def as_json(done: WrittenBack) -> dict[str, object]:
    """What it has come to."""
    return {
        "pages": done.pages,
        "freed_bytes": done.freed,
        "written_bytes": done.written,
        "returned_pages": done.returned,
        "pages_on_file": done.on_file,
        "used_bytes": done.used,
        "cpu_ns": done.cpu_ns,
        "stopped": done.stopped,
        "state": done.state,
        "why": done.why or None,
        "mem_used_total": {"before": done.before, "after": done.after},
        "seconds": done.seconds,
    }


def said(done: WrittenBack, back: bool) -> str:
    """The same in a line."""
    cpu = f"{format_ns(done.cpu_ns)} of CPU"
    end = "stopped: " if done.stopped else ""
    if back:
        left = f"; {done.on_file} are still there" if done.on_file else ""
        return f"{end}{done.returned} came back to memory{left}"
    text = f"{end}{done.pages} written ({format_size(done.written)}), which took {format_size(done.freed)} ({cpu})"
    return f"{text}; ended early: {done.why}" if done.why else text


def _wait(client: Client, run: Recompression, title: str) -> WrittenBack:
    from truezram.engine.device import cold

    line = ProgressLine()

    def progress(share: float, device: DeviceSnapshot) -> None:
        used = format_size(device.backing_used)
        line.show(f"{title}: {format_percent(share)}, {device.backed_pages} pages in {used} on the file")

    try:
        return cold.watch_backing(client, run, progress)
    finally:
        line.clear()
