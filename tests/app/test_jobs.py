"""The app's precedence (work.coming_first), in processes of their own, in sessions of their own; its reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from truezram.app.backend.jobs import FIRST
from truezram.app.backend.messages import SnapshotArrived

from .conftest import SMALL, Bench

SCRIPT = """
import asyncio, json, os, sys
from truezram.app.backend.jobs import SESSION, Jobs, coming_first

def now():
    return os.getpriority(os.PRIO_PROCESS, 0), SESSION.read_text() if SESSION.exists() else ""

os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[1]))
before = now()
with coming_first():
    inside = now()
    job = asyncio.run(Jobs(lambda: None).run(lambda progress: os.getpriority(os.PRIO_PROCESS, 0), "a call"))
print(json.dumps({"before": before, "inside": inside, "job": job, "after": now()}))
"""
CAP_SYS_NICE = 23


def run(nice: int) -> dict[str, list[object]]:
    command = [sys.executable, "-c", SCRIPT, str(nice)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    result: dict[str, list[object]] = json.loads(done.stdout)
    return result


def may() -> bool:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(lines["CapEff"], 16) >> CAP_SYS_NICE & 1)


def test_the_app_comes_first_its_calls_do_not() -> None:
    if not may() and os.getpriority(os.PRIO_PROCESS, 0) > 0:
        pytest.skip("these tests run with a nice value, which this user may not lower to 0")
    found = run(0)
    assert found["before"][0] == 0
    assert found["inside"][0] == (FIRST if may() else 0)
    assert found["job"] == 0
    assert found["after"] == found["before"]


@pytest.mark.parametrize("nice", [5, 19])
def test_a_nice_value_that_was_chosen_is_kept(nice: int) -> None:
    if not may():
        nice = max(nice, os.getpriority(os.PRIO_PROCESS, 0))
    found = run(nice)
    assert found["inside"] == found["after"] == found["before"]
    assert found["job"] == nice


async def test_figures_arrive_while_the_app_ends(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader does not wait for the app; the app's pages are taken apart one widget after another."""
    b = bench(1)
    arrived: list[int] = []
    close_all = b.app._close_all

    async def with_figures() -> None:
        await b.app.screen.remove_children()
        b.app.on_snapshot_arrived(SnapshotArrived(b.engine.snapshot()))
        arrived.append(1)
        await close_all()

    monkeypatch.setattr(b.app, "_close_all", with_figures)
    async with b.app.run_test(size=SMALL):
        pass
    assert arrived
