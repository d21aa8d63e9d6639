"""`D` in the app: `truezram reset` of the device under the cursor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from textual.widgets import Button

from truezram.app.screens.confirm import ResetScreen, emptied
from truezram.app.widgets.device_table import DeviceTable
from truezram.engine.errors import Busy

from .conftest import SMALL, Bench, settle, text_of

Make = Callable[..., Bench]


async def test_an_unused_device(bench: Make) -> None:
    b = bench(3)
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        await pilot.press("end", "D")
        await pilot.pause()
        screen = b.app.screen
        assert isinstance(screen, ResetScreen)
        assert screen.query_one("#cancel").has_focus
        assert "will be lost" in text_of(screen, "#what")
        assert text_of(screen, "#command") == "$ sudo truezram --no-tui reset ublkb2"
        assert not screen.query_one("#refused").display
        await pilot.press("enter")
        await pilot.pause()
        assert not b.app.in_dialog
        assert not [call for call in b.engine.calls if call[0] == "reset"]
        await pilot.press("D", "tab", "enter")
        await settle(pilot, lambda: ("reset", "ublkb2") in b.engine.calls)
        await settle(pilot, lambda: not b.app.jobs.jobs)
        last = b.app.events.events[-1]
        assert last.device == "ublkb2"
        assert re.fullmatch(r"reset: data \S+ → 0B, memory \S+ → 1M", last.text)
        b.play()
        await pilot.pause()
        rows = {row.device.name: row.device for row in b.app.screen.query_one(DeviceTable).shown}
        assert rows["ublkb2"].orig_data_size == 0
        assert rows["ublkb1"].orig_data_size


async def test_one_in_use_is_refused_with_the_reason(bench: Make) -> None:
    b = bench(2)
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        for move, reason in (("g", "it is swap: swapoff /dev/ublkb0"), ("G", "mounted on /srv/cache: unmount")):
            await pilot.press(move, "D")
            await pilot.pause()
            assert reason in text_of(b.app.screen, "#refused")
            assert b.app.screen.query_one("#reset", Button).disabled
            await pilot.press("escape")
            await pilot.pause()


async def test_the_question_follows_what_happens_while_it_is_open(bench: Make) -> None:
    b = bench(1)
    first = b.engine.recording.snapshots[0]
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        await pilot.press("D")
        await pilot.pause()
        reset = b.app.screen.query_one("#reset", Button)
        assert reset.disabled
        b.app.take(replace(first, devices=(replace(first.devices[0], swap_priority=None),)))
        await settle(pilot, lambda: not reset.disabled)


@pytest.mark.parametrize(
    ("change", "first", "refused"),
    [
        ({}, "Its data, 1G in 400M of memory, will be lost.", ""),
        (
            {"backing_used": 1 << 20},
            "Its data, 1G in 400M of memory and 1M on its backing file, will be lost.",
            "",
        ),
        ({"orig_data_size": 0}, "It holds no data.", ""),
        ({"state": "unreadable"}, "Its data cannot be measured.", "its figures are implausible"),
        ({"state": "dead"}, "Its data, 1G in 400M of memory, will be lost.", "it is dead"),
        (
            {"state": "dead", "recoverable": True, "orig_data_size": 0},
            "It holds no data.",
            "its server is dead: recover it first",
        ),
        (
            {"state": "recovering", "orig_data_size": 0},
            "It holds no data.",
            "wait until it has a server again",
        ),
    ],
)
async def test_what_is_lost_and_what_is_refused(bench: Make, change: dict[str, Any], first: str, refused: str) -> None:
    snapshot = bench(3).engine.recording.snapshots[0]
    figures = {"orig_data_size": 1 << 30, "mem_used_total": 400 << 20, "swap_priority": None}
    device = replace(snapshot.devices[2], **(figures | change))
    found = emptied(device, snapshot.machine)
    assert (found.lines[0], found.refused) == (first, refused)


async def test_what_the_engine_refuses_is_said(bench: Make) -> None:
    b = bench(3)
    b.engine.script["reset"] = Busy("cannot reset ublkb2", "it is open in blkid (pid 7)", "First end it")
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        await pilot.press("end", "D", "tab", "enter")
        await settle(pilot, lambda: b.app.events.events[-1].level == "error")
        assert "blkid" in b.app.events.events[-1].text


async def test_cancelled_it_says_that_part_of_it_may_be_empty(bench: Make) -> None:
    b = bench(3)
    b.engine.script["reset"] = b.engine.hang
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        await pilot.press("end", "D", "tab", "enter")
        await settle(pilot, lambda: bool(b.app.jobs.jobs))
        await pilot.press("x")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "partly empty" in b.app.events.events[-1].text
        b.engine.release.set()


async def test_the_kernels_own_has_no_reset(bench: Make) -> None:
    b = bench(1)
    first = b.engine.recording.snapshots[0]
    zram0 = replace(first.devices[0], name="zram0", path="/dev/zram0", kind="zram", transport="kernel")
    async with b.app.run_test(size=SMALL) as pilot:
        b.app.take(replace(first, devices=(zram0,)))
        await pilot.pause()
        await pilot.press("D")
        await pilot.pause()
        assert not b.app.in_dialog
        assert "Reset" not in {command.title for command in b.app.get_system_commands(b.app.screen)}
