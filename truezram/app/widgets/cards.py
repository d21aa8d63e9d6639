"""Several devices side by side, for large terminals: one card each, with its bars and its four graphs.

Eight cards take about 60 ms to draw, and keys wait meanwhile. So a few cards are drawn at a time, each few in a frame
of its own, in turn.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.timer import Timer

from truezram.app.columns import Row
from truezram.app.view import View
from truezram.app.widgets.bars import Bars
from truezram.app.widgets.graph import Graph, Trace
from truezram.app.widgets.lines import Painted
from truezram.app.widgets.tiers import TierBar, worth_a_line

MOST = 8
AT_ONCE = 2
PAUSE = 0.04
"""Seconds between the groups: time to handle a key; with 0 all are drawn at once."""


class Pair(Horizontal, Painted):
    """Two graphs side by side."""


class Card(Vertical, Painted):
    """One device."""

    def __init__(self, view: View) -> None:
        super().__init__(classes="card")
        self.bars = Bars(view, heading=True)
        self.tiers = TierBar(view)
        self.throughput = Graph("throughput", view, classes="throughput")
        self.latency = Graph("latency", view)
        self.ratio = Graph("ratio", view)
        self.cpu = Graph("cpu", view, title="server cpu")

    def compose(self) -> ComposeResult:
        """Bars, throughput, latency, ratio and CPU."""
        yield self.bars
        yield self.tiers
        yield self.throughput
        yield self.latency
        yield Pair(self.ratio, self.cpu)

    def show(self, row: Row, memory: int) -> None:
        """Shows a device."""
        self.bars.show(row, memory)
        self.tiers.display = worth_a_line(row.device)
        self.tiers.show(row.device)
        if row.series is None:
            return
        rings = row.series.rings
        self.throughput.show(
            [Trace("read", rings["read"], "graph--read"), Trace("write", rings["write"], "graph--write", "down")]
        )
        self.latency.show(
            [Trace("p50", rings["p50"], "graph--p50", "line"), Trace("p99", rings["p99"], "graph--p99", "line")]
        )
        self.ratio.show([Trace("", rings["ratio"], "graph--ratio")])
        self.cpu.show([Trace("", rings["cpu"], "graph--cpu")])


class Cards(Container):
    """The cards, in a grid of up to four columns; at most `MOST` of them, in the table's order."""

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self._cards: list[Card] = []
        self._rows: list[Row] = []
        self._memory = 0
        self._at = self._due = 0
        """The card that is drawn next, and how many are to be drawn from there on."""
        self._timer: Timer | None = None

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
            self._fill()

    def _fill(self) -> None:
        """Starts drawing all cards; if drawing is in progress, continues from there."""
        self._due = len(self._cards)
        if self._timer is None:
            self._draw()

    def _draw(self) -> None:
        """Draws the next few cards and schedules the others."""
        self._timer = None
        self._due = min(self._due, len(self._cards))
        count = min(self._due, AT_ONCE if PAUSE else MOST)
        for _ in range(count):
            self._at %= len(self._cards)
            card, row = self._cards[self._at], self._rows[self._at]
            if card.is_mounted:
                card.show(row, self._memory)
            self._at += 1
        self._due -= count
        if self._due:
            self._timer = self.set_timer(PAUSE, self._draw)
