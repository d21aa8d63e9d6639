"""The newest events, oldest first, as many as there is room for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

from rich.segment import Segment

from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.engine.device.events import Event

MARKS = {"info": "·", "warning": "!", "error": "✗"}


class EventList(LineWidget):
    """Lines of the event log; with one line of room, the newest event."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"events--time", "events--info", "events--warning", "events--error"}

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.events: list[Event] = []
        self.device = ""
        self.back = 0
        """How many lines the user has scrolled back."""

    def show(self, events: Iterable[Event], device: str = "") -> None:
        """Shows these events; with `device`, only that device's."""
        self.events = [event for event in events if not device or event.device == device]
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Time, mark, device, text."""
        end = len(self.events) - min(self.back, max(len(self.events) - height, 0))
        shown = self.events[max(0, end - height) : end]
        lines: list[Line] = []
        for event in shown:
            stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
            what = f"{event.device} {event.text}" if event.device else event.text
            lines.append(
                [
                    Segment(f"{stamp} ", self.style("events--time")),
                    Segment(
                        clip(f"{MARKS.get(event.level, '?')} {what}", width - 9), self.style(f"events--{event.level}")
                    ),
                ]
            )
        if not lines:
            lines.append([Segment(clip("No events yet.", width), self.style("events--time"))])
        return lines
