"""A table of text with a cursor, for what changes when the user does something: settings, checks, processes,
results."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message

from truezram.app import glyphs
from truezram.app.widgets.lines import Line, LineWidget, clip
from truezram.app.widgets.rows import RowsWidget, moving


@dataclass(frozen=True)
class Head:
    """One column: its title and least width; one with `grow` takes what room is left, up to `most` cells (0: any).
    Ranks as in columns.Column."""

    title: str
    width: int
    left: bool = False
    grow: bool = False
    rank: int = 0
    most: int = 0


@dataclass(frozen=True)
class Item:
    """One row. `style` is a component class without its prefix: "", "good", "warn", "bad", "muted", "head"."""

    key: str
    cells: tuple[str | float, ...]
    """Text, or a share 0…1 that is drawn as a bar as wide as its column."""
    style: str = ""
    order: tuple[float | str, ...] = ()
    """What its columns sort by; none: as written."""


def pad(text: str, width: int, left: bool) -> str:
    """Exactly `width` cells."""
    text = clip(text, width)
    room = " " * max(width - cell_len(text), 0)
    return text + room if left else room + text


def _with_place(titles: str, place: str, many: int) -> str:
    """The heading with which rows are shown, at its end or else in the widest gap between two titles; as long as there
    is room for."""
    for text in (f" {place} of {many}", f" {place}/{many}", f" of {many}"):
        at = len(titles) - len(text)
        if titles[at:].isspace():
            return titles[:at] + text
        gap = " " * (len(text) + 2)
        if (found := titles.rfind(gap)) >= 0:
            return titles[: found + 1] + text + titles[found + 1 + len(text) :]
    return titles


class Grid(RowsWidget, can_focus=True):
    """Rows with a cursor; a click on a heading sorts where `sortable`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "grid--header",
        "grid--row",
        "grid--cursor",
        "grid--cursor-blurred",
        "grid--good",
        "grid--warn",
        "grid--bad",
        "grid--muted",
        "grid--head",
    }
    BINDINGS: ClassVar[list[BindingType]] = moving("list")

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, grid: Grid, key: str) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            """The table."""
            return self.grid

    class Chosen(Message):
        """A second click on a row. (Enter is bound by the screens, which say what it does.)"""

        def __init__(self, grid: Grid, key: str) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            """The table."""
            return self.grid

    def __init__(
        self, heads: Sequence[Head], *, empty: str = "", sortable: bool = False, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.heads = tuple(heads)
        self.empty = empty
        self.sortable = sortable
        self.glyph_set = "braille"
        """What bars are drawn with; screens with bars set it."""
        self.items: list[Item] = []
        self.sort: int | None = None
        self.descending = True
        self._shown: list[tuple[int, int]] = []

    def show(self, items: Sequence[Item], heads: Sequence[Head] | None = None) -> None:
        """Shows these rows; the cursor stays on its key, or near where it was."""
        if heads is not None:
            self.heads = tuple(heads)
        place, before = self.index, len(self.items)
        self.items = self._sorted(items)
        if len(self.items) != before:
            self.refresh(layout=True)
        if self.items and self.index < 0:
            self._move_to(max(0, min(place, len(self.items) - 1)))
        self.rebuild()

    def _sorted(self, items: Sequence[Item]) -> list[Item]:
        if self.sort is None:
            return list(items)
        column = self.sort
        return sorted(items, key=lambda item: item.order[column] if item.order else 0, reverse=self.descending)

    @property
    def row_count(self) -> int:
        return len(self.items)

    def key_of(self, index: int) -> str:
        return self.items[index].key

    def moved(self, key: str) -> Message:
        return self.Moved(self, key)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Heading and all rows, for tables whose height is auto."""
        return max(len(self.items), 1) + 1

    def choose(self) -> None:
        """Says that the row was chosen."""
        if self.index >= 0:
            self.post_message(self.Chosen(self, self.cursor))

    def sort_by(self, column: int) -> None:
        """Sorts by a column, the same again the other way round."""
        self.descending = not self.descending if self.sort == column else not self.heads[column].left
        self.sort = column
        self.items = self._sorted(self.items)
        self.rebuild()

    def on_click(self, event: events.Click) -> None:
        """A heading sorts, a row takes the cursor, a second click chooses it."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            x = 0
            for column, width in self._shown:
                if x <= offset.x <= x + width and self.sortable:
                    self.sort_by(column)
                    return
                x += width + 1
            return
        index = self._top + offset.y - 1
        if 0 <= index < len(self.items):
            self._move_to(index)
            self.rebuild()
            if event.chain == 2:
                self.choose()

    def _fit(self, width: int) -> list[tuple[int, int]]:
        """(column, width) of those shown."""
        chosen: list[int] = []
        used = -1
        for index in sorted(range(len(self.heads)), key=lambda i: self.heads[i].rank):
            if used + 1 + self.heads[index].width <= width:
                chosen.append(index)
                used += 1 + self.heads[index].width
        chosen.sort()
        growing = [i for i in chosen if self.heads[i].grow]
        extra = (width - used) // len(growing) if growing else 0

        def wide(head: Head) -> int:
            grown = head.width + (extra if head.grow else 0)
            return max(min(grown, head.most), head.width) if head.most else grown

        return [(i, wide(self.heads[i])) for i in chosen]

    def build(self, width: int, height: int) -> list[Line]:
        """Heading and the rows around the cursor."""
        self._shown = self._fit(width)
        room = max(height - 1, 1)
        self._follow(room)
        titles = self._titles()
        more = len(self.items) - room
        titles = pad(titles, width, True)
        if more > 0:
            titles = _with_place(titles, f"{self._top + 1}-{self._top + room}", len(self.items))
        lines: list[Line] = [[Segment(titles, self.style("grid--header"))]]
        if not self.items and self.empty:
            muted = self.style("grid--muted")
            for text in self.empty.split("\n"):
                lines += [[Segment(part, muted)] for part in textwrap.wrap(text, max(width, 1)) or [""]]
        for item in self.items[self._top : self._top + room]:
            lines.append(self._row(item, width))
        return lines

    def _titles(self) -> str:
        """The heading; the mark of the sorted column takes the gap next to a title that fills its column."""
        text = ""
        for column, cells in self._shown:
            head, gap = self.heads[column], " "
            title = head.title
            if self.sort == column:
                mark = "▼" if self.descending else "▲"
                if len(title) < cells:
                    title += mark
                elif head.left or not text:
                    gap = mark
                else:
                    text = text[:-1] + mark
            text += pad(title, cells, head.left) + gap
        return text.rstrip(" ")

    def _cell(self, cell: str | float, width: int) -> str:
        return cell if isinstance(cell, str) else glyphs.bar(cell, width, self.glyph_set)

    def _row(self, item: Item, width: int) -> Line:
        own = style = self.style(f"grid--{item.style}" if item.style else "grid--row")
        if item.key == self.cursor:
            style = self.style("grid--cursor" if self.has_focus else "grid--cursor-blurred")
        line: Line = []
        used = 0
        for column, cells in self._shown:
            cell = item.cells[column]
            text = (" " if used else "") + pad(self._cell(cell, cells), cells, self.heads[column].left)
            # A bar on the cursor's background would be read the wrong way round.
            line.append(Segment(text, style if isinstance(cell, str) else own))
            used += cell_len(text)
        line.append(Segment(" " * max(width - used, 0), line[-1].style if line else style))
        return line


class TextBlock(LineWidget):
    """Wrapped text, and lines in several styles: (text, component class) parts."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "text--plain",
        "text--heading",
        "text--muted",
        "text--good",
        "text--warn",
        "text--bad",
        "text--command",
    }

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.make: Callable[[int], list[list[tuple[str, str]]]] = lambda width: []
        self._many = 1

    def show(self, make: Callable[[int], list[list[tuple[str, str]]]]) -> None:
        """`make(width)` gives the lines, each a list of (text, "plain" | "heading" | ...)."""
        self.make = make
        height = self.styles.height
        # Laying out a large screen takes longer than drawing it: only when that can change anything.
        if height is not None and height.is_auto and self.size.width and len(make(self.size.width)) != self._many:
            self.refresh(layout=True)
        self.rebuild()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as there are, where the height is auto."""
        self._many = len(self.make(width))
        return max(self._many, 1)

    def build(self, width: int, height: int) -> list[Line]:
        """The lines, cut to the width."""
        lines: list[Line] = []
        for parts in self.make(width):
            line: Line = []
            used = 0
            for text, style in parts:
                text = clip(text, width - used)
                line.append(Segment(text, self.style(f"text--{style}")))
                used += cell_len(text)
            lines.append(line)
        return lines
