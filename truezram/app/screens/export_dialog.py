"""Choosing what to export; written to the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from truezram.app import export
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.grid import Grid, Head, Item

if TYPE_CHECKING:
    from truezram.app.app import TruezramApp

FORMATS = (
    ("svg", "SVG", "this screen as a picture"),
    ("csv", "CSV", "the devices' figures, a line each"),
    ("jsonl", "JSON lines", "devices with the samples of their graphs"),
    ("html", "HTML", "a report: table, graphs, events"),
)


class ExportScreen(ModalScreen[None]):
    """Writes the file itself, so that what goes wrong is said here."""

    GUIDE: ClassVar[str] = "Enter writes a file with the time in its name into the folder below and says where."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "write", "Write the file", key_display="Enter", id="export.write"),
        Binding("escape", "dismiss(None)", "Cancel", id="export.cancel"),
    ]

    def __init__(self, picture: str) -> None:
        super().__init__()
        self.picture = picture

    @property
    def tz(self) -> TruezramApp:
        """The app."""
        return cast("TruezramApp", self.app)

    def compose(self) -> ComposeResult:
        """Formats, folder."""
        with Vertical(id="dialog"):
            yield Label("Export", id="heading")
            yield Grid([Head("FORMAT", 10, left=True), Head("WHAT", 20, left=True, grow=True)], id="formats")
            yield Label("into the folder")
            yield Input(str(Path.cwd()), id="folder", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """Ready to choose."""
        grid = self.query_one(Grid)
        grid.show([Item(key, (name, what)) for key, name, what in FORMATS])
        grid.focus()

    @on(Grid.Chosen)
    @on(Input.Submitted)
    def action_write(self) -> None:
        """Writes the format under the cursor."""
        app, chosen = self.tz, self.query_one(Grid).cursor
        rows, now = app.rows(), app.clock()
        text = {
            "svg": lambda: self.picture,
            "csv": lambda: export.to_csv(rows),
            "jsonl": lambda: export.to_json_lines(app.history, rows),
            "html": lambda: export.to_html(app.history, rows, app.events.events, now),
        }[chosen]()
        path = export.target(Path(self.query_one(Input).value).expanduser(), chosen, now)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            app.report("error", f"cannot write {path}: {error.strerror}")
            return
        app.report("info", f"exported {path}")
        app.notify(str(path), title="exported", markup=False)
        self.dismiss(None)
