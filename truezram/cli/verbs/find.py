"""``truezram find``: the next free number of a device, as ``zramctl --find``, without making one."""

from __future__ import annotations

import argparse

from truezram.cli.output import print_json
from truezram.engine.device.options import TRANSPORTS

NAME = "find"
HELP = "print the lowest number that a new device can have"
EXAMPLE = 'truezram create --size 1G --id "$(truezram find)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transport", choices=TRANSPORTS, default="ublk", help="of the device (default: ublk)")
    parser.epilog = (
        "Nothing is made, and the number is not kept free: another program may take it first, and then create says so."
        " Without --id, create takes a free one by itself, and prints which."
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.create import free_entry

    entry = free_entry(args.transport)
    if args.json:
        print_json(NAME, {"id": entry.id, "name": entry.name, "path": entry.path, "transport": entry.transport})
    else:
        print(entry.id)
    return 0
