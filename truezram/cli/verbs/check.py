"""``truezram check``: whether an arena is sound, and what is wrong where."""

from __future__ import annotations

import argparse
import threading
from typing import Any

from truezram.cli.output import print_json
from truezram.engine.answers import ArenaCheck
from truezram.engine.errors import EXIT_FAILED, EXIT_OK
from truezram.engine.units import format_size

NAME = "check"
HELP = "check a device's memory, or the file of an arena, and say what is wrong where"
EXAMPLE = "truezram check ublkb0"
SHOWN = 20
"""Problems that are printed; JSON has more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arena",
        metavar="FILE|DEVICE",
        help="the file of an arena, or 0, ublkb0, /dev/ublkb0, local0 (write ./local0 for a file of that name)",
    )
    parser.epilog = (
        "Changes nothing. Every entry of the page table and every object is read and its checksum compared; a running"
        " device serves requests meanwhile, and what changes is looked at again. Exit code 0 when the arena is sound, 1"
        " when it has problems or is not an arena, 3 when it may not be read or is of another version."
    )


def as_json(found: ArenaCheck) -> dict[str, Any]:
    """The document ``truezram.check/1``."""
    return {
        "source": found.source,
        "sound": found.sound,
        "live": found.live,
        "version": found.version,
        "state": found.state,
        "uuid": found.uuid,
        "generation": found.generation,
        "disksize": found.disksize,
        "algorithm": found.algorithm,
        "pages": found.pages,
        "same_filled": found.same_filled,
        "dup_pages": found.dup_pages,
        "group_pages": found.group_pages,
        "backing_pages": found.backing_pages,
        "backing_bytes": found.backing_bytes,
        "backing_read": found.backing_read,
        "objects": found.objects,
        "payload_bytes": found.payload_bytes,
        "object_bytes": found.object_bytes,
        "table_pages": found.table_pages,
        "populated_bytes": found.populated_bytes,
        "unsettled": found.unsettled,
        "problems_found": found.problems_found,
        "problems": [{"page": item.page, "what": item.what} for item in found.problems],
    }


def lines(found: ArenaCheck) -> list[str]:
    """For people."""
    count = found.problems_found
    verdict = "sound" if found.sound else f"{count} problem{'s' if count > 1 else ''}"
    out = [f"{found.source}: {verdict}"]
    for item in found.problems[:SHOWN]:
        where = "" if item.page is None else f"page {item.page}: "
        out.append(f"  {where}{item.what}")
    if count > SHOWN:
        out.append(f"  and {count - SHOWN} more")
    state = f"{found.state}, read while its server was at work" if found.live else found.state
    rows = [
        ("arena", f"{found.uuid}, version {found.version}, {state}"),
        ("disk", f"{format_size(found.disksize)}, {found.algorithm}, server number {found.generation}"),
        (
            "pages",
            f"{found.pages}, of which {found.same_filled} same-filled, {found.dup_pages} duplicates,"
            f" {found.group_pages} in groups",
        ),
        ("objects", f"{found.objects}: {format_size(found.payload_bytes)} in {format_size(found.object_bytes)}"),
        ("page table", f"{found.table_pages} pages"),
        ("file", f"{format_size(found.populated_bytes)} of memory or disk"),
    ]
    if found.backing_pages:
        looked = "" if found.backing_read else ", not looked at"
        rows.append(("backing", f"{found.backing_pages} pages in {format_size(found.backing_bytes)}{looked}"))
    if found.unsettled:
        rows.append(("not checked", f"{found.unsettled} pages that were written again and again meanwhile"))
    return out + [f"  {label:<12}{value}" for label, value in rows]


def _interruptible(text: str) -> ArenaCheck:
    """In a thread, for the C code does not notice a signal. It changes nothing, so it may be left behind."""
    from truezram.engine.device.check import check
    from truezram.engine.device.client import Client

    found: list[ArenaCheck] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with Client() as client:
                found.append(check(client, text))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def run(args: argparse.Namespace) -> int:
    found = _interruptible(args.arena)
    if args.json:
        print_json(NAME, as_json(found))
    else:
        print("\n".join(lines(found)))
    return EXIT_OK if found.sound else EXIT_FAILED
