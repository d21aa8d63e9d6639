"""For all tests.

What is this machine's or this user's is not theirs to see (`alone`): settings, registries, the terminal, the language,
the kernel's own zram, zswap and swap areas. Programs that were installed with this Python (meson, ninja, truezram)
are found, whether or not its environment was activated; a Python that a test starts imports the installed package, not
the source tree that happens to be the current folder (which has no compiled modules); and what a test interrupts is
interrupted, though a shell has its background jobs ignore SIGINT, and theirs after them."""

from __future__ import annotations

import itertools
import os
import signal
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from truezram.engine.machine import procfs, users, zram
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, SwapArea, Zswap

os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath)
os.environ["PYTHONSAFEPATH"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.umask(0o022)

_OF_A_TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "SSH_CONNECTION", "SSH_TTY", "TMUX", "STY")
_OF_A_USER = ("LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LANGUAGE", "XDG_RUNTIME_DIR")
_FOLDERS = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TRUEZRAM_RUN_DIR", "TRUEZRAM_STATE_DIR")
_number = itertools.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: two more than there are cores, as a third of a test's time is waiting."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The test, and the programs that it starts, find no settings, no devices and no journal but their own. To this
    process the machine has neither zram nor zswap nor swap; programs that a test starts do see those of the machine, so
    that a test of them looks for its own device, and not for a whole list."""
    for name in (*_OF_A_TERMINAL, *_OF_A_USER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm-256color")
    nothing = tmp_path_factory.getbasetemp() / "none"
    own = nothing.with_name(f"alone{next(_number)}")  # neither is made: nothing is there
    for name in _FOLDERS:
        monkeypatch.setenv(name, str(own / name.lower()))
    machine, swaps, devices = procfs.machine, procfs.swaps, zram.devices

    def seen(root: Path) -> Path:
        return nothing if root == procfs.ROOT else root

    def machine_seen(root: Path = procfs.ROOT) -> MachineSnapshot:
        found = machine(root)
        return found if root != procfs.ROOT else replace(found, swap_total=0, swap_free=0, zswap=Zswap())

    def devices_seen(
        root: Path = procfs.ROOT, areas: Sequence[SwapArea] | None = None, mounts: users.Mounts | None = None
    ) -> list[DeviceSnapshot]:
        return devices(seen(root), areas, mounts)

    monkeypatch.setattr(procfs, "machine", machine_seen)
    monkeypatch.setattr(procfs, "swaps", lambda root=procfs.ROOT: swaps(seen(root)))
    monkeypatch.setattr(zram, "devices", devices_seen)
