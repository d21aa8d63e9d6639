"""The transports: how requests come to a device's server, and what its name says of it. One row each; all that depends
on a transport outside of the server asks this table."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transport:
    """One of them."""

    name: str
    """As options have it."""
    prefix: str
    """Of the names of its devices: ``ublkb`` of ``ublkb0``."""
    about: str
    """In a few words, for help and forms."""
    is_disk: bool = True
    """Its devices are block devices, /dev/NAME."""
    no_swap: str = ""
    """Why they cannot be swap; empty: they can."""
    no_enable: str = ""
    """Why they cannot be enabled, to come back after a restart; empty: they can."""
    module: str = ""
    """The kernel's module that they need."""
    one_queue: str = ""
    """Why they have one queue; empty: they may have several."""

    def path(self, number: int) -> str:
        """``/dev/ublkb0``, or ``local:0`` where there is no node."""
        return f"/dev/{self.prefix}{number}" if self.is_disk else f"{self.name}:{number}"


TRANSPORTS = {
    row.name: row
    for row in (
        Transport("ublk", "ublkb", "a block device in /dev, needs root", module="ublk_drv"),
        Transport(
            "nbd",
            "nbd",
            "the same for kernels without ublk, for disks only",
            no_swap="it is an nbd device, and what the kernel's nbd driver sends goes through a socket, which takes"
            " memory that only swapping may free: under pressure it could wait for itself",
            module="nbd",
            one_queue="an nbd device has one: with several, the kernel sends a request that takes long twice",
        ),
        Transport(
            "local",
            "local",
            "no node in /dev, for truezram's own programs",
            is_disk=False,
            no_swap="a local device is not a block device and cannot be swap",
            no_enable="a local device exists only in a user's session",
        ),
    )
}
"""By name, in the order in which they are shown."""

NAME = "|".join(row.prefix for row in TRANSPORTS.values())
"""What names of devices begin with, for a regular expression."""
_NAME = re.compile(rf"({NAME})(\d{{1,7}})", re.ASCII)
ENABLED = {row.prefix: row for row in TRANSPORTS.values() if not row.no_enable}
"""Those whose devices can come back after a restart, by what their names begin with."""


def parse_name(name: str) -> tuple[Transport, int] | None:
    """The transport and the number of ``ublkb0``; None for what no device of ours is called."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return next(row for row in TRANSPORTS.values() if row.prefix == match[1]), int(match[2])
