"""``truezram estimate``: what the memory of running processes would compress to. Read-only."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from truezram.cli.output import Column, ProgressLine, format_table, print_json, terminal_width
from truezram.engine.errors import UsageError
from truezram.engine.units import format_percent, format_size

if TYPE_CHECKING:
    from truezram.engine.measure.estimate import AlgorithmEstimate, Estimate, GroupEstimate

NAME = "estimate"
HELP = "measure what the memory of running processes would compress to"
EXAMPLE = "truezram estimate --by user"
MAX_PAGES = 1 << 20
_EPILOG = """Copies a sample of the pages that are in memory, compresses the copies with every algorithm, and
extrapolates to all of them, with 95% confidence intervals. Nothing is written, and nothing is brought back from swap.
Without root, only your own processes can be read."""


def count(text: str) -> int:
    try:
        number = int(text) if text.isascii() else 0
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_PAGES:
        raise UsageError(f"invalid number {text[:40]!r}", f"it must be a whole number from 1 to {MAX_PAGES}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--user", metavar="USER", help="only the processes of this user (name or number)")
    whose.add_argument("--cgroup", metavar="PATH", help="only the processes in this cgroup and below")
    whose.add_argument("--pid", metavar="PID", action="append", help="only this process; may be repeated")
    parser.add_argument(
        "--by",
        choices=("process", "user", "cgroup"),
        default="process",
        help="what one line covers (default: process)",
    )
    parser.add_argument(
        "--algorithm",
        metavar="A",
        action="append",
        default=[],
        help="NAME or NAME:LEVEL; may be repeated (default: all)",
    )
    parser.add_argument("--pages", metavar="N", type=count, default=8192, help="pages to sample (default: 8192)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed draws other pages (default: 0)")
    parser.add_argument(
        "--top", metavar="N", type=count, help="print only the N largest lines (default: 20; JSON: all)"
    )
    parser.epilog = _EPILOG


def algorithm_json(item: AlgorithmEstimate) -> dict[str, Any]:
    return asdict(item)


def _group_json(group: GroupEstimate) -> dict[str, Any]:
    return {
        "name": group.name,
        "pid": group.pid,
        "user": group.user,
        "processes": group.processes,
        "bytes": group.bytes,
        "sampled": group.sampled,
        "same_filled": group.same_filled,
        "algorithms": [algorithm_json(item) for item in group.algorithms],
    }


def as_json(result: Estimate, top: int | None = None) -> dict[str, Any]:
    """The document ``truezram.estimate/1``. Sizes in bytes, times in microseconds, shares 0 … 1."""
    return {
        "scope": asdict(result.scope),
        "by": result.by,
        "seed": result.seed,
        "confidence": 0.95,
        "complete": result.complete,
        "seconds": result.seconds,
        "total": _group_json(result.total),
        "groups": [_group_json(group) for group in result.groups[:top]],
        "skipped": [
            {
                "pid": item.process.pid,
                "name": item.process.comm,
                "user": item.process.user,
                "rss_anon": item.process.rss_anon,
                "why": item.why,
            }
            for item in result.skipped
        ],
    }


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _algorithm_table(total: GroupEstimate) -> str:
    columns = [Column("ALGORITHM"), Column("RATIO", True), Column("95% FROM", True), Column("TO", True)]
    columns += [Column("TAKES", True), Column("GAINS", True), Column("CODEC", True)]
    columns += [Column("µs IN", True), Column("µs OUT", True), Column("RAW", True)]
    rows = []
    for item in total.algorithms:
        codec = "-" if item.compression_ratio is None else f"{item.compression_ratio:.2f}"
        interval = [f"{item.ratio:.2f}", f"{item.ratio_low:.2f}", f"{item.ratio_high:.2f}"]
        sizes = [format_size(item.resident), format_size(item.gained), codec]
        times = [_us(item.compress_us), _us(item.decompress_us), format_percent(item.incompressible, 1)]
        rows.append([item.algorithm, *interval, *sizes, *times])
    return format_table(columns, rows)


def _group_table(result: Estimate, top: int) -> str:
    names = [item.algorithm for item in result.total.algorithms]
    titles = {"process": ("PID", "USER", "COMMAND"), "user": ("USER", "PROCESSES"), "cgroup": ("CGROUP", "PROCESSES")}
    columns = [Column(title, title in ("PID", "PROCESSES")) for title in titles[result.by]]
    columns += [Column("MEMORY", True), Column("SAMPLED", True, 3), Column("SAME", True, 2)]
    columns += [Column(f"{name} ±", True, 1 if number else 0) for number, name in enumerate(names)]
    columns += [Column("GAINS", True, 1), Column("RAW", True, 1)]
    rows = []
    for group in result.groups[:top]:
        head = [group.name, str(group.processes)]
        if result.by == "process":
            head = [str(group.pid), group.user, printable(group.name)]
        row = [*head, format_size(group.bytes), str(group.sampled), format_percent(group.same_filled)]
        for item in group.algorithms:
            row.append(f"{item.ratio:.2f} ±{max(item.ratio - item.ratio_low, item.ratio_high - item.ratio):.2f}")
        best = max(group.algorithms, key=lambda item: item.gained, default=None)
        row += ["-"] * (len(names) - len(group.algorithms))
        row += [format_size(best.gained), format_percent(best.incompressible)] if best else ["-", "-"]
        rows.append(row)
    text = format_table(columns, rows, terminal_width())
    left = len(result.groups) - len(rows)
    return text + (f"\n(and {left} smaller ones: --top {len(result.groups)} shows them)" if left > 0 else "")


def printable(text: str) -> str:
    """A process may call itself anything: control characters become ``?``."""
    return "".join(char if char.isprintable() else "?" for char in text)


def print_text(result: Estimate, top: int) -> None:
    """Two tables and what could not be read."""
    total = result.total
    many = f"{total.processes} processes" if total.processes != 1 else "1 process"
    print(
        f"{format_size(total.bytes)} of memory of {many}; {total.sampled} pages sampled,"
        f" {format_percent(total.same_filled, 1)} of them same-filled; {result.seconds:.1f} s"
    )
    print()
    print(_algorithm_table(total))
    print()
    print(_group_table(result, top))
    print()
    print("RATIO counts everything that a device would take, CODEC the compressed pages alone; TAKES and GAINS are for")
    print("all of this memory; µs are per page on one core; RAW is the share of pages that do not shrink.")
    if result.skipped:
        memory = sum(item.process.rss_anon for item in result.skipped)
        reasons = sorted({item.why for item in result.skipped})
        print(f"Left out: {len(result.skipped)} processes with {format_size(memory)} ({'; '.join(reasons)}).")
    if not result.complete:
        print("The time ran out before everything was measured.")


def run(args: argparse.Namespace) -> int:
    from truezram.engine.measure.estimate import Scope, estimate

    scope = Scope()
    for kind in ("user", "cgroup"):
        if getattr(args, kind) is not None:
            scope = Scope(kind, getattr(args, kind))
    if args.pid:
        scope = Scope("pid", ",".join(args.pid))
    line, began = ProgressLine(), time.monotonic()

    def progress(fraction: float, text: str) -> None:
        if time.monotonic() - began > 0.5:
            line.show(f"{format_percent(fraction)} {printable(text)[:60]}")

    try:
        result = estimate(scope, args.algorithm, by=args.by, limit=args.pages, seed=args.seed, progress=progress)
    finally:
        line.clear()
    if args.json:
        print_json(NAME, as_json(result, args.top))
    else:
        print_text(result, args.top or 20)
    return 0
