"""``truezram reset``: empties devices, which keep their settings."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.units import format_percent, format_size

NAME = "reset"
HELP = "empty a device and keep it, with its number and its settings"
EXAMPLE = "sudo truezram reset ublkb0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.epilog = (
        "All data on it is lost. It is refused while the device is mounted, swap, below another device, or open in a"
        " program. Interrupted, it leaves a working device on which some of the pages are still there. Counters count"
        " from the creation of the device, and go on."
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client
    from truezram.engine.device.reset import reset_entry

    line = ProgressLine()
    with Client() as client:
        entry = client.resolve(args.device)
        try:
            done = reset_entry(client, entry, lambda share: line.show(f"{entry.name}: {format_percent(share)}"))
        except KeyboardInterrupt:
            line.clear()
            rest = f"truezram reset {entry.name} does the rest"
            sys.stderr.write(f"truezram: {entry.name} may be only partly empty: {rest}\n")
            raise
        finally:
            line.clear()
    figures = {"orig_data_size": done.orig_data_size, "mem_used_total": done.mem_used_total}
    if args.json:
        parts = {key: {"before": before, "after": after} for key, (before, after) in figures.items()}
        print_json(NAME, {"name": done.name, "path": done.path, **parts})
    else:
        data, memory = (f"{format_size(before)} -> {format_size(after)}" for before, after in figures.values())
        print(f"{done.name}: data {data}, memory {memory}")
    return 0
