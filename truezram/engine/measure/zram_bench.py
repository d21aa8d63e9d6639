"""Kernel zram as a baseline of `benchmark codec` (and the devices for `benchmark store`): creates a device, writes and
reads it directly, and removes it.

zram's compressors cannot be called from outside the kernel, so the whole device is timed: 256 KiB requests with
O_DIRECT, which pass the block layer and are cut into pages by zram. That adds zram's store and a part of the block
layer to the codec; users of zram pay for both. Every page is verified. Needs root and the zram module; other zram
devices are not touched.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truezram.engine.errors import Failed, Unsupported
from truezram.engine.machine import procfs
from truezram.engine.measure.results import TOTAL, Input, Progress, ProgressCallback, Report, Result, Speed
from truezram.engine.units import PAGE

CONTROL = Path("/sys/class/zram-control")
REQUEST = 64 * PAGE
MAX_ROUNDS = 5
SHARE = 0.9
"""Share of the progress before zram's turn."""
_FREE_SECONDS = 5.0
_WHAT = "cannot measure against zram"


@dataclass(frozen=True, slots=True)
class Measured:
    """One compressor of zram's on the pages of one input."""

    stored: int
    """Bytes of pages (mm_stat); the caller leaves out same-filled ones."""
    objects: int
    """Bytes of the objects made of them."""
    raw_pages: int
    write_ns: list[int]
    """One figure a round, over all pages."""
    read_ns: list[int]


def available() -> bool:
    """Whether a zram device can be created here."""
    return os.geteuid() == 0 and (CONTROL / "hot_add").exists()


def _write(path: str | Path, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _remove(number: int) -> None:
    """Resets and removes the device; udev may hold it for a moment after it appeared."""
    deadline = time.monotonic() + _FREE_SECONDS
    while True:
        try:
            _write(f"/sys/block/zram{number}/reset", "1")
            _write(CONTROL / "hot_remove", str(number))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                what = f"cannot remove zram{number}, made for the measurement"
                raise Failed(what, error.strerror or "", f"Run: zramctl -r zram{number}") from error
            time.sleep(0.05)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _in_main_thread() -> bool:
    """Only the main thread can set handlers, and exceptions of theirs come only there."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the process like an exception, so that clean-up runs. Does nothing in other threads,
    and to a signal that has a handler already or is ignored."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP) if _in_main_thread() else ()
    mine = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Makes the signals that end the process wait until this is over: a device is known before anything can raise, and
    a second Ctrl-C does not keep it from being removed. (Blocking them would not do: other threads would get them.)"""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (_ENDING if _in_main_thread() else ())
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def _fresh() -> Iterator[tuple[int, list[str]]]:
    """A new zram device without a size: its number and its compressors. It is removed afterwards."""
    if os.geteuid() != 0:
        raise Unsupported(_WHAT, "it creates a zram device, which only root may do", "Run it with sudo")
    if not (CONTROL / "hot_add").exists():
        raise Unsupported(_WHAT, "the module zram is not loaded", "Run: modprobe zram num_devices=0")
    number: int | None = None
    with ended_in_order():
        try:
            with undisturbed():
                try:
                    number = int((CONTROL / "hot_add").read_text())
                except OSError as error:
                    raise Failed(_WHAT, f"the kernel did not create a device: {error.strerror}") from error
            listed = procfs.read_text(f"/sys/block/zram{number}/comp_algorithm") or ""
            yield number, listed.replace("[", "").replace("]", "").split()
        finally:
            if number is not None:
                with undisturbed():
                    _remove(number)


def compressors() -> tuple[str, ...]:
    """The compressors of this kernel's zram; none without root or the module."""
    if not available():
        return ()
    with _fresh() as (_, known):
        return tuple(known)


def check(algorithms: Sequence[str]) -> None:
    """Raises `Unsupported` early if one of `algorithms` cannot be measured."""
    if algorithms:
        with _fresh() as (_, known):
            for algorithm in algorithms:
                if algorithm not in known:
                    raise Unsupported(
                        _WHAT, f"this kernel's zram has no {algorithm!r}", f"Choose from {', '.join(known)}"
                    )


@contextlib.contextmanager
def device(algorithm: str, size: int) -> Iterator[tuple[str, int]]:
    """A new zram device of `size` bytes: its folder in sysfs and an open descriptor. It is removed afterwards."""
    with _fresh() as (number, _):
        folder = f"/sys/block/zram{number}"
        try:
            _write(f"{folder}/comp_algorithm", algorithm)
            _write(f"{folder}/disksize", str(size))
            descriptor = os.open(f"/dev/zram{number}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise Failed(_WHAT, f"zram{number} cannot be set up: {error.strerror}") from error
        try:
            yield folder, descriptor
        finally:
            os.close(descriptor)


def mm_stat(folder: str) -> list[int]:
    """The columns of the device's `mm_stat` (Documentation/admin-guide/blockdev/zram.rst). Raises `Failed` if the
    kernel reports none."""
    columns = [int(word) for word in (procfs.read_text(f"{folder}/mm_stat") or "").split()]
    if len(columns) < 3:
        raise Failed(_WHAT, "the kernel does not report the size of its objects (mm_stat)")
    return columns


def measure(
    algorithm: str,
    data: memoryview,
    order: Sequence[int] | array[int],
    rounds: int,
    cancelled: Callable[[], bool] | None = None,
) -> Measured | None:
    """Writes the pages `order` of `data` (n * 4096 bytes) to a zram device and reads them back, `rounds` times, at most
    `MAX_ROUNDS`. None if `cancelled` returns true between rounds.

    Raises `Unsupported` without root, the module or the algorithm; `Failed` if the device does not work, or does not
    return what was written.
    """
    size = len(order) * PAGE
    out, into = memoryview(mmap.mmap(-1, size)), memoryview(mmap.mmap(-1, size))
    for place, page in enumerate(order):
        out[place * PAGE : (place + 1) * PAGE] = data[page * PAGE : (page + 1) * PAGE]
    measured = Measured(0, 0, 0, [], [])
    with device(algorithm, size) as (folder, descriptor):
        for _ in range(max(1, min(rounds, MAX_ROUNDS))):
            if cancelled is not None and cancelled():
                return None
            try:
                measured.write_ns.append(_timed(os.pwrite, descriptor, out))
                measured.read_ns.append(_timed(_pread, descriptor, into))
            except OSError as error:
                raise Failed(_WHAT, f"its device failed: {error.strerror}") from error
            if out != into:
                raise Failed(_WHAT, f"what its {algorithm} returned differs from what was written")
        columns = mm_stat(folder)
    if not columns[1]:
        raise Failed(_WHAT, "the kernel reports no objects (mm_stat)")
    return replace(measured, stored=columns[0], objects=columns[1], raw_pages=(columns + [0] * 8)[7])


def _pread(descriptor: int, part: memoryview, offset: int) -> int:
    return os.preadv(descriptor, [part], offset)


def _timed(call: Callable[[int, memoryview, int], int], descriptor: int, memory: memoryview) -> int:
    """Nanoseconds for all of `memory`, one request at a time."""
    began = time.perf_counter_ns()
    for offset in range(0, len(memory), REQUEST):
        part = memory[offset : offset + REQUEST]
        if call(descriptor, part, offset) != len(part):
            raise OSError(5, "short transfer")
    return time.perf_counter_ns() - began


def add(
    report: Report,
    inputs: Sequence[Input],
    algorithms: Sequence[str],
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Report | None:
    """Adds zram's `algorithms` to `report`: the same inputs and number of rounds, at most `MAX_ROUNDS`. None if
    `cancelled` returns true. Raises the errors of `measure`."""

    def result(algorithm: str, name: str, parts: Sequence[Measured]) -> Result:
        stored = sum(part.stored for part in parts)
        writes, reads = (
            Speed(tuple(1000 * stored / sum(round_) for round_ in zip(*columns, strict=True)))
            for columns in ([part.write_ns for part in parts], [part.read_ns for part in parts])
        )
        ratio, raw = stored / sum(part.objects for part in parts), sum(part.raw_pages for part in parts)
        return Result(
            algorithm=algorithm,
            implementation="zram",
            isa=None,
            input=name,
            ratio=ratio,
            raw_pages=raw,
            compress=writes,
            decompress=reads,
            version=f"kernel {procfs.kernel()}",
        )

    some = [item for item in inputs if len(item.order)]
    for number, algorithm in enumerate(algorithms):
        parts: list[Measured] = []
        for item in some:
            if progress is not None:
                done = (number + len(parts) / len(some)) / len(algorithms)
                progress(Progress(SHARE + (1 - SHARE) * done, f"kernel zram {algorithm}, {item.name}", report))
            measured = measure(algorithm, item.data, item.order, report.rounds, cancelled)
            if measured is None:
                return None
            parts.append(measured)
            report = replace(report, results=(*report.results, result(algorithm, item.name, [measured])))
        report = replace(report, results=(*report.results, result(algorithm, TOTAL, parts)))
    if progress is not None:
        progress(Progress(1.0, "done", report))
    return report
