"""``truezram upgrade``: has the installed server take over a device from the one that runs."""

from __future__ import annotations

import argparse

from truezram.cli.output import print_json
from truezram.cli.several import add_devices, each

NAME = "upgrade"
HELP = "replace a device's server by the installed version, without a stop"
EXAMPLE = "sudo truezram upgrade --all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_devices(parser, "every block device")
    parser.add_argument("--force", action="store_true", help="also where the installed server is the one that runs")
    parser.epilog = (
        "The installed server gets ready, then the one that runs ends, and the installed one takes over; reads and"
        " writes wait for that moment, also those of swap, and none fails. If it cannot take over, because it does not"
        " know the format of what is stored for example, the device stays as it is. A server that is the installed one"
        " already is left alone."
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.device.recovery import Upgraded, recoverable, upgrade_entry

    done: list[Upgraded] = []

    def upgrade(entry: Entry) -> None:
        done.append(upgrade_entry(entry, args.force))

    with Client() as client:
        code = each(recoverable(client) if args.all else [client.resolve(args.device)], args.all, upgrade)
    if args.json:
        rows = [{"name": d.name, "before": d.before, "after": d.after, "replaced": d.replaced} for d in done]
        print_json(NAME, {"devices": rows})
    else:
        for one in done:
            print(f"{one.name}: {one.before} -> {one.after}" if one.replaced else f"{one.name}: {one.before} already")
    return code
