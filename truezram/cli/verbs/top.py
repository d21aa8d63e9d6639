"""``truezram top``: the app, opened on one device."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from truezram.cli.output import has_screen, print_json_line
from truezram.cli.verbs.stat import as_json, choose
from truezram.engine.errors import NotFound, UsageError
from truezram.engine.pace import every

if TYPE_CHECKING:
    from truezram.engine.device.client import Client
    from truezram.engine.model import DeviceSnapshot

NAME = "top"
HELP = "show the app, opened on one device"
EXAMPLE = "sudo truezram top ublkb0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "device", metavar="DEVICE", nargs="?", help="0, ublkb0, /dev/ublkb0, local0, zram0 (default: the first)"
    )
    parser.epilog = (
        "It needs a terminal; without one, truezram stat DEVICE --watch shows the figures. Quitting the app stops no"
        " device. With --json, one line a second with the device as stat has it."
    )


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client

    with Client() as client:
        device = _find(client, args.device)
        for _ in every(1.0) if args.json else ():
            print_json_line(NAME, {"time": time.time(), "device": as_json(device)})
            device = _find(client, device.name)
    if args.no_tui or not has_screen():
        raise UsageError(
            "cannot show the app",
            "it needs a terminal",
            "Use `truezram stat DEVICE --watch`, or --json for its figures",
        )
    from truezram.cli.main import run_app

    return run_app(device=device.name)


def _find(client: Client, word: str | None) -> DeviceSnapshot:
    found = choose(client.snapshot().devices, [word] if word else [])
    if not found:
        raise NotFound("no device to show", "no device is running", "Make one: truezram create, or: truezram demo")
    return found[0]
