"""The Log page: what it has beside what the app itself has found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from truezram.app.widgets.grid import Grid
from truezram.engine.device.events import Event

from .conftest import NOW, SMALL, Bench, settle

Make = Callable[..., Bench]


async def test_the_log_has_what_nobody_watched(bench: Make) -> None:
    """Read once, from the servers' logs, and put where it belongs; nothing is written down again."""
    b = bench(2)
    seen: list[Sequence[Event]] = []
    missed = (Event(NOW - 20, "info", "mem_limit is 1G", "ublkb0"), Event(NOW + 5, "error", "page 5", "ublkb1"))
    b.engine.missed = lambda known: seen.append(known) or missed  # type: ignore[method-assign,func-returns-value]
    async with b.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        b.play(2)
        for event in (Event(NOW, "info", "one"), Event(NOW + 10, "info", "two")):
            b.app.log_event(event)
        b.app.look_back()
        await settle(pilot, lambda: not b.app.jobs.jobs)
        await pilot.press("7")
        await pilot.pause()
        grid = b.app.screen.query_one(Grid)
        assert [item.cells[3] for item in grid.items] == ["two", "page 5", "one", "mem_limit is 1G"]
    assert [[event.text for event in known] for known in seen] == [["one", "two"]]
