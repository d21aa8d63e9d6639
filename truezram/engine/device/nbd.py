"""The kernel's nbd driver, for disks where there is no ublk (native/transport/nbd.c; for users: docs/nbd.md)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from truezram.engine.device import driver
from truezram.engine.errors import PermissionDenied, Unsupported
from truezram.engine.machine import modules
from truezram.engine.transports import TRANSPORTS

MODULE = TRANSPORTS["nbd"].module
_LOADED = Path("/sys/module") / MODULE


def is_taken(number: int) -> bool:
    """Whether /dev/nbdN is connected, by whomever."""
    return Path(f"/sys/block/nbd{number}/pid").exists()


def may_be_had() -> bool:
    """Whether this kernel has the driver, loaded or not."""
    return bool(modules.where(MODULE, platform.release()))


def need() -> None:
    """Returns when nbd devices can be made; loads the module if it is missing. Raises with the remedy."""
    what = "cannot create an nbd device"
    if os.geteuid() != 0:
        remedy = "Run it with sudo, or make a device without a node in /dev: --transport local"
        raise PermissionDenied(what, "only root may make one", remedy)
    if (said := driver.load(MODULE, _LOADED.is_dir)) is None:
        return
    why = f"kernel {platform.release()} has no nbd driver" + (f" ({said})" if said else "")
    raise Unsupported(what, why, "Use a kernel with CONFIG_BLK_DEV_NBD (modprobe nbd), or --transport local")
