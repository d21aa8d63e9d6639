"""``truezram enable``: devices and settings come back after every restart of the machine."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from truezram.cli.output import print_json
from truezram.cli.several import add_devices

if TYPE_CHECKING:
    from truezram.engine.device.boot import Enabled
    from truezram.engine.device.config import Config

NAME = "enable"
HELP = "have devices, or the machine's settings, come back after every restart"
EXAMPLE = "sudo truezram enable 0"
_EPILOG = """A device comes back as it is now: size, algorithm, limit, swap with its priority or file system with its
mount point, settings and policy; what is on it does not. `machine` stands for the settings that `tune` has changed.
They are kept in files in /etc/truezram, which can be edited: truezram config. A name that has a file there and no
device is made now."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_devices(parser, "every block device of truezram's that runs", more=", zram0, or machine: the settings of tune")
    parser.add_argument(
        "--dictionary", metavar="FILE", help="the dictionary of the device, if it has one: a copy of it is kept"
    )
    parser.add_argument("--print", action="store_true", help="only print the file and the unit, change nothing")
    parser.epilog = _EPILOG


def as_json(item: Enabled) -> dict[str, Any]:
    """One enabled thing, of `config show` too."""
    from truezram.engine.device.config import values

    return {
        "name": item.config.name,
        "file": str(item.config.path),
        "unit": item.unit,
        "enabled": item.enabled,
        "active": item.active,
        "made_by": item.config.origin or "user",
        "values": values(item.config),
    }


def _wanted(args: argparse.Namespace) -> list[Config]:
    from truezram.engine.device import boot, config
    from truezram.engine.device.client import Client

    if not args.all:
        return [boot.wanted(boot.canonical_name(args.device), args.dictionary)]
    with Client() as client:
        names = [entry.name for entry in client.entries() if entry.transport == "ublk"]
    return [boot.wanted(name, args.dictionary) for name in dict.fromkeys([*names, *config.names()])]


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device import boot, systemd
    from truezram.engine.measure.zram_bench import ended_in_order

    wanted = _wanted(args)
    for who in boot.code_writers():
        sys.stderr.write(
            f"truezram: warning: truezram runs as root at every start, and {who}: whoever can write there can become"
            " root. Install it where only root can write, in /opt for example\n"
        )
    if args.print:
        if args.json:
            items = [{"file": str(item.path), "text": item.text(), "unit": systemd.unit(item)} for item in wanted]
            print_json(NAME, {"print": items})
        else:
            for item in wanted:
                print(f"# {item.path}\n{item.text()}")
            for swap in sorted({item.swap for item in wanted}, reverse=True):
                print(f"# {systemd.template_path(swap)}\n{systemd.template(swap)}", end="")
        return 0
    with ended_in_order():
        done = [boot.enable(item) for item in wanted]
    if args.json:
        print_json(NAME, {"enabled": [as_json(item) for item in done]})
        return 0
    for enabled in done:
        where = f"{enabled.config.path}; {enabled.unit}: {enabled.active}"
        print(f"{enabled.config.name}: comes back after every restart ({where})")
    if not done:
        print("There is no device to enable. See truezram setup")
    return 0
