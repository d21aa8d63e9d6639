"""What a key must not wait for: the cards of a large terminal, drawn a few at a time; Python's garbage."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
from textual.strip import Strip

from truezram.app.columns import Row
from truezram.app.widgets import cards
from truezram.app.widgets.device_table import DeviceTable

from .conftest import WIDE, Bench, settle

Make = Callable[..., Bench]


class TestCards:
    async def test_a_few_at_a_time_and_all_in_the_end(self, bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        b = bench(8)
        drawn: list[str] = []
        show = cards.Card.show

        def watched(card: cards.Card, row: Row, memory: int) -> None:
            drawn.append(row.device.name)
            show(card, row, memory)

        async with b.app.run_test(size=WIDE) as pilot:
            b.play(3)
            await pilot.pause()
            monkeypatch.setattr(cards, "PAUSE", 0.05)
            monkeypatch.setattr(cards.Card, "show", watched)
            b.play()
            assert len(drawn) == cards.AT_ONCE
            await settle(pilot, lambda: len(drawn) == 8)
            shown = b.app.screen.query_one(DeviceTable).shown
            assert drawn == [row.device.name for row in shown]
            # New figures while the last ones are still being drawn: no card waits for ever, none is drawn more often.
            drawn.clear()
            b.play(2)
            await settle(pilot, lambda: len(drawn) >= 8)
            assert sorted(drawn[:8]) == sorted(row.device.name for row in shown)

    async def test_devices_go_while_their_cards_are_drawn(self, bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        b = bench(8)
        async with b.app.run_test(size=WIDE) as pilot:
            b.play(3)
            await pilot.pause()
            monkeypatch.setattr(cards, "PAUSE", 0.02)
            for count in (8, 3, 0, 5):
                moment = b.app.engine.snapshot()
                b.app.take(replace(moment, devices=moment.devices[:count]))
                await pilot.pause(0.03)
            kept = b.app.screen.query_one(cards.Cards)
            await settle(pilot, lambda: not kept._due)
            assert len(kept.query(cards.Card)) == 5


async def test_what_was_drawn_goes_without_the_garbage_collector(bench: Make) -> None:
    def strips() -> int:
        return sum(isinstance(thing, Strip) for thing in gc.get_objects())

    b = bench(8)
    async with b.app.run_test(size=WIDE) as pilot:
        b.play(20)
        await settle(pilot, lambda: strips() > 0)  # a busy machine has not drawn yet
        gc.collect()
        gc.disable()
        try:
            counts = []
            for _ in range(40):
                b.play(1)
                await pilot.pause()
                counts.append(strips())
            assert 0 < max(counts[20:]) < 1.2 * max(counts[:20])
        finally:
            gc.enable()
