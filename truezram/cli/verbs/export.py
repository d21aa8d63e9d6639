"""``truezram export``: metrics of devices, swap and zswap for Prometheus."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from truezram.cli.output import print_json

NAME = "export"
HELP = "give Prometheus the figures of devices, swap and zswap: over HTTP, in a file, or on standard output"
EXAMPLE = "truezram export --listen 127.0.0.1:9101"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen", metavar="[HOST:]PORT", help="serve them at http://HOST:PORT/metrics until it is interrupted"
    )
    where.add_argument(
        "--textfile",
        metavar="PATH",
        type=Path,
        help="write them to this file, replaced as a whole, for node_exporter's textfile collector (NAME.prom)",
    )
    parser.epilog = (
        "Without either, they are printed once; with --json as a document. HOST is 127.0.0.1 if it is left out: whoever"
        " can reach the address can read the figures. Names follow node_exporter's conventions; docs/metrics.md has"
        " them all, and a dashboard for Grafana."
    )


def _wait() -> None:
    """Until an interrupt. SIGTERM, with which service managers stop it, is an end in order, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def _print(as_document: bool) -> None:
    if not as_document:
        from truezram.engine.device.exporter import text

        sys.stdout.write(text())
        return
    from truezram.engine.device.client import Client
    from truezram.engine.device.metrics import families

    with Client() as client:
        found = families(client.snapshot(queues=False))
    shown = [
        {
            "name": family.name,
            "type": family.type,
            "help": family.about,
            "samples": [{"labels": dict(labels), "value": value} for labels, value in family.samples],
            "buckets": [
                {"labels": dict(labels), "counts": [[None if b == float("inf") else b, n] for b, n in counts]}
                for labels, counts in family.buckets
            ],
        }
        for family in found
    ]
    print_json(NAME, {"metrics": shown})


def run(args: argparse.Namespace) -> int:
    if args.listen is not None:
        from truezram.engine.device.exporter import parse_address, serving

        host, port = parse_address(args.listen)
        with serving(host, port) as port:
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
            if args.json:
                print_json(NAME, {"url": url})
            else:
                print(url)
            sys.stdout.flush()
            _wait()
    elif args.textfile is not None:
        from truezram.engine.device.exporter import write

        size = write(args.textfile)
        if args.json:
            print_json(NAME, {"path": str(args.textfile), "bytes": size})
    else:
        _print(args.json)
    return 0
