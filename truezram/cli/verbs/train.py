"""``truezram train``: trains a dictionary for zstd and measures whether it is worth using."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truezram.cli.output import Column, ProgressLine, format_table, print_json, terminal_width
from truezram.cli.verbs.benchmark import add_pages, check_target
from truezram.cli.verbs.create import number
from truezram.cli.verbs.estimate import printable
from truezram.engine.errors import EXIT_OK, Failed, UsageError
from truezram.engine.units import format_percent, format_size, parse_size

if TYPE_CHECKING:
    from truezram.engine.measure.training import Measured, Trained

NAME = "train"
HELP = "train a dictionary for zstd, and measure its benefit"
EXAMPLE = "truezram train swap.dict"
_SHOWN = 20
_EPILOG = """Trains on two thirds of the pages and measures on the rest. These come from the same programs, so this is
the best case; on other programs' pages a dictionary may do harm. Use it with create --algorithm zstd:L
--dictionary FILE. Memory of processes ends up in the file: keep it as private as those processes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pages = parser.add_mutually_exclusive_group()
    add_pages(pages)
    pages.add_argument("--pid", metavar="PID", action="append", default=[], help="only this process; may be repeated")
    parser.add_argument(
        "--size", default="32K", metavar="SIZE", help="maximum size of the dictionary, 1K to 128K (default: 32K)"
    )
    parser.add_argument(
        "--level", type=number, metavar="L", default=3, help="the zstd level that it is for (default: 3)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("output", metavar="FILE", help="where to write the dictionary")
    parser.epilog = _EPILOG


def verdict(result: Trained) -> str:
    """Whether to use it, in plain words."""
    saved = result.total.saved
    if saved <= 0:
        return "Not worth it: even pages of the same programs take no less memory with it. Use zstd without."
    if not result.is_worth_it:
        return (
            f"Hardly worth it: it saves {format_percent(saved, 1)} on pages of the same programs, and less, if"
            " anything, when they run again."
        )
    losing = [item.name for item in result.sources if item.saved < 0]
    worse = f" Not for: {', '.join(losing[:5])}." if losing else ""
    return (
        f"It saves {format_percent(saved, 1)} on pages of the same programs; expect less when they run again, and a"
        f" loss with others.{worse}"
    )


def _measured_json(item: Measured) -> dict[str, Any]:
    return {
        "name": item.name,
        "pages": item.pages,
        "ratio": round(item.ratio, 4),
        "ratio_with_dictionary": round(item.trained_ratio, 4),
        "saved": round(item.saved, 4),
    }


def as_json(result: Trained, path: Path) -> dict[str, Any]:
    """The document ``truezram.train/1`` without its schema."""
    return {
        "file": str(path),
        "bytes": len(result.data),
        "id": result.id,
        "level": result.level,
        "training_pages": result.training_pages,
        "memory_bytes": result.memory,
        "pays_from_bytes": result.pays_from,
        "worth_it": result.is_worth_it,
        "total": _measured_json(result.total),
        "inputs": [_measured_json(item) for item in result.sources],
        "compress_us": round(result.plain_times.compress, 3),
        "compress_us_with_dictionary": round(result.trained_times.compress, 3),
        "decompress_us": round(result.plain_times.decompress, 3),
        "decompress_us_with_dictionary": round(result.trained_times.decompress, 3),
    }


def print_text(result: Trained, path: Path) -> None:
    """A table by source, the times, and the verdict."""
    columns = [
        Column("PAGES OF"), Column("MEASURED", True, 1), Column("WITHOUT", True), Column("WITH", True),
        Column("SAVED", True),
    ]  # fmt: skip
    shown = [*result.sources[:_SHOWN], *([result.total] if len(result.sources) > 1 else [])]
    rows = [
        [printable(item.name), str(item.pages), f"{item.ratio:.3f}", f"{item.trained_ratio:.3f}",
         format_percent(item.saved, 1)]
        for item in shown
    ]  # fmt: skip
    print(f"{path}: {format_size(len(result.data))}, id {result.id}, trained on {result.training_pages} pages")
    print()
    print(f"zstd:{result.level} on other pages of the same programs, pages by objects:")
    print(format_table(columns, rows, terminal_width()))
    if len(result.sources) > _SHOWN:
        print(f"(and {len(result.sources) - _SHOWN} with fewer pages: --json has them)")
    plain, trained = result.plain_times, result.trained_times
    print()
    print(f"µs a page without and with it: compress {plain.compress:.1f} and {trained.compress:.1f},", end=" ")
    print(f"decompress {plain.decompress:.1f} and {trained.decompress:.1f}.")
    takes = f"A device takes {format_size(result.memory)} for it and its tables"
    pays = "" if result.pays_from is None else f", which it saves on {format_size(result.pays_from)} of such pages"
    print(f"{takes}{pays}.")
    print(verdict(result))


def _write(path: Path, data: bytes, force: bool) -> None:
    from truezram.engine.device import dictionary

    try:
        dictionary.write(path, data, force)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise Failed(f"cannot write {path}", error.strerror or str(error)) from error


def _exists(path: Path) -> UsageError:
    return UsageError(f"cannot write {path}", "it already exists", "Add --force to replace it, or name another file")


def run(args: argparse.Namespace) -> int:
    from truezram.engine.measure import training

    path = Path(args.output)
    size = parse_size(args.size)
    training.check(size, args.level)
    check_target(args.output)
    if path.exists() and not args.force:
        raise _exists(path)
    line = ProgressLine()

    def show(fraction: float, text: str) -> None:
        line.show(f"{format_percent(fraction)} {printable(text)[:70]}")

    def sampling(fraction: float, text: str) -> None:
        show(fraction / 2, text)

    try:
        sources = training.from_files(args.pages) if args.pages else training.from_processes(args.pid, sampling)
        result = training.train(sources, size, args.level, show)
    finally:
        line.clear()
    _write(path, result.data, args.force)
    if args.json:
        print_json(NAME, as_json(result, path))
    else:
        print_text(result, path)
    return EXIT_OK
