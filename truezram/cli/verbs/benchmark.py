"""``truezram benchmark codec``: the page codecs on this machine, compared with libraries and kernel zram."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truezram.cli.output import ProgressLine, print_json, terminal_width
from truezram.cli.verbs.create import number
from truezram.cli.verbs.demo import seconds
from truezram.engine.errors import EXIT_OK, Failed, UsageError

if TYPE_CHECKING:
    from truezram.engine.measure.results import Progress

NAME = "benchmark"
HELP = "measure the page codecs on this machine, compared with liblz4, libzstd, memcpy and kernel zram"


def add_pages(to: argparse._ActionsContainer) -> None:
    """The option ``--pages``, which ``train`` has too."""
    to.add_argument(
        "--pages",
        action="append",
        default=[],
        metavar="FILE|DIR",
        help="raw 4096-byte pages, zstd-compressed if the name ends in .zst; for a folder, all *.pages and *.pages.zst;"
        " may be given again (default: a sample of the memory of running processes)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=type(parser))
    text = "measure the page codecs: ratio and speed"
    codec = kinds.add_parser("codec", help=text, description=text[0].upper() + text[1:] + ".")
    add_pages(codec)
    codec.add_argument(
        "--algorithm",
        action="append",
        default=[],
        metavar="NAME[:LEVEL]",
        help="an algorithm of truezram; may be given again (default: all)",
    )
    codec.add_argument(
        "--against",
        action="append",
        metavar="LIST",
        help="baselines: liblz4[:ACCELERATION], lz4hc[:LEVEL], libzstd[:LEVEL], memcpy, zram[:COMPRESSOR], separated by"
        " commas; figures are compared with the first; zram is a kernel zram device made for the measurement, which"
        " needs root and the module (default: liblz4,libzstd:1,memcpy, and zram:lz4,zram:zstd if a device can be made)",
    )
    codec.add_argument(
        "--dictionary",
        metavar="FILE",
        help="trained dictionary: each zstd is measured without it and with it (zstd:3+dictionary)",
    )
    length = codec.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=number, metavar="N", help="rounds over all pages (default: 5)")
    length.add_argument(
        "--seconds", type=seconds, metavar="S", help="as many rounds as fit into this time, at least one"
    )
    codec.add_argument("--cold", action="store_true", help="pages in random order, and not in the caches")
    codec.add_argument(
        "--json", dest="json_file", metavar="FILE|-", help="write the results as JSON; - for standard output, alone"
    )
    codec.add_argument("--html", metavar="FILE", help="write the results as an HTML page")


def check_target(path: str) -> None:
    """Checks, before minutes are spent, that a file can be written there."""
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise UsageError(f"cannot write {path}", "it is a folder", "Name a file")
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}", f"there is no folder {folder}", "Make it first")
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise Failed(f"cannot write {path}", "not permitted", "Name a file elsewhere")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failed(f"cannot write {path}", error.strerror or str(error)) from error


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def run(args: argparse.Namespace) -> int:
    from truezram.engine.measure import benchmark, report

    for path in (args.html, args.json_file if args.json_file != "-" else None):
        if path is not None:
            check_target(path)
    line = ProgressLine()

    def show(progress: Progress) -> None:
        line.show(f"{progress.fraction:4.0%}  {progress.text}")

    try:
        found = benchmark.run(
            args.pages,
            args.algorithm,
            args.against,
            rounds=benchmark.DEFAULT_ROUNDS if args.rounds is None else args.rounds,
            seconds=args.seconds,
            cold=args.cold,
            dictionary=args.dictionary,
            progress=show,
        )
    finally:
        line.clear()
    body: dict[str, Any] = report.to_json(found)
    if args.json_file not in (None, "-"):
        document = {"schema": f"truezram.{NAME}/1", **body}
        _write(args.json_file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if args.html is not None:
        _write(args.html, report.to_html(found))
    if args.json or args.json_file == "-":
        print_json(NAME, body)
    else:
        print(report.to_text(found, terminal_width(), _speaks_unicode()))
    return EXIT_OK
