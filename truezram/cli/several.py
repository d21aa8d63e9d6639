"""Verbs that take one device or all of them, ``DEVICE|--all``: the arguments, and going on after a failure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truezram.engine.device.client import Entry


def add_devices(parser: argparse.ArgumentParser, every: str, more: str = "") -> None:
    """The device, or --all: `every` says which those are, `more` what else than a device can be named."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("device", metavar="DEVICE", nargs="?", help=f"0, ublkb0, /dev/ublkb0{more}")
    which.add_argument("--all", action="store_true", help=every)


def each(entries: Iterable[Entry], every: bool, call: Callable[[Entry], None]) -> int:
    """Calls it for each; the exit code. With `every` an error is reported, the first one's exit code is it, and the
    others have their turn; else it is raised."""
    from truezram.engine.errors import TruezramError

    code = 0
    for entry in entries:
        try:
            call(entry)
        except TruezramError as error:
            if not every:
                raise
            sys.stderr.write(f"truezram: {error}\n")
            code = code or error.exit_code
    return code
