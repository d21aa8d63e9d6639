"""``truezram recover``: has a new server take over a device whose server is gone."""

from __future__ import annotations

import argparse

from truezram.cli.output import print_json
from truezram.cli.several import add_devices, each

NAME = "recover"
HELP = "have a new server take over a device whose server is gone"
EXAMPLE = "sudo truezram recover --all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_devices(parser, "every device without a server")
    parser.epilog = (
        "When a server dies, the kernel keeps its device, reads and writes wait, and the standby that was started with"
        " it takes over by itself. This does the same when the standby is gone, too, also hours later. Nothing that was"
        " written is lost. A device that has a server is left alone."
    )


def run(args: argparse.Namespace) -> int:
    from truezram._native import lib

    # Memory may be full, and swapped out to the very device that waits.
    lib.tz_thread_urgent(1)
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.device.recovery import recover_entry, recoverable

    done: dict[str, str] = {}

    def recover(entry: Entry) -> None:
        done[entry.name] = "failed"
        done[entry.name] = "recovered" if recover_entry(entry) else "has a server"

    with Client() as client:
        code = each(recoverable(client) if args.all else [client.resolve(args.device)], args.all, recover)
    if args.json:
        print_json(NAME, {"devices": [{"name": name, "result": result} for name, result in done.items()]})
    else:
        for name, result in done.items():
            print(f"{name}: {result}")
    return code
