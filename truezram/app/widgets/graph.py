"""Live graphs: filled areas above and below one axis, or lines on a linear or logarithmic scale, one sample a dot.

All graphs of a screen share a `View`: the seconds per dot, and whether it is paused. A graph
never rescales nervously: its top rises at once when a value needs it and falls one step at a time, after `HOLD`
seconds in which the lower step would have done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style

from truezram.app import glyphs
from truezram.app.format import decade, short_ns, short_size
from truezram.app.series import NAN, SAMPLES, Ring
from truezram.app.view import View
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.engine.units import PAGE, format_count, format_duration

HOLD = 10
"""Seconds before a scale comes down one step."""
GUTTER = 7


@dataclass(frozen=True)
class Trace:
    """One curve: `style` is a component class of `Graph`, `place` is "up", "down" (areas) or "line"."""

    label: str
    ring: Ring
    style: str
    place: str = "up"


class Scale:
    """The top (and on logarithmic scales the bottom) of a graph, with the calm described above."""

    def __init__(self, steps: Callable[[float], float], least: float) -> None:
        self._steps = steps
        self._least = least
        self.top = least
        self._since = 0

    def fit(self, values: Sequence[float], seconds: float = 1.0) -> float:
        """Takes in the visible values, `seconds` after the last time; the new top."""
        peak = max((v for v in values if v == v), default=0.0)
        wanted = max(self._steps(peak), self._least)
        if wanted >= self.top:
            self.top, self._since = wanted, 0.0
        else:
            self._since += seconds
            if self._since >= HOLD:
                self.top, self._since = max(wanted, self._steps(self.top / 2.01)), 0.0
        return self.top

    _since: float


def iec_steps(value: float) -> float:
    """The next power of two, the steps that sizes in binary units go by."""
    return 2.0 ** math.ceil(math.log2(value)) if value > 0 else 0.0


def ratio_steps(value: float) -> float:
    """The next of 2, 4, 6, 8, 12, 16, 24, 32 …"""
    for step in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512):
        if value <= step:
            return float(step)
    return iec_steps(value)


def decade_steps(value: float) -> float:
    """The next power of ten."""
    return 10.0 ** math.ceil(math.log10(value)) if value > 0 else 0.0


def cpu_steps(value: float) -> float:
    """Tenths of a CPU, then halves, then whole ones (the value is in CPUs)."""
    for step in (0.1, 0.25, 0.5, 1.0):
        if value <= step:
            return step
    return float(math.ceil(value))


@dataclass(frozen=True)
class Kind:
    """What a graph measures: how to write values, how its scale steps, and whether it is logarithmic."""

    title: str
    write: Callable[[float], str]
    steps: Callable[[float], float]
    least: float
    log: bool = False


def _rate(value: float) -> str:
    return "-" if value != value else f"{short_size(value)}/s"


def _page_rate(value: float) -> str:
    return "-" if value != value else f"{format_count(value / PAGE)}/s"


KINDS = {
    "throughput": Kind("throughput", _rate, iec_steps, 64 * 1024.0),
    "ratio": Kind("ratio", lambda v: "-" if v != v else f"{v:.2f}", ratio_steps, 2.0),
    "latency": Kind("latency", short_ns, decade_steps, 10e3, log=True),
    "cpu": Kind("cpu", lambda v: "-" if v != v else f"{v * 100:.0f}%", cpu_steps, 0.1),
    "memory": Kind("memory", short_size, iec_steps, 1024.0**2),
    "pressure": Kind("pressure", lambda v: "-" if v != v else f"{v:.0f}%", lambda v: 10.0 if v <= 10 else 100.0, 10.0),
}


def group(values: Sequence[float], total: int, size: int) -> list[float]:
    """Highest value of each group of `size` samples, groups aligned to the total count so that they do not shimmer."""
    if size == 1:
        return list(values)
    first = total - len(values)
    out: list[float] = []
    for start in range(first - first % size, total, size):
        part = [v for v in values[max(0, start - first) : start - first + size] if v == v]
        out.append(max(part) if part else NAN)
    return out


class Graph(LineWidget):
    """One graph with its title, scale and time axis."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "graph--title",
        "graph--axis",
        "graph--read",
        "graph--write",
        "graph--ratio",
        "graph--p50",
        "graph--p99",
        "graph--cpu",
        "graph--logical",
        "graph--resident",
    }

    def __init__(
        self, kind: str, view: View, *, title: str = "", id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.kind = KINDS[kind]
        self.view = view
        self.title = title or self.kind.title
        self.traces: tuple[Trace, ...] = ()
        self._frozen: list[tuple[list[float], int]] | None = None
        self._scale = Scale(self.kind.steps, self.kind.least)
        self._seen = 0

    def show(self, traces: Sequence[Trace]) -> None:
        """Shows these curves from now on; the scale is reset when the curves change."""
        if [t.ring for t in traces] != [t.ring for t in self.traces]:
            self._scale = Scale(self.kind.steps, self.kind.least)
            self._frozen = None
        self.traces = tuple(traces)
        self.rebuild()

    def data(self) -> list[tuple[list[float], int]]:
        """Values and total count of every trace, frozen while the view is paused."""
        if not self.view.paused:
            self._frozen = None
        elif self._frozen is not None:
            return self._frozen
        data = [(list(trace.ring.values), trace.ring.total) for trace in self.traces]
        if self.view.paused:
            self._frozen = data
        return data

    def build(self, width: int, height: int) -> list[Line]:
        """Title, plot, time axis."""
        axis, title = self.style("graph--axis"), self.style("graph--title")
        lines = [self._title(width, title, axis)]
        timeline = height >= 6
        rows = height - 1 - timeline
        if rows < 1:
            return lines
        plot = width - GUTTER
        if plot < 4 or not self.traces:
            return lines
        per_cell = glyphs.samples_per_cell(self.view.glyphs)
        data = [group(values, total, self.view.seconds)[-plot * per_cell :] for values, total in self.data()]
        total = self.traces[0].ring.total
        top = self._scale.fit([v for values in data for v in values], max(total - self._seen, 0))
        self._seen = total
        if any(trace.place == "down" for trace in self.traces):
            lines += self._two_sided(data, plot, rows, top, axis)
        elif self.kind.log:
            lines += self._logarithmic(data, plot, rows, top, axis)
        else:
            lines += self._areas(data, plot, rows, top, axis)
        if timeline:
            lines.append(self._timeline(plot, per_cell, axis))
        return lines

    def _title(self, width: int, title: Style, axis: Style) -> Line:
        line = [Segment(clip(self.title, width), title)]
        used = len(self.title)
        two_sided = any(trace.place == "down" for trace in self.traces)
        for trace in self.traces:
            values = self.data()[self.traces.index(trace)][0]
            mark = {"up": "▲", "down": "▼"}.get(trace.place, "") if two_sided and self.view.glyphs != "ascii" else ""
            text = f"{trace.label}{mark} {self.write(values[-1] if values else NAN)}".strip()
            if used + 2 + len(text) > width:
                break
            line += [Segment("  ", axis), Segment(text, self.style(trace.style))]
            used += 2 + len(text)
        return line

    def write(self, value: float) -> str:
        """A value as the user wants it."""
        return _page_rate(value) if self.view.pages and self.kind.write is _rate else self.kind.write(value)

    def _label(self, text: str, style: Style) -> Segment:
        return Segment(f"{clip(text, GUTTER - 1):>{GUTTER - 1}} ", style)

    def _two_sided(self, data: list[list[float]], plot: int, rows: int, top: float, axis: Style) -> list[Line]:
        above = max((rows - 1 + 1) // 2, 1)
        below = max(rows - 1 - above, 0)
        lines: list[Line] = []
        known = [NAN] * 0
        for place, height in (("up", above), ("down", below)):
            index = next(i for i, trace in enumerate(self.traces) if trace.place == place)
            style = self.style(self.traces[index].style)
            filled = glyphs.fill_rows(data[index], plot, height, top, self.view.glyphs, place == "down")
            for row, text in enumerate(filled):
                edge = row == (0 if place == "up" else height - 1)
                label = self.write(top).removesuffix("/s") if edge else ""
                lines.append([self._label(label, axis), Segment(text, style)])
            known = data[index]
            if place == "up":
                lines.append([self._label("0", axis), Segment(self._axis_line(known, plot), axis)])
        return lines

    def _axis_line(self, values: Sequence[float], plot: int) -> str:
        """The zero line, solid where there are samples, dotted where there are none."""
        per_cell = glyphs.samples_per_cell(self.view.glyphs)
        missing = plot * per_cell - len(values)
        cells = []
        for cell in range(plot):
            part = [values[i - missing] for i in range(cell * per_cell, (cell + 1) * per_cell) if i >= missing]
            cells.append("─" if any(v == v for v in part) else "┄" if part else " ")
        return "".join(cells)

    def _areas(self, data: list[list[float]], plot: int, rows: int, top: float, axis: Style) -> list[Line]:
        """The first trace as an area, any others as lines in front of it."""
        filled = glyphs.fill_rows(data[0], plot, rows, top, self.view.glyphs)
        back = self.style(self.traces[0].style)
        front = self._line_marks(data[1:], self.traces[1:], plot, rows, 0.0, top)
        lines: list[Line] = []
        for row, text in enumerate(filled):
            label = self.write(top) if row == 0 else "0" if row == rows - 1 else ""
            lines.append([self._label(label, axis), *_overlay(text, back, front.get(row, {}))])
        return lines

    def _logarithmic(self, data: list[list[float]], plot: int, rows: int, top: float, axis: Style) -> list[Line]:
        low = min((v for values in data for v in values if v == v and v > 0), default=top / 10)
        bottom = min(10.0 ** math.floor(math.log10(low)), top / 10)
        high, base = math.log10(top), math.log10(bottom)
        logs = [[math.log10(v) if v == v and v > 0 else NAN for v in values] for values in data]
        marks = self._line_marks(logs, self.traces, plot, rows, base, high)
        lines: list[Line] = []
        step = (high - base) / max(rows - 1, 1)  # decades a row
        decades = {}
        for d in range(round(base), round(high) + 1):
            row = round((high - d) / step)
            if abs(high - row * step - d) < 0.15:  # a label is the value of its row, not one between two rows
                decades[row] = d
        for row in range(rows):
            label = decade(10.0 ** decades[row]) if row in decades else ""
            grid = ("┄" if row in decades else " ") * plot
            lines.append([self._label(label, axis), *_overlay(grid, axis, marks.get(row, {}))])
        return lines

    def _line_marks(
        self, data: Sequence[Sequence[float]], traces: Sequence[Trace], plot: int, rows: int, low: float, high: float
    ) -> dict[int, dict[int, tuple[str, Style]]]:
        """Row → column → character and style of the line graphs; later traces lie in front."""
        marks: dict[int, dict[int, tuple[str, Style]]] = {}
        for values, trace in zip(data, traces, strict=True):
            style = self.style(trace.style)
            for (row, column), bits in glyphs.line_cells(values, plot, rows, low, high, self.view.glyphs).items():
                marks.setdefault(row, {})[column] = (glyphs.line_char(bits, self.view.glyphs), style)
        return marks

    def _timeline(self, plot: int, per_cell: int, axis: Style) -> Line:
        """Marks of time under the plot: how long ago the left edge and the middle were."""
        cells = [" "] * plot
        seconds = plot * per_cell * self.view.seconds
        for share in (1.0, 0.75, 0.5, 0.25) if plot >= 60 else (1.0, 0.5):
            ago = min(round(seconds * share), SAMPLES)
            text = f"-{format_duration(ago)}".replace(" 0s", "")
            start = plot - round(ago / (per_cell * self.view.seconds))
            if start >= 0 and start + len(text) < plot - 8:
                cells[start : start + len(text)] = text
        end = "paused" if self.view.paused else "now"
        cells[plot - len(end) :] = end
        return [Segment(" " * GUTTER, axis), Segment("".join(cells), axis)]


def _overlay(text: str, style: Style, marks: dict[int, tuple[str, Style]]) -> Line:
    """`text` in `style` with some of its cells replaced, as few segments as possible."""
    if not marks:
        return [Segment(text, style)]
    line: Line = []
    run, run_style = "", style
    for column, char in enumerate(text):
        cell, cell_style = marks.get(column, (char, style))
        if cell_style is not run_style and run:
            line.append(Segment(run, run_style))
            run = ""
        run += cell
        run_style = cell_style
    line.append(Segment(run, run_style))
    return line
