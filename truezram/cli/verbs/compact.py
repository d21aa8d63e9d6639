"""``truezram compact``: has segments packed, and what that frees given back."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.units import format_percent, format_size

NAME = "compact"
HELP = "give back the memory that holes between a device's objects take"
EXAMPLE = "truezram compact ublkb0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.epilog = (
        "Objects are moved together until no more segment can be emptied, and free segments are returned to the kernel."
        " This also happens by itself when holes take more than a hundredth. Requests are served meanwhile."
        " Interrupting the command does not stop the server, which goes on until it is done."
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client
    from truezram.engine.device.compaction import compact_entry
    from truezram.engine.model import DeviceSnapshot

    line = ProgressLine()
    with Client() as client:
        entry = client.resolve(args.device)

        def progress(share: float, device: DeviceSnapshot) -> None:
            line.show(f"{entry.name}: compacting {format_percent(share)}, {format_size(device.mem_used_total)}")

        try:
            done = compact_entry(client, entry, progress)
        except KeyboardInterrupt:
            line.clear()
            sys.stderr.write(f"truezram: {entry.name}: its server goes on compacting\n")
            raise
        finally:
            line.clear()
    if args.json:
        body = {"before": done.before, "after": done.after, "gained": done.gained}
        print_json(
            NAME,
            {
                "name": done.name,
                "path": done.path,
                "mem_used_total": body,
                "pages_compacted": done.pages_compacted,
                "seconds": done.seconds,
            },
        )
    else:
        sizes = f"{format_size(done.before)} -> {format_size(done.after)}"
        print(f"{done.name}: {sizes} ({format_size(done.gained)} given back)")
    return 0
