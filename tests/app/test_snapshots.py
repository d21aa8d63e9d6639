"""How the screens look: 80×24, 200×60, 60×20, their states, and each theme once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from truezram.app.backend.protocol import Capabilities
from truezram.app.config import Config

from .conftest import NARROW, SMALL, WIDE, Bench, settle

Make = Callable[..., Bench]
THEMES = ("light", "high-contrast", "colour-blind", "ansi", "no-colour")
"""All but dark, which the other pictures are in."""


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
@pytest.mark.parametrize("devices", [0, 1, 3, 8])
def test_dashboard(snap_compare: Any, bench: Make, size: tuple[int, int], devices: int) -> None:
    b = bench(devices)
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(118))


@pytest.mark.parametrize("theme", THEMES)
def test_themes(snap_compare: Any, bench: Make, theme: str) -> None:
    b = bench(3, config=Config(theme=theme, glyphs="braille"))
    assert snap_compare(b.app, terminal_size=SMALL, run_before=b.before(118))


@pytest.mark.parametrize("glyphs", ["block", "ascii"])
def test_glyphs(snap_compare: Any, bench: Make, glyphs: str) -> None:
    b = bench(3, config=Config(theme="dark", glyphs=glyphs))
    assert snap_compare(b.app, terminal_size=SMALL, run_before=b.before(118))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("create", ["c"]),
        ("create-wrong", ["c", "9", "P"]),
        ("remove", ["d"]),
        ("remove-mounted", ["j", "d"]),
        ("help", ["question_mark"]),
        ("filter", ["slash", "z", "s", "t", "d"]),
        ("paused", ["space"]),
        ("zoomed", ["minus", "minus"]),
        ("columns", ["o"]),
        ("reset", ["G", "D"]),
        ("reset-mounted", ["j", "D"]),
    ],
)
@pytest.mark.parametrize("size", [SMALL, NARROW], ids=["80x24", "60x20"])
def test_dialogs(snap_compare: Any, bench: Make, name: str, keys: list[str], size: tuple[int, int]) -> None:
    b = bench(3)
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(110, *keys))


def test_no_ublk(snap_compare: Any, bench: Make) -> None:
    can = Capabilities(ublk=False, ublk_why="modprobe ublk_drv as root, or a kernel from 6.0 on", root=False)
    b = bench(0, capabilities=can)
    assert snap_compare(b.app, terminal_size=SMALL, run_before=b.before(3))


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("device", ["2"]),
        ("whatif", ["3", "r"]),
        ("whatif-chart", ["3", "r", "v"]),
        ("tune", ["4"]),
        ("tune-edit", ["4", "enter"]),
        ("benchmark-none", ["5"]),
        ("doctor", ["6"]),
        ("log", ["7"]),
        ("settings", ["8"]),
        ("memory", ["m"]),
        ("chart", ["C"]),
        ("jump", ["apostrophe"]),
    ],
)
def test_pages(snap_compare: Any, real: Make, name: str, keys: list[str], size: tuple[int, int]) -> None:
    b = real()
    b.app.jobs._clock = lambda: 0.0  # a job's progress depends on the moment
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(95, *keys))


@pytest.mark.parametrize("theme", THEMES)
def test_device_in_themes(snap_compare: Any, real: Make, theme: str) -> None:
    b = real(config=Config(theme=theme, glyphs="braille"))
    b.app.jobs._clock = lambda: 0.0
    assert snap_compare(b.app, terminal_size=SMALL, run_before=b.before(95, "2"))


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("dashboard", []),
        ("device", ["2"]),
        ("ages", ["2", "a"]),
        ("recompress", ["2", "r"]),
        ("tune", ["4", *["down"] * 4]),
    ],
)
def test_idle_pages(snap_compare: Any, tiers: Make, name: str, keys: list[str], size: tuple[int, int]) -> None:
    b = tiers()
    b.app.jobs._clock = lambda: 0.0
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(55, *keys))


@pytest.mark.parametrize("theme", THEMES)
def test_ages_in_themes(snap_compare: Any, tiers: Make, theme: str) -> None:
    b = tiers(config=Config(theme=theme, glyphs="braille"))
    b.app.jobs._clock = lambda: 0.0
    assert snap_compare(b.app, terminal_size=SMALL, run_before=b.before(55, "2", "a"))


@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["80x24", "200x60"])
def test_errors(snap_compare: Any, bench: Make, size: tuple[int, int]) -> None:
    """A dead device, one whose figures are implausible, one that is full, and the kernel's own."""
    b = bench(5)

    async def run(pilot: Any) -> None:
        await pilot.pause()
        b.play(100)
        last = b.app.history.latest
        assert last is not None
        a, unreadable, full, kernel, fine = last.devices
        changed = (
            replace(a, state="dead", last_error="its server has gone (signal 9)"),
            replace(unreadable, orig_data_size=-1),
            replace(full, mem_limit=full.mem_used_total),
            replace(kernel, name="zram0", path="/dev/zram0", kind="zram", transport="kernel"),
            fine,
        )
        b.app.take(replace(last, devices=changed))
        await pilot.pause()
        b.app.clear_notifications()
        await pilot.pause()

    assert snap_compare(b.app, terminal_size=size, run_before=run)


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
@pytest.mark.parametrize(
    ("name", "keys"), [("dashboard", []), ("device", ["2"]), ("dead", ["j", "2"]), ("remove", ["j", "d"])]
)
def test_without_a_server(snap_compare: Any, bench: Make, name: str, keys: list[str], size: tuple[int, int]) -> None:
    """A device that another server takes over, one that waits for somebody to recover it, and one that was taken
    over."""
    b = bench(3)

    async def run(pilot: Any) -> None:
        await pilot.pause()
        b.play(100)
        last = b.app.history.latest
        assert last is not None
        first, second, third = (replace(device, recoverable=True, swap_priority=None) for device in last.devices)
        b.app.take(replace(last, devices=(first, replace(second, mountpoints=()), third)))
        for moment in range(1, 5):
            then = {"time": first.time + moment}
            changed = (
                replace(first, state="recovering", standby=71, **then),
                replace(second, state="dead", mountpoints=(), **then),
                replace(third, pid=third.pid + 1, standby=4711, recoveries=2, **then),
            )
            machine = replace(last.machine, time=last.machine.time + moment)
            b.app.take(replace(last, machine=machine, devices=changed))
        await pilot.pause()
        b.app.clear_notifications()
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await settle(pilot, lambda: not b.app.jobs.jobs)
        b.app.take(replace(last, machine=machine, devices=changed))
        await pilot.pause()

    assert snap_compare(b.app, terminal_size=size, run_before=run)
