"""The page map: a device's page table from its first page to its last, each cell a region, coloured by what it holds
most of, or by age: how long most of its pages have been idle.

The darker the cell the emptier the region. Without colours, and in ASCII, cells are letters: capitals where more than
half of the region holds something; ages are a, the youngest, to h. A cursor picks a region;
Enter looks into it, Backspace back out.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from string import ascii_lowercase
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from truezram.app import glyphs
from truezram.app.view import View
from truezram.app.widgets.histogram import age_labels
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.codec import KINDS
from truezram.engine.answers import AGES, MAP_AGES, PageMap
from truezram.engine.model import Age
from truezram.engine.units import format_count

MOST_REGIONS = 3072
"""Twelve answers of the server, every few seconds."""


def lettered(kinds: Iterable[str]) -> dict[str, str]:
    """Kind → the first letter of its name that no kind before it has."""
    out: dict[str, str] = {}
    for name in kinds:
        letters = (letter for letter in name + ascii_lowercase if letter.isalpha() and letter not in out.values())
        out[name] = next(letters, "?")
    return out


# "auto" makes objects of other kinds and is never stored itself.
LETTERS = lettered(name for name in dict.fromkeys(KINDS) if name not in ("empty", "auto"))


def style_name(kind: str) -> str:
    """The component class of a kind's cells."""
    return f"map--{kind.replace('_', '-')}"


AGE_LETTERS = {**{str(age): ascii_lowercase[age] for age in range(AGES)}, "no age": "s"}


def region_ages(region: tuple[int, ...]) -> Counter[str]:
    """Pages by age, those that have none apart."""
    return Counter({name: pages for name, pages in zip(MAP_AGES, region, strict=False) if pages})


def region_kinds(region: tuple[int, ...]) -> Counter[str]:
    """Pages by the name of their kind, the same-filled encodings as one."""
    found: Counter[str] = Counter()
    for kind, pages in enumerate(region):
        if pages:
            found[KINDS[kind] if kind < len(KINDS) else f"kind {kind}"] += pages
    return found


class PageMapView(LineWidget, can_focus=True):
    """See the module's text."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "map--title",
        "map--text",
        "map--cursor",
        *map(style_name, KINDS),
        *(f"map--age-{age}" for age in range(AGES)),
    }
    DEFAULT_CSS = "".join(
        f".{style_name(kind)} {{ color: ${style_name(kind).replace('--', '-')}; }}\n" for kind in dict.fromkeys(KINDS)
    ) + "".join(f".map--age-{age} {{ color: $age-{age}; }}\n" for age in range(AGES))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1,0)", "Left", show=False, id="map.left"),
        Binding("right,l", "move(1,0)", "Right", show=False, id="map.right"),
        Binding("up,k", "move(0,-1)", "Up", show=False, id="map.up"),
        Binding("down,j", "move(0,1)", "Down", show=False, id="map.down"),
        Binding("enter", "look_into", "Look into", key_display="Enter", id="map.into"),
        Binding("backspace", "look_out", "Back out", key_display="Backspace", id="map.out"),
    ]

    class Range(Message):
        """Another range of pages is wanted: its first page and how many (0: all)."""

        def __init__(self, first: int, pages: int) -> None:
            super().__init__()
            self.first = first
            self.pages = pages

    def __init__(self, view: View, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = view
        self.map: PageMap | None = None
        self.problem = ""
        self.letters = False
        self.labels: list[str] = []
        """Of the ages."""
        self.picked = 0
        self._across = 1
        self._stack: list[tuple[int, int]] = []

    def show(self, found: PageMap | None, problem: str = "", letters: bool = False, ages: Sequence[Age] = ()) -> None:
        """Shows a map, or why there is none. `letters`: do not rely on colour. `ages`: what a map by age has."""
        self.map, self.problem, self.letters = found, problem, letters
        self.labels = age_labels(ages)
        if found and self.picked >= len(found.regions):
            self.picked = max(len(found.regions) - 1, 0)
        self.rebuild()

    def regions_wanted(self) -> int:
        """How many regions fit, 1 … `MOST_REGIONS`."""
        return max(1, min(self.size.width * max(self.size.height - 3, 1), MOST_REGIONS))

    def forget(self) -> None:
        """Another device: back to its whole table."""
        self.map = None
        self._stack.clear()
        self.picked = 0

    # ---- keys and mouse

    def action_move(self, x: int, y: int) -> None:
        """Picks a neighbouring region."""
        if self.map:
            self.picked = max(0, min(len(self.map.regions) - 1, self.picked + x + y * self._across))
            self.rebuild()

    def action_look_into(self) -> None:
        """Shows the picked region's pages."""
        if self.map is None or self.map.pages <= len(self.map.regions):
            return
        first, pages = self._pages_picked()
        self._stack.append((self.map.first, self.map.pages))
        self.picked = 0
        self.post_message(self.Range(first, max(pages, 1)))

    def _pages_picked(self) -> tuple[int, int]:
        """The picked region's first page and how many it has. Regions are not all of one size: each counts its own."""
        assert self.map is not None
        before = sum(map(sum, self.map.regions[: self.picked]))
        return self.map.first + before, sum(self.map.regions[self.picked])

    def action_look_out(self) -> None:
        """Back to the range before."""
        if self._stack:
            first, pages = self._stack.pop()
            self.post_message(self.Range(first, pages))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what does something."""
        if action == "look_out":
            return bool(self._stack)
        if action == "look_into":
            return self.map is not None and self.map.pages > len(self.map.regions)
        return True

    def on_click(self, event: events.Click) -> None:
        """Picks the region under the mouse; a second click looks into it."""
        offset = event.get_content_offset(self)
        if offset is None or self.map is None or offset.y < 1 or offset.x >= self._across:
            return
        index = (offset.y - 1) * self._across + offset.x
        if index < len(self.map.regions):
            self.picked = index
            self.rebuild()
            if event.chain == 2:
                self.action_look_into()

    def on_focus(self) -> None:
        """The cursor shows only where keys go."""
        self.rebuild()

    def on_blur(self) -> None:
        """The cursor shows only where keys go."""
        self.rebuild()

    # ---- drawing

    def build(self, width: int, height: int) -> list[Line]:
        """Title, cells, the picked region's numbers, legend."""
        if self.map is None:
            text = self.problem or "Asking the device for its page map."
            return [
                [Segment("page map", self.style("map--title"))],
                *([Segment(line, self.style("map--text"))] for line in textwrap.wrap(text, max(width, 1))),
            ]
        found = self.map
        count = len(found.regions)
        rows = max(height - 3, 1)
        self._across = max(1, min(width, -(-count // rows)))
        per = found.pages / count
        what = "page map by age" if found.by == "age" else "page map"
        title = f"{what}  {format_count(found.pages)} pages, {format_count(per)} a cell"
        lines: list[Line] = [[Segment(clip(title, width), self.style("map--title"))]]
        for start in range(0, min(count, rows * self._across), self._across):
            lines.append(self._cells(start, min(start + self._across, count)))
        while len(lines) < rows + 1:
            lines.append([])
        lines.append(self._picked(width))
        lines.append(self._legend(width))
        return lines

    def _cells(self, start: int, end: int) -> Line:
        assert self.map is not None
        line: Line = []
        for index in range(start, end):
            text, name = self._cell(self.map.regions[index])
            style = self.style(name)
            if index == self.picked and self.has_focus:
                style = self.style("map--cursor")
                text = text if self.plain else "+"
            if line and line[-1].style == style:
                line[-1] = Segment(line[-1].text + text, style)
            else:
                line.append(Segment(text, style))
        return line

    def _cell(self, region: tuple[int, ...]) -> tuple[str, str]:
        kinds = self._counts(region)
        total, empty = sum(kinds.values()), kinds.pop("empty", 0)
        if not kinds or not total:
            return ("." if self.plain else "·"), style_name("empty")
        name = kinds.most_common(1)[0][0]
        style = self._style_of(name)
        if self.plain:
            letter = self._letters.get(name, "?")
            return letter.upper() if empty * 2 < total else letter, style
        share = 1 - empty / total
        shades = glyphs.SHADES[self.view.glyphs]
        return shades[max(1, min(4, round(share * 4)))], style

    # What is different of ages and kinds.

    @property
    def _by_age(self) -> bool:
        return self.map is not None and self.map.by == "age"

    def _counts(self, region: tuple[int, ...]) -> Counter[str]:
        return region_ages(region) if self._by_age else region_kinds(region)

    @property
    def _letters(self) -> dict[str, str]:
        return AGE_LETTERS if self._by_age else LETTERS

    def _style_of(self, name: str) -> str:
        if self._by_age and name.isdecimal():
            return f"map--age-{name}"
        return style_name(name if name in LETTERS or name == "empty" else "same")

    def _label(self, name: str) -> str:
        if not self._by_age or not name.isdecimal():
            return name
        return self.labels[int(name)] if self.labels else f"age {name}"

    @property
    def plain(self) -> bool:
        """Whether cells are letters."""
        return self.letters or self.view.glyphs == "ascii"

    def _picked(self, width: int) -> Line:
        assert self.map is not None
        first, count = self._pages_picked()
        kinds = self._counts(self.map.regions[self.picked])
        parts = [f"{self._label(name)} {pages} ({pages * 100 / count:.0f}%)" for name, pages in kinds.most_common()]
        text = f"pages {first}-{first + count - 1}: {', '.join(parts)}"
        return [Segment(clip(text, width), self.style("map--text"))]

    def _legend(self, width: int) -> Line:
        assert self.map is not None
        all_kinds: Counter[str] = Counter()
        for region in self.map.regions:
            all_kinds.update(self._counts(region))
        line: Line = []
        used = 0
        names = [name for name, _ in all_kinds.most_common()]
        if self._by_age:  # in their order, and what has none after them
            names = [*sorted(filter(str.isdecimal, names)), *(name for name in names if not name.isdecimal())]
        gap = " " if self._by_age and width < 60 else "  "
        for name in names:
            mark = self._letters.get(name, ".") if self.plain else "█"
            if name == "empty":
                mark = "." if self.plain else "·"
            text = f" {self._label(name)}{gap}"
            if used + len(text) + 1 > width:
                break
            style = self._style_of(name if name in self._letters else "empty")
            line += [Segment(mark, self.style(style)), Segment(text, self.style("map--text"))]
            used += len(text) + 1
        note = "CAPITAL: over half full" if self.plain else "darker: emptier"
        if used + len(note) <= width:
            line.append(Segment(note, self.style("map--text")))
        return line
