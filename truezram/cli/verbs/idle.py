"""``truezram idle``: how much of a device nobody has touched for how long."""

from __future__ import annotations

import argparse
from typing import Any

from truezram.cli.output import Column, format_table, print_json, terminal_width
from truezram.engine.model import Age, DeviceSnapshot
from truezram.engine.units import PAGE, format_duration, format_percent, format_size

NAME = "idle"
HELP = "show how many pages of a device nobody has touched for how long"
EXAMPLE = "truezram idle ublkb0"
BAR = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0")
    parser.epilog = (
        "The age of a page is the time since it was last read or written, in eight steps: what is known is how old a"
        " page is at least, and at most. Counted now. Same-filled pages have no age. Time in which the machine is"
        " suspended does not count. See `truezram recompress` for what can be done with old pages."
    )


def age_json(age: Age) -> dict[str, Any]:
    """One step, of `stat` too."""
    return {
        "idle_at_least_ns": age.least_ns,
        "idle_at_most_ns": age.most_ns or None,
        "pages": age.pages,
        "bytes": age.bytes,
    }


def span(age: Age) -> str:
    """``12m to 2h``."""
    least = format_duration(age.least_ns / 1e9)
    if not age.most_ns:
        return f"over {least}"
    most = format_duration(age.most_ns / 1e9)
    return f"{least} to {most}" if age.least_ns else f"under {most}"


def table(device: DeviceSnapshot, width: int | None) -> str:
    """With bars as long as the pages are many."""
    every = sum(age.pages for age in device.ages)
    rows = [
        (
            span(age),
            str(age.pages),
            format_percent(age.pages / every if every else 0),
            format_size(age.pages * PAGE),
            format_size(age.bytes),
            "#" * round(BAR * age.pages / every if every else 0),
        )
        for age in device.ages
    ]
    columns = (
        Column("IDLE FOR"),
        Column("PAGES", right=True),
        Column("SHARE", right=True, keep=1),
        Column("DATA", right=True, keep=2),
        Column("TAKES", right=True),
        Column("", keep=3),
    )
    return format_table(columns, rows, width)


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client
    from truezram.engine.device.cold import count_ages

    with Client() as client:
        device = count_ages(client, client.resolve(args.device))
    if args.json:
        body = {
            "name": device.name,
            "path": device.path,
            "ages": [age_json(age) for age in device.ages],
            "same_pages": device.same_pages,
        }
        print_json(NAME, body)
        return 0
    print(table(device, terminal_width()))
    return 0
