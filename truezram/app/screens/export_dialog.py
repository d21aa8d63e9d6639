"""Choosing the format of an export; written to the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Label

from truezram.app import export
from truezram.app.screens.dialog import Dialog
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.grid import Grid, Head, Item

FORMATS = (
    ("svg", "SVG", "this screen as a picture"),
    ("csv", "CSV", "the devices' figures, one per line"),
    ("jsonl", "JSON lines", "devices with the samples of their graphs"),
    ("html", "HTML", "a report: table, graphs, events"),
)
OF_A_TABLE = (
    FORMATS[0],
    ("csv", "CSV", "this page's results, one per line"),
    ("jsonl", "JSON lines", "the same as JSON objects"),
    ("html", "HTML", "a report: the same as a table"),
)


class ExportScreen(Dialog[None]):
    """Writes the file itself, so that errors are shown here."""

    GUIDE: ClassVar[str] = "Enter writes a file, with the time in its name, into the folder below and shows its path."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "write", "Write the file", key_display="Enter", id="export.write"),
        Binding("escape", "dismiss(None)", "Cancel", id="export.cancel"),
    ]

    def __init__(self, picture: str, table: export.Table | None) -> None:
        """`picture`: the screen as SVG. `table`: what the page has found out; without one the devices are exported."""
        super().__init__()
        self.picture = picture
        self.table = table

    def compose(self) -> ComposeResult:
        """Formats, folder."""
        with Vertical(id="dialog"):
            yield Label(f"Export: {self.table.name}" if self.table else "Export", id="heading")
            yield Grid([Head("FORMAT", 10, left=True), Head("WHAT", 20, left=True, grow=True)], id="formats")
            yield Label("Folder")
            yield Input(str(Path.cwd()), id="folder", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """Ready to choose."""
        grid = self.query_one(Grid)
        formats = OF_A_TABLE if self.table else FORMATS
        grid.show([Item(key, (name, what)) for key, name, what in formats])
        grid.focus()

    @on(Grid.Chosen)
    @on(Input.Submitted)
    def action_write(self) -> None:
        """Writes the format under the cursor."""
        app, chosen = self.tz, self.query_one(Grid).cursor
        now = app.clock()
        text = self._text(chosen, now)
        path = export.target(Path(self.query_one(Input).value).expanduser(), chosen, now)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            app.report("error", f"cannot write {path}: {error.strerror}")
            return
        app.report("info", f"exported {path}")
        app.notify(str(path), title="exported", markup=False)
        self.dismiss(None)

    def _text(self, chosen: str, now: float) -> str:
        app, table = self.tz, self.table
        rows = app.rows()
        if chosen == "svg":
            return self.picture
        if chosen == "csv":
            return export.table_to_csv(table) if table else export.to_csv(rows)
        if chosen == "jsonl":
            return export.table_to_json_lines(table) if table else export.to_json_lines(app.history, rows)
        return export.table_to_html(table, now) if table else export.to_html(app.history, rows, app.events.events, now)
