"""``truezram recover``: has a new server take over a device whose server is gone."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import print_json

NAME = "recover"
HELP = "have a new server take over a device whose server is gone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("device", metavar="DEVICE", nargs="?", help="0, ublkb0, /dev/ublkb0")
    which.add_argument("--all", action="store_true", help="every device without a server")
    parser.epilog = (
        "When a server dies, the kernel keeps its device, reads and writes wait, and the standby that was started with"
        " it takes over by itself. This does the same when the standby is gone, too, also hours later. Nothing that was"
        " written is lost. A device that has a server is left alone."
    )


def run(args: argparse.Namespace) -> int:
    from truezram._native import lib

    # Memory may be full, and swapped out to the very device that waits.
    lib.tz_thread_urgent(1)
    from truezram.engine.device.client import Client
    from truezram.engine.device.recovery import recover_entry, recoverable
    from truezram.engine.errors import TruezramError

    failed: TruezramError | None = None
    done: dict[str, str] = {}
    with Client() as client:
        entries = recoverable(client) if args.all else [client.resolve(args.device)]
        for entry in entries:
            try:
                done[entry.name] = "recovered" if recover_entry(entry) else "has a server"
            except TruezramError as error:
                if not args.all:
                    raise
                done[entry.name] = "failed"
                sys.stderr.write(f"truezram: {error}\n")
                failed = failed or error
    if args.json:
        print_json(NAME, {"devices": [{"name": name, "result": result} for name, result in done.items()]})
    else:
        for name, result in done.items():
            print(f"{name}: {result}")
    return failed.exit_code if failed else 0
