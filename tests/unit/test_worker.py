"""Computations in a process of their own: results, progress, errors, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG

from truezram.engine.errors import Failed, NotFound, PermissionDenied, UsageError
from truezram.engine.measure import worker
from truezram.engine.measure.estimate import Estimate
from truezram.engine.measure.store_results import StoreReport


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found]


def ignore(fraction: float | None, text: str, partial: Any) -> None:
    pass


def test_an_estimate_is_made_with_the_lowest_priority_and_its_process_goes() -> None:
    seen: list[int] = []
    # Few pages: next to busy programs the lowest priority is slow.
    small = subprocess.Popen(["sleep", "infinity"])
    before = set(children())

    def report(fraction: float | None, text: str, partial: Any) -> None:
        for pid in set(children()) - before:
            seen.append(os.getpriority(os.PRIO_PROCESS, pid))

    try:
        found = worker.run("estimate", report, kind="pid", value=str(small.pid), by="process")
    except PermissionDenied:
        pytest.skip("a process may not read another one's memory here (kernel.yama.ptrace_scope)")
    finally:
        small.kill()
        small.wait()
    assert isinstance(found, Estimate)
    assert found.total.bytes > 0
    assert seen
    assert set(seen) == {19}
    assert set(children()) <= before - {small.pid}


def test_errors_arrive_as_they_were_raised() -> None:
    with pytest.raises(NotFound):
        worker.run("estimate", ignore, kind="pid", value="4194999", by="process")
    with pytest.raises(UsageError, match="unknown grouping"):
        worker.run("estimate", ignore, kind="all", value="", by="colour")


def test_what_report_raises_ends_the_process() -> None:
    class Enough(Exception):
        pass

    def report(fraction: float | None, text: str, partial: Any) -> None:
        raise Enough

    before, began = children(), time.monotonic()
    with pytest.raises(Enough):
        worker.run("benchmark", report, seconds=10 * HANG)
    assert time.monotonic() - began < 10 * HANG
    assert children() == before


def test_the_store_is_measured_in_a_process_of_its_own() -> None:
    """What is known so far arrives while it runs; then the process goes, and in order."""

    class Enough(Exception):
        pass

    found: list[StoreReport] = []

    def report(fraction: float | None, text: str, partial: Any) -> None:
        if partial is not None:
            found.append(partial)
            raise Enough

    before = children()
    with pytest.raises(Enough):
        worker.run("store benchmark", report, size=1 << 20, rounds=1)
    assert (found[0].size, found[0].results[0].size) == (1 << 20, 1 << 20)
    assert children() == before


def test_a_process_that_dies_is_told_of() -> None:
    with pytest.raises(Failed, match="unexpected keyword"):
        worker.run("benchmark", ignore, minutes=1)


def test_a_process_that_is_killed_is_told_of() -> None:
    before = set(children())

    def report(fraction: float | None, text: str, partial: Any) -> None:
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(Failed, match=r"benchmark ended without a result.*SIGKILL"):
        worker.run("benchmark", report, seconds=10 * HANG)
    assert set(children()) <= before
