"""Help for the current screen: what it shows, its keys, and the meaning of the columns."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from truezram.app.columns import COLUMNS
from truezram.app.widgets.chrome import Footer


class HelpScreen(ModalScreen[None]):
    """Shows help; any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss(None)", "Close", id="help.close"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(
        self, title: str, guide: str, bindings: list[ActiveBinding], keys: dict[str, str], columns: bool
    ) -> None:
        """`keys`: how the keys of a binding's id are shown."""
        super().__init__()
        self.about = title
        self.guide_text = guide
        self.active = bindings
        self.shown_keys = keys
        self.with_columns = columns

    def compose(self) -> ComposeResult:
        """Guide, keys, columns."""
        with VerticalScroll(id="dialog") as dialog:
            dialog.border_title = f"Help: {self.about}"
            dialog.border_subtitle = "Esc closes"
            if self.guide_text:
                yield Static(Text(self.guide_text), classes="guide")
            yield Static(Text("Keys"), classes="heading")
            yield Static(self._key_table(), classes="keys")
            if self.with_columns:
                yield Static(Text("Columns"), classes="heading")
                yield Static(self._column_table(), classes="columns")
            yield Static(
                Text("Keys can be changed in config.toml, table [keys], by the names in the right column.", "italic"),
                classes="guide",
            )
        yield Footer()

    def _key_table(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
        table.add_column(style="bold", no_wrap=True, max_width=18)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, style="italic")
        for active in self.active:
            binding = active.binding
            name = binding.id or ""
            text = binding.description or binding.action
            table.add_row(Text(self.shown_keys.get(name or binding.action, binding.key)), Text(text), Text(name))
        return table

    @staticmethod
    def _column_table() -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(ratio=1)
        for column in COLUMNS:
            table.add_row(Text(column.title), Text(column.about))
        return table

    def on_mount(self) -> None:
        """Keys scroll at once."""
        self.query_one(VerticalScroll).focus()

    def action_scroll(self, lines: int) -> None:
        """Scrolls a line."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
