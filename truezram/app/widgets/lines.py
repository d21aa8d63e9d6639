"""The base of all live widgets: builds its lines, compares them with those on the screen, and redraws what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

Line = list[Segment]


def clip(text: str, width: int) -> str:
    """`text` in at most `width` cells, with an ellipsis where something is missing."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[:-1]
    return text + "…"


class Whole(Strip):
    """A strip that, when it is cut where it ends, does not keep itself in its own cache as Textual's does: that makes
    every line that was ever drawn a cycle, which only a garbage collection frees."""

    __slots__ = ()

    def divide(self, cuts: Iterable[int]) -> Sequence[Strip]:
        """See `Strip.divide`."""
        cuts = list(cuts)
        return [self] if cuts == [self.cell_length] else super().divide(cuts)


class Painted(Widget):
    """A widget that keeps what it has painted until something about it changes: to paint a few lines of a screen,
    Textual asks every widget around them for all of its own."""

    _painted: tuple[Region, list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        """See `Widget.render_lines`."""
        if self._painted is None or self._painted[0] != crop:
            strips = super().render_lines(crop)
            for strip in strips:
                strip.__class__ = Whole
            self._painted = crop, strips
        return self._painted[1]

    def _set_dirty(self, *regions: Region) -> None:
        self._painted = None
        super()._set_dirty(*regions)

    def notify_style_update(self) -> None:
        """Colours changed (theme, focus, class)."""
        super().notify_style_update()
        self._painted = None


class LineWidget(Painted):
    """A widget made of lines of segments.

    Subclasses implement `build`; code that changes the data calls `rebuild`. Lines shorter than the widget are
    padded with the widget's own style.
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._built: list[Line] = []
        self._strips: list[Strip] = []
        self._styles: dict[str, Style] = {}
        """Component styles; Textual would compute them at every call, which is half the cost of a frame."""

    def build(self, width: int, height: int) -> Sequence[Line]:
        """The lines to show in a content area of `width` × `height` cells; at most `height`."""
        raise NotImplementedError

    def style(self, name: str) -> Style:
        """The style of a component class of this widget."""
        found = self._styles.get(name)
        if found is None:
            found = self._styles[name] = self.get_component_rich_style(name)
        return found

    @property
    def plain_style(self) -> Style:
        """The widget's own style."""
        found = self._styles.get("")
        if found is None:
            found = self._styles[""] = self.rich_style
        return found

    def rebuild(self) -> None:
        """Rebuilds the lines and redraws those that changed."""
        width, height = self.size
        if not width or not height or not self.is_attached:
            return
        lines = [list(line) for line in self.build(width, height)[:height]]
        old = self._built
        if len(old) != len(lines) or len(self._strips) != len(lines):
            self._built = lines
            self._strips = [self._strip(line, width) for line in lines]
            self.refresh()
            return
        changed: list[Region] = []
        for y, line in enumerate(lines):
            if line == old[y]:
                continue
            self._strips[y] = self._strip(line, width)
            if changed and changed[-1].bottom == y:
                last = changed[-1]
                changed[-1] = Region(last.x, last.y, last.width, last.height + 1)
            else:
                changed.append(Region(0, y, width, 1))
        self._built = lines
        if changed:
            self.refresh(*changed)

    def _strip(self, line: Line, width: int) -> Strip:
        return Strip(line).adjust_cell_length(width, self.plain_style)

    def render_line(self, y: int) -> Strip:
        """See `Widget.render_line`."""
        if 0 <= y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.size.width, self.plain_style)

    def on_resize(self, event: events.Resize) -> None:
        """A new size is a new layout of the lines."""
        self._built = []
        self.rebuild()

    def notify_style_update(self) -> None:
        """Colours changed (theme, focus, class)."""
        super().notify_style_update()
        self._styles.clear()
        if self._built:
            self._built = []
            self.rebuild()
