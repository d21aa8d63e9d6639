"""``truezram set``: changes settings of a running device."""

from __future__ import annotations

import argparse

from truezram.engine.output import print_json
from truezram.engine.units import format_size

NAME = "set"
HELP = "change settings of a running device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="KEY=VALUE",
        help="mem_limit=SIZE (none: no limit), algorithm=NAME[:LEVEL] (for pages written from then on)",
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.client import Client
    from truezram.engine.device import parse_settings, set_values

    settings = parse_settings(args.settings)
    with Client() as client:
        entry = client.resolve(args.device)
        changes = set_values(client, entry, settings)
    if args.json:
        changed = {
            change.key: {"before": _value(change.key, change.before), "after": _value(change.key, change.after)}
            for change in changes
        }
        print_json(NAME, {"name": entry.name, "path": entry.path, "changed": changed})
    else:
        for change in changes:
            print(
                f"{entry.name}: {change.key} {_shown(change.key, change.before)} -> {_shown(change.key, change.after)}"
            )
    return 0


def _value(key: str, text: str) -> int | str:
    return int(text) if key == "mem_limit" else text


def _shown(key: str, text: str) -> str:
    if key != "mem_limit":
        return text
    return format_size(int(text)) if int(text) else "none"
