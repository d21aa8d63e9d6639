"""``truezram persist``: devices that systemd makes at every start of the machine."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from truezram.cli.output import Column, format_table, print_json, terminal_width
from truezram.cli.verbs import create

if TYPE_CHECKING:
    from truezram.engine.device.systemd import Unit

NAME = "persist"
HELP = "make devices at every start of the machine (systemd)"
EXAMPLE = "sudo truezram persist add --id 0 --size 8G --swap --now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="show the persistent devices (default)")
    adding = actions.add_parser("add", help="write and enable a unit; takes the options of create")
    create.add_arguments(adding)
    adding.add_argument("--now", action="store_true", help="make the device now as well")
    adding.add_argument("--print", action="store_true", help="only print the unit file, change nothing")
    removing = actions.add_parser("remove", help="disable and delete units; devices stay until the next start")
    removing.add_argument("id", nargs="+", type=create.number, metavar="ID", help="as shown by list")
    removing.add_argument("--now", action="store_true", help="remove the devices now as well (swapoff first)")
    for action in (listing, adding, removing):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, errors too")


def _json(unit: Unit) -> dict[str, object]:
    return {
        "id": unit.id,
        "unit": unit.name,
        "file": str(unit.path),
        "command": unit.command,
        "enabled": unit.enabled,
        "active": unit.active,
    }


def _add(args: argparse.Namespace) -> None:
    from truezram.engine.device import systemd

    options = create.options_of(args)
    if options.id is None:
        options = replace(options, id=systemd.free_id())
    for who in systemd.code_writers():
        sys.stderr.write(
            f"truezram: warning: the unit runs truezram as root at every start, and {who}:"
            " whoever can write there can become root. Install it where only root can write, in /opt for example\n"
        )
    if args.print:
        text = systemd.unit_text(options)
        if args.json:
            print_json(NAME, {"unit": f"truezram-{options.id}.service", "text": text})
        else:
            print(text, end="")
        return
    unit = systemd.add(options, start=args.now)
    if args.json:
        print_json(NAME, {"devices": [_json(unit)]})
        return
    print(f"{unit.path}: {unit.enabled}, {unit.active}")
    if not args.now:
        print(f"The device will be made at the next start; now: sudo systemctl start {unit.name}")


def _remove(args: argparse.Namespace) -> None:
    from truezram.engine.device import systemd

    removed = [systemd.remove(number, stop=args.now) for number in dict.fromkeys(args.id)]
    if args.json:
        print_json(NAME, {"removed": [_json(unit) for unit in removed]})
        return
    for unit in removed:
        print(f"removed {unit.path}")


def _list(as_json: bool) -> None:
    from truezram.engine.device import systemd

    found = systemd.units()
    if as_json:
        print_json(NAME, {"devices": [_json(unit) for unit in found]})
        return
    if not found:
        print("No device is persistent. To make one: sudo truezram persist add --size 4G --swap --now")
        return
    columns = [Column("ID", True), Column("UNIT"), Column("AT START"), Column("NOW"), Column("COMMAND", keep=1)]
    rows = [[str(unit.id), unit.name, unit.enabled or "-", unit.active or "-", unit.command] for unit in found]
    print(format_table(columns, rows, terminal_width()))


def run(args: argparse.Namespace) -> int:
    if args.action == "add":
        _add(args)
    elif args.action == "remove":
        _remove(args)
    else:
        _list(args.json)
    return 0
