"""Static charts drawn by plotext: the graphs of a device at one moment.

plotext is slow (46 ms per frame at 80x24) and only used for what is drawn once; live graphs are `Graph`. It is imported
when the first chart is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text
from textual.color import Color
from textual.widgets import Static

from truezram.app.glyphs import to_ascii
from truezram.app.view import View

MARKERS = "*ox+"
Shade = tuple[int, int, int] | str | None
"""A colour as plotext wants it; None if the theme has none."""


def shade(chosen: str, ansi: bool) -> Shade:
    """A theme's colour; `ansi`: it is one of the terminal's own."""
    if not ansi:
        return Color.parse(chosen).rgb
    name = chosen.removeprefix("ansi_")
    if name == "default":
        return None
    return f"{name.removeprefix('bright_')}+" if name.startswith("bright_") else name


def unbroken(times: Sequence[float], values: Sequence[float]) -> Iterator[tuple[list[float], list[float]]]:
    """The curve's pieces between gaps (NaN)."""
    for gap, piece in groupby(zip(times, values, strict=True), lambda point: math.isnan(point[1])):
        if not gap:
            found = list(piece)
            yield [time for time, _ in found], [value for _, value in found]


class StillChart(Static):
    """A chart made by `draw`, drawn again when its size changes."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw: Callable[[Any], None] | None = None
        self._view = View()

    def lines(
        self,
        series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
        title: str,
        axis: str,
        log: bool,
        shades: Sequence[Shade],
        view: View,
    ) -> None:
        """Curves: (name, times in seconds before now, values); a curve has a gap where its value is NaN. `shades`: the
        curves' colours, reused from the first if there are more curves."""

        def draw(plot: Any) -> None:
            for number, (name, times, values) in enumerate(series):
                colour = shades[number % len(shades)]
                # If colours do not distinguish the curves, markers must.
                fine = view.glyphs == "braille" and colour is not None
                marker = "braille" if fine else MARKERS[number % len(MARKERS)]
                for piece, (x, y) in enumerate(unbroken(times, values)):
                    plot.plot(x, y, label=name if piece == 0 else None, marker=marker, color=colour)
            plot.title(title)
            plot.xlabel(axis)
            if log:
                plot.yscale("log")

        self._draw, self._view = draw, view
        self.redraw()

    def on_resize(self) -> None:
        """A chart is drawn for its size."""
        self.redraw()

    def redraw(self) -> None:
        """Draws."""
        width, height = self.size
        if self._draw is None or width < 20 or height < 5:
            return
        import plotext

        plotext.clear_figure()
        plotext.theme("clear")
        plotext.limit_size(False, False)  # it would ask stdout for the terminal's, which may be a pipe (browser)
        plotext.plotsize(width, height)
        self._draw(plotext)
        text = plotext.build()
        drawn = Text.from_ansi(text, no_wrap=True)
        if self._view.glyphs == "ascii":
            drawn = Text(to_ascii(drawn.plain))
        self.update(drawn)
