"""``truezram events``: what happened to devices and the machine, from the same log and by the same detector as the
app's Log page."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from truezram.cli.output import print_json_line
from truezram.engine.errors import UsageError
from truezram.engine.pace import every
from truezram.engine.units import parse_duration

if TYPE_CHECKING:
    from truezram.engine.device.events import Event
    from truezram.engine.model import DeviceSnapshot

NAME = "events"
HELP = "show what happened to devices and the machine: deaths, recoveries, full devices, changed settings"
EXAMPLE = "truezram events --since 2h --follow"
INTERVAL = 1.0
"""Seconds between looks at the devices."""
SHOWN = 10
"""Old events that --follow begins with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="only of this one (default: all, and the machine)")
    parser.add_argument("--follow", action="store_true", help="go on with what happens, until it is interrupted")
    parser.add_argument(
        "--since", metavar="TIME", type=_since, help="only what is newer: 30m, 2h, 1d, or 2026-11-27 10:00"
    )
    parser.epilog = (
        "Events are found by looking at the devices every second, by the app and by --follow, and kept in events.jsonl"
        " in the user's state folder; where several watch, one writes. What happens while nobody watches comes from the"
        " logs of the servers of the devices that are there: settings, other servers that took over, writes that"
        " failed, damage, trouble with the backing file. Only root may read those of ublk devices. With --json, one"
        " document a line."
    )


def _since(text: str) -> float:
    """CLOCK_REALTIME, seconds. Raises `UsageError`."""
    remedy = "Write 30m, 2h, 1d, 2026-11-27, or '2026-11-27 10:00'"
    try:
        return time.time() - parse_duration(text, "time")
    except UsageError:
        pass
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"invalid time {text[:40]!r}", "it is neither a duration nor a date", remedy) from None


def _show(event: Event, as_document: bool) -> None:
    if as_document:
        body = {"time": event.time, "level": event.level, "device": event.device or None, "text": event.text}
        print_json_line(NAME, body)
        return
    when = datetime.fromtimestamp(event.time).isoformat(" ", "seconds")
    print(f"{when}  {event.level:<7}  {event.device or 'machine':<8}  {event.text}", flush=True)


def _following() -> Iterator[Event]:
    """What happens from now on, whoever finds it. If the log cannot be written, what is found here, and a warning."""
    from truezram.engine import paths
    from truezram.engine.device.client import Client
    from truezram.engine.device.event_log import NAME as FILE
    from truezram.engine.device.event_log import EventLog, Tail
    from truezram.engine.device.events import Detector
    from truezram.engine.device.sanity import sane

    path = paths.state_folder() / FILE
    tail, log, detector = Tail(path), EventLog(path), Detector()
    known: dict[str, DeviceSnapshot] = {}
    warned, _ = "", log.is_recorder
    try:
        with Client() as client:
            for _ in every(INTERVAL):
                snapshot = sane(client.snapshot(), known)
                known = {device.name: device for device in snapshot.devices}
                found = detector.feed(snapshot, time.time())
                for event in found:
                    log.found(event)
                if log.problem and log.problem != warned:
                    sys.stderr.write(f"truezram: warning: events are not saved: {log.problem}\n")
                warned = log.problem
                yield from found if log.problem else tail.new()
    finally:
        log.close()


def run(args: argparse.Namespace) -> int:
    from truezram.engine import paths
    from truezram.engine.device import server_log
    from truezram.engine.device.client import Client, candidates
    from truezram.engine.device.event_log import NAME as FILE
    from truezram.engine.device.event_log import EventLog

    names = candidates(args.device) if args.device else None

    def wanted(event: Event) -> bool:
        return (names is None or event.device in names) and (args.since is None or event.time >= args.since)

    known = EventLog(paths.state_folder() / FILE).events
    with Client() as client:
        entries = [entry for entry in client.entries() if names is None or entry.name in names]
    missed, unread = server_log.missed(entries, known)
    if unread:
        why = f"what happened while nobody watched is in {unread[0]}, which only root may read"
        sys.stderr.write(f"truezram: warning: {why}\n")
    old = sorted(filter(wanted, (*known, *missed)), key=lambda event: event.time)
    for event in old[-SHOWN:] if args.follow and args.since is None else old:
        _show(event, args.json)
    for event in _following() if args.follow else ():
        if wanted(event):
            _show(event, args.json)
    return 0
