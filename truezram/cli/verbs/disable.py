"""``truezram disable``: what was enabled does not come back any more."""

from __future__ import annotations

import argparse

from truezram.cli.output import print_json
from truezram.cli.several import add_devices

NAME = "disable"
HELP = "have devices, or the machine's settings, not come back after a restart"
EXAMPLE = "sudo truezram disable 0 --now"
_EPILOG = """Devices that run go on until they are removed, or the machine is restarted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_devices(parser, "everything that is enabled", more=", zram0, or machine")
    parser.add_argument(
        "--now", action="store_true", help="remove the device now as well (swapoff first), or put settings back"
    )
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device import boot, config

    names = config.names() if args.all else [boot.canonical_name(args.device)]
    gone = [boot.disable(name, args.now) for name in names]
    if args.json:
        print_json(NAME, {"disabled": [{"name": item.name, "file": str(item.path)} for item in gone], "now": args.now})
        return 0
    for item in gone:
        print(f"{item.name}: {'removed; ' if args.now else ''}comes back no more")
    if not gone:
        print("Nothing is enabled.")
    return 0
