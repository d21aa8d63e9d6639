"""``truezram benchmark``: ``codec``, the page codecs on this machine, compared with libraries and kernel zram;
``store``, the store compared with kernel zram, memory and speed; ``tiers``, what idle pages take once they are
compressed once more, and what reading them costs; ``device``, whole devices under real I/O, beside the floor."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truezram.cli.output import Column, ProgressLine, format_table, print_json, terminal_width
from truezram.cli.verbs.create import number
from truezram.cli.verbs.demo import seconds
from truezram.engine.errors import EXIT_OK, Failed, UsageError
from truezram.engine.units import parse_disksize, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from truezram.engine.measure.compare import Comparison
    from truezram.engine.measure.device_results import DeviceProgress
    from truezram.engine.measure.html_page import Section
    from truezram.engine.measure.results import Progress
    from truezram.engine.measure.store_results import StoreProgress
    from truezram.engine.measure.tiers_results import TiersProgress

NAME = "benchmark"
HELP = "measure page codecs, the store, its tiers or whole devices on this machine, compared with libraries and zram"
EXAMPLE = "truezram benchmark codec --html report.html"


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


def _add_results(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--json", dest="json_file", metavar="FILE|-", help="write the results as JSON; - for standard output, alone"
    )
    to.add_argument("--html", metavar="FILE", help="write the results as one HTML page with charts, for a browser")
    to.add_argument(
        "--compare",
        metavar="OLD.json",
        help="show the ratio of each figure to that of an earlier run, a file that --json wrote, and what is within"
        " noise",
    )


def _add_codec(codec: argparse.ArgumentParser) -> None:
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


def _add_store(store: argparse.ArgumentParser) -> None:
    store.add_argument(
        "--size",
        metavar="SIZE",
        help="how much to store in each; the pages are repeated to fill it (default: 512M, or what memory allows)",
    )
    store.add_argument(
        "--algorithm",
        action="append",
        default=[],
        metavar="NAME[:LEVEL]",
        help="an algorithm of truezram; may be given again (default: all)",
    )
    store.add_argument(
        "--threads",
        action="append",
        default=[],
        type=number,
        metavar="N",
        help="threads that write and read at the same time, 1 to 64; may be given again (default: 1)",
    )
    store.add_argument(
        "--against",
        action="append",
        metavar="LIST",
        help="kernel zram with these compressors, zram[:COMPRESSOR], separated by commas, or none; figures are compared"
        " with the first; a zram device is made for each and removed afterwards, which needs root and the module"
        " (default: zram:lz4,zram:zstd,zram:lzo-rle, or those that can be measured)",
    )
    store.add_argument(
        "--rounds", type=number, metavar="N", help="rounds of overwriting and reading all pages, 1 to 10 (default: 5)"
    )
    store.epilog = (
        "All stores and devices exist at the same time and take turns. Each is filled, overwritten ten times, and"
        " 70 % of it discarded; memory is read off after each step, and every page is read and compared with what was"
        " written. Needs memory for the pages and for all stores and devices. If zram was asked for by name and cannot"
        " be measured, nothing is, and the exit code is 3; if it was not, the rest is measured, and the results say"
        " what was left out and why. An interrupt (exit code 130) leaves no device and no memory behind."
    )


def _add_tiers(tiers: argparse.ArgumentParser) -> None:
    tiers.add_argument(
        "--algorithm",
        metavar="NAME[:LEVEL]",
        help="what pages are written with (default: that of a new device)",
    )
    tiers.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="hot, dense, cold: everything is; mix: 20, 30 and 50 %% are; may be given again; hot is always measured"
        " (default: all)",
    )
    tiers.add_argument(
        "--against",
        action="append",
        metavar="LIST",
        help="kernel zram with these compressors, zram[:COMPRESSOR], separated by commas, or none; memory is compared"
        " with the first; needs root and the module (default: zram:zstd,zram:lz4; what cannot be measured is left out,"
        " and the results say why)",
    )
    tiers.add_argument(
        "--rounds", type=number, metavar="N", help="rounds of reading hot pages of the mix, 1 to 1000 (default: 9)"
    )
    tiers.epilog = (
        "Local devices are made for it and removed afterwards, which takes no root, and about three minutes, mostly of"
        " waiting. Pages grow old by a faster clock, a policy works on them, memory is read off, and every page is"
        " read back, timed and compared. Needs memory for the pages and for two devices. Exit codes: 1 what was read"
        " differs, or a device failed; 2 a wrong option; 3 there is no libzstd, or no server; 130 interrupted. An"
        " interrupt leaves no device behind. Example: truezram benchmark tiers --pages samples/ --against zram:zstd"
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    return [number(word) for word in _words(text)]


def _sizes(text: str) -> list[int]:
    return [parse_size(word, "block size") for word in _words(text)]


def _add_device(device: argparse.ArgumentParser) -> None:
    def add_list(name: str, parse: Callable[[str], Any], help: str) -> None:
        device.add_argument(name, action="extend", default=[], type=parse, metavar="LIST", help=help)

    device.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="a block device that is there, which is only read; without it, devices are made and removed afterwards",
    )
    device.add_argument(
        "--algorithm",
        action="append",
        default=[],
        metavar="NAME[:LEVEL]",
        help="an algorithm of truezram; may be given again (default: that of a new device)",
    )
    device.add_argument(
        "--against",
        action="append",
        metavar="LIST",
        help="baselines, separated by commas: zram[:COMPRESSOR]; null, a ublk device of our own server that answers"
        " without a store, the floor; nullblk, the kernel's null_blk; or none (default: null,zram:lz4,zram:zstd, or"
        " those that can be measured)",
    )
    add_list(
        "--workload",
        _words,
        "randread, randwrite, read, write, mixed (70 %% reads), swap: a program that lives in swap (default:"
        " randread,randwrite,mixed; of PATH: randread,read)",
    )
    add_list("--block-size", _sizes, "bytes of a request, multiples of 4096 up to 1M (default: 4K)")
    add_list("--depth", _numbers, "requests in flight for each job, 1 to 1024 (default: 1,32)")
    add_list("--jobs", _numbers, "threads that send requests, 1 to 64 (default: 1)")
    add_list("--mode", _words, "modes of our devices: balanced, low-latency, max-throughput (default: balanced)")
    add_list(
        "--data-mode",
        _words,
        "data modes of our devices and of null: auto, user-copy, driver-copy (default: auto)",
    )
    add_list("--queues", _numbers, "queues of our devices and of null (default: that of a new device)")
    device.add_argument(
        "--size", metavar="SIZE", help="of each device that is made (default: 256M, or what memory allows)"
    )
    device.add_argument(
        "--runtime", type=seconds, metavar="S", help="seconds for each load on each device (default: 2)"
    )
    device.add_argument("--rounds", type=number, metavar="N", help="rounds that these are divided into (default: 5)")
    device.add_argument("--fio", action="store_true", help="do the loads that only read once more with fio")
    device.add_argument(
        "--destructive",
        "--force",
        action="store_true",
        help="PATH may be overwritten, unless something uses it: what is on it is lost",
    )
    device.epilog = (
        "Needs root, ublk for devices of ours and null, the module zram for zram. All devices exist at the same time,"
        " hold the same pages and take turns; every page that is read is compared with what was written. swap makes"
        " each device in turn the first swap area. A baseline that was asked for by name and cannot be measured is an"
        " error (exit code 3); others are left out, and the results say why. Exit codes: 1 what was read differs, or a"
        " device failed; 2 a wrong option; 3 not permitted, or no ublk; 4 PATH is in use; 130 interrupted. An interrupt"
        " leaves no device and no swap behind. Example: truezram benchmark device --algorithm fast --against null"
        " --workload randread --depth 1,32 --html report.html"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=type(parser))
    for name, text, add in (
        ("codec", "measure the page codecs: ratio and speed", _add_codec),
        ("store", "measure the store: pages in the same memory, and speed, compared with kernel zram", _add_store),
        ("tiers", "measure what idle pages take and cost: hot, dense, in groups, and a mix", _add_tiers),
        ("device", "measure whole devices under real I/O, ours beside kernel zram and the floor", _add_device),
    ):
        kind = kinds.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_pages(kind)
        add(kind)
        _add_results(kind)


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
    from truezram.engine.measure import compare

    for path in (args.html, args.json_file if args.json_file != "-" else None):
        if path is not None:
            check_target(path)
    old = None if args.compare is None else compare.read(args.compare, args.kind)
    body, html, text = KINDS[args.kind](args)
    found: Comparison | None = None
    if old is not None:
        found = compare.compare(args.compare, old, body)
        body["compare"] = compare.to_json(found)
    if args.json_file not in (None, "-"):
        document = {"schema": f"truezram.{NAME}/1", **body}
        _write(args.json_file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if args.html is not None:
        _write(args.html, html([compare.section(found)] if found else []))
    if args.json or args.json_file == "-":
        print_json(NAME, body)
    else:
        print("\n".join([text, *(["", _compared(found)] if found else [])]))
    return EXIT_OK


def _compared(found: Comparison) -> str:
    from truezram.engine.measure import compare

    columns = [Column(title, right=index in (2, 3, 4)) for index, title in enumerate(compare.TITLES)]
    table = format_table(columns, compare.rows(found), terminal_width())
    return "\n".join([*([table, ""] if found.differences else []), *compare.about(found)])


Results = tuple[dict[str, Any], "Callable[[Sequence[Section]], str]", str]
"""The results as a JSON document, what makes an HTML page of them and of more sections, and text."""


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Progress | StoreProgress | TiersProgress | DeviceProgress], None]]:
    """A line that shows the steps of a benchmark, and is gone afterwards."""
    line = ProgressLine()
    try:
        yield lambda step: line.show(f"{step.fraction:4.0%}  {step.text}")
    finally:
        line.clear()


def _codec(args: argparse.Namespace) -> Results:
    from truezram.engine.measure import benchmark, report

    with _progress() as show:
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
    return (
        report.to_json(found),
        partial(report.to_html, found),
        report.to_text(found, terminal_width(), _speaks_unicode()),
    )


def _results(report: Any, found: Any, fields: Sequence[Any]) -> Results:
    """What a module of reports makes of a measurement; `fields`: the columns of its table."""
    columns = [Column(item.title, item.right, item.keep) for item in fields]
    table = format_table(columns, report.rows(found), terminal_width())
    text = "\n".join([table, "", *report.about(found)])
    return report.to_json(found), partial(report.to_html, found), text


def _store(args: argparse.Namespace) -> Results:
    from truezram.engine.measure import store_bench, store_report

    with _progress() as show:
        found = store_bench.run(
            args.pages,
            args.algorithm,
            args.against,
            size=None if args.size is None else parse_disksize(args.size),
            threads=args.threads,
            rounds=store_bench.DEFAULT_ROUNDS if args.rounds is None else args.rounds,
            progress=show,
        )
    return _results(store_report, found, store_report.FIELDS)


def _tiers(args: argparse.Namespace) -> Results:
    from truezram.engine.measure import tiers_bench, tiers_report

    with _progress() as show:
        found = tiers_bench.run(
            args.pages,
            args.against,
            algorithm=args.algorithm,
            scenarios=args.scenario,
            rounds=tiers_bench.DEFAULT_ROUNDS if args.rounds is None else args.rounds,
            progress=show,
        )
    return _results(tiers_report, found, tiers_report.fields(found))


def _device(args: argparse.Namespace) -> Results:
    from truezram.engine.measure import device_bench, device_report

    with _progress() as show:
        found = device_bench.run(
            args.pages,
            args.algorithm,
            args.against,
            path=args.path,
            destructive=args.destructive,
            workloads=args.workload,
            blocks=args.block_size,
            depths=args.depth,
            jobs=args.jobs,
            queues=args.queues,
            modes=args.mode,
            data_modes=args.data_mode,
            size=None if args.size is None else parse_disksize(args.size),
            runtime=device_bench.DEFAULT_RUNTIME if args.runtime is None else args.runtime,
            rounds=device_bench.DEFAULT_ROUNDS if args.rounds is None else args.rounds,
            fio=args.fio,
            progress=show,
        )
    return _results(device_report, found, device_report.fields(found))


KINDS: dict[str, Callable[[argparse.Namespace], Results]] = {
    "codec": _codec,
    "store": _store,
    "tiers": _tiers,
    "device": _device,
}
