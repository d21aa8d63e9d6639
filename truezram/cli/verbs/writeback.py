"""``truezram writeback``: has idle pages written to the backing file, or all that are there brought back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from truezram.cli import idle_pages
from truezram.engine.device.options import WritebackOptions
from truezram.engine.units import format_ns, format_size, parse_duration

if TYPE_CHECKING:
    from truezram.engine.answers import WrittenBack
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.model import DeviceSnapshot

NAME = "writeback"
EXAMPLE = "truezram writeback ublkb0 --idle 2h --wait"
HELP = "write a device's idle pages to its backing file, or bring them back"
DEFAULT = WritebackOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    idle_pages.add_arguments(parser, DEFAULT.idle, DEFAULT.max_cpu)
    parser.add_argument(
        "--wait", action="store_true", help="wait until it has ended, showing progress; Ctrl-C stops it"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--back", action="store_true", help="bring all pages back to memory, as far as there is room")
    how.add_argument("--stop", action="store_true", help="stop what is at work, whoever began it; recompression, too")
    parser.epilog = (
        "The backing file is given with create --backing or set DEVICE backing=PATH. Bytes a day and a second"
        " (backing_daily, backing_rate) are limits here, too: it ends when those of today are used up. After --back the"
        " policy writes nothing there until something of it is set again. Ages are known in steps (see `truezram"
        " idle`): AGE means the next step that is not shorter."
    )


def run(args: argparse.Namespace) -> int:
    return idle_pages.run(NAME, args, _begin)


def _begin(client: Client, entry: Entry, args: argparse.Namespace) -> idle_pages.Work[WrittenBack]:
    from truezram.engine.device import cold

    if args.back:
        run = cold.bring(client, entry, args.max_cpu)
        pages, doing = "pages on the backing file", "bringing them back"
    else:
        run = cold.write_back(client, entry, parse_duration(args.idle, "--idle"), args.max_cpu)
        pages, doing = idle_pages.which_pages(run), "writing them to the backing file"

    def progress(device: DeviceSnapshot) -> str:
        return f"{device.backed_pages} pages in {format_size(device.backing_used)} on the file"

    return idle_pages.Work(
        run=run,
        pages=pages,
        begun=f"{pages}: {doing}",
        about={"back": args.back},
        watch=cold.watch_backing,
        progress=progress,
        as_json=as_json,
        said=lambda done: said(done, args.back),
    )


def as_json(done: WrittenBack) -> dict[str, object]:
    """What it has come to."""
    return {
        "pages": done.pages,
        "freed_bytes": done.freed,
        "written_bytes": done.written,
        "returned_pages": done.returned,
        "pages_on_file": done.on_file,
        "used_bytes": done.used,
        "cpu_ns": done.cpu_ns,
        "stopped": done.stopped,
        "state": done.state,
        "why": done.why or None,
        "mem_used_total": {"before": done.before, "after": done.after},
        "seconds": done.seconds,
    }


def said(done: WrittenBack, back: bool) -> str:
    """The same in a line."""
    cpu = f"{format_ns(done.cpu_ns)} of CPU"
    end = "stopped: " if done.stopped else ""
    if back:
        left = f"; {done.on_file} are still there" if done.on_file else ""
        return f"{end}{done.returned} came back to memory{left}"
    text = f"{end}{done.pages} written ({format_size(done.written)}), which took {format_size(done.freed)} ({cpu})"
    return f"{text}; ended early: {done.why}" if done.why else text
