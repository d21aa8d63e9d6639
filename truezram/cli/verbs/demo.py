"""``truezram demo``: a device at work. Real pages of running processes are copied into it and back, and verified.

On a terminal the app shows it, and quitting the app ends it; elsewhere it runs for some seconds and prints the
result. The device is the demo's own and goes with it, unless ``--keep`` or ``--device`` says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from truezram.cli.output import ProgressLine, has_screen, print_json, terminal_width
from truezram.cli.verbs import list_
from truezram.cli.verbs.create import number
from truezram.engine.device.options import TRANSPORTS
from truezram.engine.errors import Busy, Failed, TruezramError, UsageError
from truezram.engine.units import format_count, format_rate, format_size, parse_disksize

if TYPE_CHECKING:
    from truezram.engine.device.client import Entry
    from truezram.engine.measure.load import Counts
    from truezram.engine.model import DeviceSnapshot

NAME = "demo"
HELP = "make a device and put real load on it: pages of running processes, in and out, verified"
EXAMPLE = "truezram demo --seconds 10"
SECONDS = 10.0
MAX_SECONDS = 86400.0
DEFAULT_SIZE = 256 << 20
STOP_TIMEOUT = 60.0


def seconds(text: str) -> float:
    """A duration as argparse's ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= MAX_SECONDS:
        raise UsageError(f"invalid duration {text[:40]!r}", f"it is not between 0 and {MAX_SECONDS:.0f} seconds")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", metavar="SIZE", help="size of the device (default: 256M, or what memory allows)")
    parser.add_argument("--algorithm", metavar="NAME[:LEVEL]", help="codec (default: fast, else lz4)")
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        help="ublk, nbd: a block device, needs root; local: within truezram's own programs (default: ublk where"
        " possible)",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="use this device, which must be empty, instead of a new one; it is kept"
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the device at the end")
    parser.add_argument(
        "--threads", type=number, default=2, metavar="N", help="threads that send requests (default: 2)"
    )
    parser.add_argument("--seed", type=number, default=0, metavar="N", help="seed of the random order (default: 0)")
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help="run for S seconds without the app (default off a terminal: 10)"
    )


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.threads <= 64:
        raise UsageError("cannot run the demo", f"{args.threads} threads were asked for", "Choose 1 to 64")
    if args.device is not None and (args.size or args.algorithm or args.transport):
        raise UsageError(
            "cannot run the demo", "--device takes no --size, --algorithm or --transport", "Leave them out"
        )
    # The device goes with the demo, however that ends: a closed terminal or a kill is an interrupt, too.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    in_app = has_screen() and not args.no_tui and not args.json and args.seconds is None
    entry, why_local = _device(args)
    if why_local and not args.json:
        print(f"Transport `local`, a device for truezram's own programs without a node in /dev: {why_local}")
    keep = args.keep or args.device is not None
    try:
        code = _in_app(args, entry) if in_app else _plain(args, entry, why_local)
    except BaseException:
        if not keep:
            with contextlib.suppress(TruezramError):
                _remove(entry)
        raise
    if not keep:
        _remove(entry)
    if not args.json:
        print(f"{entry.name} was {'kept: truezram remove ' + entry.name if keep else 'removed'}")
    return code


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _device(args: argparse.Namespace) -> tuple[Entry, str]:
    """The device to work on, and why it is a local one ("" when it is not, or when that was asked for)."""
    from truezram.engine.device.client import Client
    from truezram.engine.device.create import CreateOptions, create, need_ublk
    from truezram.engine.machine.procfs import machine

    if args.device is not None:
        with Client() as client:
            entry = client.resolve(args.device)
            snapshot = client.device(entry, machine().swaps)
        if snapshot.state != "live":
            raise Failed(f"cannot use {entry.name}", f"it is {snapshot.state}", "See `truezram list`")
        if snapshot.orig_data_size or snapshot.swap_priority is not None or snapshot.mountpoints:
            why = f"it holds {format_size(snapshot.orig_data_size)} of data, which the demo would overwrite"
            raise Busy(f"cannot use {entry.name}", why, "Leave --device out: the demo then makes its own")
        return entry, ""
    transport, why = args.transport, ""
    if transport is None:
        transport = "ublk"
        try:
            need_ublk()
        except TruezramError as error:
            transport, why = "local", f"{error.why}." if error.why else str(error)
    if args.size:
        size = parse_disksize(args.size)
    else:
        size = max(16 << 20, min(DEFAULT_SIZE, machine().mem_available // 4 // 4096 * 4096))
    return create(CreateOptions(size=size, algorithm=args.algorithm, transport=transport)).entry, why


def _remove(entry: Entry) -> None:
    from truezram.engine.device.removal import remove_entry

    remove_entry(entry)


def _plain(args: argparse.Namespace, entry: Entry, why_local: str) -> int:
    """Without the app: runs for `duration` seconds, then prints the table and the result."""
    from truezram.engine.measure.load import open_device, run_load, sample

    line = ProgressLine()
    line.show("sampling pages of running processes")
    data, processes = sample(seed=args.seed)
    duration = SECONDS if args.seconds is None else args.seconds

    def progress(counts: Counts) -> None:
        line.show(f"{counts.seconds:.0f} of {duration:.0f} s: {_summary(counts)}")

    device = open_device(entry)
    try:
        counts = run_load(device, data, seconds=duration, threads=args.threads, seed=args.seed, progress=progress)
    finally:
        line.clear()
        device.close()
    return _result(args, counts, _snapshot(entry), why_local, len(data) // 4096, processes)


def _snapshot(entry: Entry) -> DeviceSnapshot:
    from truezram.engine.device.client import Client

    with Client() as client:
        return client.device(entry)


def _result(
    args: argparse.Namespace, counts: Counts, device: DeviceSnapshot, why_local: str, pages: int, processes: int
) -> int:
    if args.json:
        body: dict[str, Any] = {
            "transport": device.transport,
            "why_local": why_local,
            "sampled_pages": pages,
            "processes": processes,
            "device": list_.as_json(device),
            "result": asdict(counts),
            "verified": counts.good,
        }
        print_json(NAME, body)
    else:
        print(
            f"{pages} pages of {processes} processes, copied in and out in random order for {counts.seconds:.0f} s:\n"
        )
        print(list_.table([device], terminal_width()), end="\n\n")
        print(_summary(counts))
    if counts.good:
        return 0
    raise Failed(
        "verification failed",
        f"{counts.wrong_pages} wrong and {counts.pages_verified} right pages, {counts.failed_requests} failed requests"
        + (f" ({counts.first_wrong})" if counts.first_wrong else ""),
        "Please report it, with the output of `truezram stat` and `truezram doctor`",
    )


def _summary(counts: Counts) -> str:
    read, written = (n * 4096 / max(counts.seconds, 0.001) for n in (counts.pages_read, counts.pages_written))
    text = f"read {format_rate(read)}, written {format_rate(written)};"
    text += f" {format_count(counts.pages_verified)} pages verified, {counts.wrong_pages} wrong"
    if counts.refused_writes:
        text += f", {counts.refused_writes} writes refused (mem_limit)"
    return text


def _in_app(args: argparse.Namespace, entry: Entry) -> int:
    """With the app: the load is a process of its own, so that the app stays responsive."""
    from truezram.cli.main import run_app
    from truezram.engine.measure.load import Counts

    # -P: without the current folder, which may be a source tree.
    load = subprocess.Popen(
        [sys.executable, "-P", "-m", "truezram.engine.measure.load", entry.name, str(args.threads), str(args.seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(log := os.memfd_create("truezram-load", os.MFD_CLOEXEC)),
        start_new_session=True,
    )
    last: dict[str, Any] = {}
    collector = _collect(load, last)
    try:
        run_app()
    finally:
        assert load.stdin is not None
        with contextlib.suppress(OSError):
            load.stdin.close()
        try:
            load.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            load.kill()
            load.wait()
        collector.join(5)
    done = last.pop("done", False)
    if not done:
        said = os.pread(log, 4096, max(0, os.fstat(log).st_size - 4096)).decode(errors="replace").strip()
        reason = said.splitlines()[-1] if said else f"it ended with {load.returncode}"
        raise Failed("the load ended early", reason, "Try `truezram demo --seconds 10`")
    pages, processes = last.pop("sampled_pages"), last.pop("processes")
    return _result(args, Counts(**last), _snapshot(entry), "", pages, processes)


def _collect(load: subprocess.Popen[bytes], last: dict[str, Any]) -> Any:
    """Keeps the newest report of the load in `last`."""
    import threading

    def read() -> None:
        assert load.stdout is not None
        for text in load.stdout:
            with contextlib.suppress(ValueError):
                last.update(json.loads(text))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
