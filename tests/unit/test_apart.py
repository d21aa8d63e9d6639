"""Long computations in a process of their own: results, errors, being told to stop, dying."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from truezram.engine import apart
from truezram.engine.errors import Failed, TruezramError
from truezram.engine.estimate import Estimate


def children() -> list[int]:
    """Our children that are such processes."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == os.getpid() and b"truezram.engine.apart" in words:
                found.append(int(process.name))
    return found


def ignore(fraction: float | None, text: str, found: Any) -> None:
    pass


def test_result_and_progress() -> None:
    told: list[float] = []

    def report(fraction: float | None, text: str, found: Any) -> None:
        told.extend([] if fraction is None else [fraction])
        (child,) = children()
        assert os.getpriority(os.PRIO_PROCESS, child) == 19

    found = apart.run("estimate", report, kind="pid", value=str(os.getpid()), by="process")
    assert isinstance(found, Estimate)
    assert told == sorted(told)
    assert told
    assert children() == []


def test_an_error_is_raised_here() -> None:
    with pytest.raises(TruezramError, match="no process"):
        apart.run("estimate", ignore, kind="pid", value="4194303", by="process")
    assert children() == []


def test_what_report_raises_ends_it() -> None:
    class Enough(Exception):
        pass

    def report(fraction: float | None, text: str, found: Any) -> None:
        raise Enough

    began = time.monotonic()
    with pytest.raises(Enough):
        apart.run("benchmark", report, seconds=60)
    assert children() == []
    assert time.monotonic() - began < 30


def test_a_child_that_is_killed_is_an_error() -> None:
    def report(fraction: float | None, text: str, found: Any) -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)

    with pytest.raises(Failed, match=r"benchmark ended without a result.*SIGKILL"):
        apart.run("benchmark", report, seconds=60)
    assert children() == []
