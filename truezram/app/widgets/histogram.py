"""Histograms: how large pages are stored (by ratio), for how long they have been idle, and how long requests take
(reads above, writes below one axis)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment

from truezram.app import glyphs
from truezram.app.format import short_ns
from truezram.app.view import View
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.engine.answers import AGES
from truezram.engine.model import Age
from truezram.engine.rates import latency_floor, percentile
from truezram.engine.units import format_count, format_duration

GUTTER = 7


def age_labels(ages: Sequence[Age]) -> list[str]:
    """``<3m``, ``12m+``: for how long pages of each age have been idle, in few characters."""

    def short(ns: int) -> str:
        return format_duration(ns / 1e9).partition(" ")[0]

    return [f"{short(age.least_ns)}+" if age.least_ns else f"<{short(age.most_ns)}" for age in ages]


def squeeze(bins: Sequence[float], room: int) -> list[float]:
    """`bins` in `room` places: neighbours added up where there are too many, each repeated where there are too few."""
    count = len(bins)
    if count <= room:
        return [bins[place * count // room] for place in range(room)]
    out = [0.0] * room
    for index, value in enumerate(bins):
        out[index * room // count] += value
    return out


class _Histogram(LineWidget):
    COMPONENT_CLASSES: ClassVar[set[str]] = {"hist--title", "hist--axis", "hist--size", "hist--read", "hist--write"}

    def __init__(self, view: View, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.view = view

    def label(self, text: str) -> Segment:
        """A cell of the gutter."""
        return Segment(f"{clip(text, GUTTER - 1):>{GUTTER - 1}} ", self.style("hist--axis"))


class SizeHistogram(_Histogram):
    """Pages by the size they are stored in; the axis says which ratio that is."""

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(view, id=id)
        self.bins: tuple[int, ...] = ()
        self.reason = ""

    def show(self, bins: tuple[int, ...], reason: str = "") -> None:
        """`bins`: 65 of 64 bytes each (model.DeviceSnapshot.size_pages). `reason`: why there are none."""
        self.bins, self.reason = bins, reason
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Title, bars, axis of ratios."""
        total = sum(self.bins)
        title = f"pages by ratio  {format_count(total)} pages" if total else "pages by ratio"
        lines: list[Line] = [[Segment(clip(title, width), self.style("hist--title"))]]
        plot, rows = width - GUTTER, height - 2
        if plot < 8 or rows < 1:
            return lines
        if not total:
            return [*lines, [Segment(clip(self.reason or "No pages stored.", width), self.style("hist--axis"))]]
        per_cell = glyphs.samples_per_cell(self.view.glyphs)
        # Bins of 65: left is a page that takes 64 bytes (64 to 1), right one that does not shrink.
        values = squeeze(self.bins, plot * per_cell)
        used = len(values) // per_cell
        top = max(values)
        style = self.style("hist--size")
        for row, text in enumerate(glyphs.fill_rows(values, used, rows, top, self.view.glyphs)):
            lines.append(
                [self.label(format_count(top) if row == 0 else "0" if row == rows - 1 else ""), Segment(text, style)]
            )
        axis = [" "] * plot
        for ratio in (16, 8, 4, 3, 2, 1.5, 1):
            text = f"{ratio:g}×"
            place = min(round(64 / ratio / 65 * used), used - len(text))
            if all(cell == " " for cell in axis[max(place - 1, 0) : place + len(text) + 1]):
                axis[place : place + len(text)] = text
        lines.append([self.label("ratio"), Segment("".join(axis), self.style("hist--axis"))])
        return lines


class AgeHistogram(_Histogram):
    """Pages by age: a bar for each, of the colour that it has in the page map."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"hist--age-{age}" for age in range(AGES)}
    DEFAULT_CSS = "".join(f".hist--age-{age} {{ color: $age-{age}; }}\n" for age in range(AGES))

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(view, id=id)
        self.ages: tuple[Age, ...] = ()
        self.ago = 0.0
        self.reason = ""

    def show(self, ages: tuple[Age, ...], ago: float, reason: str = "") -> None:
        """`ago`: seconds since they were counted. `reason`: why there are none."""
        self.ages, self.ago, self.reason = ages, ago, reason
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Title, bars, axis."""
        pages = [age.pages for age in self.ages]
        title = "pages by age"
        if sum(pages):
            title += f"  {format_count(sum(pages))} pages, counted {format_duration(self.ago)} ago"
        lines: list[Line] = [[Segment(clip(title, width), self.style("hist--title"))]]
        room, rows = (width - GUTTER) // AGES, height - 2
        if room < 3 or rows < 1:
            return lines
        if not sum(pages):
            return [*lines, [Segment(clip(self.reason or "No pages counted.", width), self.style("hist--axis"))]]
        per_cell = glyphs.samples_per_cell(self.view.glyphs)
        values = [value for count in pages for value in [count] * ((room - 1) * per_cell) + [0] * per_cell]
        top = max(pages)
        for row, text in enumerate(glyphs.fill_rows(values, room * AGES, rows, top, self.view.glyphs)):
            label = self.label(format_count(top) if row == 0 else "0" if row == rows - 1 else "")
            bars = [text[at * room : (at + 1) * room] for at in range(AGES)]
            lines.append([label, *(Segment(bar, self.style(f"hist--age-{age}")) for age, bar in enumerate(bars))])
        axis = "".join(f"{label[: room - 1]:<{room}}" for label in age_labels(self.ages))
        lines.append([self.label("idle"), Segment(axis, self.style("hist--axis"))])
        return lines


class LatencyHistogram(_Histogram):
    """Requests by service time on a logarithmic axis: reads above, writes below."""

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(view, id=id)
        self.reads: Sequence[int] = ()
        self.writes: Sequence[int] = ()
        self.span = ""
        self.reason = ""

    def show(self, reads: Sequence[int], writes: Sequence[int], span: str, reason: str = "") -> None:
        """Histograms as in stats.h; `span` says over what time, `reason` why there are none."""
        self.reads, self.writes, self.span, self.reason = reads, writes, span, reason
        self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """Title, bars, axis of times."""
        lines: list[Line] = [self._title(width)]
        plot = width - GUTTER
        rows = height - 2
        used = [i for i, (r, w) in enumerate(zip(self.reads, self.writes, strict=False)) if r or w]
        if plot < 8 or rows < 2:
            return lines
        if not used:
            return [*lines, [Segment(clip(self.reason or "No requests.", width), self.style("hist--axis"))]]
        first, last = used[0] // 8 * 8, -(-(used[-1] + 1) // 8) * 8
        per_cell = glyphs.samples_per_cell(self.view.glyphs)
        reads = squeeze(self.reads[first:last], plot * per_cell)
        writes = squeeze(self.writes[first:last], plot * per_cell)
        cells = len(reads) // per_cell
        above = rows // 2
        up = glyphs.fill_rows(reads, cells, above, max(max(reads), 1), self.view.glyphs)
        down = glyphs.fill_rows(writes, cells, rows - above, max(max(writes), 1), self.view.glyphs, down=True)
        read, write = self.style("hist--read"), self.style("hist--write")
        for row, text in enumerate(up):
            lines.append([self.label("reads" if row == 0 else ""), Segment(text, read)])
        lines.append([self.label(""), Segment(self._axis(first, last, cells, plot), self.style("hist--axis"))])
        for row, text in enumerate(down):
            lines.append([self.label("writes" if row == rows - above - 1 else ""), Segment(text, write)])
        return lines

    def _axis(self, first: int, last: int, cells: int, plot: int) -> str:
        axis = ["─"] * cells + [" "] * (plot - cells)
        step = max(8, -(-(last - first) // max(cells // 9, 1) // 8) * 8)
        for index in range(first, last, step):
            text = short_ns(latency_floor(index))
            place = (index - first) * cells // (last - first)
            if place + len(text) <= cells:
                axis[place : place + len(text)] = text
        return "".join(axis)

    def _title(self, width: int) -> Line:
        """What this is, and of reads and writes p50 and p99: as long as there is room for."""
        found = []
        for name, bins, style in (("r", self.reads, "hist--read"), ("w", self.writes, "hist--write")):
            p50, p99 = percentile(bins, 0.5), percentile(bins, 0.99)
            if p50 is not None and p99 is not None:
                found.append((name, short_ns(p50), short_ns(p99), style))
        long = [(f"  {name} p50 {p50} p99 {p99}", style) for name, p50, p99, style in found]
        short = [(f"  {name} {p50}/{p99}", style) for name, p50, p99, style in found]
        title = (f"service time  {self.span}", "hist--title")
        variants = [[title, *long], [(f"service time p50/p99  {self.span}", "hist--title"), *short]]
        variants += [[("p50/p99", "hist--title"), *short], [title]]
        chosen = next((v for v in variants if sum(cell_len(text) for text, _ in v) <= width), variants[-1])
        return [Segment(clip(text, width), self.style(style)) for text, style in chosen]
