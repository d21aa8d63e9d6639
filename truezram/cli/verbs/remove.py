"""``truezram remove``: swapoff, then stops devices."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.errors import TruezramError
from truezram.engine.units import format_percent, format_size

NAME = "remove"
HELP = "remove devices and all data on them (swapoff first)"
EXAMPLE = "sudo truezram remove ublkb0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", nargs="+", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "--umount",
        action="store_true",
        help="unmount a filesystem on it first; the files on it are gone with the device",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="remove it even if it is in use (its users get I/O errors), swapoff even if memory may not suffice,"
        " and end a server that hangs; a device that is still swap is never stopped",
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client
    from truezram.engine.device.removal import remove_entry, what_force_breaks

    line = ProgressLine()
    removed: list[dict[str, Any]] = []
    with Client() as client:
        # All names first: nothing is removed when one of them is wrong.
        entries = list(dict.fromkeys(client.resolve(name) for name in args.device))
        for entry in entries:
            if args.force:
                for sentence in what_force_breaks(entry):
                    sys.stderr.write(f"truezram: {entry.name}: {sentence}\n")

            def progress(stage: str, done: int, total: int, name: str = entry.name) -> None:
                if stage == "swapoff":
                    share = format_percent(done / total if total else 1.0)
                    line.show(f"{name}: swapoff {share}, {format_size(done)} of {format_size(total)}")
                else:
                    line.show(f"{name}: stopping")

            try:
                gone = remove_entry(entry, args.force, progress, args.umount)
            except TruezramError as error:
                line.clear()
                if removed:
                    names = ", ".join(item["name"] for item in removed)
                    raise type(error)(error.what, error.why, f"{error.remedy} (removed before: {names})") from None
                raise
            finally:
                line.clear()
            removed.append(
                {"name": gone.name, "path": gone.path, "swapped_back": gone.swapped_back, "lost": list(gone.lost)}
            )
            if not args.json:
                print(f"removed {gone.name}")
    if args.json:
        print_json(NAME, {"removed": removed})
    return 0
