"""``truezram set``: changes settings of a running device."""

from __future__ import annotations

import argparse
from functools import partial

from truezram.cli.output import ProgressLine, print_json
from truezram.engine.device.settings import BY_KEY, SETTINGS
from truezram.engine.errors import UsageError
from truezram.engine.model import DeviceSnapshot

NAME = "set"
HELP = "change settings of a running device"
EXAMPLE = "truezram set ublkb0 mem_limit=2G algorithm=zstd:3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="KEY=VALUE",
        help="; ".join(f"{setting.key}: {setting.hint}" for setting in SETTINGS),
    )
    parser.add_argument("--force", action="store_true", help="of backing: take it although there is something on it")


def _back(line: ProgressLine, name: str, share: float, device: DeviceSnapshot) -> None:
    line.show(f"{name}: pages come back to memory, {device.backed_pages} to go")


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client
    from truezram.engine.device.create import parse_settings, set_values

    settings = parse_settings(args.settings)
    if args.force and "backing" not in settings:
        raise UsageError("nothing to force", "--force is for backing=PATH", "Leave it out")
    with Client() as client:
        entry = client.resolve(args.device)
        line = ProgressLine()
        try:
            changes = set_values(client, entry, settings, args.force, partial(_back, line, entry.name))
        finally:
            line.clear()
    if args.json:
        changed = {
            change.key: {
                "before": BY_KEY[change.key].value(change.before),
                "after": BY_KEY[change.key].value(change.after),
            }
            for change in changes
        }
        print_json(NAME, {"name": entry.name, "path": entry.path, "changed": changed})
    else:
        for change in changes:
            show = BY_KEY[change.key].show
            print(f"{entry.name}: {change.key} {show(change.before)} -> {show(change.after)}")
    return 0
