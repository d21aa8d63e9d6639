"""Choosing the columns of the device table."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label

from truezram.app.columns import COLUMNS, fitting
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.grid import Grid, Head, Item


class ColumnsScreen(ModalScreen[tuple[str, ...] | None]):
    """Returns the keys of the chosen columns, none for "as many as fit", None if cancelled."""

    GUIDE: ClassVar[str] = (
        "Space ticks or unticks a column. Unless you choose, the table shows as many columns as fit, the most "
        "important first; r restores that."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "tick", "Tick", id="columns.tick"),
        Binding("enter", "done", "Use these", key_display="Enter", id="columns.done"),
        Binding("r", "reset", "As many as fit", id="columns.reset"),
        Binding("escape", "dismiss(None)", "Cancel", id="columns.cancel"),
    ]

    def __init__(self, chosen: tuple[str, ...], width: int) -> None:
        """`width`: the table's; where none was `chosen`, those that fit into it are ticked."""
        super().__init__()
        self.chosen = set(chosen) or {column.key for column in fitting(width)}
        self.touched = bool(chosen)

    def compose(self) -> ComposeResult:
        """A list to tick."""
        with Vertical(id="dialog"):
            yield Label("Columns of the table", id="heading")
            heads = [Head("", 3, left=True), Head("COLUMN", 15, left=True), Head("ABOUT", 20, left=True, grow=True)]
            yield Grid(heads, id="columns")
        yield Footer()

    def on_mount(self) -> None:
        """Ready to tick."""
        self._show()
        self.query_one(Grid).focus()

    def _show(self) -> None:
        self.query_one(Grid).show(
            [Item(c.key, ("[x]" if c.key in self.chosen else "[ ]", c.title, c.about)) for c in COLUMNS]
        )

    @on(Grid.Chosen)
    def action_tick(self) -> None:
        """Ticks or unticks the column under the cursor."""
        self.chosen ^= {self.query_one(Grid).cursor}
        self.touched = True
        self._show()

    def action_done(self) -> None:
        """Uses what is ticked."""
        self.dismiss(tuple(c.key for c in COLUMNS if c.key in self.chosen) if self.touched else ())

    def action_reset(self) -> None:
        """As many as fit."""
        self.dismiss(())
