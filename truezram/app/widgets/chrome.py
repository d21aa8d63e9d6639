"""The lines that every screen has: the screens' names on top, notices, jobs under way, and the footer with the keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.geometry import Size

from truezram.app import glyphs
from truezram.app.backend.jobs import Job
from truezram.app.widgets.lines import Line, LineWidget, clip


class TopBar(LineWidget):
    """The screens with their keys; the current one is highlighted. Click to switch."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"top--tab", "top--here", "top--key", "top--right"}

    def __init__(self, pages: Sequence[tuple[str, str, str]], here: str) -> None:
        """`pages`: mode, name, short name, in the order of their keys 1, 2, …"""
        super().__init__()
        self.pages = pages
        self.here = here
        self.right = ""
        self._spans: list[tuple[int, int, str]] = []

    def set_right(self, text: str) -> None:
        """Sets the text at the right end."""
        if text != self.right:
            self.right = text
            self.rebuild()

    def build(self, width: int, height: int) -> list[Line]:
        """One line, with full, short or no names, whatever fits."""
        for names in ([p[1] for p in self.pages], [p[2] for p in self.pages], None):
            shown = [
                (mode, (names[i] if names else (name if mode == self.here else "")))
                for i, (mode, name, _) in enumerate(self.pages)
            ]
            if sum(len(name) + 4 for _, name in shown) <= width + 1:  # the last one's space may be cut off
                break
        line: Line = []
        self._spans = []
        x = 0
        for number, (mode, name) in enumerate(shown, 1):
            here = mode == self.here
            text = f" {number} {name} " if name else f" {number} "
            if here:
                line.append(Segment(text, self.style("top--here")))
            else:
                line.append(Segment(f" {number}", self.style("top--key")))
                line.append(Segment(text[2:], self.style("top--tab")))
            self._spans.append((x, x + len(text), mode))
            x += len(text)
        room = width - x - 1
        if room > 12 and self.right:
            line.append(Segment(f"{clip(self.right, room):>{room}} ", self.style("top--right")))
        return [line]

    def on_click(self, event: events.Click) -> None:
        """Switches to the screen that was clicked."""
        offset = event.get_content_offset(self)
        for start, end, mode in self._spans:
            if offset is not None and start <= offset.x < end:
                self.app.switch_mode(mode)


class TextLine(LineWidget):
    """One or more lines of plain text in the widget's own style; takes no space while empty."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.parts: list[tuple[str, str]] = []
        self.display = False

    def set_parts(self, parts: list[tuple[str, str]]) -> None:
        """Shows text in several styles: (text, component class or "")."""
        if parts != self.parts:
            self.parts = parts
            self.display = bool(parts)
            self.rebuild()

    COMPONENT_CLASSES: ClassVar[set[str]] = {"line--bad", "line--warn", "line--muted"}

    def build(self, width: int, height: int) -> list[Line]:
        """The text, cut to the width."""
        line: Line = []
        used = 0
        for text, style in self.parts:
            text = clip(text, width - used)
            line.append(Segment(text, self.style(style) if style else self.plain_style))
            used += cell_len(text)
        return [line]


class JobBar(LineWidget):
    """Calls that take longer than half a second, one per line, with their progress, or their duration if that is
    unknown, and the key that cancels them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"jobs--text", "jobs--bar", "jobs--track"}

    def __init__(self) -> None:
        super().__init__(id="jobs")
        self.jobs: list[Job] = []
        self.glyphs = "braille"
        self.display = False

    def show(self, jobs: list[Job], glyphs: str) -> None:
        """Shows these jobs."""
        self.glyphs = glyphs
        if len(jobs) != len(self.jobs):
            self.jobs = jobs
            self.display = bool(jobs)
            self.refresh(layout=True)
        self.jobs = jobs
        self.rebuild()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """A line for each job, three at most."""
        return min(len(self.jobs), 3)

    def build(self, width: int, height: int) -> list[Line]:
        """Title, bar, text, and the key that cancels the newest."""
        lines: list[Line] = []
        jobs = self.jobs[-height:]
        for job in jobs:
            hint = " x cancels" if job is jobs[-1] else ""
            text = f" {job.title}  "
            if job.fraction is None:
                percent = f" {time.monotonic() - job.started:.0f} s"
            else:
                percent = f" {job.fraction * 100:3.0f}%"
            room = 20 if job.fraction is not None and width >= 60 else 0
            line = [Segment(clip(text, width), self.style("jobs--text"))]
            used = cell_len(text)
            if room:
                filled = glyphs.bar(job.fraction or 0.0, room, self.glyphs)
                line += [
                    Segment(filled, self.style("jobs--bar")),
                    Segment("─" * (room - len(filled)), self.style("jobs--track")),
                ]
                used += room
            rest = width - used - len(hint) - 1
            line.append(Segment(f"{clip(f'{percent} {job.text}', rest):<{max(rest, 0)}}", self.style("jobs--text")))
            line.append(Segment(hint, self.style("jobs--bar")))
            lines.append(line)
        return lines


class Footer(LineWidget):
    """The available keys: enabled bindings of what has the focus, then the screen's, then the app's.

    Keys that do not fit are left out, with an ellipsis in their place; help and quit are always shown, and before all
    others what a device without a server needs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"foot--key", "foot--text"}
    URGENT = ("app.recover",)
    ALWAYS = ("app.help", "app.quit")

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Follows the bindings."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.rebuild())

    def items(self) -> list[tuple[str, str, str, str]]:
        """(id, key, how the key is shown, what it does) of every binding to show, in order."""
        found: dict[str, tuple[str, str, str, str]] = {}
        for key, active in self.screen.active_bindings.items():
            binding = active.binding
            if not binding.show or not active.enabled:
                continue
            if binding.action in found and (found[binding.action][0] or not binding.id):
                continue  # several keys for one action: the first of ours is shown
            shown = self.app.get_key_display(binding)
            found[binding.action] = (binding.id or "", key, shown, binding.description)
        return list(found.values())

    def build(self, width: int, height: int) -> list[Line]:
        """One line."""
        items = self.items()
        last = [item for item in items if item[0] in self.ALWAYS]
        first = [item for item in items if item[0] in self.URGENT]
        first += [item for item in items if item[0] not in (*self.URGENT, *self.ALWAYS)]
        room = width - sum(_width(item) for item in last)
        shown: list[tuple[str, str, str, str]] = []
        for item in first:
            need = _width(item) + (2 if item is not first[-1] else 0)
            if need > room:
                break
            shown.append(item)
            room -= _width(item)
        missing = len(shown) < len(first)
        self._spans = []
        line: Line = []
        x = 0
        for item in shown + last:
            if missing and last and item is last[0]:
                line.append(Segment("… ", self.style("foot--text")))
                x += 2
            line.append(Segment(f" {item[2]}", self.style("foot--key")))
            line.append(Segment(f" {item[3]} ", self.style("foot--text")))
            self._spans.append((x, x + _width(item), item[1]))
            x += _width(item)
        return [line]

    def on_click(self, event: events.Click) -> None:
        """Does what the key does."""
        offset = event.get_content_offset(self)
        for start, end, key in self._spans:
            if offset is not None and start <= offset.x < end:
                self.app.simulate_key(key)


def _width(item: tuple[str, str, str, str]) -> int:
    return cell_len(item[2]) + cell_len(item[3]) + 3
