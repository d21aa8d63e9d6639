"""``truezram list``: one line per compressed device of this machine, ours, the kernel's zram and zswap.

Columns have zramctl's names where it has them, and its options choose them, so that what reads zramctl reads this.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from truezram.cli.output import Column, format_raw, format_table, print_json, terminal_width
from truezram.engine.errors import UsageError
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import format_ratio, format_size

NAME = "list"
HELP = "list the compressed devices of this machine"
EXAMPLE = "truezram list --columns NAME,DATA,TOTAL --bytes --noheadings"

Size = Callable[[int], str]


class ListColumn(NamedTuple):
    """One column: what is shown of a device, and which fields of its JSON say the same."""

    title: str
    about: str
    fields: tuple[str, ...]
    cell: Callable[[DeviceSnapshot, Size], str]
    """Of a device, with a function that writes sizes. ``-``: the device does not have it."""
    right: bool = False
    keep: int = 0
    """As `Column.keep`."""
    is_default: bool = True


def use(device: DeviceSnapshot) -> str:
    """What a device is used as, as zramctl writes it: mount points, ``[SWAP]``, or nothing."""
    return ",".join((*device.mountpoints, *(("[SWAP]",) if device.swap_priority is not None else ())))


def _type(device: DeviceSnapshot, size: Size) -> str:
    return device.transport if device.kind == "truezram" else device.kind


def _is_known(device: DeviceSnapshot) -> bool:
    """Whether it has figures: a dead or unreadable device may have none."""
    return device.state != "unreadable" and (device.kind != "truezram" or device.disksize > 0)


def _size(field: str) -> Callable[[DeviceSnapshot, Size], str]:
    return lambda device, size: size(getattr(device, field)) if _is_known(device) else "-"


def _count(field: str) -> Callable[[DeviceSnapshot, Size], str]:
    return lambda device, size: str(getattr(device, field)) if _is_known(device) else "-"


def _ratio(device: DeviceSnapshot, size: Size) -> str:
    return format_ratio(device.ratio)


COLUMNS = (
    ListColumn("NAME", "the device", ("name",), lambda device, size: device.name),
    ListColumn("TYPE", "ublk, nbd, local (no node in /dev), zram or zswap", ("kind", "transport"), _type, keep=1),
    ListColumn("STATE", "of its server", ("state",), lambda device, size: device.state, keep=2),
    ListColumn("ALGORITHM", "of new pages", ("algorithm",), lambda device, size: device.algorithm or "-", keep=5),
    ListColumn("DISKSIZE", "logical size", ("disksize",), _size("disksize"), right=True),
    ListColumn("DATA", "what is stored, uncompressed", ("orig_data_size",), _size("orig_data_size"), right=True),
    ListColumn("COMPR", "its objects", ("compr_data_size",), _size("compr_data_size"), right=True, keep=6),
    ListColumn("TOTAL", "the memory taken for it all", ("mem_used_total",), _size("mem_used_total"), right=True),
    ListColumn("RATIO", "DATA / TOTAL", ("ratio",), _ratio, right=True, keep=3),
    ListColumn(
        "MEM-LIMIT",
        "the most that TOTAL may become",
        ("mem_limit",),
        lambda device, size: size(device.mem_limit) if device.mem_limit else "-",
        right=True,
        keep=7,
    ),
    ListColumn(
        "STREAMS",
        "queues",
        ("nr_queues",),
        lambda device, size: str(device.nr_queues) if device.nr_queues else "-",
        right=True,
        keep=8,
    ),
    ListColumn("ZERO-PAGES", "same-filled pages", ("same_pages",), _count("same_pages"), right=True, is_default=False),
    ListColumn(
        "MEM-USED", "the most that TOTAL has been", ("mem_used_max",), _size("mem_used_max"), True, is_default=False
    ),
    ListColumn(
        "MIGRATED",
        "pages of memory that compaction has freed",
        ("pages_compacted",),
        _count("pages_compacted"),
        right=True,
        is_default=False,
    ),
    ListColumn(
        "BACKED",
        "what is on its backing file",
        ("backing", "backing_state", "backing_used"),
        lambda device, size: size(device.backing_used) if device.backing_state != "none" else "-",
        right=True,
        is_default=False,
    ),
    ListColumn("COMP-RATIO", "as RATIO", ("ratio",), _ratio, right=True, is_default=False),
    ListColumn(
        "MOUNTPOINT",
        "where it is mounted, or [SWAP]",
        ("mountpoints", "swap_priority"),
        lambda device, size: use(device),
        keep=4,
    ),
)
"""All columns, in the order of --output-all. Those with zramctl's names mean what they mean there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "-o", "--columns", "--output", metavar="LIST", help="these columns, separated by commas; +LIST: these as well"
    )
    which.add_argument("--output-all", action="store_true", help="all columns")
    parser.add_argument("-b", "--bytes", action="store_true", help="sizes in bytes, without a unit")
    parser.add_argument("-n", "--noheadings", action="store_true", help="no line of headings")
    parser.add_argument("--raw", action="store_true", help="columns separated by one blank, not aligned")
    parser.epilog = (
        f"Columns: {'; '.join(f'{column.title}, {column.about}' for column in COLUMNS)}. With --json, the fields that"
        " say the same as the chosen columns; all fields if none were chosen."
    )


def choose(text: str | None, everything: bool) -> tuple[ListColumn, ...]:
    """The columns that --columns names, in its order; those that are shown by default without one. Raises
    `UsageError`."""
    if everything:
        return COLUMNS
    usual = tuple(column for column in COLUMNS if column.is_default)
    if text is None:
        return usual
    by_title = {column.title: column for column in COLUMNS}
    found = list(usual) if text.startswith("+") else []
    for word in text.removeprefix("+").split(","):
        column = by_title.get(word.strip().upper())
        if column is None:
            raise UsageError(f"unknown column {word[:40]!r}", "", f"Columns: {', '.join(by_title)}")
        found.append(column)
    return tuple(found)


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
        "mem_used_max": device.mem_used_max,
        "mem_limit": device.mem_limit,
        "ratio": device.ratio,
        "same_pages": device.same_pages,
        "pages_compacted": device.pages_compacted,
        "nr_queues": device.nr_queues,
        "backing": device.backing,
        "backing_state": device.backing_state,
        "backing_used": device.backing_used,
        "mountpoints": list(device.mountpoints),
        "swap_priority": device.swap_priority,
        "last_error": device.last_error,
    }


def table(
    devices: Sequence[DeviceSnapshot],
    width: int | None,
    columns: Sequence[ListColumn] | None = None,
    size: Size = format_size,
    heading: bool = True,
) -> str:
    """The devices as a table; `columns`: those that are shown by default."""
    columns = choose(None, False) if columns is None else columns
    rows = [[column.cell(device, size) for column in columns] for device in devices]
    shown = [Column(column.title, column.right, column.keep) for column in columns]
    return format_table(shown, rows, width, heading)


def _print(args: argparse.Namespace, devices: Sequence[DeviceSnapshot], columns: Sequence[ListColumn]) -> None:
    size: Size = str if args.bytes else format_size
    if args.raw:
        heads = [] if args.noheadings else [[column.title for column in columns]]
        rows = [[column.cell(device, size) for column in columns] for device in devices]
        print("\n".join(format_raw([*heads, *rows])))
    else:
        chosen = args.columns is not None or args.output_all
        print(table(devices, None if chosen else terminal_width(), columns, size, not args.noheadings))


def run(args: argparse.Namespace) -> int:
    columns = choose(args.columns, args.output_all)
    from truezram.engine.device.client import Client

    with Client() as client:
        devices = client.snapshot(queues=False).devices
    if args.json:
        keys = {key for column in columns for key in column.fields}
        chosen = args.columns is not None or args.output_all
        found = [{k: v for k, v in as_json(device).items() if not chosen or k in keys} for device in devices]
        print_json(NAME, {"devices": found})
    elif devices:
        _print(args, devices, columns)
    elif not (args.raw or args.noheadings):
        print("No compressed device. Make one: truezram create --size 1G (as root), or see one at work: truezram demo")
    return 0
