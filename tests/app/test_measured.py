"""What was measured, as charts and in the create dialog."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.widgets import Select, Static

from truezram.app.screens.create import CreateScreen
from truezram.app.screens.whatif import WhatIfPage
from truezram.app.widgets.barchart import BarChart
from truezram.engine.errors import PermissionDenied

from .conftest import SMALL, WIDE, Bench, settle

Make = Callable[..., Bench]


@pytest.mark.parametrize("size", [SMALL, WIDE, (60, 20)])
async def test_bars_are_as_long_as_their_values(real: Make, size: tuple[int, int]) -> None:
    """Each on a row of its own, distinct without colours."""
    b = real()
    async with b.app.run_test(size=size) as pilot:
        await pilot.press("3", "r")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        await pilot.press("v")
        await pilot.pause()
        chart = b.app.screen.query_one(BarChart)
        lines = ["".join(segment.text for segment in line) for line in chart.build(*chart.size)]
        page = b.app.screen
        assert isinstance(page, WhatIfPage)
        assert page.estimate is not None
        bars = {line.split()[0]: line.count("█") + (line[-1:] in "▏▎▍▌▋▊▉") for line in lines if " ratio " in line[:14]}
        best = max(a.ratio for a in page.estimate.total.algorithms)
        for a in page.estimate.total.algorithms:
            assert bars[a.algorithm] / max(bars.values()) == pytest.approx(a.ratio / best, abs=0.08), a.algorithm
        assert len(lines) <= chart.size.height


async def test_create_shows_what_was_measured(real: Make) -> None:
    """Ratio and time next to each algorithm, and a line of the preview at the measured ratio."""
    b = real()
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(3)
        await pilot.press("c")
        await settle(pilot, lambda: b.app.measured is not None)
        screen = b.app.screen
        assert isinstance(screen, CreateScreen)
        assert b.app.measured is not None
        fast = next(a for a in b.app.measured.total.algorithms if a.algorithm == "fast")
        prompt = str(screen.query_one("#algorithm", Select)._options[0][0])
        assert prompt == f"fast  {fast.ratio:.2f}× {fast.compress_us:.1f} µs"
        assert str(screen.query_one("#algorithm SelectCurrent #label", Static).render()) == prompt
        last = str(screen.query_one("#outcome", Static).render()).splitlines()[-1].split()
        assert (last[0], last[-1]) == (f"{fast.ratio:.2f}×", "measured")
        # Once a session.
        await pilot.press("escape", "c")
        await pilot.pause()
        assert [call[0] for call in b.engine.calls].count("estimate") == 1


async def test_create_works_when_nothing_can_be_measured(real: Make) -> None:
    b = real()
    b.engine.script["estimate"] = PermissionDenied("cannot read memory", "not allowed")
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(3)
        await pilot.press("c")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "measur" not in str(b.app.screen.query_one("#outcome", Static).render())
        assert not b.app._notifications
        await pilot.press("ctrl+s")
        await settle(pilot, lambda: "create" in [call[0] for call in b.engine.calls])
