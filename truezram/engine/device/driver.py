"""Loading the drivers that devices need."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from truezram.engine.device import swap
from truezram.engine.errors import Unsupported

_PATIENCE = 20
_APPEARS = 2.0
"""Seconds after modprobe has ended in which what it brings appears."""


def load(name: str, there: Callable[[], bool]) -> str | None:
    """Loads a module unless what it brings is `there` already. None: it is; else why not, as far as that is known."""
    if there():
        return None
    said, loaded = "", False
    try:
        done = subprocess.run(
            [swap.tool("modprobe"), name], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
        said, loaded = done.stderr.decode(errors="replace").strip(), done.returncode == 0
    except Unsupported:
        said = "modprobe is not installed"
    except subprocess.TimeoutExpired:
        said = f"modprobe {name} did not end within {_PATIENCE} s"
    deadline = time.monotonic() + _APPEARS
    while not there():
        if not loaded or time.monotonic() > deadline:
            return said
        time.sleep(0.05)
    return None
