"""Several devices side by side, for large terminals: one card each, with its bars and its four graphs."""

from __future__ import annotations

import asyncio

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical

from truezram.app.columns import Row
from truezram.app.widgets.bars import Bars
from truezram.app.widgets.graph import Graph, Trace, View

MOST = 8


class Card(Vertical):
    """One device."""

    def __init__(self, view: View) -> None:
        super().__init__(classes="card")
        self.view = view

    def compose(self) -> ComposeResult:
        """Bars, throughput, latency, ratio and CPU."""
        yield Bars(self.view, heading=True)
        yield Graph("throughput", self.view, classes="throughput")
        yield Graph("latency", self.view, classes="latency")
        with Horizontal():
            yield Graph("ratio", self.view, classes="ratio")
            yield Graph("cpu", self.view, title="server cpu", classes="cpu")

    def show(self, row: Row, memory: int) -> None:
        """Shows a device."""
        self.query_one(Bars).show(row, memory)
        if row.series is None:
            return
        rings = row.series.rings
        self.query_one(".throughput", Graph).show(
            [Trace("read", rings["read"], "graph--read"), Trace("write", rings["write"], "graph--write", "down")]
        )
        self.query_one(".latency", Graph).show(
            [Trace("p50", rings["p50"], "graph--p50", "line"), Trace("p99", rings["p99"], "graph--p99", "line")]
        )
        self.query_one(".ratio", Graph).show([Trace("", rings["ratio"], "graph--ratio")])
        self.query_one(".cpu", Graph).show([Trace("", rings["cpu"], "graph--cpu")])


class Cards(Container):
    """The cards, in a grid of up to four columns; at most `MOST` of them, in the table's order."""

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self._cards: list[Card] = []
        self._rows: list[Row] = []
        self._memory = 0

    def show(self, rows: list[Row], memory: int, sampled: bool) -> None:
        """Shows these devices; cards come and go with them."""
        rows = self._rows = rows[:MOST]
        self._memory = memory
        if len(rows) != len(self._cards):
            while len(self._cards) > len(rows):
                self._cards.pop().remove()
            while len(self._cards) < len(rows):
                card = Card(self.view)
                self._cards.append(card)
                self.mount(card)
            count = len(rows)
            across = max(1, min(count, 4 if count in (4, 7, 8) or count > 6 else 3 if count != 2 else 2))
            self.styles.grid_size_columns = across
            self.styles.grid_size_rows = max(1, -(-count // across))
            # Cards draw once they have a size; by then there may be newer figures.
            self.call_after_refresh(self._fill)
        elif sampled:
            self.call_later(self._fill)

    async def _fill(self) -> None:
        """Draws the cards one by one. Between two of them whatever came in has its turn: all at once would hold up a
        key for the time of eight."""
        for card, row in zip(tuple(self._cards), self._rows, strict=False):
            if card.is_mounted:
                card.show(row, self._memory)
            await asyncio.sleep(0)
