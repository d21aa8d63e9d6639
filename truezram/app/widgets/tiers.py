"""Where a device's pages are: hot, dense, cold, and on the backing file. One bar of what each takes, and a legend with
figures; in a single line where there is only one.

Each tier has a character of its own, so that nothing depends on colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment

from truezram.app.format import short_size
from truezram.app.theme import TIER_KEYS
from truezram.app.view import View
from truezram.app.widgets.bars import NAME, NUMBER
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.engine.model import DeviceSnapshot, Tier
from truezram.engine.units import format_count

MARKS = {"hot": "█#", "dense": "▓+", "cold": "▒.", "backing": "░:"}
"""The character of each tier, and the one in ASCII."""
FORMS = (
    ("{name} {pages} pages in {size}", ", saved {saved}", "   "),
    ("{name} {pages} in {size}", ", saved {saved}", "  "),
    ("{name} {pages} {size}", " -{saved}", "  "),
    ("{name} {size}", " -{saved}", "  "),
)
"""Of the legend, the longest first: a tier, what it has saved, and what is between two."""


def worth_a_line(device: DeviceSnapshot) -> bool:
    """Whether anything has been compressed once more. (A device that writes with dense has no other pages.)"""
    return device.kind == "truezram" and device.state != "unreadable" and any(tier.saved for tier in device.tiers)


def shares(tiers: tuple[Tier, ...], room: int) -> list[int]:
    """Cells of each tier, `room` together; what is there has one at least."""
    total = sum(tier.bytes for tier in tiers)
    if not total:
        return [0] * len(tiers)
    cells = [max(1, round(tier.bytes / total * room)) if tier.bytes else 0 for tier in tiers]
    cells[cells.index(max(cells))] += room - sum(cells)
    return cells


class TierBar(LineWidget):
    """See the module's text."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tiers--text", *(f"tiers--{key}" for key in TIER_KEYS)}
    DEFAULT_CSS = "".join(f".tiers--{key} {{ color: $tier-{key}; }}\n" for key in TIER_KEYS)

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self.device: DeviceSnapshot | None = None

    def show(self, device: DeviceSnapshot | None) -> None:
        """Shows a device; None: nothing."""
        self.device = device
        self.rebuild()

    @property
    def marks(self) -> dict[str, str]:
        """The character of each tier."""
        return {tier: mark[self.view.glyphs == "ascii"] for tier, mark in MARKS.items()}

    def build(self, width: int, height: int) -> list[Line]:
        """The bar, then the legend."""
        if self.device is None:
            return []
        tiers = self.device.tiers
        if height > 1:
            return [self._bar(tiers, width), self._legend(tiers, width, FORMS)]
        legend = self._legend(tiers, width - NAME - 12, FORMS[-1:])
        room = width - sum(segment.cell_length for segment in legend) - 1
        return [[*self._bar(tiers, room), Segment(" ", self.style("tiers--text")), *legend]]

    def _bar(self, tiers: tuple[Tier, ...], width: int) -> Line:
        text = self.style("tiers--text")
        room = max(width - NAME - NUMBER, len(tiers))
        line = [Segment(f"{'objects':<{NAME}}", text)]
        for tier, cells in zip(tiers, shares(tiers, room), strict=True):
            line.append(Segment(self.marks[tier.name] * cells, self.style(f"tiers--{tier.name}")))
        return [*line, Segment(f" {short_size(sum(tier.bytes for tier in tiers)):>{NUMBER - 1}}", text)]

    def _legend(self, tiers: tuple[Tier, ...], width: int, forms: Sequence[tuple[str, str, str]]) -> Line:
        parts: list[list[tuple[str, str]]] = []
        for form, saved, between in forms:
            parts = [self._part(tier, form, saved) for tier in tiers]
            used = sum(cell_len(text) for part in parts for text, _ in part)
            if used + len(between) * (len(parts) - 1) <= width:
                break
        line: Line = []
        for number, part in enumerate(parts):
            left = width - sum(segment.cell_length for segment in line)
            if number:
                line.append(Segment(between[:left], self.style("tiers--text")))
            for text, style in part:
                left = width - sum(segment.cell_length for segment in line)
                line.append(Segment(clip(text, left), self.style(style)))
        return line

    def _part(self, tier: Tier, form: str, saved: str) -> list[tuple[str, str]]:
        mark = (f"{self.marks[tier.name]} ", f"tiers--{tier.name}")
        if not tier.pages and not tier.saved:
            return [mark, (f"{tier.name} none", "tiers--text")]
        figures = {"name": tier.name, "pages": format_count(tier.pages), "size": short_size(tier.bytes)}
        text = form.format(**figures) + (saved.format(saved=short_size(tier.saved)) if tier.saved else "")
        return [mark, (text, "tiers--text")]
