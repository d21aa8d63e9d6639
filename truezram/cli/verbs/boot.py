"""``truezram boot``: what the units run at the start and the end of the machine."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import print_json
from truezram.engine.errors import TruezramError, UsageError

NAME = "boot"
HELP = "make or remove what is enabled, as the machine's start and end do"
EXAMPLE = "sudo truezram boot start --all"
_EPILOG = """The units of systemd and the service of OpenRC that `enable` makes run this. With another init, have it run
`truezram boot start --all` once file systems are mounted and before programs need swap, and `truezram boot stop --all`
at the end. A device that is there already is left as it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "stop"), help="start: make it; stop: remove it, swapoff first")
    parser.add_argument("name", nargs="*", metavar="NAME", help="ublkb0, zram0, machine: a file in /etc/truezram")
    parser.add_argument("--all", action="store_true", help="all files there")
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device import boot, config

    if args.all == bool(args.name):
        raise UsageError("nothing is named" if not args.all else "too much is named", "", "Name files, or use --all")
    names = config.names() if args.all else [boot.canonical_name(name) for name in args.name]
    done, code = [], 0
    for name in names if args.action == "start" else reversed(names):
        try:
            said = boot.start(name) if args.action == "start" else boot.stop(name)
        except TruezramError as error:
            if not args.all:
                raise
            sys.stderr.write(f"truezram: {name}: {error}\n")
            code = code or error.exit_code
            continue
        done.append({"name": name, "done": said})
        if not args.json:
            print(f"{name}: {said}")
    if args.json:
        print_json(NAME, {"action": args.action, "done": done})
    return code
