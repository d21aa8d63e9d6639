"""What tables with a cursor share: where it is, the keys, the wheel and the focus that move and show it."""

from __future__ import annotations

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from truezram.app.widgets.lines import LineWidget


def moving(scope: str) -> list[BindingType]:
    """The keys that move the cursor; `scope` is the first part of their names in the key map."""
    return [
        Binding(keys, f"cursor({step})", text, show=False, id=f"{scope}.{name}")
        for keys, step, text, name in (
            ("up,k", -1, "Up", "up"),
            ("down,j", 1, "Down", "down"),
            ("pageup,ctrl+b", -10, "Page up", "page_up"),
            ("pagedown,ctrl+f", 10, "Page down", "page_down"),
            ("home,g", -100000, "First", "first"),
            ("end,G", 100000, "Last", "last"),
        )
    ]


class RowsWidget(LineWidget):
    """Rows identified by a key, one of which has the cursor."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.cursor = ""
        """The key of the row under the cursor."""
        self._top = 0
        """The first row shown."""

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        raise NotImplementedError

    def key_of(self, index: int) -> str:
        """A row's key."""
        raise NotImplementedError

    def moved(self, key: str) -> Message:
        """What is posted when the cursor has come to a row."""
        raise NotImplementedError

    @property
    def index(self) -> int:
        """The cursor's row; -1 when its key is not there."""
        return next((i for i in range(self.row_count) if self.key_of(i) == self.cursor), -1)

    def _move_to(self, index: int) -> None:
        key = self.key_of(index)
        if key != self.cursor:
            self.cursor = key
            self.post_message(self.moved(key))

    def _follow(self, room: int) -> None:
        """Moves the first row shown so that the cursor's is among the `room` that are."""
        index = max(self.index, 0)
        self._top = max(0, min(self._top, self.row_count - room))
        self._top = min(max(self._top, index - room + 1), index)

    def action_cursor(self, step: int) -> None:
        """Moves the cursor."""
        if self.row_count:
            self._move_to(max(0, min(self.row_count - 1, self.index + step)))
            self.rebuild()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves the cursor."""
        self.action_cursor(1)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the cursor."""
        self.action_cursor(-1)
        event.stop()

    def on_focus(self) -> None:
        """The cursor shows where keys go."""
        self.rebuild()

    def on_blur(self) -> None:
        """The cursor shows where keys go."""
        self.rebuild()
