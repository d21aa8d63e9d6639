"""``truezram create``: makes a device and prints its path."""

from __future__ import annotations

import argparse
import sys

from truezram.cli.output import print_json
from truezram.engine.device.options import TRANSPORTS, CreateOptions
from truezram.engine.errors import UsageError

NAME = "create"
HELP = "make a compressed RAM block device and print its path"
EXAMPLE = "sudo truezram create --size 8G --swap --mem-limit 2G"


def number(text: str) -> int:
    """A whole number, as argparse's ``type``: more is checked later, with the reason."""
    if not text.isascii() or not text.lstrip("+-").isdigit() or len(text) > 12:
        raise UsageError(f"invalid number {text[:40]!r}", "it is not a whole number", "Write digits only")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        required=True,
        metavar="SIZE",
        help="logical size: 512M, 8G, 1.5GiB (powers of 1024; not the RAM it takes)",
    )
    parser.add_argument(
        "--algorithm", metavar="NAME[:LEVEL]", help="codec, with a level if it has levels (default: fast, else lz4)"
    )
    parser.add_argument(
        "--dictionary",
        metavar="FILE",
        help="trained dictionary for zstd, up to 128K, as `truezram train` makes it; it helps, if at all, with"
        " the programs that it was trained on (default: none)",
    )
    parser.add_argument(
        "--dedup",
        action="store_true",
        help="identical pages share one object; can be changed later (set DEVICE dedup=on|off)",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="what is done with idle pages: off, gentle, balanced or dense; can be changed later (set DEVICE"
        " policy=NAME) (default: balanced)",
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--mode",
        metavar="NAME",
        help="low-latency, balanced or max-throughput: whether queues wait awake for requests, which takes CPU; can be"
        " changed later (set DEVICE mode=NAME) (default: balanced)",
    )
    for name, mode in (("high-perf", "low-latency"), ("max-perf", "max-throughput")):
        modes.add_argument(
            f"--{name}", dest="mode", action="store_const", const=mode, help=f"the same as --mode {mode}"
        )
    parser.add_argument(
        "--data-mode",
        metavar="NAME",
        help="auto, user-copy or driver-copy: whether the server or the ublk driver copies the data of requests, which"
        " are of up to 32 KiB then (default: auto, user-copy where the kernel has it)",
    )
    parser.add_argument(
        "--backend",
        choices=("memory", "tiered"),
        default="memory",
        help="memory: everything is in memory, unless --backing is given; tiered: the same as --policy balanced with"
        " --backing, which must be given (default: memory)",
    )
    parser.add_argument(
        "--backing",
        metavar="PATH",
        help="a file, partition or disk that pages are written to which nobody has touched for long, encrypted with a"
        " key that is in memory only; a file that is not there is made, sparse; can be changed later (set DEVICE"
        " backing=PATH|plain:PATH|none) (default: none)",
    )
    parser.add_argument(
        "--backing-limit",
        metavar="SIZE",
        help="use so much of it at most, 1M to 256G (default: all of it; of a new or empty file, the device's size)",
    )
    parser.add_argument("--backing-plain", action="store_true", help="do not encrypt it")
    parser.add_argument("--force", action="store_true", help="take the backing file although there is something on it")
    parser.add_argument("--mem-limit", metavar="SIZE", help="memory limit; writes beyond it fail (default: none)")
    parser.add_argument("--id", type=number, metavar="N", help="number of the device (default: the first free one)")
    parser.add_argument(
        "--queues",
        type=number,
        metavar="N",
        help="I/O queues (default: ublk one for two CPUs, up to 4; local 1; nbd has 1)",
    )
    parser.add_argument(
        "--queue-depth",
        type=number,
        metavar="N",
        help="requests in flight per queue (default: ublk 64, nbd 128, local 16)",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="ublk",
        help="; ".join(f"{row.name}: {row.about}" for row in TRANSPORTS.values()) + " (default: ublk)",
    )
    parser.add_argument("--swap", action="store_true", help="make it swap space and turn that on")
    parser.add_argument(
        "--priority", type=number, metavar="N", help="priority of the swap space, 0 to 32767 (default: 100)"
    )
    parser.add_argument("--fs", choices=("ext4", "xfs", "btrfs"), help="make this filesystem on it")
    parser.add_argument("--mount", metavar="DIR", help="mount the filesystem there (with discard and noatime)")
    parser.add_argument(
        "--enable", action="store_true", help="have it come back after every restart (see enable and disable)"
    )


def options_of(args: argparse.Namespace) -> CreateOptions:
    """What these arguments ask for. Raises `UsageError`."""
    from truezram.engine.device.settings import parse_mem_limit
    from truezram.engine.units import parse_disksize, parse_size

    policy = args.policy
    if args.backend == "tiered":
        if args.backing is None:
            raise UsageError("cannot create a tiered device", "it has no backing file", "Add --backing PATH")
        if policy not in (None, "balanced"):
            why = f"tiered is --policy balanced, and --policy {policy} was given"
            raise UsageError("cannot create a tiered device", why, "Leave --backend out")
        policy = "balanced"
    return CreateOptions(
        size=parse_disksize(args.size),
        algorithm=args.algorithm,
        dictionary=args.dictionary,
        dedup=args.dedup,
        policy=policy,
        mode=args.mode,
        data_mode=args.data_mode,
        backing=args.backing,
        backing_limit=parse_size(args.backing_limit, "--backing-limit") if args.backing_limit is not None else 0,
        backing_plain=args.backing_plain,
        force=args.force,
        mem_limit=parse_mem_limit(args.mem_limit) if args.mem_limit is not None else 0,
        id=args.id,
        queues=args.queues,
        queue_depth=args.queue_depth,
        transport=args.transport,
        swap=args.swap,
        priority=args.priority,
        fs=args.fs,
        mount=args.mount,
        enable=args.enable,
    )


def run(args: argparse.Namespace) -> int:
    options = options_of(args)
    if options.enable:
        from truezram.engine.device.boot import create_enabled
        from truezram.engine.measure.zram_bench import ended_in_order

        with ended_in_order():
            made = create_enabled(options)
    else:
        from truezram.engine.device.create import create

        made = create(options)
    if args.json:
        body = {
            "name": made.name,
            "path": made.path,
            "transport": made.options.transport,
            "id": made.entry.id,
            "disksize": made.options.size,
            "algorithm": made.options.algorithm,
            "dictionary": made.options.dictionary,
            "dedup": made.options.dedup,
            "policy": made.options.policy,
            "mode": made.options.mode,
            "backing": made.options.backing,
            "backing_encrypted": made.options.backing is not None and not made.options.backing_plain,
            "mem_limit": made.options.mem_limit,
            "swap": made.options.swap,
            "priority": made.options.priority,
            "fs": made.options.fs,
            "mount": made.options.mount,
            "enabled": made.options.enable,
            "warnings": list(made.warnings),
        }
        print_json(NAME, body)
    else:
        print(made.path)
        for warning in made.warnings:
            print(f"truezram: warning: {warning}", file=sys.stderr)
    return 0
