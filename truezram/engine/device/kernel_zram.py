"""Kernel zram as swap: made, taken back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from truezram.engine.device import swap
from truezram.engine.device.config import names, number
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import Busy, Failed, TruezramError, Unsupported
from truezram.engine.files import error_of
from truezram.engine.machine import procfs, users

SYS = Path("/sys")
_CONTROL = "class/zram-control"
_BUSY_RETRIES = 5.0


def commands(options: CreateOptions, name: str) -> list[str]:
    """What `start` does, as commands of a shell."""
    lines = ["modprobe zram num_devices=0", f"cat /sys/{_CONTROL}/hot_add"]
    settings = {"comp_algorithm": options.algorithm, "disksize": options.size, "mem_limit": options.mem_limit}
    lines += [f"echo {value} > /sys/block/{name}/{key}" for key, value in settings.items() if value]
    priority = swap.DEFAULT_PRIORITY if options.priority is None else options.priority
    return [*lines, f"mkswap /dev/{name}", f"swapon --discard --priority {priority} /dev/{name}"]


def is_on(name: str) -> bool:
    """Whether it is swap."""
    return bool(users.swap_areas(name))


def free_number() -> int:
    """The lowest number that no device in use and no file has."""
    taken = {path.name for path in (SYS / "block").glob("zram*") if procfs.read_int(path / "disksize")}
    taken |= set(names())
    return next(n for n in range(len(taken) + 1) if f"zram{n}" not in taken)


def start(name: str, options: CreateOptions) -> None:
    """Makes it and turns it on; returns at once if it is on already. Raises `Busy`: it is used for something else;
    `Unsupported`, `Failed`, with nothing left behind."""
    if is_on(name):
        return
    what = f"cannot make {name}"
    folder = SYS / "block" / name
    _need(what, name)
    if procfs.read_int(folder / "disksize"):
        raise Busy(what, "there is one, which is not swap", f"Remove it: sudo zramctl --reset /dev/{name}")
    try:
        if options.algorithm is not None:
            _write(folder / "comp_algorithm", options.algorithm.replace(":", " level="))
        _write(folder / "disksize", str(options.size))
        if options.mem_limit:
            _write(folder / "mem_limit", str(options.mem_limit))
        swap.node_ready(f"/dev/{name}")
        swap.enable(f"/dev/{name}", swap.DEFAULT_PRIORITY if options.priority is None else options.priority)
    except BaseException:
        _reset(folder)
        raise


def stop(name: str, progress: swap.Progress | None = None) -> None:
    """swapoff, then gives all of its memory back; nothing if it is not there. Raises `Busy`, `Failed`: it is still
    swap."""
    for area in users.swap_areas(name):
        fits, available = swap.fits(area.used)
        if not fits:
            why = f"{area.used >> 20} MiB are swapped out, and {available >> 20} MiB of memory are available"
            raise Busy(f"cannot remove {name}", why, "Close programs to free memory, then try again")
        swap.disable(area, progress=progress)
    folder = SYS / "block" / name
    if folder.is_dir():
        try:
            _retry(folder / "reset", "1")
        except OSError as error:
            raise error_of(f"cannot reset {name}", error) from None


def _need(what: str, name: str) -> None:
    """The module, and devices up to that number."""
    control = SYS / _CONTROL / "hot_add"
    if not control.exists():
        done = subprocess.run(
            [swap.tool("modprobe"), "zram", "num_devices=0"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise Unsupported(what, said or "modprobe zram failed", "Install the kernel's extra modules")
    while not (SYS / "block" / name).is_dir():
        made = procfs.read_int(control)
        if made is None or made > number(name):
            raise Failed(what, "the kernel did not make a device of that number", "See the kernel log (dmesg)")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        known = procfs.read_text(path) or ""
        raise Failed(
            f"cannot write {text} to {path}", error.strerror or "", f"It has: {known}" if known else ""
        ) from None


def _retry(path: Path, text: str) -> None:
    """udev may hold the device for a moment."""
    deadline = time.monotonic() + _BUSY_RETRIES
    while True:
        try:
            path.write_text(text, encoding="ascii")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _reset(folder: Path) -> None:
    """What goes wrong here must not hide why."""
    try:
        for area in users.swap_areas(folder.name):
            swap.disable(area)
        _retry(folder / "reset", "1")
    except (OSError, TruezramError):
        pass
