"""Setting up: the first thing on an empty dashboard, by keys; what it shows, what it does, and when it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.widgets import Button, Static

from truezram.app.backend.protocol import Capabilities
from truezram.app.screens.setup import SetupScreen
from truezram.engine.device.setup import Plan
from truezram.engine.errors import Failed
from truezram.engine.machine import advice
from truezram.engine.units import format_exact

from .conftest import SMALL, Bench, settle, text_of

Make = Callable[..., Bench]


async def test_from_an_empty_dashboard_to_safe_swap_in_two_keys(bench: Make) -> None:
    b = bench(0)
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        assert "u  Set up" in str(b.app.screen.query_one("#welcome", Static).render())
        await pilot.press("u")
        await settle(pilot, lambda: isinstance(b.app.screen, SetupScreen) and b.app.screen.plan is not None)
        screen = b.app.screen
        command = text_of(screen, "#command")
        assert f"--mem-limit {format_exact(advice.mem_limit(b.app.memory))} " in command
        assert "--swap --enable" in command
        assert "half of the memory" in text_of(screen, "#reasons")
        assert screen.query_one("#set-up", Button).has_focus
        await pilot.press("enter")
        await settle(pilot, lambda: any(call[0] == "set_up" for call in b.engine.calls) and not b.app.jobs.jobs)
        b.play()
        await pilot.pause()
        assert "ublkb0" in b.app.history.devices
        # There is a device now: it is not offered again.
        bindings = b.app.screen.active_bindings.values()
        assert "Set up" not in {active.binding.description for active in bindings if active.enabled}


@pytest.mark.parametrize(
    ("capabilities", "why"),
    [
        (Capabilities(root=False), "Only root can do this"),
        (Capabilities(persist_why="neither systemd nor OpenRC"), "neither systemd nor OpenRC"),
    ],
)
async def test_when_it_cannot_be_done(bench: Make, capabilities: Capabilities, why: str) -> None:
    b = bench(0, capabilities=capabilities)
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.press("u")
        await settle(pilot, lambda: any(call[0] == "setup_plan" for call in b.engine.calls) and not b.app.jobs.jobs)
        screen = b.app.screen
        assert why in text_of(screen, "#warning")
        assert screen.query_one("#set-up", Button).disabled
        await pilot.press("enter")  # Cancel
        await pilot.pause()
        assert not b.app.in_dialog
        assert not any(call[0] == "set_up" for call in b.engine.calls)


async def test_nothing_to_do_and_errors(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(0)
    found = advice.advise(advice.Facts(memory=1 << 33, compressed=("/dev/zram0",)))
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        with monkeypatch.context() as patch:
            patch.setattr(b.engine, "setup_plan", lambda ratio: Plan(advice=found))
            await pilot.press("u")
            await settle(pilot, lambda: "Nothing" in text_of(b.app.screen, "#heading"))
            assert "/dev/zram0" in text_of(b.app.screen, "#reasons")
            assert b.app.screen.query_one("#set-up", Button).disabled
            await pilot.press("escape")
        b.engine.script["setup_plan"] = Failed("cannot look", "it is dark")
        await pilot.press("u")
        await settle(pilot, lambda: "it is dark" in text_of(b.app.screen, "#warning"))
