"""Bars of what a device holds and what it costs: logical (of disksize) and resident (of mem_limit, or of memory)."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment

from truezram.app import glyphs
from truezram.app.columns import Row, mountpoint
from truezram.app.format import short_size
from truezram.app.view import View
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.engine.units import format_duration

NAME, NUMBER = 9, 7
"""Cells of a bar's name and of its value."""


class Bars(LineWidget):
    """Two bars for one device; with three lines or more also its name and use."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "bars--title",
        "bars--text",
        "bars--logical",
        "bars--resident",
        "bars--track",
        "bars--bad",
        "bars--warn",
    }

    def __init__(self, view: View, *, heading: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self.heading = heading
        self.row: Row | None = None
        self.memory = 0

    def show(self, row: Row | None, memory: int) -> None:
        """Shows a device; `memory` is what a device without a limit is measured against (the machine's total)."""
        self.row, self.memory = row, memory
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Heading, logical, resident."""
        lines: list[Line] = []
        if self.row is None:
            return [[]] * height
        device = self.row.device
        if self.heading and height >= 3:
            lines.append(self._heading(width))
        if device.state == "unreadable":
            return [*lines, [Segment(clip(f"no figures: {device.last_error}", width), self.style("bars--bad"))]]
        limit = device.mem_limit or self.memory
        against = "mem_limit" if device.mem_limit else "memory"
        bars = (
            ("logical", device.orig_data_size, device.disksize, f"of {short_size(device.disksize)} disksize"),
            ("resident", device.mem_used_total, limit, f"of {short_size(limit)} {against}"),
        )
        longest = max(len(rest) for *_, rest in bars)
        if width - NAME - NUMBER - longest - 1 < 10:
            longest = 0
        return lines + [self._bar(width, *bar, longest) for bar in bars]

    def _heading(self, width: int) -> Line:
        assert self.row is not None
        device = self.row.device
        parts = [device.algorithm, mountpoint(device)]
        if device.transport == "local" and device.kind == "truezram":
            parts.append("in-process, not in /dev")
        left = self.row.series.time_to_full() if self.row.series else None
        if left is not None and left < 7 * 86400:
            parts.append(f"full in {format_duration(left)}")
        text = "  ".join(part for part in parts if part)
        line = [Segment(f"{device.name} ", self.style("bars--title"))]
        used = len(device.name) + 1
        if self.row.state not in ("live", "kernel"):
            state = f"{self.row.status()} "
            line.append(Segment(state, self.style("bars--warn" if self.row.warns else "bars--bad")))
            used += len(state)
        line.append(Segment(clip(text, width - used), self.style("bars--text")))
        return line

    def _bar(self, width: int, name: str, value: int, full: int, rest: str, longest: int) -> Line:
        """`longest`: cells that the longer of both `rest`s takes; 0: neither fits."""
        text = self.style("bars--text")
        label = f"{name:<{NAME}}"
        numbers = f" {short_size(value):>{NUMBER - 1}}" + (f" {rest:<{longest}}" if longest else "")
        room = max(width - len(label) - len(numbers), 1)
        fraction = value / full if full else 0.0
        filled = glyphs.bar(fraction, room, self.view.glyphs)
        empty = room - len(filled)
        track = "─" if self.view.glyphs != "ascii" else "-"
        return [
            Segment(label, text),
            Segment(filled, self.style(f"bars--{name}")),
            Segment(track * empty, self.style("bars--track")),
            Segment(numbers, text),
        ]
