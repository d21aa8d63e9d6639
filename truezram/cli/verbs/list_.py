"""``truezram list``: one line per compressed device of this machine, ours, the kernel's zram and zswap."""

from __future__ import annotations

import argparse
from typing import Any

from truezram.cli.output import Column, format_table, print_json, terminal_width
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import format_ratio, format_size

NAME = "list"
HELP = "list the compressed devices of this machine"

COLUMNS = (
    Column("NAME"),
    Column("TYPE", keep=1),
    Column("STATE", keep=2),
    Column("ALGORITHM", keep=5),
    Column("DISKSIZE", right=True),
    Column("DATA", right=True),
    Column("COMPR", right=True, keep=6),
    Column("TOTAL", right=True),
    Column("RATIO", right=True, keep=3),
    Column("MEM-LIMIT", right=True, keep=7),
    Column("STREAMS", right=True, keep=8),
    Column("MOUNTPOINT", keep=4),
)
"""Named as in zramctl, if it has it. TYPE is "ublk", "local" (no node in /dev), "zram" or "zswap" (the kernel's)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "DISKSIZE is the logical size, DATA what is stored, COMPR its objects, TOTAL the memory taken for it all,"
        " RATIO = DATA / TOTAL."
    )


def use(device: DeviceSnapshot) -> str:
    """What a device is used as, as zramctl writes it: mount points, ``[SWAP]``, or nothing."""
    return ",".join((*device.mountpoints, *(("[SWAP]",) if device.swap_priority is not None else ())))


def row(device: DeviceSnapshot) -> list[str]:
    """The cells of one device; figures that a dead or unreadable device does not have are ``-``."""
    known = device.state != "unreadable" and (device.kind != "truezram" or device.disksize > 0)

    def size(value: int) -> str:
        return format_size(value) if known else "-"

    return [
        device.name,
        device.transport if device.kind == "truezram" else device.kind,
        device.state,
        device.algorithm or "-",
        size(device.disksize),
        size(device.orig_data_size),
        size(device.compr_data_size),
        size(device.mem_used_total),
        format_ratio(device.ratio),
        format_size(device.mem_limit) if device.mem_limit else "-",
        str(device.nr_queues) if device.nr_queues else "-",
        use(device),
    ]


def as_json(device: DeviceSnapshot) -> dict[str, Any]:
    """One device of the document ``truezram.list/1``."""
    return {
        "name": device.name,
        "path": device.path,
        "kind": device.kind,
        "transport": device.transport,
        "state": device.state,
        "pid": device.pid,
        "algorithm": device.algorithm,
        "disksize": device.disksize,
        "orig_data_size": device.orig_data_size,
        "compr_data_size": device.compr_data_size,
        "mem_used_total": device.mem_used_total,
        "mem_limit": device.mem_limit,
        "ratio": device.ratio,
        "nr_queues": device.nr_queues,
        "mountpoints": list(device.mountpoints),
        "swap_priority": device.swap_priority,
        "last_error": device.last_error,
    }


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client

    with Client() as client:
        devices = client.snapshot(queues=False).devices
    if args.json:
        print_json(NAME, {"devices": [as_json(device) for device in devices]})
    elif devices:
        print(format_table(COLUMNS, [row(device) for device in devices], terminal_width()))
    else:
        print("No compressed device. Make one: truezram create --size 1G (as root), or see one at work: truezram demo")
    return 0
