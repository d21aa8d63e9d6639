"""``truezram entropy``: the order-0 entropy of files, and what each algorithm really makes of them. Read-only."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from truezram.cli.output import Column, ProgressLine, format_table, print_json, terminal_width
from truezram.cli.verbs.estimate import algorithm_json, count, printable
from truezram.engine.units import format_percent, format_size

if TYPE_CHECKING:
    from truezram.engine.measure.entropy import EntropyReport, PathEntropy

NAME = "entropy"
HELP = "measure how well files, folders, block devices or standard input compress, and their order-0 entropy"
EXAMPLE = "truezram entropy -r /usr/bin /var/log/dpkg.log"
BAR = 30
_EPILOG = """Order-0 entropy is the limit of a coder that writes each byte by itself, in bits per byte; the algorithms
are measured, page by page of 4096 bytes, with everything that a device takes for them. Of a path with more pages than
--pages so many are drawn at random, and ± is the 95% confidence interval. In folders, links and other filesystems are
left out. Nothing is written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="+", metavar="PATH", help="a file, folder or block device; - is standard input")
    parser.add_argument("-r", "--recursive", action="store_true", help="of a folder, files in folders below it as well")
    parser.add_argument(
        "--algorithm",
        metavar="A",
        action="append",
        default=[],
        help="NAME or NAME:LEVEL; may be repeated (default: all)",
    )
    parser.add_argument(
        "--pages", metavar="N", type=count, default=8192, help="pages to draw from each path (default: 8192)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed draws other pages (default: 0)")
    parser.epilog = _EPILOG


def _order0(item: PathEntropy) -> float | None:
    """The ratio that order-0 entropy allows; None for one byte value alone, which needs no bits at all."""
    return 8 / item.entropy if item.entropy else None


def _path_json(item: PathEntropy) -> dict[str, Any]:
    return {
        "path": item.path,
        "kind": item.kind,
        "files": item.files,
        "bytes": item.bytes,
        "pages": item.pages,
        "sampled": item.sampled,
        "same_filled": item.same_filled,
        "entropy": item.entropy,
        "page_entropy": item.page_entropy,
        "entropy_ratio": _order0(item),
        "algorithms": [algorithm_json(algorithm) for algorithm in item.algorithms],
    }


def as_json(report: EntropyReport) -> dict[str, Any]:
    """The document ``truezram.entropy/1``. Sizes in bytes, entropies in bits per byte, shares 0 … 1."""
    return {
        "confidence": 0.95,
        "seed": report.seed,
        "seconds": report.seconds,
        "paths": [_path_json(item) for item in report.paths],
        "total": _path_json(report.total),
        "skipped": [{"path": item.path, "why": item.why} for item in report.skipped],
    }


def _bar(share: float) -> str:
    """What is left of the data; all of it is the whole length."""
    return "#" * max(1, round(BAR * min(1.0, share)))


def rows(item: PathEntropy) -> list[list[str]]:
    """The lines of one path: what it is, its entropy, each algorithm."""
    head = [printable(item.path), format_size(item.bytes)]
    if item.entropy is None:
        return [[*head, "empty", "", "", "", "", ""]]
    ratio = _order0(item)
    bound = "-" if ratio is None else f"{ratio:.2f}"
    least = item.entropy / 8
    found = [[*head, "order-0", f"{item.entropy:.2f}", bound, "", format_size(item.bytes * least), _bar(least)]]
    for algorithm in item.algorithms:
        share = 1 / algorithm.ratio
        within = max(algorithm.ratio - algorithm.ratio_low, algorithm.ratio_high - algorithm.ratio)
        figures = [f"{8 * share:.2f}", f"{algorithm.ratio:.2f}", f"±{within:.2f}" if item.sampled < item.pages else ""]
        found.append(["", "", algorithm.algorithm, *figures, format_size(algorithm.resident), _bar(share)])
    return found


def print_text(report: EntropyReport) -> None:
    """The table, and what was left out."""
    columns = (
        Column("PATH"),
        Column("SIZE", right=True),
        Column("METHOD"),
        Column("BITS/BYTE", right=True),
        Column("RATIO", right=True),
        Column("±", keep=2),
        Column("TAKES", right=True, keep=1),
        Column("", keep=3),
    )
    shown = [*report.paths, *([report.total] if len(report.paths) > 1 else [])]
    lines = [line for item in shown for line in rows(item)]
    print(format_table(columns, lines, terminal_width()))
    drawn = [item for item in report.paths if item.sampled < item.pages]
    if drawn:
        pages = ", ".join(f"{item.sampled} of {item.pages} of {printable(item.path)}" for item in drawn)
        print(f"\nPages measured: {pages}; of the others all.")
    if report.skipped:
        first = report.skipped[0]
        more = f", and {len(report.skipped) - 1} more" if len(report.skipped) > 1 else ""
        print(f"\nLeft out: {printable(first.path)} ({first.why}){more}.")


def run(args: argparse.Namespace) -> int:
    from truezram.engine.measure.entropy import entropy

    line, began = ProgressLine(), time.monotonic()

    def progress(fraction: float, text: str) -> None:
        if time.monotonic() - began > 0.5:
            line.show(f"{format_percent(fraction)} {printable(text)[:60]}")

    try:
        report = entropy(
            args.path,
            args.algorithm,
            recursive=args.recursive,
            limit=args.pages,
            seed=args.seed,
            progress=progress,
        )
    finally:
        line.clear()
    if args.json:
        print_json(NAME, as_json(report))
    else:
        print_text(report)
    return 0
