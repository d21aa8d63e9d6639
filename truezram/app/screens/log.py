"""The event log: what happened to devices and machine and what the user did, kept across restarts of the app."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from truezram.app.screens.page import Page
from truezram.app.widgets.event_list import MARKS
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock
from truezram.engine.device.events import Event

FILTERS = ("all", "warnings and errors", "this device")


class LogPage(Page):
    """All events, newest first."""

    MODE = "log"
    TITLE_TEXT = "Log"
    GUIDE = (
        "Newest first. f switches between all events, warnings and errors, and the device under the "
        "dashboard's cursor. Alerts are: 80 % and 95 % of mem_limit reached, full, a failed "
        "write, a checksum error, a server that died (whether another one has taken over is the next event), memory "
        "pressure. The log is kept in events.jsonl in the state folder."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "next_filter", "Filter", id="log.filter"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="log.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.filter = 0
        self._shown: tuple[int, int, str] = (-1, -1, "")

    def content(self) -> ComposeResult:
        """What is shown, and the events."""
        yield TextBlock(id="logtitle")
        yield Grid(
            [
                Head("TIME", 19, left=True),
                Head("", 1, left=True, rank=1),
                Head("DEVICE", 8, left=True, rank=1),
                Head("EVENT", 20, left=True, grow=True),
            ],
            empty="No events yet.",
            id="log",
        )

    def on_mount(self) -> None:
        """Keys go to the table."""
        self.query_one(Grid).focus()

    def wanted(self, event: Event) -> bool:
        """Whether the filter lets an event through."""
        if self.filter == 1:
            return event.level != "info"
        return self.filter != 2 or event.device == self.tz.selected

    def tick(self, sampled: bool) -> None:
        """Draws when there is something new."""
        log = self.tz.events
        now = (len(log.events), self.filter, self.tz.selected)
        if now == self._shown and len(log.events) < (log.events.maxlen or 0):
            return
        self._shown = now
        items = []
        for number, event in enumerate(log.events):
            if self.wanted(event):
                stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
                style = {"error": "bad", "warning": "warn"}.get(event.level, "")
                cells = (stamp, MARKS.get(event.level, "?"), event.device, event.text)
                items.append(Item(f"{event.time}/{number}", cells, style))
        grid = self.query_one(Grid)
        at_top = grid.index <= 0
        items.reverse()
        if at_top and items:
            grid.cursor = items[0].key
        grid.show(items)
        what = FILTERS[self.filter] + (f" {self.tz.selected}" if self.filter == 2 else "")
        where = str(log.path) if log.path else "in memory only"
        bad = log.problem

        def title(width: int) -> list[list[tuple[str, str]]]:
            line = [(f"{len(items)} events: {what}  ", "heading")]
            return [[*line, (f"not saved: {bad}", "bad") if bad else (where, "muted")]]

        self.query_one(TextBlock).show(title)

    def action_next_filter(self) -> None:
        """The next of the filters."""
        self.filter = (self.filter + 1) % len(FILTERS)
        self.tick(True)
