"""Horizontal bars with their figures next to them: what-if and benchmark.

Every bar is a row of its own with its name and figure in text, so that it can be read without colours. With too
little height the later series are left out, then the last names, and a line shows that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment

from truezram.app import glyphs
from truezram.app.widgets.grid import pad
from truezram.app.widgets.lines import Line, LineWidget, clip


@dataclass(frozen=True)
class Bars:
    """One figure of every name. Each series has a scale of its own, from 0 to its largest value or `top`."""

    label: str
    values: Sequence[float]
    texts: Sequence[str]
    """The figures as they are written."""
    top: float = 0.0


class BarChart(LineWidget):
    """See the module's text."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "barchart--title",
        "barchart--name",
        "barchart--0",
        "barchart--1",
        "barchart--muted",
    }

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title = ""
        self._names: Sequence[str] = ()
        self._series: Sequence[Bars] = ()
        self._glyphs = "braille"

    def show(self, title: str, names: Sequence[str], series: Sequence[Bars], glyph_set: str) -> None:
        """Draws these; `glyph_set` as in glyphs.py."""
        self._title, self._names, self._series, self._glyphs = title, names, series, glyph_set
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Title, then the bars of one name after the other."""
        series = list(self._series)
        while len(series) > 1 and len(self._names) * len(series) + 1 > height:
            series.pop()
        left_out = ", ".join(one.label for one in self._series[len(series) :])
        note = f"  (no room: {left_out})" if left_out else ""
        title = Segment(clip(self._title, width - cell_len(note)), self.style("barchart--title"))
        lines: list[Line] = [[title, Segment(note, self.style("barchart--muted"))]]
        airy = len(self._names) * (len(series) + 1) + 1 <= height
        room = height - 1
        many = min(len(self._names), room // max(len(series), 1))
        if many < len(self._names):
            many = (room - 1) // max(len(series), 1)
        name_width = max((len(name) for name in self._names), default=0)
        label_width = max((len(one.label) for one in series), default=0)
        text_width = max((len(text) for one in series for text in one.texts), default=0)
        bar_width = max(width - name_width - label_width - text_width - 3, 4)
        for index in range(many):
            if airy and index:
                lines.append([])
            for number, one in enumerate(series):
                top = one.top or max(one.values, default=0.0)
                share = one.values[index] / top if top > 0 else 0.0
                name = self._names[index] if number == 0 else ""
                lines.append(
                    [
                        Segment(pad(name, name_width, True) + " ", self.style("barchart--name")),
                        Segment(pad(one.label, label_width, True) + " ", self.style("barchart--muted")),
                        Segment(pad(one.texts[index], text_width, False) + " ", self.style("barchart--name")),
                        Segment(glyphs.bar(share, bar_width, self._glyphs), self.style(f"barchart--{number % 2}")),
                    ]
                )
        if many < len(self._names):
            missing = f"{len(self._names) - many} more with more lines"
            lines.append([Segment(clip(missing, width), self.style("barchart--muted"))])
        return lines
