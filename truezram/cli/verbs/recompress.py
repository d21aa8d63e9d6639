"""``truezram recompress``: has idle pages written once more with a denser codec."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from truezram.cli import idle_pages
from truezram.engine.device.options import RecompressOptions
from truezram.engine.units import format_ns, format_size, parse_duration

if TYPE_CHECKING:
    from truezram.engine.answers import Recompressed
    from truezram.engine.device.client import Client, Entry
    from truezram.engine.model import DeviceSnapshot

NAME = "recompress"
HELP = "compress a device's idle pages once more, denser"
EXAMPLE = "truezram recompress ublkb0 --idle 1h --to dense"
DEFAULT = RecompressOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    idle_pages.add_arguments(parser, DEFAULT.idle, DEFAULT.max_cpu)
    parser.add_argument(
        "--to",
        metavar="ALGORITHM",
        default=DEFAULT.to,
        help=f"dense, zstd[:LEVEL], or cold: up to 16 neighbouring pages in one object (default {DEFAULT.to})",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--wait", action="store_true", help="wait until it has ended, showing progress; Ctrl-C stops it")
    how.add_argument("--stop", action="store_true", help="stop the one at work, whoever began it")
    parser.epilog = (
        "A page is written once more if that takes at least a sixteenth less room. It keeps its age, and what is read"
        " or written meanwhile is left alone. Ages are known in steps (see `truezram idle`): AGE means the next step"
        " that is not shorter. The server does it beside all requests, in steps of less than a millisecond."
    )


def run(args: argparse.Namespace) -> int:
    return idle_pages.run(NAME, args, _begin)


def _begin(client: Client, entry: Entry, args: argparse.Namespace) -> idle_pages.Work[Recompressed]:
    from truezram.engine.device import cold

    run = cold.recompress(client, entry, args.to, parse_duration(args.idle, "--idle"), args.max_cpu)
    pages = idle_pages.which_pages(run)

    def progress(device: DeviceSnapshot) -> str:
        return f"{format_size(device.recompressed_saved - run.before.recompressed_saved)} less"

    return idle_pages.Work(
        run=run,
        pages=pages,
        begun=f"recompressing {pages} with {args.to}",
        about={"algorithm": args.to},
        watch=cold.watch,
        progress=progress,
        as_json=as_json,
        said=said,
    )


def as_json(done: Recompressed) -> dict[str, object]:
    """What it has come to."""
    return {
        "pages": done.pages,
        "saved_bytes": done.saved,
        "cpu_ns": done.cpu_ns,
        "stopped": done.stopped,
        "mem_used_total": {"before": done.before, "after": done.after},
        "seconds": done.seconds,
    }


def said(done: Recompressed) -> str:
    """The same in a line."""
    end = "stopped: " if done.stopped else ""
    verb = "page takes" if done.pages == 1 else "pages take"
    return f"{end}{done.pages} {verb} {format_size(done.saved)} less ({format_ns(done.cpu_ns)} of CPU)"
