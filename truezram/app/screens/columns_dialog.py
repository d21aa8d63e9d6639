"""Choosing the columns of the device table."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, SelectionList
from textual.widgets.selection_list import Selection

from truezram.app.columns import COLUMNS
from truezram.app.widgets.chrome import Footer


class ColumnsScreen(ModalScreen[tuple[str, ...] | None]):
    """Returns the keys of the columns chosen, none for "as many as fit", None to leave it as it was."""

    GUIDE: ClassVar[str] = (
        "Space ticks a column. With none ticked the table shows as many as fit, the most telling first."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="columns.cancel"),
        Binding("enter", "done", "Use these", key_display="Enter", id="columns.done", priority=True),
        Binding("r", "reset", "As many as fit", id="columns.reset"),
        Binding("j", "move(1)", "Down", show=False),
        Binding("k", "move(-1)", "Up", show=False),
    ]

    def __init__(self, chosen: tuple[str, ...]) -> None:
        super().__init__()
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """A list to tick."""
        with Vertical(id="dialog"):
            yield Label("Columns: Space ticks, Enter uses them, r: as many as fit", id="heading")
            yield SelectionList(
                *(Selection(f"{c.title:<11}{c.about}", c.key, c.key in self._chosen) for c in COLUMNS), compact=True
            )
        yield Footer()

    def action_done(self) -> None:
        """Uses what is ticked."""
        ticked = set(self.query_one(SelectionList).selected)
        self.dismiss(tuple(c.key for c in COLUMNS if c.key in ticked))

    def action_reset(self) -> None:
        """As many as fit."""
        self.dismiss(())

    def action_move(self, step: int) -> None:
        """Moves the cursor."""
        selection = self.query_one(SelectionList)
        selection.action_cursor_down() if step > 0 else selection.action_cursor_up()
