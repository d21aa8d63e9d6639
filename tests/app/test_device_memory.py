"""The Device page: what a device's memory is for, compacting it, and checking its arena."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from truezram.app.screens.device import facts
from truezram.app.widgets.grid import Grid
from truezram.engine.answers import ArenaProblem
from truezram.engine.model import MEMORY, Age, DeviceSnapshot

from .conftest import SMALL, WIDE, Bench, settle
from .test_pages import drawn, keys, start

Make = Callable[..., Bench]


async def test_what_its_memory_is_for(real: Make) -> None:
    b = real()
    async with b.app.run_test(size=WIDE) as pilot:
        await start(b, pilot, "2", 80)
        lines = drawn(b.app.screen.query_one("#parts"))
        assert "MEMORY " in lines
        assert all(part.title in lines for part in MEMORY)
        device = b.app.history.devices["local0"].latest
        assert device is not None
        shown = {item.key: item.cells for item in b.app.screen.query_one("#parts", Grid).items}
        assert list(shown) == [part.key for part in MEMORY]
        assert sum(float(cells[3]) for cells in shown.values()) == pytest.approx(1)
        assert float(shown["compressed"][3]) > 0.5
        parts = sum(part.of(device) for part in MEMORY)
        assert parts == pytest.approx(device.mem_used_total, rel=0.01)


async def test_compact(bench: Make) -> None:
    b = bench()
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "2")
        name = b.app.selected
        assert "Compact" in keys(b)
        await pilot.press("m")
        await settle(pilot, lambda: not b.app.jobs.jobs and b.app.events.events[-1].text.startswith("compacted"))
        assert ("compact", name) in b.engine.calls
        event = b.app.events.events[-1]
        assert (event.level, event.text, event.device) == ("info", "compacted: 3M given back", name)


async def test_compaction_that_is_no_longer_watched(bench: Make) -> None:
    b = bench()
    b.engine.script["compact"] = b.engine.hang
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "2")
        await pilot.press("m")
        await settle(pilot, lambda: any(job.title.startswith("compact ") for job in b.app.jobs.jobs))
        b.app.jobs.cancel_last()
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert [event.text for event in b.app.events.events][-1] == "its server goes on compacting"
        b.engine.release.set()


async def test_check_of_the_arena(bench: Make) -> None:
    b = bench()
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "2")
        name = b.app.selected
        assert "Check arena" in keys(b)
        await pilot.press("v")
        await settle(pilot, lambda: ("check_arena", name) in b.engine.calls and not b.app.jobs.jobs)
        event = b.app.events.events[-1]
        assert (event.level, event.device) == ("info", name)
        assert event.text == "its arena is sound: 12000 pages, 10000 objects, 24M"
        wrong = ArenaProblem(17, "its entry is damaged"), ArenaProblem(None, "copy 1 of the head is damaged")
        b.engine.arena = replace(b.engine.arena, problems=wrong, problems_found=2)
        await pilot.press("v")
        await settle(pilot, lambda: not b.app.jobs.jobs and b.app.events.events[-1].level == "error")
        text = "its arena is damaged: page 17: its entry is damaged, and 1 more. See `truezram check ublkb0`"
        assert b.app.events.events[-1].text == text


async def test_the_kernels_own_are_neither_checked_nor_compacted(bench: Make) -> None:
    b = bench()
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "2")
        snapshot = b.app.engine.snapshot()
        other = replace(snapshot.devices[0], name="zram0", path="/dev/zram0", kind="zram")
        b.app.take(replace(snapshot, devices=(other,)))
        b.app.selected = "zram0"
        b.app.redraw()
        await pilot.pause()
        assert not {"Compact", "Check arena"} & set(keys(b))


def test_what_is_idle() -> None:
    """From each of three ages on, where there are such pages; and what recompression has done."""
    young = DeviceSnapshot(name="local0", path="local:0")
    assert not [item for item in facts(young) if item.key.startswith(("idle ", "recompressed"))]
    minute = 60 * 10**9
    ages = tuple(
        Age(least * minute, most * minute, pages=10**step, bytes=1024 << step)
        for step, (least, most) in enumerate(
            [(0, 3), (0, 12), (3, 39), (12, 120), (39, 363), (120, 1335), (363, 2307), (1335, 0)]
        )
    )
    shown = {item.key: item.cells[1] for item in facts(replace(young, ages=ages))}
    assert shown["idle 12m+"] == "11111000 pages, 248K"
    assert shown["idle 2h+"] == "11100000 pages, 224K"
    assert shown["idle 22h+"] == "10000000 pages, 128K"
    old = replace(young, ages=(*ages[:3], *(replace(age, pages=0) for age in ages[3:])))
    assert not [item for item in facts(old) if item.key.startswith("idle ")]
    done = replace(young, dense_pages=9, cold_pages=3, cold_saved=3 << 20)
    assert dict(item.cells for item in facts(done))["recompressed"] == "12, -3M"
    at_work = replace(done, recompress_started=2, recompress_done=1, recompress_permille=420)
    assert dict(item.cells for item in facts(at_work))["recompressed"] == "12, -3M, 42%"


def test_how_data_is_moved() -> None:
    """Of a ublk device only."""
    device = DeviceSnapshot(name="ublkb0", path="/dev/ublkb0", data_mode="driver_copy")
    assert dict(item.cells for item in facts(device))["data"] == "driver copy"
    assert "data" not in [item.key for item in facts(replace(device, data_mode=""))]
