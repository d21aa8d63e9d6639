"""Another server takes over a device, with all that is stored: because its server is gone, or in its place.

When a server is gone the kernel keeps the device, and reads and writes wait. Usually the standby takes over by itself
within a second; `recover` is for when that is gone, too. `upgrade` has the installed server take over from one that
runs: first it gets ready, then the other one ends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from truezram.engine import paths
from truezram.engine.device import server
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.stats_page import Identity, is_running, read_head, read_identity
from truezram.engine.errors import Failed, NotFound, TruezramError, Unsupported

STANDBY_PATIENCE = 2.0
"""Seconds that the standby has to take over first."""


def recover(client: Client, name: str) -> bool:
    """As `recover_entry`, for the device a user means by `name`."""
    return recover_entry(client.resolve(name))


def recover_entry(entry: Entry) -> bool:
    """Has a new server take over if the device has none. False: it has one. Raises `Unsupported` for a local device,
    else with the new server's reason; the device is as it was then."""
    if not entry.is_disk:
        raise Unsupported(f"cannot recover {entry.name}", "a local device ends with its server", "")
    deadline = time.monotonic() + STANDBY_PATIENCE
    while True:
        head = read_head(entry.stats)
        if head is None:
            raise NotFound(
                f"cannot recover {entry.name}", "it was never ready", f"Remove it: truezram remove {entry.name}"
            )
        if is_running(head.pid, head.pid_start):
            return False
        if not head.standby or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    try:
        server.recover(entry)
    except TruezramError:
        head = read_head(entry.stats)  # the standby may have been there first, or be on its way
        if head is None or not is_running(head.pid, head.pid_start):
            raise
    return True


def recoverable(client: Client) -> list[Entry]:
    """The disks in the registry, for --all."""
    return [entry for entry in client.entries() if entry.is_disk]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What has become of a device's server."""

    name: str
    before: str
    """Its version."""
    after: str
    replaced: bool
    """False: the server was the installed one already."""


def upgrade(client: Client, name: str, force: bool = False) -> Upgraded:
    """As `upgrade_entry`, for the device a user means by `name`."""
    return upgrade_entry(client.resolve(name), force)


def upgrade_entry(entry: Entry, force: bool = False) -> Upgraded:
    """Has the installed server take over from the one that runs; reads and writes wait meanwhile. If that is the
    installed one already, nothing is done unless `force`. Raises `Unsupported` for a local device, `Failed` if no
    server runs, else with the reason of either server; the device is as it was then, and served."""
    what = f"cannot upgrade {entry.name}"
    if not entry.is_disk:
        raise Unsupported(what, "a local device ends with its server", "")
    now = read_identity(entry.stats)
    if now is None or not is_running(now.pid, now.pid_start):
        raise Failed(what, "its server is gone", f"truezram recover {entry.name} starts the installed one")
    if not force and _is_installed(now):
        return Upgraded(entry.name, now.server_version, now.server_version, False)
    server.upgrade(entry)
    after = read_identity(entry.stats)
    return Upgraded(entry.name, now.server_version, after.server_version if after else "", True)


def _is_installed(running: Identity) -> bool:
    """Whether that process runs the very file that is installed."""
    try:
        return Path(f"/proc/{running.pid}/exe").samefile(paths.server_path())
    except OSError:
        return False
